"""Near-duplicate texts."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.matching import text
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
        ("3cm", "3mm"),
        ("T1加权", "T2加权"),
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


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=40), min_size=1, max_size=6))
def test_a_block_of_plain_texts_is_normalised_as_each_alone(texts: list[str]) -> None:
    codes, lengths = text._plain_codes(texts)
    ends = np.cumsum(lengths)
    parts = [bytes(codes[end - n : end]).decode() for end, n in zip(ends, lengths, strict=True)]
    assert parts == [normalise(t) for t in texts]


def slow_normalise(value: str) -> str:
    folded = unicodedata.normalize("NFKC", value).casefold()
    return text._SPACES.sub(" ", text._GAPS.sub(" ", folded)).strip()


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_quick_spelling_of_plain_text_is_the_general_one(value: str) -> None:
    assert normalise(value) == slow_normalise(value)


def slow_signature(value: str) -> list[int]:
    bins: dict[int, int] = {}
    for hashed in shingles(value).tolist():
        place = hashed >> 57
        bins[place] = min(bins.get(place, 2**32), hashed & 0xFFFFFFFF)
    made = []
    for place in range(text.BINS):
        distance = next(d for d in range(text.BINS) if (place + d) % text.BINS in bins)
        value_there = bins[(place + distance) % text.BINS]
        made.append((value_there + distance * 0x9E3779B1) % 2**32)
    return made


def test_signatures_equal_their_definition_in_any_company() -> None:
    texts = [CAPTION, "ab", "", "左肺上叶见结节影，边缘毛刺", "No finding.", CAPTION.upper()]
    made = text.signatures(texts)
    assert [row.tolist() for row in made] == [slow_signature(t) for t in texts]


def test_groups_equal_a_comparison_of_all_pairs() -> None:
    lots = random.Random(5)
    words = [
        "lung",
        "mass",
        "nodule",
        "seen",
        "axial",
        "view",
        "contrast",
        "phase",
        "upper",
        "lobe",
        "effusion",
        "small",
        "focal",
        "area",
    ]
    texts = [" ".join(lots.choices(words, k=18)) for _ in range(60)]
    for _ in range(60):
        edited = lots.choice(texts).split()
        edited[lots.randrange(len(edited))] = lots.choice(words)
        texts.append(" ".join(edited))
    slow: list[int] = []
    for index, one in enumerate(texts):
        firsts = (k for k in range(index) if slow[k] == k)
        same = (
            k
            for k in firsts
            if slow_jaccard(texts[k], one) >= 0.8
            and critical_words(texts[k]) == critical_words(one)
        )
        slow.append(next(same, index))
    found = near_text_groups(texts)
    missed = sum(f == i != s for i, (f, s) in enumerate(zip(found, slow, strict=True)))
    assert missed <= 3
    for index, first in enumerate(found):
        assert found[first] == first
        assert slow_jaccard(texts[first], texts[index]) >= 0.8
        assert critical_words(texts[first]) == critical_words(texts[index])


def test_a_crowded_bucket_stays_linear() -> None:
    texts = [
        f"Normal chest radiograph, no acute finding, film {number * 7919}" for number in range(3000)
    ]
    pairs = text._proposed(texts, 0.8)
    assert len(pairs) <= len(texts) * 2 * sum(bins // rows for rows, bins in text._BANDS)
    assert near_text_groups(texts) == list(range(3000))  # another number is another film


def test_chinese_texts_are_grouped_and_sides_keep_them_apart() -> None:
    one = "胸部CT示左肺上叶见一直径约3cm的结节影，边缘可见毛刺，邻近胸膜牵拉，纵隔内未见明显肿大淋巴结"
    assert near_text_groups(
        [one, one + "。", one.replace("左", "右"), one.replace("3cm", "3mm")]
    ) == [
        0,
        0,
        2,
        3,
    ]


def test_texts_may_be_fetched_one_by_one() -> None:
    class Lazy:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> str:
            return [CAPTION, "another text altogether", CAPTION + "."][range(3)[index]]

    assert near_text_groups(Lazy()) == [0, 1, 0]  # type: ignore[arg-type]
