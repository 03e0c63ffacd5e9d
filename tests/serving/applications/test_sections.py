"""Sections of a report: found where a heading is, and never made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.serving.applications.sections import Splitter, read_sections, sentences

REPORT = (
    "Findings: No pleural effusion. Pneumothorax, left, 1.5 mm.\nImpression: Left pneumothorax."
)


def test_a_report_as_the_models_write_it():
    found = read_sections(REPORT)
    assert found.findings == "No pleural effusion. Pneumothorax, left, 1.5 mm."
    assert found.impression == "Left pneumothorax." and found.missing == [] and found.before == ""
    assert found.structured() == {
        "findings": [
            {"text": "No pleural effusion.", "negated": True},
            {"text": "Pneumothorax, left, 1.5 mm.", "negated": False},
        ],
        "impression": ["Left pneumothorax."],
        "missing": [],
    }


@pytest.mark.parametrize(
    ("text", "findings", "impression", "before"),
    [
        ("", None, None, ""),
        ("The lungs are clear.", None, None, "The lungs are clear."),
        ("Impression: Normal.", None, "Normal.", ""),
        ("Findings:\nImpression: Normal.", None, "Normal.", ""),
        ("Findings: Clear.\nImpression:", "Clear.", None, ""),
        ("**FINDINGS**: Clear.\n\n## Impression: Normal.", "Clear.", "Normal.", ""),
        ("Chest PA.\nFindings: Clear. Impression: Normal.", "Clear.", "Normal.", "Chest PA."),
        ("检查所见：双肺清晰。\n印象：未见异常。", "双肺清晰。", "未见异常。", ""),
        ("The findings: are these", None, None, "The findings: are these"),
    ],
)
def test_a_missing_section_is_missing(text, findings, impression, before):
    found = read_sections(text)
    assert (found.findings, found.impression, found.before) == (findings, impression, before)


def test_sentences_of_both_languages_and_lists():
    assert sentences("A 1.5 mm nodule. No effusion; heart normal.\n- second\n2. third") == [
        "A 1.5 mm nodule.", "No effusion;", "heart normal.", "second", "third",
    ]  # fmt: skip
    assert sentences("双肺清晰。无胸腔积液。") == ["双肺清晰。", "无胸腔积液。"]


def split(pieces: list[str]) -> dict[str, str]:
    splitter, found = Splitter(), dict[str, str]()
    for part, text in [pair for piece in pieces for pair in splitter.feed(piece)] + splitter.end():
        found[part] = found.get(part, "") + text
    return found


@given(st.lists(st.integers(1, 12), max_size=40))
def test_a_streamed_report_is_split_as_the_whole_one(cuts):
    pieces, at = [], 0
    for size in cuts:
        pieces.append(REPORT[at : at + size])
        at += size
    pieces.append(REPORT[at:])
    found = split([piece for piece in pieces if piece])
    whole = read_sections(REPORT)
    assert found.pop("findings").strip() == whole.findings
    assert found.pop("impression").strip() == whole.impression and found == {}


@given(st.text(max_size=80), st.integers(1, 7))
def test_nothing_of_a_streamed_text_is_lost_but_headings(text, size):
    found = split([text[at : at + size] for at in range(0, len(text), size)])
    if set(found) <= {""}:
        assert found.get("", "") == text
