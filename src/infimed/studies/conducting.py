"""From names of studies to results and the page: what `infimed study` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infimed.core.console import err, out, table
from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, write_json
from infimed.studies.analysis import Found, analyse, findings, points
from infimed.studies.base import base_names
from infimed.studies.cells import Planned, distinct, plan
from infimed.studies.data import source_identity
from infimed.studies.definition import Split, Study, load_study, study_names
from infimed.studies.foreseeing import foresee
from infimed.studies.opening import open_test, opened_studies
from infimed.studies.page import write_page
from infimed.studies.results import result_rows, write_results
from infimed.studies.runner import Doing, Outcome, parse_budget, quiet_cell, run_cells

ALL = "all"


def chosen_studies(name: str) -> list[Study]:
    """The study of that name, or all that ship."""
    return [load_study(one) for one in (study_names() if name == ALL else [name])]


def show_list() -> None:
    """Print the studies with their questions."""
    rows = []
    for study in chosen_studies(ALL):
        where = ", ".join(study.presets) or f"costs of {len(study.ledger)} others"
        rows.append((study.name, f"{study.title}\n{study.question}", where))
    out.print(table("studies", ["name", "question", "presets"], rows, numeric=3))


def planned_cells(
    studies: Sequence[Study], preset: str, split: Split, seeds: Sequence[int] | None = None
) -> list[Planned]:
    """Every cell of the studies on a preset.

    Raises:
        UsageError: none of them has that preset.
    """
    with_arms = [study for study in studies if preset in study.presets]
    if not with_arms:
        known = sorted({name for study in studies for name in study.presets})
        raise UsageError(
            "no such preset of this study",
            where="--preset",
            seen=preset,
            accepted=known or base_names(),
        )
    return plan(with_arms, preset, split, seeds)


def show_plan(
    studies: Sequence[Study], preset: str, split: Split, folder: Path, workers: int
) -> None:
    """Print the cells of every study and about how long they take; nothing is written."""
    lines = foresee(studies, preset, planned_cells(studies, preset, split), folder)
    rows = [
        (line.study, line.arms, line.seeds, line.cells, line.shared, line.done, line.new, _minutes(line.seconds))
        for line in lines
    ]  # fmt: skip
    total = sum(line.seconds for line in lines)
    cells = [
        sum(getattr(line, name) for line in lines) for name in ("cells", "shared", "done", "new")
    ]
    rows.append(("all", "", "", *cells, _minutes(total)))
    heads = ["study", "arms", "seeds", "cells", "shared", "done", "new", "min, about"]
    out.print(table(f"plan, preset {preset}", heads, rows))
    out.print(
        f"{_minutes(total)} min of one core, about {_minutes(total / workers)} min with {workers} cells at a time; "
        "data made and curated for the first time come on top. Measured times of like cells are used where "
        "there are any; nothing was written now.",
        markup=False,
    )


def conduct(
    studies: Sequence[Study],
    preset: str,
    folder: Path,
    *,
    split: Split = "test",
    root: Path | None = None,
    budget: str | None = None,
    workers: int = 1,
    seeds: Sequence[int] | None = None,
    do: Doing = quiet_cell,
) -> Outcome:
    """Run what is not done of the studies, then write the results table.

    Raises:
        DataError: the test split of a study was opened for another version of it, or the data differ.
        UsageError: no such preset, or a budget that is no length of time.
    """
    seconds = None if budget is None else parse_budget(budget)
    planned = planned_cells(studies, preset, split, seeds)
    _check_source(folder, preset, root)
    if split == "test":
        for study in studies:
            if preset in study.presets:
                open_test(study, preset, folder)
    outcome = run_cells(
        distinct(planned), folder, root=root, budget=seconds, workers=workers, do=do
    )
    if split == "test":
        whole = _whole(folder)
        write_results(folder, result_rows(folder, *whole), findings(_found(*whole, folder)))
    tell(studies, preset, planned, outcome, folder)
    return outcome


def tell(
    studies: Sequence[Study],
    preset: str,
    planned: Sequence[Planned],
    outcome: Outcome,
    folder: Path,
) -> None:
    """Print what the studies found, and what was not run."""
    for study in studies:
        if preset not in study.presets:
            continue
        found = analyse(study, preset, planned, folder)
        rows = [
            (
                f"{d.compared.arm} - {d.compared.against}",
                found.variant.measures[d.compared.measure].title,
                "not run" if d.effect is None else points(d.effect),
                "" if d.adjusted is None else f"{d.adjusted:.3f}",
            )
            for d in found.differences
        ]
        out.print(table(study.title, ["difference", "measure", "", "Holm p"], rows, numeric=2))
        out.print(f"{found.verdict}: {found.sentence}", markup=False, soft_wrap=True)
    places = {one.cell.key: f"{one.study} {one.arm}, seed {one.seed}" for one in reversed(planned)}
    told = f"{len(outcome.done)} cells done, {len(outcome.known)} were done before"
    err.print(told, markup=False)
    if outcome.not_run:
        err.print(f"no time left for {len(outcome.not_run)} cells:", style="yellow")
        for key in outcome.not_run:
            err.print(f"  {places[key]}", markup=False)
    for key, why in outcome.failed.items():
        err.print(f"failed: {places[key]}: {why.splitlines()[0]}", markup=False, style="red")


def report(folder: Path, page: Path) -> Path:
    """Write the results table and the page of everything that ran in `folder`.

    Raises:
        DataError: nothing ran there.
    """
    studies, planned = _whole(folder)
    rows = result_rows(folder, studies, planned)
    if not rows:
        raise DataError("no study ran here", where=str(folder), fix="infimed study run NAME")
    found = _found(studies, planned, folder)
    write_results(folder, rows, findings(found))
    write_page(page, studies, found, planned, folder)
    return page


def _whole(folder: Path) -> tuple[list[Study], list[Planned]]:
    """All studies that ship or were opened here, as they were opened, and the cells of the opened ones."""
    studies = {study.name: study for study in chosen_studies(ALL)}
    planned: list[Planned] = []
    for study, preset in opened_studies(folder, list(studies.values())):
        studies[study.name] = study
        planned += plan([study], preset, "test")
    return sorted(studies.values(), key=lambda study: study.place), planned


def _found(studies: Sequence[Study], planned: Sequence[Planned], folder: Path) -> list[Found]:
    ran = {(one.study, one.preset) for one in planned}
    return [
        analyse(study, preset, planned, folder)
        for study in studies
        for preset in study.presets
        if (study.name, preset) in ran
    ]


def _check_source(folder: Path, preset: str, root: Path | None) -> None:
    """Cells of one folder are of one data set.

    Raises:
        DataError: the data at `root` are not those that the folder's cells were trained on.
    """
    file = folder / f"data-{preset}.json"
    if root is None:
        return
    found = source_identity(root)
    if not file.is_file():
        write_json(file, found)
    elif read_json(file) != found:
        raise DataError(
            "the studies here were run with other data",
            where=str(file),
            seen=str(root),
            fix="give --out another folder",
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}" if seconds >= 600 else f"{seconds / 60:.1f}"
