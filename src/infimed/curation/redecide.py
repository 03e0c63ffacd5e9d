"""Another limit, the same measurements: decide a ledger again and say what that changes.

The new ledger is what a whole curation with the new rubric would give; it is made from the stored
signals in a folder beside the target and shown before anything is replaced. Images are opened only for
pairs that the perceptual hash proposes as duplicates, and how many were is counted. A ledger that was
scored, or decided by score, is so again by the same evaluator.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.curation import ledger
from infimed.curation.deciding import decide_ledger
from infimed.curation.decision import read_decision
from infimed.curation.engine import curate, measured_level, read_summary
from infimed.curation.label_agreement import AGREEMENT_FILE
from infimed.curation.ledger_columns import Decisions, batches, read_decisions
from infimed.curation.origin import note_shards
from infimed.curation.rubric import Rubric
from infimed.curation.score_pass import PARTS as SCORE_PARTS
from infimed.curation.score_pass import score_ledger
from infimed.curation.score_table import scored_by
from infimed.curation.signals import IMAGE_LEVELS, SIGNALS_VERSION
from infimed.curation.summary import CurationSummary
from infimed.data.record import ImageRef, Record
from infimed.data.shards import ShardSet

FIRST: Final = 8
_SCORES: Final = (
    ledger.path_of(Path(), ledger.SCORES).name,
    ledger.SCORED_FILE,
    ledger.DECISION_FILE,
)
"""Files of the scores, which speak of the old findings."""
_NOT_TAKEN_OVER: Final = frozenset(
    {ledger.PARTS, SCORE_PARTS, "findings.parquet", "verdicts.parquet", *_SCORES}
)


@dataclass
class Counted:
    """Shards that count how many images are opened."""

    shards: ShardSet
    opened: int = 0

    def __post_init__(self) -> None:
        self.data_hash = self.shards.data_hash
        self.path = self.shards.path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shards, name)

    def __len__(self) -> int:
        return len(self.shards)

    def record(self, number: int) -> Record:
        """As of the shards."""
        return self.shards.record(number)

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """As of the shards, counted."""
        self.opened += 1
        return self.shards.pixels(ref)


@dataclass(frozen=True)
class Moved:
    """Records that left or came back, under one name (a rule or a stratum)."""

    name: str
    dropped: int
    kept: int


@dataclass(frozen=True)
class Difference:
    """What another rubric changes.

    Attributes:
        before, after: counts of both ledgers. dropped, kept: records newly dropped, newly kept.
        reasons: records dropped before and after, for other reasons.
        rules: a newly dropped record counts for every rule that drops it now, a newly kept one for
            every rule that dropped it. strata: "source / modality / task".
        first_dropped, first_kept: (record id, reasons) of the first of each.
        images_opened: for pairs proposed as duplicates. settings: (setting, old value, new value).
    """

    before: CurationSummary
    after: CurationSummary
    dropped: int
    kept: int
    reasons: int
    rules: tuple[Moved, ...]
    strata: tuple[Moved, ...]
    first_dropped: tuple[tuple[str, tuple[str, ...]], ...]
    first_kept: tuple[tuple[str, tuple[str, ...]], ...]
    images_opened: int
    settings: tuple[tuple[str, str, str], ...]

    @property
    def changes(self) -> bool:
        """Whether any verdict or reason differs."""
        return bool(self.dropped or self.kept or self.reasons)


@dataclass
class Redecided:
    """A new ledger waiting in `folder`; `write` puts it in place."""

    ledger: Path
    folder: Path
    difference: Difference = field(repr=False)

    def write(self, out: Path | None) -> Path:
        """Put the new ledger into `out`, or in place of the old one.

        Raises:
            DataError: `out` exists already.
        """
        if out is not None:
            _absent(out)
            os.replace(self.folder, out)
            return out
        # As in the engine: while tables are replaced there must be no summary that names them.
        (self.ledger / ledger.SUMMARY_FILE).unlink(missing_ok=True)
        # What was said about the old verdicts must not stand beside the new ones.
        for name in (AGREEMENT_FILE, "report.html"):
            (self.ledger / name).unlink(missing_ok=True)
        ledger.forget_scores(self.ledger)
        for name in ("findings.parquet", "verdicts.parquet", *_SCORES):
            if (self.folder / name).exists():
                target = self.ledger / name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(self.folder / name, target)
        os.replace(self.folder / ledger.SUMMARY_FILE, self.ledger / ledger.SUMMARY_FILE)
        return self.ledger


@contextmanager
def redecide(
    folder: Path,
    shards: ShardSet,
    before: Rubric,
    after: Rubric,
    *,
    out: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Redecided]:
    """Decide a ledger again; inside the block the result can be looked at and written.

    Args:
        folder: the ledger. before: its rubric. after: the new one. out: where it will be written, so
            that it is made on the same disk.

    Raises:
        DataError: no finished ledger, `out` exists, or the signals are of another version.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    version = read_json(folder / ledger.SUMMARY_FILE)["key"].get("signals")
    if version != SIGNALS_VERSION:
        raise DataError(
            "the signals of this ledger were measured by another version",
            where=str(folder),
            seen=version,
            accepted=SIGNALS_VERSION,
            fix="measure again: infimed curate run SHARDS --out FOLDER",
        )
    measured = measured_level(read_json(folder / ledger.MEASURED_FILE))
    if IMAGE_LEVELS.index(after.needs) > IMAGE_LEVELS.index(measured):
        wanting = [
            rule.id
            for rule in after.all_rules
            if IMAGE_LEVELS.index(rule.needs) > IMAGE_LEVELS.index(measured)
        ]
        raise DataError(
            "rules need image signals that this ledger, made with --only, does not hold",
            where=str(folder),
            seen=", ".join(wanting[:3]) + (", ..." if len(wanting) > 3 else ""),
            fix="measure again: infimed curate run SHARDS --out NEW_FOLDER",
        )
    target = Path(out) if out is not None else folder
    if out is not None:
        _absent(target)
    stage = stage_of(target)
    shutil.rmtree(stage, ignore_errors=True)
    stage.parent.mkdir(parents=True, exist_ok=True)
    try:
        _take_over(folder, stage)
        counted = Counted(shards)
        new = curate(counted, stage, rubric=after, on_progress=on_progress)
        note_shards(stage, shards)
        if (evaluator := scored_by(folder)) is not None:
            score_ledger(stage, evaluator)
            if (decision := read_decision(folder)) is not None:
                decide_ledger(stage, target_precision=decision.target_precision)
                new = read_summary(stage)
        made = difference(folder, stage, summary, new, counted.opened, changed(before, after))
        yield Redecided(folder, stage, made)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def stage_of(folder: Path) -> Path:
    """Where a new ledger is made before it takes its place in `folder`."""
    return folder.resolve().parent / f".{folder.resolve().name}.redecided"


def _absent(out: Path) -> None:
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise DataError("there is something already", where=str(out), fix="give --out a new folder")
    if out.is_dir():
        out.rmdir()


def _take_over(folder: Path, stage: Path) -> None:
    """Link what does not change; a link is safe because no table is ever written in place."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, target)

    def skipped(_: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".") or name.endswith(".html")}
        return hidden | (_NOT_TAKEN_OVER & set(names))

    shutil.copytree(folder, stage, copy_function=link, ignore=skipped)
    # The engine takes a ledger for finished only with every table there.
    for name in (ledger.FINDINGS, ledger.VERDICTS):
        source = ledger.path_of(folder, name)
        if source.is_dir():
            shutil.copytree(source, ledger.path_of(stage, name), copy_function=link)
        else:
            link(str(source), str(ledger.path_of(stage, name)))


def changed(before: Rubric, after: Rubric) -> tuple[tuple[str, str, str], ...]:
    """(setting, old, new) for everything that differs between two rubrics."""
    flat = [_flat(before), _flat(after)]
    return tuple(
        (name, flat[0].get(name, "off"), flat[1].get(name, "off"))
        for name in sorted({*flat[0], *flat[1]})
        if flat[0].get(name) != flat[1].get(name)
        # A rule switched off has no limits to compare.
        and not (name.rpartition(".")[0] in flat[0] and name.rpartition(".")[0] not in flat[1])
    )


def _flat(rubric: Rubric) -> dict[str, str]:
    made: dict[str, str] = {}
    for id, rule in rubric.to_dict()["rules"].items():
        made[id] = rule["severity"]
        for name, limit in rule["thresholds"].items():
            special = {**limit["by_modality"], **limit["by_task"]}
            rest = ", ".join(f"{key} {value:g}" for key, value in sorted(special.items()))
            made[f"{id}.{name}"] = f"{limit['value']:g}" + (f" ({rest})" if rest else "")
    return made


def difference(
    old: Path,
    new: Path,
    before: CurationSummary,
    after: CurationSummary,
    images_opened: int,
    settings: tuple[tuple[str, str, str], ...],
) -> Difference:
    """Compare two ledgers of the same shards, column by column."""
    was = read_decisions(old, before.records)
    now = read_decisions(new, before.records)
    came, left = now.keep & ~was.keep, was.keep & ~now.keep
    left_rules, first_dropped = _reasons(new, left)
    came_rules, first_kept = _reasons(old, came)
    return Difference(
        before=before,
        after=after,
        dropped=int(left.sum()),
        kept=int(came.sum()),
        reasons=_other_reasons(old, new, was, now),
        rules=_moved(left_rules, came_rules),
        strata=_moved(*_strata(old, left, came)),
        first_dropped=first_dropped,
        first_kept=first_kept,
        images_opened=images_opened,
        settings=settings,
    )


def _moved(dropped: Counter[str], kept: Counter[str]) -> tuple[Moved, ...]:
    names = sorted({*dropped, *kept}, key=lambda n: (-dropped[n] - kept[n], n))
    return tuple(Moved(name, dropped[name], kept[name]) for name in names)


def _reasons(
    out: Path, chosen: NDArray[np.bool_]
) -> tuple[Counter[str], tuple[tuple[str, tuple[str, ...]], ...]]:
    counts: Counter[str] = Counter()
    first: list[tuple[str, tuple[str, ...]]] = []
    if chosen.any():
        for batch in batches(out, ledger.VERDICTS, ["row", "record_id", "reasons"]):
            for line in batch.filter(chosen[batch["row"].to_numpy()]).to_pylist():
                counts.update(line["reasons"])
                if len(first) < FIRST:
                    first.append((line["record_id"], tuple(line["reasons"])))
    return counts, tuple(first)


def _strata(
    out: Path, left: NDArray[np.bool_], came: NDArray[np.bool_]
) -> tuple[Counter[str], Counter[str]]:
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    if left.any() or came.any():
        for batch in batches(out, ledger.SIGNALS, ["row", "source", "modality", "task"]):
            rows = batch["row"].to_numpy()
            for chosen, held in zip((left, came), counts, strict=True):
                for line in batch.filter(chosen[rows]).to_pylist():
                    parts = (line["source"] or "?", line["modality"] or "?", line["task"])
                    held[" / ".join(parts)] += 1
    return counts


def _other_reasons(old: Path, new: Path, was: Decisions, now: Decisions) -> int:
    """Records dropped both times whose reasons differ."""
    both = was.exists & now.exists & ~was.keep & ~now.keep
    if not both.any():
        return 0
    reasons = []
    for out in (old, new):
        held: dict[int, list[str]] = {}
        for batch in batches(out, ledger.VERDICTS, ["row", "reasons"]):
            for line in batch.filter(both[batch["row"].to_numpy()]).to_pylist():
                held[line["row"]] = line["reasons"]
        reasons.append(held)
    return sum(reasons[0][row] != reasons[1].get(row) for row in reasons[0])
