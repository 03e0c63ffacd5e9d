"""Redaction at import: known and patterned identifiers out, everything else untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infimed.data.importing import import_data
from infimed.data.privacy.options import Privacy
from infimed.data.privacy.redaction import Redactor
from infimed.data.record import ImageRef, Message, Record
from infimed.data.shards import open_shards
from tests.data.samples import dicom_bytes, noise, write_lines

REDACT = Privacy(redact=True)


def record(text: str, image: str = "", **more: object) -> Record:
    images = (ImageRef(image),) if image else ()
    content = (0, "What is seen?") if image else ("What is seen?",)
    return Record(
        "r1", images, (Message("user", content), Message("assistant", (text,))), "open", **more
    )  # type: ignore[arg-type]


def folder(root: Path, reports: list[str]) -> Path:
    root.mkdir()
    rows = []
    for number, report in enumerate(reports):
        data = dicom_bytes(noise(32, 40, seed=number, channels=1), PatientName=f"Holm^Person{'abc'[number]}", PatientID=f"ID-{number}7741")  # fmt: skip
        (root / f"{number}.dcm").write_bytes(data)
        rows.append({"image": f"{number}.dcm", "report": report})
    write_lines(root / "reports.jsonl", rows)
    return root


def test_a_record_without_identifiers_is_the_same_object(tmp_path: Path) -> None:
    plain = record("Mass of 3.5 cm in the left lung.")
    assert Redactor(tmp_path, "salt").record(plain) is plain


def test_names_of_the_records_own_header_are_replaced_everywhere_and_counted(
    tmp_path: Path,
) -> None:
    source = folder(tmp_path / "in", ["Holm has a mass. ID-07741, 2019-03-12."])
    made = Redactor(source, "salt").record(
        record("Holm, a mass", "0.dcm", answer="Holm", facts={"note": "PERSONA", "deep": ["Holm", 3]}, group="ID-07741")
    )  # fmt: skip
    assert made.response == "[NAME], a mass" and made.answer == "[NAME]"
    assert made.facts["note"] == "[NAME]" and made.facts["deep"] == ["[NAME]", 3]
    assert made.group.startswith("hashed-") and made.id == "r1"
    assert made.facts["redacted"] == {"id-number": 1, "name": 4}


def test_two_patients_with_redacted_groups_stay_apart(tmp_path: Path) -> None:
    redactor = Redactor(tmp_path, "salt")
    a, b = (redactor.record(record("x", group=f"jane{n}@example.org")).group for n in (1, 2))
    assert a != b and redactor.record(record("x", group="jane1@example.org")).group == a


def test_import_redacts_and_a_resumed_import_gives_the_same_bytes(tmp_path: Path) -> None:
    reports = ["Holm: a mass.", "Persona and Personb, ID-17741.", "Seen on 12/03/2019 by Personc."]
    source = folder(tmp_path / "in", reports)
    whole = import_data(source, tmp_path / "whole", privacy=REDACT, records_per_shard=1)

    def stop(items: int, problems: int) -> None:
        if items == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_data(source, tmp_path / "cut", privacy=REDACT, records_per_shard=1, progress=stop)
    resumed = import_data(source, tmp_path / "cut", privacy=REDACT, records_per_shard=1)
    assert resumed.kept_shards >= 1 and resumed.data_hash == whole.data_hash
    told = [r.response for r in open_shards(tmp_path / "whole")]
    assert told == [
        "[NAME]: a mass.",
        "Persona and [NAME], [ID-NUMBER].",
        "Seen on [DATE] by [NAME].",
    ]
    assert import_data(source, tmp_path / "plain").data_hash != whole.data_hash


def test_problems_name_no_patient_seen_so_far(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", ["Holm: a mass."])
    (source / "Holm_notes.txt").write_text("x")
    with (source / "reports.jsonl").open("a") as handle:
        handle.write(
            json.dumps({"image": "0.dcm", "question": "Is the mass of Persona new?"}) + "\n"
        )
    import_data(source, tmp_path / "out", privacy=REDACT)
    told = json.dumps(list(open_shards(tmp_path / "out").problems()))
    assert "Holm" not in told and "Persona" not in told and "[NAME]" in told


def test_a_broken_header_gives_no_names_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    plain = record("Holm has a mass", "bad.dcm")
    assert Redactor(tmp_path, "salt").record(plain) is plain
    assert Redactor(tmp_path, "salt").record(record("x", "nowhere.dcm")).response == "x"
