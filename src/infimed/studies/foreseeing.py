"""What a run of studies will take: cells by study, those that are shared or done, and their time.

Nothing is written. A cell is expected to take what cells of its kind took, else as long as the slowest kind that
was measured, else the first guess of its preset: see `runner.Times`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.studies.cells import Cell, Planned, distinct
from infimed.studies.definition import Study
from infimed.studies.runner import known_times
from infimed.studies.work import is_done


@dataclass(frozen=True)
class Foreseen:
    """A study's cells. new: not done, and of no study before it. seconds: of the new ones, one after another."""

    study: str
    title: str
    arms: int
    seeds: int
    cells: int
    shared: int
    done: int
    new: int
    seconds: float


def foresee(
    studies: Sequence[Study], preset: str, planned: Sequence[Planned], out: Path
) -> list[Foreseen]:
    """A line a study, in their order; a cell counts for the first study that needs it."""
    times = known_times(distinct(planned), out)
    seen: set[str] = set()
    lines = []
    for study in studies:
        variant = study.presets.get(preset)
        if variant is None:
            continue
        own = distinct(one for one in planned if one.study == study.name)
        fresh = [cell for cell in own if cell.key not in seen]
        new: list[Cell] = [cell for cell in fresh if not is_done(out, cell)]
        seen |= {cell.key for cell in own}
        lines.append(
            Foreseen(
                study=study.name,
                title=study.title,
                arms=len(variant.arms),
                seeds=len(variant.seeds),
                cells=len(own),
                shared=len(own) - len(fresh),
                done=sum(is_done(out, cell) for cell in fresh),
                new=len(new),
                seconds=sum(times.of(cell) for cell in new),
            )
        )
    return lines
