"""What one evaluation folder says of its model: scores, single answers, and what was asked.

Reads ``scores.json``, ``samples.jsonl`` and the first label's ``run.json`` of every task. Keys that
other parts of scoring add to a task (calibration, risk-coverage, seeing, leakage, McNemar) are kept
as they are and may be absent. Cost: one pass over ``samples.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, sha256_json
from infimed.evaluation.asked import manifest_path
from infimed.evaluation.folder import find_evaluation
from infimed.evaluation.report import Scoreboard, TaskScores


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the model's own answer.

    Attributes:
        id, kind, type, group, question, options, gold, images: of the question, as asked.
        text, parsed, rule, status: of the answer. score, weight: the value that counts and its weight in
            the mean. medevalkit: as MedEvalKit counts it, None where it has no rule.
    """

    id: str
    kind: str
    type: str
    group: str
    question: str
    options: tuple[str, ...]
    gold: str
    images: tuple[str, ...]
    text: str
    parsed: str | None
    rule: str
    status: str
    score: float
    weight: float
    medevalkit: float | None

    @property
    def asked(self) -> str:
        """Hash of the question as it was put: equal for two models that were asked the same."""
        parts = [self.id, self.kind, self.question, list(self.options), self.gold]
        return sha256_json([*parts, list(self.images)])


@dataclass(frozen=True, slots=True)
class TaskOf:
    """One task of one model.

    Attributes:
        scores: of the task; the first row is the model. extras: the task in ``scores.json`` as it is.
        answers: of the first row, in the order asked. asked_sha256: hash of what decides the questions,
            "" where it is not stored. view: what was shown ("images", "none", "blank", "").
        limit: of the seeded sample that was asked, None for the whole set. model: fingerprint.
    """

    scores: TaskScores
    extras: dict[str, Any]
    answers: tuple[Answered, ...]
    asked_sha256: str
    view: str
    limit: int | None
    model: str

    @property
    def row(self) -> str:
        """Name of the first row: how the model was asked."""
        return self.scores.rows[0].name


@dataclass(frozen=True, slots=True)
class ModelScores:
    """All tasks of one model, under the name it has in the comparison."""

    name: str
    folder: Path
    tasks: dict[str, TaskOf]


def name_of(folder: Path) -> str:
    """A name for the model of a folder: the run's for a run's evaluation, else the folder's."""
    path = folder.resolve()
    inside_run = path.name.startswith("evaluation") and (path.parent / "recipe.yaml").is_file()
    return path.parent.name if inside_run or path.name == "evaluation" else path.name


def read_models(given: Sequence[str]) -> list[ModelScores]:
    """Models from ``DIR`` or ``NAME=DIR`` as typed: evaluation folders, or run folders with one.

    Raises:
        UsageError: two have one name. DataError: a folder is missing, not scored, or damaged.
    """
    models: list[ModelScores] = []
    for value in given:
        name, equals, place = value.partition("=")
        named = bool(equals) and not Path(value).exists()
        folder = find_evaluation(Path(place if named else value).expanduser())
        model = read_model(folder, name if named else name_of(folder))
        if any(model.name == other.name for other in models):
            raise UsageError(
                "two models have the same name",
                seen=model.name,
                accepted="NAME=DIR",
                fix=f"give a name: {model.name}-2={value}",
            )
        models.append(model)
    return models


def read_model(folder: Path, name: str) -> ModelScores:
    """One evaluation folder.

    Raises:
        DataError: it is not scored, or a file of it is damaged.
    """
    file = folder / "scores.json"
    if not file.is_file():
        raise DataError(
            "this evaluation is not scored yet",
            where=str(folder),
            fix=f"infimed score {folder}",
        )
    value = read_json(file)
    try:
        board = Scoreboard.from_dict(value)
        extras = {str(task["task"]): dict(task) for task in value["tasks"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "cannot be read as scores", where=str(file), fix=f"infimed score {folder}"
        ) from error
    first = {task.task: task.rows[0].name for task in board.tasks}
    answers = _answers(folder, first)
    tasks = {}
    for task in board.tasks:
        manifest = _manifest(folder, task.task, first[task.task])
        tasks[task.task] = TaskOf(
            scores=task,
            extras=extras[task.task],
            answers=tuple(answers.get(task.task, ())),
            asked_sha256=str(manifest.get("asked_sha256", "")),
            view=str(manifest.get("view", "")),
            limit=manifest.get("limit") if isinstance(manifest.get("limit"), int) else None,
            model=str(manifest.get("model", "")),
        )
    return ModelScores(name, folder, tasks)


def _manifest(folder: Path, task: str, label: str) -> dict[str, Any]:
    path = manifest_path(folder, task, label)
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _answers(folder: Path, first: dict[str, str]) -> dict[str, list[Answered]]:
    found: dict[str, list[Answered]] = {}
    for line in _lines(folder / "samples.jsonl", folder):
        row = first.get(line["task"])
        if row is None or row not in line["answers"]:
            continue
        said = line["answers"][row]
        found.setdefault(line["task"], []).append(
            Answered(
                id=line["id"],
                kind=line["kind"],
                type=line["type"],
                group=line["group"],
                question=line["question"],
                options=tuple(line["options"]),
                gold=line["gold"],
                images=tuple(line["images"]),
                text=said["text"],
                parsed=said["parsed"],
                rule=said["rule"],
                status=said["status"],
                score=float(said["score"]),
                weight=float(said.get("weight", 1.0)),
                medevalkit=said.get("medevalkit"),
            )
        )
    return found


def _lines(path: Path, folder: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as handle:
        for number, text in enumerate(handle, start=1):
            try:
                line = json.loads(text)
                yield {
                    **{name: str(line[name]) for name in _TEXTS},
                    "options": [str(option) for option in line["options"]],
                    "images": [str(image) for image in line["images"]],
                    "answers": dict(line["answers"]),
                }
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"line {number} cannot be read",
                    where=str(path),
                    fix=f"infimed score {folder}",
                ) from error


_TEXTS = ("task", "id", "kind", "type", "group", "question", "gold")
