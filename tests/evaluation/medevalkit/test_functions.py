"""MedEvalKit's functions: what they do by example, mistakes included, and the packages they rest on."""

from __future__ import annotations

import random

import pytest
from nltk.translate.bleu_score import sentence_bleu

from infimed.evaluation.medevalkit.choice import find_most_similar_index, judge_multi_choice
from infimed.evaluation.medevalkit.closed import judge_close_end_vqa, judge_judgement
from infimed.evaluation.medevalkit.healthbench import (
    calculate_score,
    compute_clipped_stats,
    parse_json_to_dict,
)
from infimed.evaluation.medevalkit.mmmu import (
    eval_open,
    evaluate,
    extract_numbers,
    normalize_str,
    parse_multi_choice_response,
)
from infimed.evaluation.medevalkit.open_ended import judge_open_end_vqa
from infimed.evaluation.medevalkit.prompts import (
    get_judgement_prompt,
    get_multiple_choice_prompt,
    get_open_ended_prompt,
)
from infimed.evaluation.medevalkit.reports import report_scores
from infimed.evaluation.medevalkit.responses import extract, extract_boxed_content, parse_response
from infimed.evaluation.medevalkit.rouge import rouge, rouge_l
from infimed.evaluation.medevalkit.words import bleu, calculate_f1, tokenize

OPTIONS = ["A. cyst", "B. fracture", "C. tumour", "D. none of these"]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("The ANSWER is: Cyst", ": cyst"),
        ("\\boxed{one} or \\boxed{two}", "two"),
        ("in a boxed area", "None"),
        ("<answer>one</answer><answer>two</answer>", "one two"),
        ("answer: x, final answer y", " y"),
        ("plain", "plain"),
    ],
)
def test_a_response_is_cut_at_its_markers(text: str, parsed: str) -> None:
    assert parse_response(text) == parsed


def test_tags_and_boxes_that_do_not_close_are_passed_over() -> None:
    assert extract("<judge>0", "judge") == "<judge>0"
    assert extract_boxed_content("\\boxed{a{b}") == "None"
    assert extract_boxed_content("\\boxed{a{b}c}") == "a{b}c"


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("B", "b", True),
        ("B", "B. fracture", True),
        ("B", "fracture", True),
        ("fracture", "b", False),  # the option is compared with its letter in front
        ("A", "", True),  # the nearest option of nothing is the first
        ("C", "A is out:c", True),
        ("B", "A", False),
    ],
)
def test_a_choice_is_never_left_open(answer: str, text: str, right: bool) -> None:
    assert judge_multi_choice(OPTIONS, answer, text) is right


def test_the_first_of_equally_near_options_wins() -> None:
    assert find_most_similar_index(["xx", "yy"], "zz") == 0
    assert find_most_similar_index(["heart", "lung", "lung"], "lungs") == 1


def test_closed_answers_are_compared_as_letters() -> None:
    assert judge_judgement("no", "not known") and judge_judgement("yes", "eyes")
    assert not judge_judgement("yes", "yes or no")
    assert judge_close_end_vqa("CT", "ct.") and not judge_close_end_vqa("CT", "ct ")


def test_bleu_equals_nltk_without_smoothing() -> None:
    rng = random.Random(0)
    for _ in range(60):
        a, b = (
            " ".join(rng.choices(["no", "clear", "lungs.", "heart"], k=rng.randint(1, 9)))
            for _ in range(2)
        )
        for n in (1, 2, 3, 4):
            with pytest.MonkeyPatch.context() as quiet:
                quiet.setattr("warnings.warn", lambda *_, **__: None)
                expected = sentence_bleu([tokenize(b)], tokenize(a), weights=[1 / n] * n)
            assert bleu(a, b, n) == pytest.approx(expected, rel=1e-9, abs=0)


def test_f1_is_of_sets_and_has_its_own_order() -> None:
    assert calculate_f1("left left arm", "arm") == (pytest.approx(2 / 3), 0.5, 1.0)
    assert calculate_f1("x", "y") == (0, 0, 0)
    assert calculate_f1(" ", "y") == 0


def test_rouge_counts_each_ngram_once_and_joins_sentences() -> None:
    scores = rouge("clear lungs. clear lungs.", "lungs clear. heart normal")[0]
    assert scores["rouge-1"]["p"] == 1.0 and scores["rouge-1"]["r"] == 0.5
    assert scores["rouge-l"]["f"] == pytest.approx(1 / 3, abs=1e-6)
    assert rouge_l("a b", "a b") == pytest.approx(1 - 5e-9)


@pytest.mark.parametrize(("a", "b", "name"), [("", "x", "Hypothesis"), ("x", "..", "Reference")])
def test_rouge_of_nothing_is_an_error(a: str, b: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is empty"):
        rouge(a, b)


def test_the_labels_of_an_open_answer_are_rotated() -> None:
    found = judge_open_end_vqa("lower lobe", "the left lower lobe")
    assert (found["f1"], found["recall"]) == (1.0, 0.5)
    assert found["precision"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="Hypothesis is empty"):
        judge_open_end_vqa("lobe", "")
    with pytest.raises(TypeError):
        judge_open_end_vqa("lobe", " ")


NAMED = {"A": "cyst", "B": "a broken bone", "C": "tumour"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(A) or (C)", "C"),
        ("maybe B here", "B"),
        ("this looks to me like a Broken Bone today", "B"),
        ("\\boxed{C}", "C"),
        ("<answer>B</answer>", "B"),
        ("B.", "B"),
    ],
)
def test_mmmu_takes_the_last_letter_or_the_option_text(text: str, letter: str) -> None:
    assert parse_multi_choice_response(text, list(NAMED), NAMED) == letter


def test_mmmu_guesses_with_the_generator_it_is_given() -> None:
    guesses = {
        parse_multi_choice_response("?", list(NAMED), NAMED, rng=random.Random(seed))
        for seed in range(20)
    }
    assert guesses == set(NAMED)
    first = random.Random(42).choice(list(NAMED))
    assert parse_multi_choice_response("?", list(NAMED), NAMED) == first


def test_mmmu_numbers_and_single_letters() -> None:
    assert normalize_str(" 2,000.129 ") == [2000.13]
    assert normalize_str("B") == [" b", "b "]
    assert extract_numbers("-2.5 and 1,000") == ["1,000", "-2.5", "000"]
    assert eval_open("2.349", [2.35]) and not eval_open("liver", "liver")


def test_mmmu_accuracy_and_the_call_that_fails() -> None:
    samples = [
        {"id": "1", "question_type": "multiple-choice", "answer": "A", "parsed_pred": "A"},
        {"id": "2", "question_type": "open", "answer": "lung", "parsed_pred": ["heart"]},
    ]
    assert evaluate(samples) == ({"1": "Correct", "2": "Wrong"}, {"acc": 0.5})
    assert evaluate([]) == {"acc": 0}
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        evaluate({}, {})  # type: ignore[call-arg]


def test_healthbench_points_replies_and_clipping() -> None:
    assert calculate_score([4, -2], [True, True]) == 0.5
    assert calculate_score([-2], [True]) is None
    assert parse_json_to_dict('```json\n{"criteria_met": true}\n```') == {"criteria_met": True}
    assert parse_json_to_dict("[1]") == parse_json_to_dict("{") == {}
    assert compute_clipped_stats([2.0, 0.5], "mean") == 1.0
    assert compute_clipped_stats([0.1, 0.2], "n") == 2
    assert 0 < compute_clipped_stats([0.2, 0.8], "bootstrap_std") < 0.5


def test_prompts_have_the_shape_of_the_originals() -> None:
    assert get_multiple_choice_prompt("Which?", ["A. x", "B. y"]) == (
        "\nQuestion: Which?\nOptions: \nA. x\nB. y\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert get_judgement_prompt("Is it?", True).endswith('in one "\\boxed{}".')
    assert get_open_ended_prompt("何处？", lang="zh") == "何处？\n请简要回答该问题。"


def test_an_empty_report_is_skipped_above_and_counted_below() -> None:
    good = {"findings": "Clear.", "impression": "Normal", "response": "Findings: Clear."}
    one, two = report_scores([good]), report_scores([good, {**good, "response": ""}])
    assert all(two[name] == pytest.approx(one[name] / 2) for name in one)
    with pytest.raises(ZeroDivisionError):
        report_scores([])
