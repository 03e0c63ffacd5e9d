"""What leaves a DICOM header: nothing but the closed table, whatever the header holds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from infimed.data.dicom import read_frame
from infimed.data.privacy import headers
from infimed.data.privacy.headers import KEPT, known_names
from infimed.data.stored import from_raw
from tests.data.samples import dicom_bytes, noise

CANARY = "ZQXCANARY"
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"

PLANTED = {
    "PN": f"{CANARY}^Jane", "LO": CANARY, "SH": CANARY, "LT": CANARY, "ST": CANARY, "UT": CANARY,
    "UC": CANARY, "UR": f"http://{CANARY}", "AE": CANARY, "CS": CANARY, "AS": CANARY,
    "UI": "1.2.826.77770001", "DA": "19610312", "DT": "19610312010203", "TM": "010203.777700",
    "IS": "77770001", "DS": "77770001", "FD": 77770001.0, "FL": 77770001.0, "UL": 77770001,
    "OB": CANARY.encode(), "UN": CANARY.encode(), "OW": CANARY.encode() + b"\0",
}  # fmt: skip
"""A value for every value representation that could say who it is."""
MARKS = (CANARY, "77770001", "7777", "19610312", "1.2.826")
PIXELS = ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel",
          "PixelRepresentation", "PhotometricInterpretation", "NumberOfFrames", "PlanarConfiguration",
          "FloatPixelData", "DoubleFloatPixelData", "RescaleSlope", "RescaleIntercept", "ExtendedOffsetTable",
          "ExtendedOffsetTableLengths", "SpecificCharacterSet", "SmallestImagePixelValue")  # fmt: skip
"""Elements without which there is no picture; all others get a canary."""


def planted_everywhere() -> bytes:
    """A readable DICOM file in which every element of the dictionary holds a canary."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(noise(32, 32, channels=1))))
    for tag, entry in DicomDictionary.items():
        vr, keyword = entry[0], entry[4]
        if tag >> 16 in (0x0000, 0x0002) or not keyword or keyword in PIXELS or vr not in PLANTED:
            continue
        if "LUT" in keyword or "Palette" in keyword or keyword.startswith("PixelPadding"):
            continue  # these act on the pixels, and are not read as text anywhere
        with np.errstate(all="ignore"):
            dataset[tag] = DataElement(tag, vr, PLANTED[vr], validation_mode=0)
    inner = Dataset()
    inner.PatientName = f"{CANARY}^Nested"
    inner.PatientComments = CANARY
    dataset.ReferencedPatientSequence = Sequence([inner])
    block = dataset.private_block(0x0011, CANARY, create=True)
    block.add_new(0x01, "LO", CANARY)
    block.add_new(0x02, "SQ", [inner])
    for group in (0x6000, 0x6002):  # overlays
        dataset.add_new((group, 0x3000), "OW", CANARY.encode() * 8)
        dataset.add_new((group, 0x1500), "LO", CANARY)
    dataset.add_new((0x5000, 0x2600), "LO", CANARY)  # a curve
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_no_element_of_the_whole_dictionary_leaves_the_header() -> None:
    data = planted_everywhere()
    assert data.count(CANARY.encode()) > 1000
    stored = from_raw(read_frame(data))
    told = json.dumps(stored.facts)
    assert not [mark for mark in MARKS if mark in told]
    assert CANARY.encode() not in stored.data


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keyword", sorted({kept.keyword for kept in KEPT} - {*PIXELS}))
def test_a_kept_element_passes_only_in_its_form(keyword: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(noise(32, 32, channels=1))))
    vr = pydicom.datadict.dictionary_VR(keyword)
    value = PLANTED[vr]
    dataset[keyword] = DataElement(
        keyword, vr, [value] * 2 if "Spacing" in keyword else value, validation_mode=0
    )
    told = json.dumps(headers.safe_facts(dataset))
    assert not [mark for mark in MARKS if mark in told]


def test_every_kept_element_says_why_and_free_text_has_no_entry() -> None:
    assert all(len(kept.why) > 10 for kept in KEPT)
    texts = {"LO", "LT", "ST", "UT", "PN", "UI", "DA", "DT", "TM", "SH", "AE", "UN"}
    named = {kept.keyword for kept in KEPT if pydicom.datadict.dictionary_VR(kept.keyword) in texts}
    assert named == {"ContrastBolusAgent"}, "only whether there was one is kept"


def test_bits_above_the_stored_ones_do_not_pass() -> None:
    """A retired form of overlays hides a picture in the unused bits of the pixels."""
    values = noise(32, 32, channels=1).astype(np.uint16) * 16
    hidden = values | (np.indices((32, 32)).sum(0) % 2 << 15).astype(np.uint16)
    plain = dicom_bytes(values, BitsStored=12, HighBit=11)
    assert np.array_equal(
        read_frame(dicom_bytes(hidden, BitsStored=12, HighBit=11)).values, read_frame(plain).values
    )


@pytest.mark.parametrize(
    ("age", "band"), [("045Y", "40-49"), ("089Y", "80-89"), ("090Y", "90+"), ("101Y", "90+"), ("018M", "0-9"), ("DOE", None)]
)  # fmt: skip
def test_ages_become_bands_and_ninety_and_over_are_one(age: str, band: str | None) -> None:
    assert headers.age_band(age) == band


def test_body_parts_pass_whatever_the_separator_and_names_do_not() -> None:
    def anatomy(value: str) -> object:
        dataset = Dataset()
        dataset["BodyPartExamined"] = DataElement(
            "BodyPartExamined", "CS", value, validation_mode=0
        )
        return headers.safe_facts(dataset).get("anatomy")

    assert anatomy("CHEST") == "chest" and anatomy("HEAD_NECK") == "head neck"
    assert anatomy("SMITH JOHN") is None and anatomy("CHEST SMITH") is None


def test_names_are_known_from_nested_and_private_elements_and_never_shown() -> None:
    inner, dataset = Dataset(), Dataset()
    inner.PatientName = "Grün^Söe"
    dataset.PatientName = "王^小明"
    dataset.PatientID = "AB-99871"
    dataset.RequestAttributesSequence = Sequence([inner])
    dataset.private_block(0x0011, "X", create=True).add_new(1, "PN", "Hidden^Person")
    known = known_names(dataset)
    assert {"grün", "söe", "hidden", "person"} <= known.words
    assert {"王小明", "AB-99871"} <= known.literals
    assert "grün" not in repr(known)


@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "CT_small.dcm", "examples_overlay.dcm", "reportsi.dcm"]
)
def test_bundled_files_keep_no_name_number_or_date(name: str) -> None:
    file = BUNDLED / name
    if not file.is_file():
        pytest.skip(f"this pydicom does not bundle {name}")
    dataset = pydicom.dcmread(file)
    told = json.dumps(headers.safe_facts(dataset))
    known = known_names(dataset)
    assert not [text for text in known.literals if text in told]
    assert not [
        e
        for e in dataset.iterall()
        if e.VR in ("UI", "PN", "DA", "LO") and len(str(e.value)) > 5 and str(e.value) in told
    ]
