"""Ours beside MedEvalKit's: on cases of our own, and on every value that its own code gave."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from infimed.evaluation.differences import compare, corrected, faithful
from infimed.evaluation.metrics.cider import Cider
from tests.conftest import REPOSITORY

GOLDEN = REPOSITORY.parent / "shared" / "golden" / "medevalkit.json"


def golden() -> list[dict[str, Any]]:
    if not GOLDEN.exists():
        pytest.skip("the golden values are not beside this checkout")
    cases: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))["cases"]
    return cases


def near(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict) and "all others" in wanted:
        return all(value == wanted.get(key, wanted["all others"]) for key, value in found.items())
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(near(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(near, found, wanted))
    if isinstance(wanted, float):
        return found == pytest.approx(wanted, abs=1e-6)
    return bool(found == wanted)


@pytest.mark.real_data
def test_every_golden_output_is_reproduced() -> None:
    cases = golden()
    for case in cases:
        if "raises" in case:
            with pytest.raises((AttributeError, TypeError, ValueError)) as error:
                faithful(case["function"], case["args"])
            assert type(error.value).__name__ == case["raises"]
            assert case["message"] in str(error.value)
        else:
            assert near(faithful(case["function"], case["args"]), case["output"]), case
    assert len(cases) >= 120


@pytest.mark.real_data
def test_every_golden_correction_is_what_we_count() -> None:
    wanted = [case for case in golden() if "correct" in case]
    for case in wanted:
        assert near(corrected(case["function"], case["args"]), case["correct"]), case
    assert len(wanted) >= 30


@pytest.mark.real_data
def test_the_other_defects_are_not_reproduced_and_are_in_the_page() -> None:
    page = (REPOSITORY / "docs" / "evaluation-medevalkit.md").read_text(encoding="utf-8")
    others = [case for case in golden() if case.get("defect") and "correct" not in case]
    for case in others:
        found = compare(case)
        assert found.corrected is not None
        assert not near(found.corrected, case.get("output", "an error")), case
    assert len(others) == 9 and "nine" in page


@pytest.mark.real_data
def test_the_table_in_the_page_is_up_to_date() -> None:
    path = REPOSITORY / "scripts" / "medevalkit_differences.py"
    module = importlib.util.module_from_spec(
        found := importlib.util.spec_from_file_location("differences_script", path)  # type: ignore[arg-type]
    )
    found.loader.exec_module(module)  # type: ignore[union-attr]
    page = module.PAGE.read_text(encoding="utf-8")
    assert page == module.page_with(page, module.table(golden()))


@pytest.mark.real_data
def test_cider_of_the_golden_reports_equals_the_reference_code() -> None:
    rows = max((c["args"][0] for c in golden() if c["function"].startswith("Metrics_")), key=len)
    golds = [f"Findings: {r['findings']} Impression: {r['impression'].rstrip('.')}." for r in rows]
    said = [row["response"].rstrip(".") for row in rows]
    scorer = Cider([gold.lower().split() for gold in golds])
    found = [
        scorer.score(a.lower().split(), b.lower().split()) for a, b in zip(said, golds, strict=True)
    ]
    assert found == pytest.approx([9.303752, 0.0, 0.504337], abs=1e-6)


OPTIONS = ["A. cyst", "B. fracture"]


@pytest.mark.parametrize(
    ("function", "args", "theirs", "ours"),
    [
        ("utils.utils.judge_multi_choice", [OPTIONS, "A", ""], True, False),
        ("utils.utils.judge_multi_choice", [OPTIONS, "A", "A is correct: see above"], False, True),
        ("utils.utils.judge_judgement", ["no", "unknowable"], True, False),
        ("utils.utils.judge_close_end_vqa", ["arm", " Arm"], False, True),
        ("utils.utils.calculate_f1", ["", "arm"], 0, (0.0, 0.0, 0.0)),
        ("utils.MMMU.eval_utils.eval_open", ["arm", "arm"], False, True),
        ("utils.MMMU.eval_utils.eval_open", ["arm", ["alarm"]], True, False),
        ("utils.utils.tokenize", ["A b."], ["a", "b", "."], None),
    ],
)
def test_both_results_of_a_case(function: str, args: list[Any], theirs: Any, ours: Any) -> None:
    found = compare({"function": function, "args": args})
    assert (found.medevalkit, found.corrected) == (theirs, ours)


def test_an_error_of_the_original_is_shown_as_its_result() -> None:
    found = compare({"function": "utils.utils.judge_open_end_vqa", "args": ["arm", "."]})
    assert found.medevalkit == "ValueError: Hypothesis is empty."
    assert found.corrected["em"] is False and found.corrected["f1"] == 0.0


def test_a_set_without_open_questions_has_no_open_accuracy() -> None:
    rows = [{"question": "q", "answer": "yes", "response": "Yes."}]
    found = corrected("utils.VQA_RAD.VQA_RAD.cal_metrics", [rows])
    assert found["acc"] == {"total": 1.0, "open": None, "close": 1.0}


def test_an_unknown_function_is_an_error() -> None:
    with pytest.raises(KeyError):
        corrected("utils.utils.magic", [])
