"""What the chosen rules do not need is not measured, and no rule reads more than it declares."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from infimed.core.errors import DataError, RecipeError
from infimed.core.files import read_json
from infimed.curation import curate, default_rubric
from infimed.curation import ledger as tables
from infimed.curation.image_signals import measure_image
from infimed.curation.redecide import redecide
from infimed.curation.rules.base import Rule
from infimed.curation.signals import ImageSignals, Signals
from infimed.data.shards import ShardSet
from tests.curation.clinic import clinic, picture

PIXELS = {"sha256", "problem", "width", "height", "pixel_hash", "fingerprint"}
EXAMPLES = [example for rule in default_rubric().rules for example in (rule.passes, rule.fails)]


class Read(AssertionError):
    """A rule has read what it does not declare."""


class OnlyPixels:
    """An image's signals on the level "pixels"."""

    def __init__(self, image: ImageSignals) -> None:
        self._image = image

    def __getattr__(self, name: str) -> Any:
        if name not in PIXELS:
            raise Read(name)
        return getattr(self._image, name)


@dataclass
class NoImages:
    """Signals on the level "none"."""

    text: Any
    modality: str

    @property
    def images(self) -> Any:
        raise Read("images")


@pytest.mark.parametrize(
    "rule", [r for r in default_rubric().rules if r.needs != "look"], ids=lambda r: r.id
)
def test_a_rule_reads_no_more_of_an_image_than_it_declares(rule: Rule) -> None:
    for example in EXAMPLES:
        signals = example.signals()
        limits = rule.limits(signals.modality, example.record.task)
        shown: Any = NoImages(signals.text, signals.modality)
        if rule.needs == "pixels":
            images = tuple(map(OnlyPixels, signals.images))
            shown = SimpleNamespace(text=signals.text, modality=signals.modality, images=images)
        assert rule.check(example.record, cast(Signals, shown), limits) == rule.check(
            example.record, signals, limits
        )


def test_a_rule_that_declares_images_reads_them() -> None:
    for rule in default_rubric().rules:
        if rule.needs == "none":
            continue
        signals = rule.fails.signals()
        shown = NoImages(signals.text, signals.modality)
        with pytest.raises(Read):
            limits = rule.limits(signals.modality, rule.fails.record.task)
            rule.check(rule.fails.record, cast(Signals, shown), limits)


def test_the_levels_agree_on_what_both_measure() -> None:
    whole, part = measure_image(picture(3), "k"), measure_image(picture(3), "k", "pixels")
    empty = ImageSignals(sha256="k")
    for field in fields(ImageSignals):
        expected = whole if field.name in PIXELS else empty
        assert getattr(part, field.name) == getattr(expected, field.name), field.name


def test_text_rules_alone_open_no_image(tmp_path: Path) -> None:
    source = clinic()
    rubric = default_rubric().only(
        ["completeness.*_text", "accuracy.*_word", "completeness.missing_*"]
    )
    assert rubric.needs == "none"
    summary = curate(source, tmp_path / "text", rubric=rubric)
    assert source.decoded == 0
    assert summary.rules
    assert read_json(tmp_path / "text" / "measured.json")["images"] == "none"


@pytest.mark.parametrize(
    ("patterns", "needs"),
    [
        (["duplication.*", "consistency.conflicting_answers"], "pixels"),
        (["readability.*"], "look"),
        (["consistency.letter_text"], "none"),
    ],
)
def test_fewer_rules_find_the_same_in_any_level(
    tmp_path: Path, patterns: list[str], needs: str
) -> None:
    rubric = default_rubric().only(patterns)
    assert rubric.needs == needs
    curate(clinic(), tmp_path / "part", rubric=rubric)
    whole = tmp_path / "whole"
    curate(clinic(), whole)
    curate(clinic(), whole, rubric=rubric)  # decided again from all signals
    for name in (tables.FINDINGS, tables.VERDICTS):
        read = [tables.read_ledger(f, name).to_pylist() for f in (tmp_path / "part", whole)]
        assert read[0] == read[1]


def test_more_rules_than_were_measured_for_are_measured_again(tmp_path: Path) -> None:
    few = default_rubric().only(["completeness.cut_text"])
    curate(clinic(), tmp_path / "a", rubric=few)
    source = clinic()
    curate(source, tmp_path / "a")
    assert source.decoded > 0
    curate(clinic(), tmp_path / "b")
    for name in (tables.SIGNALS, tables.FINDINGS, tables.VERDICTS):
        assert tables.path_of(tmp_path / "a", name).read_bytes() == (
            tables.path_of(tmp_path / "b", name).read_bytes()
        )


def test_deciding_again_refuses_rules_that_were_not_measured_for(tmp_path: Path) -> None:
    few = default_rubric().only(["completeness.cut_text"])
    source = cast(ShardSet, clinic())
    curate(source, tmp_path, rubric=few)
    with (
        pytest.raises(DataError, match="does not hold"),
        redecide(tmp_path, source, few, default_rubric()),
    ):
        pass


def test_a_pattern_without_a_rule_is_named() -> None:
    with pytest.raises(RecipeError, match=r"did you mean: completeness\.cut_text"):
        default_rubric().only(["completeness.cut_txt"])
