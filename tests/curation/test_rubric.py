"""The rubric as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infimed.core.errors import RecipeError
from infimed.curation import Rubric, default_rubric
from infimed.curation.rules.base import Example, sample, with_image


def test_a_rubric_round_trips_through_json() -> None:
    rubric = default_rubric()
    again = Rubric.from_dict(json.loads(json.dumps(rubric.to_dict())))
    assert again.identity == rubric.identity
    assert again.order == rubric.order


def test_settings_change_severity_threshold_and_presence() -> None:
    rubric = default_rubric().with_settings(
        {
            "completeness.cut_text": "note",
            "readability.markup": "off",
            "readability.small_image.min_side": 224,
        }
    )
    rules = {rule.id: rule for rule in rubric.all_rules}
    assert rules["completeness.cut_text"].severity == "note"
    assert "readability.markup" not in rules
    assert rules["readability.small_image"].limits("XR", "closed") == {"min_side": 224}
    assert rubric.identity != default_rubric().identity


def test_a_set_threshold_replaces_its_special_cases() -> None:
    rubric = default_rubric().with_settings({"readability.blurred_image.min_sharpness": 2})
    rule = next(rule for rule in rubric.rules if rule.id == "readability.blurred_image")
    assert {rule.limits(m, "open")["min_sharpness"] for m in ("CT", "US", "")} == {2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"completeness.cut_txt": "note"}, "did you mean: completeness.cut_text"),
        ({"readability.small_image.min_sde": 5}, "did you mean: min_side"),
        ({"completeness.cut_text": "loud"}, "unknown severity"),
        ({"readability.small_image.min_side": "big"}, "a threshold is a number"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str | float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        default_rubric().with_settings(settings)


@pytest.mark.parametrize("text", ["rules: [", "- a list", "rulez: {}", "rules: {nothing.here: {}}"])
def test_a_malformed_rubric_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rubric.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError):
        Rubric.load(file)


def test_a_rubric_of_another_rule_version_is_refused(tmp_path: Path) -> None:
    value = default_rubric().to_dict()
    value["rules"]["completeness.cut_text"]["version"] = 99
    with pytest.raises(RecipeError, match="changed since"):
        Rubric.from_dict(value)


@pytest.mark.parametrize(
    ("caption", "facts", "sharpness", "objects"),
    [
        ("A cyst in the liver.", {}, 2.2, True),
        ("Ultrasound of the liver with a cyst.", {}, 2.2, False),  # as soft as any ultrasound
        ("Ultrasound of the liver with a cyst.", {"modality": "CT"}, 2.2, True),  # headers win
        ("A cyst in the liver.", {"modality": "MR"}, 2.9, True),
        ("MRI of the liver with a cyst.", {}, 2.9, False),  # too sharp for the general limits
        ("MRI of the liver with a cyst.", {}, 2.2, True),
    ],
)
def test_a_claimed_modality_can_spare_a_record_and_never_condemn_it(
    caption: str, facts: dict[str, str], sharpness: float, objects: bool
) -> None:
    rule = next(r for r in default_rubric().rules if r.id == "readability.motion")
    image = with_image(least_sharpness=1.02, noise=0.4, sharpness=sharpness).images[0]
    record = sample("Describe this image.", caption, "caption", facts=facts)
    example = Example(record, (image,))
    found = replace(default_rubric(), rules=(rule,)).judge(example.record, example.signals())
    assert bool(found) == objects
