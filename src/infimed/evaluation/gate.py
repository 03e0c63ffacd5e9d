"""Promote a model or not: two evaluation folders, scored on the same locked questions.

The old model keeps its place unless nothing speaks against the new one. Not worse overall means that
the whole paired interval lies above minus the margin (non-inferiority), so a set too small to tell
does not promote. A subgroup is judged by its mean, because its interval would always be too wide, and
one shown to be worse within its margin is named. Pure function of scores.json and samples.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from infimed.core.errors import DataError, nearest_name
from infimed.core.files import read_json, sha256_json
from infimed.core.statistics import Estimate, paired_clustered_bootstrap
from infimed.data.fieldmap import Part
from infimed.evaluation.asked import manifest_path
from infimed.evaluation.report import SCORE, Scoreboard, TaskScores, percent

SAME = ("kind", "question", "options", "gold", "images", "group")
"""Fields of a question that both folders must agree in."""


class GateSettings(Part):
    """Thresholds; `gate.yaml` says what each means."""

    overall_margin: float = Field(ge=0, le=1)
    subgroup_margin: float = Field(ge=0, le=1)
    min_questions: int = Field(ge=1)
    min_groups: int = Field(ge=2)
    unparsed_margin: float = Field(ge=0, le=1)
    failed_margin: float = Field(ge=0, le=1)
    keep_seeing: bool
    new_leaks: int = Field(ge=0)


def gate_settings(file: Path | None = None) -> GateSettings:
    """The thresholds that ship with the package, and those of `file` in their place.

    Raises:
        DataError: the file is missing or not YAML, a key is unknown, or a value is not accepted.
    """
    shipped = resources.files("infimed.evaluation") / "gate.yaml"
    values: dict[str, Any] = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    if file is not None:
        try:
            own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"cannot be read ({error})", where=str(file)) from error
        if not isinstance(own, dict):
            raise DataError("expected keys with values", where=str(file), accepted=list(values))
        for key in own:
            if key not in values:
                raise DataError(
                    "unknown key", where=str(file), seen=str(key), accepted=list(values),
                    nearest=nearest_name(str(key), values),
                )  # fmt: skip
        values |= own
    try:
        return GateSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(first["msg"], where=f"{file}: {first['loc'][0]}") from error


@dataclass(frozen=True, slots=True)
class Check:
    """One condition.

    Attributes:
        task, name: what it is about. passed: None where it is only reported. words: what was found.
        difference: new minus old with a paired interval, where there is one. margin: what it may lose.
    """

    task: str
    name: str
    passed: bool | None
    words: str
    difference: Estimate | None = None
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """The decision, with all that was looked at.

    Attributes:
        old, new: labels and model fingerprints, per task. questions_sha256: of the locked set.
    """

    promote: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    settings: GateSettings
    old: Mapping[str, str]
    new: Mapping[str, str]
    questions_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready form."""
        return {
            "promote": self.promote,
            "reasons": list(self.reasons),
            "questions_sha256": self.questions_sha256,
            "old": dict(self.old),
            "new": dict(self.new),
            "settings": self.settings.model_dump(),
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(frozen=True)
class _Side:
    """One folder: its board, its questions by task, and per task which model answered."""

    board: Scoreboard
    lines: dict[str, list[dict[str, Any]]]
    asked: dict[str, str]
    models: dict[str, str]

    def first(self, task: str) -> str:
        """The row that is the model."""
        return self.board.task(task).rows[0].name

    def answers(self, task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and weight of each answer of the model; no weight where no judge has read it."""
        said = [line["answers"][self.first(task)] for line in self.lines[task]]
        return (
            np.array([one["score"] for one in said], np.float64),
            np.array([one.get("weight", 1.0) for one in said], np.float64),
        )


def _read(folder: Path) -> _Side:
    places = (folder, folder / "evaluation-eval", folder / "evaluation")
    home = next((one for one in places if (one / "scores.json").is_file()), None)
    if home is None:
        raise DataError(
            "no scores here",
            where=str(folder),
            accepted="an evaluation folder with scores.json, or a run folder",
            fix="infimed eval MODEL --tasks ... --out FOLDER",
        )
    board = Scoreboard.from_dict(read_json(home / "scores.json"))
    lines: dict[str, list[dict[str, Any]]] = {}
    try:
        with (home / "samples.jsonl").open(encoding="utf-8") as handle:
            for text in handle:
                value = json.loads(text)
                lines.setdefault(value["task"], []).append(value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the questions cannot be read", where=str(home / "samples.jsonl"), fix="score it again"
        ) from error
    asked, models = {}, {}
    for task in board.tasks:
        manifest = read_json(manifest_path(home, task.task, task.rows[0].name))
        asked[task.task], models[task.task] = manifest["asked_sha256"], manifest["model"]
    return _Side(board, lines, asked, models)


def _locked(old: _Side, new: _Side) -> str:
    """Hash of the questions both were asked.

    Raises:
        DataError: they are not the same.
    """
    names = [task.task for task in old.board.tasks]
    if sorted(names) != sorted(task.task for task in new.board.tasks):
        raise DataError(
            "the folders hold other tasks",
            where="--gate",
            seen=", ".join(task.task for task in new.board.tasks),
            accepted=names,
        )
    for name in names:
        if old.asked[name] != new.asked[name]:
            raise DataError("the task was changed between the two", where=f"task {name}")
        one, other = ([_question(line) for line in side.lines.get(name, [])] for side in (old, new))
        if one != other:
            odd = next((a[0] for a, b in zip(one, other, strict=False) if a != b), "their number")
            raise DataError(
                "the folders were asked other questions",
                where=f"task {name}",
                seen=str(odd),
                fix="evaluate both on the same data with the same --limit",
            )
    return sha256_json([[_question(line) for line in old.lines[name]] for name in sorted(names)])


def _question(line: Mapping[str, Any]) -> list[Any]:
    return [line["id"], *(line[key] for key in SAME)]


def gate(old: Path, new: Path, settings: GateSettings) -> Gate:
    """Whether the model evaluated in `new` may take the place of the one in `old`.

    Raises:
        DataError: a folder holds no scores, or they are not of the same questions.
    """
    one, other = _read(old), _read(new)
    locked = _locked(one, other)
    checks: list[Check] = []
    for task in one.board.tasks:
        checks += _scores(task.task, one, other, settings)
        checks += _judges(task, other.board.task(task.task))
        checks += _rates(task, other.board.task(task.task), settings)
        checks += _kept(task, other.board.task(task.task), settings)
    failed = tuple(f"{c.task}: {c.name}: {c.words}" for c in checks if c.passed is False)
    return Gate(not failed, failed, tuple(checks), settings, one.models, other.models, locked)


def _scores(task: str, old: _Side, new: _Side, settings: GateSettings) -> list[Check]:
    bare = [
        name
        for name, side in (("old", old), ("new", new))
        if side.board.task(task).cell(side.first(task), "overall", SCORE).estimate.mean is None
    ]
    if bare:
        words = f"no score in the {' and the '.join(bare)} one: infimed judge EVALUATION, if it needs one"
        return [Check(task, "overall", False, words)]
    before, after = (side.answers(task) for side in (old, new))
    groups = [line["group"] for line in new.lines[task]]
    members: dict[str, set[int]] = {"overall": set(range(len(groups)))}
    for side in (old, new):
        for at, line in enumerate(side.lines[task]):
            for column in line.get("columns", ()):
                if not column.startswith("leak="):  # each model has its own
                    members.setdefault(column, set()).add(at)
    checks = []
    for column, found in members.items():
        own = sorted(found)
        (now, weights), (then, old_weights) = (
            [one[own] for one in side] for side in (after, before)
        )
        gap = paired_clustered_bootstrap(
            now, then, [groups[at] for at in own], first_weights=weights, second_weights=old_weights
        )
        checks.append(_judged(task, column, gap, settings))
    return checks


def _judged(task: str, column: str, gap: Estimate, settings: GateSettings) -> Check:
    said = f"{percent(gap, signed=True)} points over {gap.n} questions"
    if column == "overall":
        margin = settings.overall_margin
        if gap.low is None:
            return Check(task, column, False, f"{said}: too few groups to tell", gap, margin)
        good = gap.low >= -margin
        words = said if good else f"{said}: a loss of {100 * margin:g} points is not excluded"
        return Check(task, column, good, words, gap, margin)
    margin = settings.subgroup_margin
    if gap.n < settings.min_questions or gap.groups < settings.min_groups:
        return Check(task, column, None, f"{said}: too few to decide", gap, margin)
    good = gap.mean is not None and gap.mean >= -margin
    if not good:
        said += f": more than {100 * margin:g} points are lost"
    elif gap.high is not None and gap.high < 0:
        said += ": shown to be worse, within the margin"
    return Check(task, column, good, said, gap, margin)


def _judges(old: TaskScores, new: TaskScores) -> list[Check]:
    """Where a judge's verdicts are the score: one judge, one prompt, and every answer read."""
    if SCORE not in (*old.needs_judge, *new.needs_judge):
        return []
    found = [
        (task.judge, next((r for r in task.judge.rows if r.row == task.rows[0].name), None))
        for task in (old, new)
        if task.judge is not None
    ]
    said = {(judge.fingerprint, judge.prompt) for judge, _ in found}
    unread = sum(row.unjudged for _, row in found if row is not None)
    words = f"{', '.join(f'{judge.judge} ({judge.prompt})' for judge, _ in found) or 'none'}"
    if unread:
        words += f"; {unread} answers without a whole verdict"
    good = len(found) == 2 and len(said) == 1 and not unread
    return [Check(old.task, "judge", good, words)]


def _rates(old: TaskScores, new: TaskScores, settings: GateSettings) -> list[Check]:
    before, after = (task.cell(task.rows[0].name, "overall", SCORE) for task in (old, new))
    checks = []
    for name, one, other, margin in (
        ("unparsed", before.unparsed, after.unparsed, settings.unparsed_margin),
        ("failed", before.errors, after.errors, settings.failed_margin),
    ):
        words = f"{100 * one:.1f} % before, {100 * other:.1f} % now"
        checks.append(Check(old.task, name, other - one <= margin + 1e-12, words, None, margin))
    return checks


def _kept(old: TaskScores, new: TaskScores, settings: GateSettings) -> list[Check]:
    """Seeing is not lost, and no question was learned."""
    checks = []
    after = {one.column: one for one in new.evidence.seeing}
    for one in old.evidence.seeing:
        if one.verdict != "better with its images":
            continue
        found = after.get(one.column)
        words = found.words if found is not None else "not looked at in the new one"
        kept = found is not None and found.verdict == one.verdict
        passed = kept if settings.keep_seeing else None
        checks.append(Check(old.task, f"seeing, {one.column}", passed, words))
    if not old.evidence.seeing and new.evidence.seeing:
        checks.append(Check(old.task, "seeing", None, "not looked at in the old one"))
    leaked = new.evidence.leakage
    if leaked is not None:
        known = old.evidence.leakage.found if old.evidence.leakage is not None else 0
        words = f"{leaked.found} questions found in {leaked.against}, {known} before"
        good = leaked.found - known <= settings.new_leaks
        checks.append(Check(old.task, "leakage", good, words))
    elif old.evidence.leakage is not None:
        checks.append(Check(old.task, "leakage", None, "not looked for in the new one"))
    return checks


def lines_of(result: Gate) -> Sequence[Sequence[str]]:
    """Rows for a table: task, what, verdict, words."""
    verdicts = {True: "kept", False: "LOST", None: "-"}
    return [[c.task, c.name, verdicts[c.passed], c.words] for c in result.checks]
