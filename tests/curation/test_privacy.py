"""Privacy rules: found, said with an offset and a hash, quoted by no other rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infimed.curation import curate, default_rubric, privacy, read_verdicts
from infimed.curation.ledger import read_ledger
from infimed.curation.rules.base import Example, caption, sample
from tests.conftest import REAL_DATA
from tests.curation.clinic import Memory, picture


def findings(record):  # type: ignore[no-untyped-def]
    return default_rubric().judge(record, Example(record).signals())


def test_evidence_is_kind_length_and_hash_with_the_span_in_its_text() -> None:
    record = caption("Seen by phone 617-555-0199 today, MRN 00482913.")
    found = {f.rule: f for f in findings(record)}["privacy.identifier"]
    assert (found.severity, found.value, found.where) == ("drop", 2.0, "response")
    assert record.response[found.start : found.end] == "617-555-0199"
    assert found.evidence.startswith("phone, 12 characters, ") and "617" not in found.evidence


@pytest.mark.parametrize(
    "record",
    [
        sample("What is shown in Mrs. Kowalska?", "a mass", "open"),
        sample("Which?", "a@b.org", "choice", choices=("a@b.org", "no")),
        replace(caption("Normal heart size and clear lungs."), id="mail-jane@example.org"),
        caption("Normal heart size and clear lungs.", facts={"view": "MRN 00482913"}),
    ],
    ids=["question", "choice", "id", "facts"],
)
def test_identifiers_are_found_wherever_a_person_wrote(record) -> None:  # type: ignore[no-untyped-def]
    assert "privacy.identifier" in {f.rule for f in findings(record)}


def test_no_other_rule_quotes_an_identifier() -> None:
    text = "The patient Mrs. Kowalska-Vandenberg, MRN 00482913, was seen with"
    record = caption(text)
    found = findings(record)
    assert {"completeness.cut_text", "privacy.identifier"} <= {f.rule for f in found}
    assert not [f for f in found if "00482913" in f.evidence or "Kowalska" in f.evidence]


def test_masked_regions_are_said_with_what_they_held_and_whether_they_were_read() -> None:
    facts = {"text_checked": "gate+rapidocr", "masked_kinds": ["date", "words"], "masked_regions": [[1, 2, 30, 9], [1, 20, 30, 9]]}  # fmt: skip
    record = caption("Normal heart size and clear lungs.", image_facts=facts)
    (found,) = [f for f in findings(record) if f.rule == "privacy.masked_text"]
    assert found.severity == "note" and found.value == 2.0
    assert found.evidence == "masked at import, read by rapidocr: date, words; first at 1,2 30x9"
    unread = caption(
        "Normal heart size and clear lungs.", image_facts={**facts, "text_checked": "gate"}
    )
    assert "not read" in next(
        f.evidence for f in findings(unread) if f.rule == "privacy.masked_text"
    )


def test_the_ledger_of_records_with_identifiers_holds_none_of_them(tmp_path: Path) -> None:
    memory = Memory()
    ref = memory.image(picture(1))
    memory.ask((ref,), "Is the mass of Mrs. Kowalska new?", "yes")
    memory.ask((ref,), "Is the mass of Mrs. Kowalska new?", "no")
    memory.ask((ref,), "Describe the image.", "Seen on 12/03/2019, MRN 00482913, with", "caption")
    curate(memory, tmp_path)
    assert not any(line["keep"] for line in read_verdicts(tmp_path).to_pylist())
    told = "".join(
        str(read_ledger(tmp_path, name).to_pylist()) for name in ("signals", "findings", "verdicts")
    )
    assert not [word for word in ("Kowalska", "00482913", "12/03/2019") if word in told]


@pytest.mark.real_data
def test_no_medical_number_of_vqa_rad_is_an_identifier() -> None:
    from infimed.data import readers

    records = readers.read(REAL_DATA / "vqa_rad", "vqa_rad", {})
    hits = [
        r.id for r in records if privacy._text_hit(r, weak=False) or privacy._text_hit(r, weak=True)
    ]
    assert hits == []
