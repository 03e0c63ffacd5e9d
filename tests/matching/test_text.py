"""Near-duplicate texts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.matching.text import (
    critical_words,
    jaccard,
    near_text_groups,
    normalise,
    normalise_answer,
    shingles,
)

CAPTION = "Axial CT of the chest showing a spiculated mass in the left upper lobe with enlarged hilar nodes"


def slow_jaccard(a: str, b: str) -> float:
    def grams(text: str) -> set[str]:
        padded = normalise(text).ljust(5)
        return {padded[i : i + 5] for i in range(len(padded) - 4)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_jaccard_equals_the_slow_definition(a: str, b: str) -> None:
    assert jaccard(shingles(a), shingles(b)) == pytest.approx(slow_jaccard(a, b))


def test_a_small_edit_is_a_duplicate_of_the_first() -> None:
    texts = [
        CAPTION,
        "Something else entirely about the liver and the spleen",
        CAPTION.replace("spiculated ", "Spiculated, ") + ".",
    ]
    assert near_text_groups(texts) == [0, 1, 0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("left", "right"),
        ("showing a", "showing no"),
        ("CT", "MRI"),
        ("mass", "3 cm mass"),
        ("enlarged", "normal"),
    ],
)
def test_a_critical_word_vetoes(old: str, new: str) -> None:
    changed = CAPTION.replace(old, new)
    assert critical_words(changed) != critical_words(CAPTION)
    assert near_text_groups([CAPTION, changed], min_jaccard=0.3) == [0, 1]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 mm", "3 cm"),
        ("2.5 cm", "25 cm"),
        ("T1", "T2"),
        ("左肺", "右肺"),
        ("benign", "malignant"),
    ],
)
def test_units_decimals_sequences_and_chinese_sides_are_critical(a: str, b: str) -> None:
    assert critical_words(f"lesion {a} seen") != critical_words(f"lesion {b} seen")


def test_normalisation_keeps_decimals_and_drops_articles_of_answers() -> None:
    assert normalise("  The 2.5 cm, (Left) Lobe. ") == "the 2.5 cm left lobe"
    assert normalise("T2-weighted, L4/L5 at -20 HU, 120/80") == "t2 weighted l4 l5 at -20 hu 120/80"
    assert normalise_answer("The brain.") == normalise_answer("brain")


def test_empty_texts_are_handled() -> None:
    assert near_text_groups(["", "", "x"]) == [0, 0, 2]
