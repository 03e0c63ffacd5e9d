"""Misspellings, languages, statements and the votes of records about one image."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.curation import curate
from infimed.curation.ledger import FINDINGS, read_ledger
from infimed.curation.rules.base import caption, sample
from infimed.curation.statements import canonical, statements
from infimed.curation.text_signals import measure_text, medical_word
from infimed.curation.vocabulary import everyday_words, foreign_language, misspelt
from tests.curation.clinic import Memory, picture


@pytest.mark.parametrize("word", ["abdornen", "1iver", "kidncy", "pneuomothorax", "rena1", "cy5t"])
def test_one_error_of_a_scanner_is_seen(word: str) -> None:
    assert misspelt(word)


@pytest.mark.parametrize(
    "word",
    [
        "T2",
        "p53",
        "SpO2",
        "haemangiomas",
        "oedema",
        "FEV1",
        "12",
        "3D",
        "fibres",
        "5mm",
        "Leonov",
        "µm",
        "",
    ],
)
def test_codes_british_spelling_and_rare_words_are_no_errors(word: str) -> None:
    assert not misspelt(word)


def test_languages_are_told_by_their_function_words() -> None:
    assert (
        foreign_language(
            [
                "le",
                "foie",
                "est",
                "de",
                "taille",
                "normale",
                "avec",
                "une",
                "lésion",
                "dans",
                "le",
                "lobe",
            ]
        )
        == "fr"
    )
    assert (
        foreign_language(
            ["no", "renal", "cyst", "no", "hydronephrosis", "no", "free", "fluid", "no", "calculus"]
        )
        == ""
    )
    assert everyday_words(["a", "pizza", "on", "a", "table", "in", "the", "garden"]) > 0
    assert everyday_words(["a", "window", "level", "of", "the", "table"]) == 0


def test_utf8_chinese_read_as_gbk_is_mojibake_and_chinese_is_not() -> None:
    text = "影像显示右肺上叶结节，边界清楚"
    assert measure_text(caption(text)).mojibake == 0
    assert measure_text(caption(text.encode().decode("gbk", "replace"))).mojibake > 0


def test_statements_are_what_a_text_says_and_not_what_it_asks() -> None:
    text = "Findings: Renal cyst, left, 45 mm. No hydronephrosis. Possible mass on the right."
    claims = statements(caption(text), ("CT",))
    assert {"cyst=+", "cyst:side=L", "cyst:mm=45", "hydronephrosis=-", "modality=CT"} <= set(claims)
    assert not any(claim.startswith("mass") for claim in claims)
    assert "effusion=-" not in statements(sample("Is there a left pleural effusion?", "no"), ())
    assert "pleural effusion=+" in statements(sample("Is there a pleural effusion?", "yes"), ())
    assert (
        canonical("Pneumothoraces") == "pneumothorax"
        and canonical("hydronephrosis") == "hydronephrosis"
    )
    assert statements(sample("Is there a cyst?", "yes", images=2), ()) == ()


def found(memory: Memory, out: Path) -> dict[str, set[str]]:
    curate(memory, out)
    rules: dict[str, set[str]] = {}
    for row in read_ledger(out, FINDINGS).to_pylist():
        rules.setdefault(row["record_id"], set()).add(row["rule"])
    return rules


def test_a_statement_that_two_others_contradict_is_dropped_and_one_against_one_is_noted(
    tmp_path: Path,
) -> None:
    memory = Memory()
    one, two = memory.image(picture(1)), memory.image(picture(2))
    memory.ask((one,), "Describe.", "Axial CT showing a cyst in the left kidney.", "caption")
    memory.ask((one,), "On which side is the cyst, left or right?", "left", "open")
    memory.ask((one,), "In which kidney side lies the cyst?", "right", "open")
    memory.ask((two,), "Describe.", "Axial CT showing a cyst in the left kidney.", "caption")
    memory.ask((two,), "On which side is the cyst, left or right?", "right", "open")
    rules = found(memory, tmp_path)
    assert "consistency.contradicted" in rules["r2"]
    assert not {"consistency.contradicted"} & rules.get("r0", set())
    assert "consistency.tied" in rules["r3"] and "consistency.tied" in rules["r4"]


def test_an_image_among_records_of_another_patient_is_found(tmp_path: Path) -> None:
    memory = Memory()
    one = memory.image(picture(3))
    for number, name in enumerate(["p1", "p1", "p1", "p2"]):
        memory.ask((one,), f"Is there a fracture of rib {number + 2}?", "no", group=name)
    rules = found(memory, tmp_path)
    assert "relevance.image_elsewhere" in rules["r3"]
    assert all("relevance.image_elsewhere" not in rules.get(f"r{i}", set()) for i in range(3))


@pytest.mark.parametrize(
    "text",
    [
        "Are there platelets in this image?",
        "A smear with two neutrophils.",
        "Naevus with irregular border.",
        "Plaque psoriasis of the elbow.",
        "Caries of the second molar.",
        "A sessile polyp, seen through the endoscope.",
        "Drusen beside the fovea.",
    ],
)
def test_fields_that_photograph_in_colour_are_medical(text: str) -> None:
    """A colour picture whose text has no medical word is taken for a holiday photograph."""
    assert any(map(medical_word, text.rstrip(".?").split()))


@pytest.mark.parametrize("text", ["Two dogs on a beach", "A glass of red wine beside a bowl"])
def test_everyday_pictures_are_not_medical(text: str) -> None:
    assert not any(map(medical_word, text.split()))
