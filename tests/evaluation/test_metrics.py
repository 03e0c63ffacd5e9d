"""Metrics against slow references, and totality over empty answers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infimed.evaluation.metrics.findings import finding_exact, finding_f1, side_f1, stated_findings
from infimed.evaluation.metrics.rouge import lcs_length, rouge_l
from infimed.evaluation.metrics.words import (
    exact_match,
    normalise,
    overlap,
    recall,
    token_f1,
)

words = st.lists(
    st.sampled_from(["lung", "heart", "left", "right", "lower", "lobe", "no", "mass"]), max_size=12
)


def slow_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@given(words, words)
@settings(max_examples=200, deadline=None)
def test_the_bit_parallel_subsequence_equals_the_table(a: list[str], b: list[str]) -> None:
    assert lcs_length(tuple(a), tuple(b)) == slow_lcs(a, b)


def test_long_texts_are_handled_too() -> None:
    rng = random.Random(0)
    a, b = ([rng.choice("abcdef") for _ in range(300)] for _ in range(2))
    assert lcs_length(tuple(a), tuple(b)) == slow_lcs(a, b)


@given(words, words)
@settings(max_examples=100, deadline=None)
def test_token_f1_equals_counting_by_hand(a: list[str], b: list[str]) -> None:
    left = list(b)
    shared = sum(1 for word in a if word in left and (left.remove(word) or True))
    expected = 2 * shared / (len(a) + len(b)) if shared else 0.0
    assert token_f1(" ".join(a), " ".join(b)) == pytest.approx(expected)
    assert shared == (Counter(a) & Counter(b)).total()


def test_precision_recall_and_f1_are_not_swapped() -> None:
    assert overlap("the lesion is in the right lower lobe", "right lower lobe") == pytest.approx(
        (3 / 8, 1.0, 6 / 11)
    )
    assert recall("right", "right lower lobe") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (" lung", "Lung."),
        ("ＣＴ", "ct"),
        ("two", "2"),
        ("1,234.5", "1,234.5"),
        ("X-ray", "x ray"),
        ("肺部", "肺部"),
    ],
)
def test_exact_match_ignores_case_articles_and_punctuation(answer: str, gold: str) -> None:
    assert exact_match(answer, gold) == 1.0


@pytest.mark.parametrize(
    ("answer", "gold"), [("lungs", "lung"), ("", ""), (".", "."), ("1.5", "15"), ("肺", "肺部")]
)
def test_exact_match_is_exact(answer: str, gold: str) -> None:
    assert exact_match(answer, gold) == 0.0


def test_an_article_belongs_to_the_answer() -> None:
    assert normalise("A") == "a"
    assert exact_match("the liver", "liver") == 0.0
    assert token_f1("the liver", "liver") == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", [exact_match, token_f1, recall, rouge_l])
def test_empty_answers_score_zero(metric) -> None:
    assert metric("", "lung") == metric("...", "lung") == metric("lung", "") == 0.0


def test_identical_texts_have_rouge_l_of_one() -> None:
    assert rouge_l("No pleural effusion.", "no pleural effusion") == 1.0


REPORT = (
    "Findings: Pleural effusion, left, 45 mm. No pneumothorax. 2 calcified granulomas, right upper zone, "
    "3.5 mm.\nImpression: Left pleural effusion; Right calcified granuloma, benign."
)


def test_findings_are_read_with_their_side_and_denied_ones_are_not() -> None:
    assert stated_findings(REPORT) == {
        ("pleural_effusion", "left"),
        ("calcified_granuloma", "right"),
    }


def test_a_side_belongs_to_the_finding_it_follows() -> None:
    text = "A chest radiograph showing a pneumothorax on the patient's left side and a consolidation on the right side."
    assert stated_findings(text) == {("pneumothorax", "left"), ("consolidation", "right")}


def test_a_wrong_side_costs_the_side_score_only() -> None:
    said = REPORT.replace("left", "right").replace("Left", "Right")
    assert finding_f1(said, REPORT) == (1.0, 4.0)
    assert side_f1(said, REPORT) == (0.5, 4.0)


def test_a_normal_report_has_no_weight_in_f1_and_counts_when_right() -> None:
    normal = "Findings: No pneumothorax.\nImpression: No abnormality."
    assert finding_f1(normal, normal) == (0.0, 0.0)
    assert finding_exact(normal, normal) == 1.0
    assert finding_exact("", normal) == 0.0
    assert finding_exact(REPORT, normal) == 0.0


def test_the_true_reports_of_the_clinic_state_exactly_their_findings() -> None:
    from infimed.data.phantom.catalogue import MODALITIES
    from infimed.data.phantom.drawing_lots import draw_patient
    from infimed.data.phantom.narratives import caption_text, report_text

    seen: set[str] = set()
    for number in range(24):
        for truth in draw_patient(3, number).images:
            expected = {(f.key, truth.kind.side_of(f.half)) for f in truth.findings}
            assert stated_findings(report_text(truth)) == expected
            assert stated_findings(caption_text(truth)) == expected
            seen.add(truth.modality)
    assert len(seen) == len(MODALITIES)
