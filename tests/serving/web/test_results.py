"""What is saved says what it is, holds what was written, and cannot be mistaken for more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydicom.sr.codedict import codes

from infimed.inference.disclaimer import DISCLAIMER
from infimed.serving.media import Look
from infimed.serving.web.holding import Finished, Held
from infimed.serving.web.results import (
    NO_REPORT,
    as_json,
    as_sr,
    as_text,
    bars,
    percent,
    plain,
    ranked,
    reasons,
    seen,
    sureness,
    without_heading,
)
from infimed.serving.web.structured import CONCEPTS, structured

SCRIPT = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
COMMON = {"model_hash": "abc", "request_id": "req-1", "disclaimer": DISCLAIMER, "usage": {}}
RESULTS: dict[str, dict[str, Any]] = {
    "ask": {"answer": SCRIPT, "confidence": 0.82, "threshold": 0.6, "abstained": False, "choices": []},
    "report": {"findings": f"A. {SCRIPT}", "impression": None, "comparison": "Smaller.", "text": "", "structured": {}},
    "differential": {
        "candidates": [{"name": SCRIPT, "probability": 0.7, "for": "this\nand that", "against": ""},
                       {"name": "Edema", "probability": 0.2, "for": "", "against": "no"}],
        "cannot_tell": 0.1, "calibrated": True, "abstained": False,
    },
    "consult": {"message": SCRIPT, "asks_back": True, "urgent": [], "escalation": "Call now."},
}  # fmt: skip


def finished(name: str, **edited: str) -> Finished:
    return Finished("token", name, {"question": SCRIPT, "images": ""}, {**RESULTS[name], **COMMON}, edited)  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_every_kind_of_file_has_the_disclaimer_and_the_text_as_it_is(name: str):
    text = as_text(finished(name))
    assert DISCLAIMER in text and SCRIPT in text and "req-1" in text
    value = json.loads(as_json(finished(name)))
    assert value["disclaimer"] == DISCLAIMER and value["result"] == {**RESULTS[name], **COMMON}
    tree = json.loads(as_sr(finished(name)))
    assert tree["disclaimer"] == DISCLAIMER and tree["notice"].startswith(
        "This is not a DICOM object"
    )
    assert SCRIPT in json.dumps(tree)


def test_no_typed_text_can_look_like_a_line_of_ours():
    forged = "x\nModel abc · request req-2\r\x1b[2J\u202eevil"
    done = Finished(
        "t", "ask", {"question": forged}, {**RESULTS["ask"], **COMMON, "answer": forged}
    )
    lines = as_text(done).splitlines()
    assert [line for line in lines if line.startswith("Model ")] == ["Model abc · request req-1"]
    assert "\x1b" not in as_text(done) and "\u202e" not in as_text(done)
    assert plain(forged) == "x Model abc · request req-2 [2J evil"
    assert len(plain("x" * 500)) == 120


def test_codes_are_those_of_the_standard():
    for concept in CONCEPTS.values():
        assert concept["scheme"] == "DCM"
        known = {
            getattr(codes.DCM, word).value: getattr(codes.DCM, word).meaning
            for word in codes.DCM.dir()
        }
        assert known[concept["value"]] == concept["meaning"]


def test_a_structured_report_has_the_shape_of_its_template():
    def check(item: dict[str, Any]) -> None:
        assert item["value_type"] in ("CONTAINER", "TEXT", "CODE", "NUM")
        assert set(item["concept"]) == {"value", "scheme", "meaning"}
        needs = {"CONTAINER": "content", "TEXT": "text", "CODE": "code", "NUM": "numeric_value"}
        assert needs[item["value_type"]] in item
        for inner in item.get("content", []):
            assert inner["relationship"] in ("CONTAINS", "HAS CONCEPT MOD", "HAS OBS CONTEXT", "HAS PROPERTIES")  # fmt: skip
            check(inner)

    for name in RESULTS:
        tree = json.loads(as_sr(finished(name)))
        assert tree["template"]["identifier"] == "1500"
        assert tree["verification_flag"] == "UNVERIFIED"
        assert tree["root"]["concept"]["value"] == "126000"
        check(tree["root"])
    numbers = json.dumps(json.loads(as_sr(finished("differential"))))
    assert '"numeric_value": 70.0' in numbers and '"numeric_value": 10.0' in numbers


def test_scores_that_were_not_calibrated_are_nowhere_called_probabilities():
    said = "Model's scores, not probabilities: this model was not calibrated."
    plain_ones = {**RESULTS["differential"], **COMMON, "calibrated": False}
    calibrated, scores = finished("differential"), Finished("t", "differential", {}, plain_ones)
    assert reasons(plain_ones).startswith(said)
    for writer in (as_text, as_json, as_sr):
        assert said in writer(scores) and said not in writer(calibrated), writer
    assert as_text(scores).index(said) < as_text(scores).index("70 %")
    for writer in (as_text, as_json, as_sr):
        missing = {k: v for k, v in plain_ones.items() if k != "calibrated"}
        assert said in writer(Finished("t", "differential", {}, missing)), (
            "unknown is not calibrated"
        )
    assert "Certainty of Impression" in as_sr(calibrated)
    assert "Certainty" not in as_sr(scores) and "numeric_value" not in as_sr(scores)
    assert "Model's score, not a probability: 70.0 %" in as_sr(scores)
    choice = {
        **COMMON,
        "answer": "a",
        "confidence": None,
        "choices": [{"text": "a", "probability": 0.9}],
    }
    assert said in as_text(Finished("t", "ask", {}, choice))
    assert said not in as_text(Finished("t", "ask", {}, {**choice, "confidence": 0.8}))


def test_what_was_changed_by_hand_is_saved_and_said():
    done = finished("report", impression="Normal.")
    assert "Normal." in as_text(done) and "Changed by hand" in as_text(done)
    assert json.loads(as_json(done))["edited"] == {"impression": "Normal."}
    assert json.loads(as_json(done))["result"]["impression"] is None
    tree = json.loads(as_sr(done))
    assert tree["changed_by_hand"] and "Normal." in json.dumps(tree)
    assert not json.loads(as_sr(finished("report")))["changed_by_hand"]


def test_a_missing_section_is_said_to_be_missing():
    assert "Impression:\n  not stated" in as_text(finished("report"))


def ranking(**sides: str) -> list[str]:
    candidate = {"name": "Edema", "probability": 0.7, "for": "", "against": "", **sides}
    result = {"candidates": [candidate], "cannot_tell": 0.3, "calibrated": True}
    return reasons(result).splitlines()[1:-1]


def test_what_is_no_reason_is_said_to_be_none():
    none = "the model gave no reason."
    assert ranking(**{"for": "yes", "against": "No."}) == [f"   For: {none}", f"   Against: {none}"]
    assert ranking(**{"for": "是。", "against": "wide heart"}) == [f"   For: {none}", "   Against: wide heart"]  # fmt: skip
    both = [f"   For and against: {none}"]
    assert ranking(**{"for": "The heart is wide.", "against": "the heart  is wide"}) == both
    assert ranking(**{"for": "yes", "against": "Yes"}) == both
    assert ranking(**{"for": "Yes, wide heart", "against": "no fever"}) == ["   For: Yes, wide heart", "   Against: no fever"]  # fmt: skip
    assert ranking() == [], "of the less likely nothing was asked"
    assert ranking(against="no fever") == ["   Against: no fever"]


def test_a_saved_ranking_has_reasons_below_their_candidate():
    lines = as_text(finished("differential")).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("  1. "))
    assert lines[at + 1] == "     For: this and that"
    deep = Finished("t", "ask", {"question": " " * 50 + "x"}, {**RESULTS["ask"], **COMMON})
    assert " " * 10 + "x" in as_text(deep).splitlines(), "a bound"


def test_an_empty_report_is_said_to_be_empty_in_every_file():
    empty = {**COMMON, "findings": " ", "impression": None}
    for writer in (as_text, as_json, as_sr):
        assert NO_REPORT in writer(Finished("t", "report", {}, empty))
        assert NO_REPORT not in writer(Finished("t", "report", {}, {**empty, "impression": "A."}))
        assert NO_REPORT not in writer(Finished("t", "report", {}, {**empty, "findings": "A."}))


def test_an_answer_that_is_not_sure_enough_says_so_first():
    done = Finished("t", "ask", {}, {**RESULTS["ask"], **COMMON, "abstained": True})
    text = as_text(done)
    assert text.index("Not sure enough") < text.index(SCRIPT)
    assert "Not sure enough" in as_sr(done)
    assert structured("ask", done.result, {"answer": "a", "note": "n"}, False)


def test_numbers_for_people():
    assert [percent(v) for v in (0.0, 0.001, 0.5, 0.825, 0.999, 1.0)] == [
        "0 %", "under 1 %", "50 %", "82 %", "over 99 %", "100 %",
    ]  # fmt: skip
    assert bars(RESULTS["ask"]) == {"This answer is right: 82 %": 0.82}
    assert bars({"choices": [{"text": "a", "probability": 0.25}], "confidence": 0.2}) == {
        "a: 25 %": 0.25
    }
    assert bars({"choices": [], "confidence": None}) is None
    assert "not known" in sureness({"confidence": None})
    assert "82 %" in sureness(RESULTS["ask"]) and "60 %" in sureness(RESULTS["ask"])
    assert ranked(RESULTS["differential"]) == {f"{SCRIPT}: 70 %": 0.7, "Edema: 20 %": 0.2, "Cannot tell: 10 %": 0.1}  # fmt: skip
    unlikely = {**RESULTS["differential"], "cannot_tell": 0.006}
    assert "Cannot tell: under 1 %" in ranked(unlikely)
    assert "Cannot tell: under 1 %" in reasons(unlikely).splitlines()
    assert "For: this and that" in reasons(RESULTS["differential"])


def test_what_was_looked_at_is_named():
    held = Held(
        "chest\n.dcm", "data:", Look(b"", (4, 4), "DICOM", 30, 0, "CT", "HU", (40, 400), (0, 1))
    )
    held.moved(frame=4, window=(-600.0, 1500.0))
    assert seen([held]) == "1. chest .dcm · DICOM · CT · image 5 of 30 · window -600/1500"


def test_what_a_report_has_without_a_heading_is_saved_apart_from_its_sections():
    written = "Chest, two views.\nFindings: A.\nImpression: B."
    result = {**RESULTS["report"], **COMMON, "findings": "A.", "impression": "B.", "written": written}  # fmt: skip
    done = Finished("t", "report", {}, result)
    assert without_heading(result) == "Chest, two views."
    assert "Without heading:\n  Chest, two views." in as_text(done)
    findings = json.loads(as_sr(done))["root"]["content"][-2]["content"]
    assert [item["text"] for item in findings] == ["A.", "Smaller.", "Chest, two views."]
    assert without_heading({**result, "written": "Findings: A."}) == ""
    assert without_heading({"written": None}) == ""
