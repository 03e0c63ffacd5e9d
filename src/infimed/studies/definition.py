"""A study as data: a question, arms that are changes to one recipe, and what is compared.

Everything that can be checked without data is checked when the file is read: names of arms, what is
compared with what, which measures exist. The same file serves several presets; what differs between
them (grids, seeds, arms) stands under the preset's name.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.core.stage import Part
from infimed.curation.corruption import OPERATORS

Unit = Literal["samples", "target_tokens", "flops", "seconds", "nothing"]
"""What an arm has as much of as the reference arm. Nothing: the arm trains its recipe as it stands."""
Keep = Literal["all", "random", "rules", "evaluator"]
Way = Literal["model", "image-zeroed", "image-swapped"]
Split = Literal["dev", "test"]
Expected = Literal["more", "less", "none"]

MARGIN: Final = 0.03
"""Differences smaller than three points are called none where an interval lies within them."""


class Damage(Part):
    """Known damage to the training records, and what a filter leaves of them.

    Attributes:
        share: of the training records of the `tasks` (all where none is named). operators: numbers of
            `infimed.curation.corruption`.
        keep: all; random: as many are dropped by chance as the rules drop; rules: what no rule drops;
            evaluator: of these, what the evaluator finds no worse than the worst 5 % of clean records.
        facts: False withholds from curation what the source states of findings, as most sources do.
    """

    share: float = Field(gt=0, le=1)
    operators: tuple[int, ...] = Field(min_length=1)
    tasks: tuple[str, ...] = ()
    keep: Keep = "all"
    facts: bool = True

    @model_validator(mode="after")
    def operators_exist(self) -> Self:
        known = {operator.number for operator in OPERATORS}
        strange = [number for number in self.operators if number not in known]
        if strange:
            raise ValueError(
                f"there is no operator {strange[0]}: infimed curate benchmark lists them"
            )
        return self


class Arm(Part):
    """One way of training.

    Attributes:
        name: in tables. label: in words. recipe: dotted keys of the recipe and their values.
        damage: of the training records. blind: train the twin that never sees an image.
        way: how the model is asked. equal: what is held equal, else the study's. equal_to: an arm, else the
            study's reference.
        seed_offset: added to every seed, for an arm that repeats another by other chances.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    label: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    damage: Damage | None = None
    blind: bool = False
    way: Way = "model"
    equal: Unit | None = None
    equal_to: str | None = None
    seed_offset: int = Field(0, ge=0)


class Measure(Part):
    """A column of a task. chance: what guessing scores, for what a point costs."""

    task: str
    column: str = "overall"
    title: str
    chance: float = Field(0.0, ge=0, lt=1)

    @property
    def key(self) -> tuple[str, str]:
        """Task and column."""
        return self.task, self.column


class Compared(Part):
    """An arm minus another on a measure, by number: 0 is the primary one."""

    arm: str
    against: str
    measure: int = Field(0, ge=0)


class Gap(Part):
    """The share of the way from one arm to a better one that a third goes."""

    arm: str
    floor: str
    ceiling: str


SENTENCES: Final = ("more", "less", "none", "unclear", "bounded")
"""Fields of a conclusion that are words."""


class Conclusion(Part):
    """The comparison that answers the question, and one sentence for every way it may come out.

    Attributes:
        expects: what the claim says of the difference. more, less, none: sentences with
            ``{difference}``, which becomes the figure with its interval.
        bounded: where the interval reaches zero and no more than the margin to the side that the claim says.
        unclear: where it reaches further. margin: differences within it on both sides are none.
    """

    compare: Compared
    expects: Expected
    more: str
    less: str
    none: str
    unclear: str
    bounded: str = (
        "The difference is {difference}: as large an effect as would matter is ruled out."
    )
    margin: float = Field(MARGIN, gt=0)

    @field_validator(*SENTENCES)
    @classmethod
    def shows_its_figure(cls, sentence: str) -> str:
        if "{difference}" not in sentence:
            raise ValueError("a conclusion must show its figure: {difference}")
        return sentence


class Variant(Part):
    """A study on one preset."""

    seeds: tuple[int, ...] = Field(min_length=1)
    held_equal: Unit = "samples"
    reference: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    ways: tuple[Way, ...] = ("model",)
    measures: tuple[Measure, ...] = Field(min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=2)
    comparisons: tuple[Compared, ...] = Field(min_length=1)
    gaps: tuple[Gap, ...] = ()
    conclusion: Conclusion

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that are asked, each once."""
        return tuple(dict.fromkeys(measure.task for measure in self.measures))

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @model_validator(mode="after")
    def names_agree(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arm names must differ: {names}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ: {list(self.seeds)}")
        compared = [*self.comparisons, self.conclusion.compare]
        used = [self.reference, *(n for c in compared for n in (c.arm, c.against))]
        used += [arm.equal_to for arm in self.arms if arm.equal_to is not None]
        used += [n for gap in self.gaps for n in (gap.arm, gap.floor, gap.ceiling)]
        for name in used:
            if name not in names:
                near = nearest_name(name, names)
                raise ValueError(
                    f"there is no arm {name!r}" + (f"; did you mean {near}?" if near else "")
                )
        if self.conclusion.compare not in self.comparisons:
            raise ValueError("the comparison of the conclusion must be among the comparisons")
        if any(c.measure >= len(self.measures) for c in compared):
            raise ValueError(f"there are {len(self.measures)} measures, numbered from 0")
        for arm in self.arms:
            if not arm.blind and arm.way not in self.ways:
                raise ValueError(
                    f"arm {arm.name!r} is asked {arm.way!r}, which is not among the ways"
                )
        return self


class Check(Part):
    """Something that is known in advance, and that the machinery must find.

    Attributes:
        says: in words. expects: the arm is the same as `against` (the interval of their difference covers
            zero), worst (its mean is the lowest, and lower than `against` beyond doubt), or closes
            nothing of its gap (the interval of the share covers zero).
    """

    says: str
    expects: Literal["same", "worst", "closes nothing"]
    arm: str
    against: str


class Study(Part):
    """A question with its experiment.

    Attributes:
        number: in the page's order. claim: what the paper, or another, says. refutes: what would
            refute it. limits: what the experiment cannot tell. history: of earlier runs that led to this one.
        ledger: names of studies whose costs this one tells; it trains nothing of its own.
        planted: a check of the machinery, not of the paper. checks: what it must find.
    """

    name: str = Field(pattern=r"^[a-z][a-z-]*$")
    number: int = Field(ge=0)
    title: str
    question: str
    claim: str = ""
    refutes: str
    limits: str = ""
    history: str = ""
    presets: dict[str, Variant] = Field(default_factory=dict)
    ledger: tuple[str, ...] = ()
    planted: bool = False
    checks: tuple[Check, ...] = ()

    @property
    def place(self) -> tuple[int, str]:
        """Sorts studies as the page has them; several may share a number."""
        return self.number, self.name

    @model_validator(mode="after")
    def has_arms_or_tells_costs(self) -> Self:
        if bool(self.presets) == bool(self.ledger):
            raise ValueError("give presets with arms, or ledger with the names of other studies")
        for check in self.checks:
            for variant in self.presets.values():
                pairs = {(c.arm, c.against) for c in variant.comparisons if c.measure == 0}
                gaps = {(gap.arm, gap.floor) for gap in variant.gaps}
                kind = "gap" if check.expects == "closes nothing" else "comparison"
                if (check.arm, check.against) not in (gaps if kind == "gap" else pairs):
                    raise ValueError(f"a check needs the {kind} {check.arm} - {check.against}")
        return self


def study_names() -> list[str]:
    """Names of the studies that ship with the package, in the order of the page."""
    return [study.name for study in sorted(map(_shipped, _files()), key=lambda s: s.place)]


def load_study(name: str) -> Study:
    """A study by name, or from a file where the name ends in .yaml.

    Raises:
        UsageError: there is none. DataError: the file is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        file = Path(name)
        if not file.is_file():
            raise UsageError("no such study file", seen=name, fix="infimed study list")
        return parse_study(file.read_text(encoding="utf-8"), name)
    files = {file.name.removesuffix(".yaml"): file for file in _files()}
    if name not in files:
        raise UsageError(
            "no such study",
            seen=name,
            accepted=[*sorted(files), "all"],
            nearest=nearest_name(name, files),
            fix="infimed study list",
        )
    return _shipped(files[name])


def parse_study(text: str, where: str) -> Study:
    """A study from YAML text.

    Raises:
        DataError: not YAML, an unknown key, or keys that contradict one another.
    """
    try:
        values = yaml.safe_load(text)
        if isinstance(values, dict):
            values.pop("shared", None)  # anchors that arms have in common
        return Study.model_validate(values)
    except yaml.YAMLError as error:
        raise DataError(f"is not valid YAML ({error})", where=where) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "study"
        raise DataError(
            first["msg"].removeprefix("Value error, "),
            where=f"{where}: {key}",
            seen=str(first["loc"][-1]) if first["type"] == "extra_forbidden" else None,
        ) from error


def _files() -> list[Any]:
    folder = resources.files("infimed.studies").joinpath("definitions")
    return sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)


def _shipped(file: Any) -> Study:
    study = parse_study(file.read_text(encoding="utf-8"), f"study '{file.name}'")
    if f"{study.name}.yaml" != file.name:
        raise DataError(
            "the study's name differs from its file's", where=file.name, seen=study.name
        )
    return study
