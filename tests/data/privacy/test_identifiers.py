"""Identifiers in text: every form is found, no medical number is taken for one."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infimed.data.privacy.identifiers import (
    Identifier,
    KnownNames,
    evidence_hash,
    find_identifiers,
    redact_text,
)

FOUND = [
    ("MRN: 00482913, chest pain", "id-number", "00482913"),
    ("MRN 4829-13B", "id-number", "4829-13B"),
    ("Medical record number 553201.", "id-number", "553201"),
    ("Patient ID: A123-4567 seen today", "id-number", "A123-4567"),
    ("住院号：0098231", "id-number", "0098231"),
    ("Accession # RX2019-0042", "accession", "RX2019-0042"),
    ("检查号: CT20190042", "accession", "CT20190042"),
    ("SSN 123-45-6789", "ssn", "123-45-6789"),
    ("身份证 11010519491231002X。", "cn-id", "11010519491231002X"),
    ("Call (617) 555-0199 tomorrow", "phone", "(617) 555-0199"),
    ("call 617-555-0199", "phone", "617-555-0199"),
    ("phone: +49 30 1234567", "phone", "+49 30 1234567"),
    ("手机：13812345678", "phone", "13812345678"),
    ("mail jane.doe@example.org now", "email", "jane.doe@example.org"),
    ("lives at 12 Old Mill Road, Boston", "address", "12 Old Mill Road"),
    ("北京市海淀区中关村路12号", "address", "北京市海淀区中关村路12号"),
    ("seen on 03/12/2019", "date", "03/12/2019"),
    ("2019-03-12 CT", "date", "2019-03-12"),
    ("am 12.03.1961 geboren", "date", "12.03.1961"),
    ("on March 3rd, 2010 she", "date", "March 3rd, 2010"),
    ("from 3 March 2010 on", "date", "3 March 2010"),
    ("DOB: 3/12/61", "date", "3/12/61"),
    ("2019年3月12日复查", "date", "2019年3月12日"),
    ("a 93-year-old woman", "age", "93"),
    ("Patient name: Jane Q. Doe\nFindings", "name", "Jane Q. Doe"),
    ("Name: SMITH^JOHN", "name", "SMITH^JOHN"),
    ("Mrs. Kowalska reports pain", "name", "Kowalska"),
    ("姓名：王小明，男", "name", "王小明"),
]


@pytest.mark.parametrize(("text", "kind", "part"), FOUND)
def test_every_form_is_found_with_its_kind_and_span(text: str, kind: str, part: str) -> None:
    found = find_identifiers(text)
    assert [(one.kind, text[one.start : one.end]) for one in found] == [(kind, part)]


CLEAN = [
    "Mass of 3.5 x 2.1 x 4.0 cm, SUV max 12.5, HU -1024 to 3071, 120/80 mmHg, SpO2 98 %.",
    "T1 500/15 ms, TR/TE 4000/100, T2 FLAIR, b-value 1000, slice 12/48, window 400/40.",
    "WBC 11,000/mm3, Na 135-145 mEq/L, pH 7.35-7.45, INR 2.0-3.0, 5-10-15 rule.",
    "Gleason 3+4=7, BI-RADS 4, PI-RADS 4, ASA 3, GCS 15, stage T2N1M0, Th12/L1, L4-5.",
    "45-year-old man, 89 years old, gestational age 38+2 weeks, G2P1001.",
    "p53, CD20, HER2, 46,XX, rs1234567, ICD I21.9, NCT01234567, PMID 20301534, OMIM 106210.",
    "5 mg twice daily for 10-14 days; 1/2 tablet; 1.5-2.0 g; 10^5 cells; x10^9/L.",
    "The study of 1998-2004 included 1,234,567 patients (95% CI 1.2-3.4).",
    "Call the hotline 1-800-222-1222. Windows 80/1500. Ratio 1:800.",
    "Patient number of metastases: 3. Record low. Case 12. May 2010 was warm. Miss Right side.",
    "764c0c80-b716-45a1-9fe7-b13588090401 and 192.168.100.200",
    "右肺上叶结节，大小约 12 mm，第3肋。主动脉弓区、心影。",
    "Down syndrome, Crohn disease, Dr. Google, St. Jude valve, Mt. Sinai; MR angiography 2012.",
]


@pytest.mark.parametrize("text", CLEAN)
def test_medical_numbers_and_names_are_not_identifiers(text: str) -> None:
    assert find_identifiers(text) == ()


def test_a_wrong_checksum_is_no_identity_card() -> None:
    assert find_identifiers("编号 110105194912310021 号") == ()


def test_known_names_are_found_only_as_capitalised_words() -> None:
    known = KnownNames(frozenset({"brown", "doe"}), frozenset({"AB-9987", "19610312"}))
    text = "Brown, a brown lesion; DOE; Doernbecher; AB-9987; 119610312; 19610312."
    made, kinds = redact_text(text, known)
    assert (
        made == "[NAME], a brown lesion; [NAME]; Doernbecher; [ID-NUMBER]; 119610312; [ID-NUMBER]."
    )
    assert len(kinds) == 4


@given(st.text(max_size=200))
def test_any_text_redacts_to_a_text_without_identifiers_and_spans_are_ordered(text: str) -> None:
    found = find_identifiers(text)
    assert all(a.end <= b.start for a, b in pairwise(found))
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    redact_text(text)


def test_evidence_depends_on_the_whole_text_and_not_on_the_identifier_alone() -> None:
    first, second = "MRN 00482913 a", "MRN 00482913 b"
    one = Identifier(4, 12, "id-number")
    assert evidence_hash(first, one) != evidence_hash(second, one)
    assert "00482913" not in evidence_hash(first, one)


def test_long_hostile_text_takes_no_quadratic_time() -> None:
    for text in (
        "1-" * 50_000,
        "1 " * 50_000,
        "A" * 100_000,
        "Name: " * 20_000,
        "a@" * 50_000,
        "12 Ab " * 20_000,
        "市" * 50_000 + "1",
        "区路1" * 20_000,
    ):
        found = find_identifiers(text)
        assert all(0 <= one.start < one.end <= len(text) for one in found)
