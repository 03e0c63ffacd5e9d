"""The canary: a planted patient appears in nothing that import, curation and report leave behind.

Planted in DICOM headers (also nested, private, overlay, curve and file meta), in report texts, in a
broken row, and in the pixels. Each safeguard is then switched off in turn, and the same search must
find the canary: a test that cannot fail proves nothing.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.recipe import load_recipe
from infimed.core.run import RunFolder
from infimed.curation import privacy as curation_privacy
from infimed.curation.rules import base
from infimed.data.phantom import generate_patient
from infimed.data.phantom.dicom import phantom_dataset
from infimed.data.privacy import headers, masking, reading, redaction
from infimed.data.shards import open_shards
from infimed.pipeline.report import write_report

NAME, MRN, UID = "ZQXHOLM^QUIXOTE", "QX-7741903", "1.2.826.0.1.774190377"
MARKS = (
    "zqxholm", "quixote", "7741903", "774190377", "19471130", "1947-11-30", "30.11.1947",
    "11/30/1947", "november 30, 1947",
)  # fmt: skip
BURNED = "ZQXHOLM QUIXOTE 30.11.1947"
FONT, HEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 14

REPORTS = [
    "Mr. Zqxholm, MRN QX-7741903, born 30.11.1947. No effusion. Heart size is normal.",
    "QUIXOTE ZQXHOLM: compared with November 30, 1947, mail quixote.zqxholm@example.org. Lungs clear",
]


def glyphs() -> NDArray[np.uint8]:
    """The burned-in line alone, white on black."""
    scale = cv2.getFontScaleFromHeight(FONT, HEIGHT, 1)
    (width, height), below = cv2.getTextSize(BURNED, FONT, scale, 1)
    made = np.zeros((height + below + 2, width), np.uint8)
    cv2.putText(made, BURNED, (0, height), FONT, scale, 255, 1, cv2.LINE_AA)
    return made


def planted(index: int) -> Dataset:
    """A phantom radiograph with the patient in every corner of the file."""
    image = generate_patient(3, index, size=384, modality="chest_radiograph").images[0]
    dataset = phantom_dataset(image)
    pixels = (
        np.frombuffer(dataset.PixelData, np.uint16).reshape(dataset.Rows, dataset.Columns).copy()
    )
    text = glyphs()
    place = pixels[340 : 340 + text.shape[0], 20 : 20 + text.shape[1]]
    place[text > 90] = 4095
    dataset.PixelData = pixels.tobytes()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, MRN, "19471130"
    dataset.AccessionNumber, dataset.StudyInstanceUID = "QX-7741903", UID
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID
    dataset.PatientComments = dataset.StudyDescription = f"{NAME} {MRN}"
    dataset.add(pydicom.DataElement("BodyPartExamined", "CS", "ZQXHOLM"))
    dataset.file_meta.PrivateInformationCreatorUID = UID
    dataset.file_meta.PrivateInformation = NAME.encode()
    inner = Dataset()
    inner.PatientName, inner.RequestingPhysician = NAME, NAME
    dataset.RequestAttributesSequence = Sequence([inner])
    block = dataset.private_block(0x0009, "QUIXOTE SYSTEMS", create=True)
    block.add_new(1, "LO", NAME)
    block.add_new(2, "SQ", [inner])
    dataset.add_new((0x6000, 0x3000), "OW", NAME.encode() * 4)
    dataset.add_new((0x6000, 0x1500), "LO", NAME)
    dataset.add_new((0x5000, 0x2600), "LO", NAME)
    return dataset


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of DICOM files with a table of reports."""
    root = tmp_path_factory.mktemp("hospital")
    rows = []
    for index, report in enumerate(REPORTS):
        pydicom.dcmwrite(root / f"{index}.dcm", planted(index), enforce_file_format=True)
        rows.append({"image": f"{index}.dcm", "report": report, "patient_id": MRN, "age": 77})
    rows.append({"image": "0.dcm", "question": "Is the effusion of Mr. Zqxholm (QX-7741903) new?"})
    rows.append(
        {"image": "1.dcm", "id": "scan-of-Quixote", "question": "Is there a mass?", "answer": "no"}
    )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "reports.jsonl").write_text(text)
    return root


@pytest.fixture(autouse=True)
def no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result with and without the extra `ocr`, and faster."""
    monkeypatch.setattr(reading, "reader_available", lambda: False)


def marks_in(text: str) -> set[str]:
    return {mark for mark in MARKS if mark in text.lower()}


def shows_glyphs(pixels: NDArray[np.uint8]) -> bool:
    """Whether the burned-in line can be seen in a picture, at its own size or smaller."""
    grey = pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    template = glyphs()
    for scale in {1.0, grey.shape[1] / 384}:
        small = cv2.resize(template, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if min(small.shape) >= 5 and all(
            a >= b for a, b in zip(grey.shape, small.shape, strict=True)
        ):
            match = cv2.matchTemplate(grey, small, cv2.TM_CCOEFF_NORMED)
            if float(np.nan_to_num(match, posinf=0.0).max()) > 0.6:
                return True
    return False


def pictures_of(page: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", page)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(code))).convert("RGB")) for code in found
    ]


def leaks(folder: Path, output: str) -> set[str]:
    """Where the canary can be found: file names, and "output"; Parquet and images are decoded."""
    found = {"output"} if marks_in(output) else set()
    for file in sorted(folder.rglob("*")):
        if marks_in(file.name):
            found.add("names")
        if not file.is_file():
            continue
        data = file.read_bytes()
        text = data.decode("utf-8", "replace")
        if file.suffix == ".parquet":
            text += str(pq.read_table(file, partitioning=None).to_pylist()) + str(
                pq.read_schema(file).metadata
            )
        if marks_in(text) or marks_in(data.decode("utf-16", "replace")):
            found.add(file.name)
        if file.suffix == ".html" and any(shows_glyphs(picture) for picture in pictures_of(text)):
            found.add(f"{file.name} pictures")
    shards = open_shards(folder / "run" / "shards")
    if any(shows_glyphs(shards.pixels(ref)) for record in shards for ref in record.images):
        found.add("pixels")
    return found


def whole_way(
    source: Path, folder: Path, capfd: pytest.CaptureFixture[str], *options: str
) -> set[str]:
    """Import, inspect, curate, explain and report; where the canary appears afterwards."""
    run = folder / "run"
    RunFolder(run).path.mkdir(parents=True)
    RunFolder(run).adopt(load_recipe("nano", ["name=canary"]))
    commands = [
        ["data", "import", str(source), "--out", str(run / "shards"), *options],
        ["data", "inspect", str(run / "shards"), "--html", str(run / "inspect.html")],
        ["curate", "run", str(run / "shards"), "--out", str(run / "ledger.parquet")],
    ]
    output = ""
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        output += result.output
    for record in list(open_shards(run / "shards"))[:2]:
        result = CliRunner().invoke(
            app, ["curate", "explain", str(run / "ledger.parquet"), record.id, "--signals"]
        )
        assert result.exit_code == 0
        output += result.output
    write_report(run)
    told = capfd.readouterr()
    return leaks(folder, output + told.out + told.err)


def test_the_canary_appears_nowhere(
    hospital: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert marks_in((hospital / "0.dcm").read_bytes().decode("latin-1"))
    assert whole_way(hospital, tmp_path, capfd, "--mask-text", "--redact") == set()
    shards = open_shards(tmp_path / "run" / "shards")
    assert len(shards) == len(REPORTS) + 1 and len(list(shards.problems())) >= 1
    assert all(ref.facts["masked_regions"] for record in shards for ref in record.images)
    assert any("[NAME]" in record.response for record in shards)


def test_the_canary_appears_nowhere_with_the_reader_of_dicom_files(
    hospital: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (
        whole_way(hospital, tmp_path, capfd, "--reader", "dicom", "--mask-text", "--redact")
        == set()
    )


BOTH = ("--mask-text", "--redact")


def _leave_pixels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masking, "find_text_lines", lambda grey: [])


def _leak_a_header(patch: pytest.MonkeyPatch) -> None:
    real = headers.safe_facts
    patch.setattr(
        headers,
        "safe_facts",
        lambda d, s=None: {**real(d, s), "body": str(d.get("BodyPartExamined"))},
    )


def _forget_header_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redaction, "known_names", lambda dataset: redaction.NOBODY)


def _quote_the_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(curation_privacy, "evidence_hash", lambda text, one: text)
    patch.setattr(base, "redact_text", lambda text: (text, ()))
    patch.setattr(curation_privacy, "without_quotes", lambda record, found: found)


FINDINGS = {"findings.parquet", "output"}


@pytest.mark.parametrize(
    ("options", "broken", "where"),
    [
        (("--mask-text",), None, {"records-00000.parquet", "problems.jsonl", "report.html"}),
        (("--redact",), None, {"pixels", "report.html pictures"}),
        (BOTH, _leave_pixels, {"pixels"}),
        (("--reader", "dicom", "--mask-text"), _leak_a_header, {"images.parquet"}),
        (BOTH, _forget_header_names, {"records-00000.parquet"}),
        (("--mask-text",), _quote_the_text, FINDINGS),
    ],
    ids=[
        "no --redact",
        "no --mask-text",
        "blind gate",
        "leaking header",
        "names unknown",
        "quoting",
    ],
)
def test_each_safeguard_switched_off_is_noticed(
    hospital: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    broken: Callable[[Any], None] | None,
    where: set[str],
) -> None:
    if broken is not None:
        broken(monkeypatch)
    found = whole_way(hospital, tmp_path, capfd, *options)
    assert where <= found
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet" / "findings.parquet")
    quotes = bool(marks_in(str(ledger["evidence"].to_pylist())))
    assert quotes is (where is FINDINGS), "no finding quotes, whatever the shards hold"
