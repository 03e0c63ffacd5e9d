"""A task is data: one YAML file in `tasks/` that says which records are asked and how they are scored.

Unknown keys are refused with the nearest valid name. The harness owns option letters and order,
blinding and image limits, so that every control exists for every task at no cost to its author.
No torch is imported here: listing tasks is instant.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.core.files import sha256_json
from infimed.data.fieldmap import FieldMap, Part
from infimed.data.record import TASKS, Record
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.origin import Source

Scalar = str | int | float | bool
Where = dict[str, list[Scalar]]
"""Field -> accepted values; all fields must match. See `field_values` for the fields."""

Control = Literal["majority", "majority by type", "question-only linear"]
Extractor = Literal["yes_no", "closed", "letter", "short", "whole"]
Judge = Literal["auto", "answer", "report", "refusal", "rubric", "statements", "none"]
"""What a judge asks of an answer: the same as the gold answer or report, declines, meets the criteria of
the fact "rubric", says or contradicts the statements of the facts "must_have" and "nice_to_have"."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C where PyYAML has it: listing reads every file."""
FIELDS = ("task", "source", "license", "split", "group")

DEFAULT_EXTRACTOR: dict[str, Extractor] = {
    "closed": "closed",
    "choice": "letter",
    "open": "short",
    "caption": "whole",
    "report": "whole",
}


def _known_metric(name: str) -> str:
    if name not in METRICS:
        near = nearest_name(name, METRICS)
        raise ValueError(
            f"unknown metric {name!r}{f', did you mean {near!r}' if near else ''}; "
            "see infimed eval --metrics"
        )
    return name


Metric = Annotated[str, AfterValidator(_known_metric)]
"""A name in `metrics.registry.METRICS`."""

DEFAULT_METRICS: dict[str, tuple[Metric, ...]] = {
    "closed": ("accuracy",),
    "choice": ("accuracy",),
    "open": ("exact_match", "token_f1", "recall"),
    "caption": ("rouge_l", "token_f1"),
    "report": ("rouge_l", "token_f1"),
}

DEFAULT_JUDGE: dict[str, Judge] = {"open": "answer", "caption": "report", "report": "report"}
"""By kind of record; a choice or a decision needs no judge."""


class Breakdown(Part):
    """A field whose every value becomes a column; with `edges`, every interval of a number.

    `edges: [0.04, 0.12]` makes the columns ``<0.04``, ``0.04-0.12`` and ``>=0.12``.
    """

    field: str
    title: str = ""
    edges: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Title, or the last part of the field's path."""
        return self.title or self.field.rpartition(".")[2]


class Rephrasings(Part):
    """How a data set marks questions that mean the same: equal values of `field`, where `where` holds.

    Only questions of one kind about the same images, with the same gold answer, are compared.
    """

    field: str = "facts.rephrasing"
    where: Where = Field(default_factory=dict)


class TaskSpec(Part):
    """One evaluation task.

    Attributes:
        name: file name and command-line name. version: counts up when scores stop being comparable.
        where: which records (`split` apart) are asked; default for a benchmark with `layouts`: those
            built from them. split: which part of them.
        layouts: how the benchmark's files may lie in a folder; the first that matches is read.
        prompt: id of the sentence added to the question (`prompts.SUFFIXES`).
        max_new_tokens: longest answer. max_images: further images of a record are not shown.
        shuffle_options: permute options by a seed of the record's id.
        extractors, metrics: per kind of record; the first metric of a kind is its score.
        medevalkit: whose rules the `medevalkit` column follows: those most of its benchmarks share,
            SLAKE's or MMMU's own, or none.
        judge: what a judge asks of answers in words, see `Judge`; auto: by kind.
        report_metrics: over all questions of a group together, see `reports`.
        subsets: named columns. breakdowns: a column per value. controls: rows that cost no model.
        rephrasings: which questions say the same in other words. option_scoring: also ask a model that
            can for the likeliest option, by its text or its letter.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    version: int = Field(1, ge=1)
    title: str
    description: str = ""
    source: Source
    layouts: tuple[FieldMap, ...] = ()
    where: Where = Field(default_factory=dict)
    split: str = "test"
    prompt: str = "none"
    max_new_tokens: int = Field(32, ge=1)
    max_images: int = Field(4, ge=0)
    shuffle_options: bool = True
    extractors: dict[str, Extractor] = Field(default_factory=dict)
    metrics: dict[str, tuple[Metric, ...]] = Field(default_factory=dict)
    medevalkit: Literal["common", "slake", "mmmu", "none"] = "common"
    judge: Judge = "auto"
    report_metrics: tuple[Literal["hierarchical_macro_f1"], ...] = ()
    subsets: dict[str, Where] = Field(default_factory=dict)
    breakdowns: tuple[Breakdown, ...] = (Breakdown(field="facts.question_type", title="type"),)
    type_field: str = "facts.question_type"
    controls: tuple[Control, ...] = ("majority", "majority by type", "question-only linear")
    rephrasings: Rephrasings = Rephrasings()
    option_scoring: Literal["none", "text", "letter"] = "none"

    @model_validator(mode="before")
    @classmethod
    def asks_what_it_builds(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("layouts") and not values.get("where"):
            return {**values, "where": {"source": [values.get("name")]}}
        return values

    @model_validator(mode="after")
    def fields_exist(self) -> Self:
        from infimed.evaluation.prompts import SUFFIXES

        if not self.where:
            raise ValueError("say which records are asked: where, or layouts of files")
        wheres = [self.where, *self.subsets.values(), self.rephrasings.where]
        used = [key for where in wheres for key in where]
        used += [part.field for part in self.breakdowns]
        for field in [*used, self.type_field, self.rephrasings.field]:
            if field not in FIELDS and not field.startswith(("facts.", "image.")):
                raise ValueError(
                    f"unknown field {field!r}; use {', '.join(FIELDS)}, facts.NAME or image.NAME"
                )
        if self.prompt not in SUFFIXES:
            raise ValueError(f"unknown prompt {self.prompt!r}; known: {', '.join(SUFFIXES)}")
        for kind in (*self.extractors, *self.metrics, *self.where.get("task", ())):
            if kind not in TASKS:
                raise ValueError(f"unknown kind of record {kind!r}; known: {', '.join(TASKS)}")
        for kind, names in self.metrics.items():
            if not names or not METRICS[names[0]].per_answer:
                raise ValueError(
                    f"the first metric of {kind!r} is the score and must have a value per answer"
                )
        needs = {"rubric": "rubric", "completeness": "statements", "contradictions": "statements"}
        for name in (name for names in self.metrics.values() for name in names):
            if self.judge != needs.get(name, self.judge):
                raise ValueError(f"the metric {name!r} needs judge: {needs[name]}")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of question it may ask; empty where `where` leaves it open."""
        stated = [str(kind) for kind in self.where.get("task", ())]
        return tuple(sorted({*stated, *(k for layout in self.layouts for k in layout.kinds)}))

    def extractor(self, kind: str) -> Extractor:
        """How an answer to this kind of record is read."""
        return self.extractors.get(kind) or DEFAULT_EXTRACTOR[kind]

    def metrics_of(self, kind: str) -> tuple[Metric, ...]:
        """What an answer to this kind of record is measured by; the first is its score."""
        return self.metrics.get(kind) or DEFAULT_METRICS[kind]

    def judged_by(self, kind: str) -> Judge:
        """What a judge asks of an answer to this kind of record; "none" where it is not asked."""
        usual = DEFAULT_JUDGE.get(kind, "none")
        return usual if self.judge == "auto" or usual == "none" else self.judge

    @property
    def judged(self) -> bool:
        """Whether a judge reads answers of any of its kinds."""
        return any(self.judged_by(kind) != "none" for kind in self.kinds or TASKS)

    @property
    def asked_sha256(self) -> str:
        """Hash of what decides the questions. Metrics and columns may change without asking again."""
        asked = {"where", "split", "prompt", "max_new_tokens", "max_images", "shuffle_options"}
        return sha256_json(self.model_dump(mode="json", include=asked))


def field_values(record: Record, field: str) -> tuple[Any, ...]:
    """Values of a field of a record: an attribute, ``facts.NAME``, or ``image.NAME`` (first image).

    A list is its items; a missing value is nothing.
    """
    if field in FIELDS:
        return (getattr(record, field),)
    room, _, name = field.partition(".")
    if room == "facts":
        value = record.facts.get(name)
    else:
        value = record.images[0].facts.get(name) if record.images else None
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _accepts(accepted: list[Scalar], value: Any) -> bool:
    """Membership that keeps True apart from 1, which Python takes for equal."""
    for one in accepted:
        if value == one and isinstance(value, bool) == isinstance(one, bool):
            return True
    return False


def matches(record: Record, where: Where) -> bool:
    """Whether every field of `where` has one of its accepted values."""
    return all(
        any(_accepts(accepted, value) for value in field_values(record, field))
        for field, accepted in where.items()
    )


def parse_task(text: str, where: str) -> TaskSpec:
    """A task from YAML text.

    Raises:
        DataError: not YAML, an unknown key, or a value that is not accepted.
    """
    try:
        values = yaml.load(text, Loader=_LOADER)  # noqa: S506 (a safe loader, see there)
        return TaskSpec.model_validate(values)
    except yaml.YAMLError as error:
        raise DataError(f"is not valid YAML ({error})", where=where) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "task"
        unknown = first["type"] == "extra_forbidden"
        section = _SECTIONS.get(str(first["loc"][0]) if len(first["loc"]) > 1 else "", TaskSpec)
        valid = list(section.model_fields)
        raise DataError(
            "unknown key" if unknown else first["msg"].removeprefix("Value error, "),
            where=f"{where}: {key}",
            seen=str(first["loc"][-1]) if unknown else None,
            accepted=valid if unknown else None,
            nearest=nearest_name(str(first["loc"][-1]), valid) if unknown else None,
        ) from error


_SECTIONS: dict[str, type[BaseModel]] = {
    "source": Source,
    "layouts": FieldMap,
    "breakdowns": Breakdown,
    "rephrasings": Rephrasings,
}


def task_names() -> list[str]:
    """Names of the tasks that ship with the package."""
    folder = resources.files("infimed.evaluation") / "tasks"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


@lru_cache(maxsize=256)
def load_task(name: str) -> TaskSpec:
    """The task of that name, or in that file where the name ends in .yaml.

    Raises:
        UsageError: there is none. DataError: its file is wrong.
    """
    if name.endswith(".yaml"):
        return _own_task(Path(name))
    names = task_names()
    if name not in names:
        raise UsageError(
            "no such task",
            seen=name,
            accepted=names,
            nearest=nearest_name(name, names),
            fix="infimed eval --list",
        )
    file = resources.files("infimed.evaluation") / "tasks" / f"{name}.yaml"
    spec = parse_task(file.read_text(encoding="utf-8"), f"task '{name}'")
    if spec.name != name:
        raise DataError(
            "the task's name differs from its file's", where=f"{name}.yaml", seen=spec.name
        )
    return spec


def _own_task(file: Path) -> TaskSpec:
    """A task from a file outside the package."""
    if not file.is_file():
        raise UsageError("no such task file", seen=str(file), fix="infimed eval --list")
    spec = parse_task(file.read_text(encoding="utf-8"), str(file))
    if spec.name in task_names():
        raise DataError("a task of this name ships with InfiMed", where=str(file), seen=spec.name)
    return spec
