"""What may leave a DICOM header, and why: a closed table; everything else stays behind.

After the Basic Application Level Confidentiality Profile (DICOM PS3.15, Annex E). The profile lists
what to remove; this table lists what to keep, so an element that nobody thought of (a private tag, a
curve, an overlay, a new attribute) is removed without being named. Two options of the profile are
used: "Retain Patient Characteristics" for sex and a ten-year age band, and "Clean Pixel Data" where
the import is told to mask burned-in text (`masking`). UIDs and dates are never kept; patient, study
and series live on as one salted hash.

Invariant: a value passes only in the form its entry names: a term of a closed list, or a number in a
plausible range. There is no entry for free text.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from infimed.data.privacy.identifiers import KnownNames
from infimed.data.record import Fact

SIDES: Final = {"L": "left", "R": "right", "B": "both", "U": "unpaired"}


def _terms(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODALITIES: Final = _terms(
    "AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL "
    "IVOCT IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN PR PT PX "
    "REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR "
    "SRF STAIN TG US VA XA XAPROTOCOL XC"
)
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1)."""

VIEWS: Final = _terms(
    "AP PA LL RL RLD LLD RLO LLO LAT LATERAL OBL OBLIQUE LPO RPO LAO RAO ML MLO LM LMO CC FB SIO XCC "
    "XCCL XCCM ISO CV AT TAN SUPINE PRONE ERECT AXIAL CORONAL SAGITTAL"
)
"""Terms of View Position in use (PS3.3 C.8.1.3, C.8.11.7), lateral decubitus included."""

BODY_PARTS: Final = _terms(
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS AORTA ARM AXILLA BACK BILEDUCT BLADDER BRAIN BREAST "
    "BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS "
    "CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW "
    "ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART "
    "HIP HUMERUS ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE "
    "MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY "
    "PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RADIUS RECTUM RETINA RIB SACRUM SCALP "
    "SCAPULA SCLERA SCROTUM SHOULDER SINUS SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TEMPORAL TESTIS "
    "THIGH THORAX THUMB THYMUS THYROID TIBIA TIBIAFIBULA FIBULA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE "
    "ULNA UPRARM UPREXT LOWEXT URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA TEETH TOOTH "
    "PHANTOM FUNDUS LUMBAR CERVICAL THORACIC SKIN BOWEL APPENDIX"
)
"""Defined terms of Body Part Examined (PS3.16, Annex L) and a few in common use."""

POSITIONS: Final = _terms("HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL SITTING")  # fmt: skip
PHOTOMETRIC: Final = frozenset(
    {
        "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "XYB",
        "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
    }
)  # fmt: skip
CONVERSIONS: Final = _terms("DV DI DF WSD SD SI DRW SYN")
VOI_FUNCTIONS: Final = _terms("LINEAR LINEAR_EXACT SIGMOID")
_ORIENTATION: Final = re.compile(r"(?:A|P|R|L|H|F|LE|RT|D|PL|PA|M|CR|CD|V){1,3}")


@dataclass(frozen=True, slots=True)
class Kept:
    """One header element that may pass.

    Attributes:
        fact: its name among the facts. keyword: its DICOM keyword. why: what it is needed for.
        terms: the closed list it must be on, for coded elements. low, high: range, for numbers.
        action: what the basic profile does with the element: "" when it is not listed there at all,
            else the option of the profile under which it is kept.
    """

    fact: str
    keyword: str
    why: str
    terms: frozenset[str] = field(default_factory=frozenset)
    low: float = 0.0
    high: float = 0.0
    action: str = ""


_GEOMETRY = "sizes in mm stay true"
_PHYSICS = "contrast depends on it; modality and sequence rules compare it with the text"

KEPT: Final[tuple[Kept, ...]] = (
    Kept("modality", "Modality", "which rules and thresholds hold", MODALITIES),
    Kept("anatomy", "BodyPartExamined", "anatomy named in the text is compared with it", BODY_PARTS),
    Kept("side", "ImageLaterality", "the side named in the text is compared with it", frozenset(SIDES)),
    Kept("side", "Laterality", "as ImageLaterality, of a series", frozenset(SIDES)),
    Kept("view", "ViewPosition", "the view named in the text is compared with it", VIEWS),
    Kept("patient_position", "PatientPosition", "which side is shown where", POSITIONS),
    Kept("patient_orientation", "PatientOrientation", "which side is shown where"),
    Kept("photometric_interpretation", "PhotometricInterpretation", "pixels are rendered by it", PHOTOMETRIC),
    Kept("mr_acquisition_type", "MRAcquisitionType", _PHYSICS, _terms("1D 2D 3D")),
    Kept("conversion_type", "ConversionType", "a screenshot or scanned film may hold text", CONVERSIONS),
    Kept("slice_thickness_mm", "SliceThickness", _GEOMETRY, high=1000.0),
    Kept("slice_spacing_mm", "SpacingBetweenSlices", _GEOMETRY, low=-1000.0, high=1000.0),
    Kept("pixel_spacing_mm", "PixelSpacing", _GEOMETRY, high=100.0),
    Kept("pixel_spacing_mm", "ImagerPixelSpacing", _GEOMETRY, high=100.0),
    Kept("echo_time_ms", "EchoTime", _PHYSICS, high=10_000.0),
    Kept("repetition_time_ms", "RepetitionTime", _PHYSICS, high=100_000.0),
    Kept("inversion_time_ms", "InversionTime", _PHYSICS, high=100_000.0),
    Kept("magnetic_field_tesla", "MagneticFieldStrength", _PHYSICS, high=30_000.0),
    Kept("tube_voltage_kv", "KVP", _PHYSICS, high=1000.0),
    Kept("rescale_slope", "RescaleSlope", "stored values become units (HU)", low=-1e6, high=1e6),
    Kept("rescale_intercept", "RescaleIntercept", "stored values become units (HU)", low=-1e6, high=1e6),
    Kept("window_center", "WindowCenter", "how the image is meant to be shown", low=-1e6, high=1e6),
    Kept("window_width", "WindowWidth", "how the image is meant to be shown", high=1e6),
    Kept("voi_function", "VOILUTFunction", "how the image is meant to be shown", VOI_FUNCTIONS),
    Kept("bits_stored", "BitsStored", "depth of the pixels", low=1, high=64),
    Kept("rows", "Rows", "size of the pixels", low=1, high=65_535),
    Kept("columns", "Columns", "size of the pixels", low=1, high=65_535),
    Kept("frames", "NumberOfFrames", "which frame of how many", low=1, high=1e7),
    Kept("sex", "PatientSex", "findings impossible for a sex are found", _terms("M F O"), action="Retain Patient Characteristics"),
    Kept("age_band", "PatientAge", "ten-year bands; 90 and over are one", action="Retain Patient Characteristics"),
    Kept("contrast_agent", "ContrastBolusAgent", "that there was one; never which", action="Retain Patient Characteristics"),
    Kept("burned_in_annotation", "BurnedInAnnotation", "only that the header says YES", _terms("YES")),
)  # fmt: skip
"""Everything of a header that can become a fact. Pixel data, LUTs and palettes act on the pixels."""

_BY_FACT: Final = {(kept.fact, kept.keyword): kept for kept in KEPT}

_LITERALS: Final = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "PatientTelephoneNumbers",
    "IssuerOfPatientID", "MedicalRecordLocator", "AdmissionID", "PatientAddress", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber",
    "RequestedProcedureID", "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest",
)  # fmt: skip
"""Elements whose value identifies where it is repeated in a text."""


def kept_term(dataset: Any, fact: str, keyword: str) -> str | None:
    """The element's value in upper case if its entry admits it, else None.

    Several values (PatientOrientation) are joined by "/". Separators within a body part do not count
    for the comparison, because writers disagree about them; they come back as spaces.
    """
    entry = _BY_FACT[(fact, keyword)]
    try:
        value = dataset.get(keyword)
    except Exception:
        return None
    if value is None:
        return None
    parts = [value] if isinstance(value, str) else list(value) if hasattr(value, "__iter__") else []
    if keyword == "PatientOrientation":
        words = [str(part).strip().upper() for part in parts]
        known = len(words) == 2 and all(_ORIENTATION.fullmatch(word) for word in words)
        return "/".join(words) if known else None
    text = "/".join(str(part).strip().upper() for part in parts)
    if keyword == "BodyPartExamined":
        return (
            " ".join(re.split(r"[ _/-]+", text))
            if re.sub(r"[ _/-]", "", text) in entry.terms
            else None
        )
    return text if text in entry.terms else None


def kept_number(value: Any, fact: str) -> float | None:
    """A finite number within the entry's range, else None. Of several values the first."""
    entry = next(kept for kept in KEPT if kept.fact == fact)
    number = finite(value)
    return number if number is not None and entry.low <= number <= entry.high else None


def finite(value: Any) -> float | None:
    """A header value as a finite number, None when it is none; of several values the first."""
    if value is None or value == "":
        return None
    if not isinstance(value, (str, bytes)) and hasattr(value, "__len__"):
        if len(value) == 0:
            return None
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def age_band(age: str) -> str | None:
    """DICOM age string ("034Y", "018M") to a ten-year band ("30-39"); 90 and over share one."""
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", age)
    if not match:
        return None
    count, unit = int(match[1]), match[2]
    years = count if unit == "Y" else count // {"M": 12, "W": 52, "D": 365}[unit]
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def safe_facts(dataset: Any, spacing: Fact = None) -> dict[str, Fact]:
    """The header's facts after `KEPT`, without those of the window; `spacing` as [row, column] mm."""
    facts: dict[str, Fact] = {}
    for fact, keyword in (
        ("modality", "Modality"),
        ("view", "ViewPosition"),
        ("patient_position", "PatientPosition"),
        ("patient_orientation", "PatientOrientation"),
        ("photometric_interpretation", "PhotometricInterpretation"),
        ("mr_acquisition_type", "MRAcquisitionType"),
        ("conversion_type", "ConversionType"),
        ("sex", "PatientSex"),
    ):
        value = kept_term(dataset, fact, keyword)
        if value:
            facts[fact] = value
    anatomy = kept_term(dataset, "anatomy", "BodyPartExamined")
    if anatomy:
        facts["anatomy"] = anatomy.lower()
    side = kept_term(dataset, "side", "ImageLaterality") or kept_term(dataset, "side", "Laterality")
    if side:
        facts["side"] = SIDES[side]
    for fact, keyword in (
        ("slice_thickness_mm", "SliceThickness"),
        ("slice_spacing_mm", "SpacingBetweenSlices"),
        ("echo_time_ms", "EchoTime"),
        ("repetition_time_ms", "RepetitionTime"),
        ("inversion_time_ms", "InversionTime"),
        ("magnetic_field_tesla", "MagneticFieldStrength"),
        ("tube_voltage_kv", "KVP"),
    ):
        number = kept_number(dataset.get(keyword), fact)
        if number is not None:
            facts[fact] = number
    if spacing:
        facts["pixel_spacing_mm"] = spacing
    band = age_band(str(dataset.get("PatientAge") or ""))
    if band:
        facts["age_band"] = band
    for fact, keyword in (("bits_stored", "BitsStored"), ("rows", "Rows"), ("columns", "Columns")):
        number = kept_number(dataset.get(keyword), fact)
        if number is not None:
            facts[fact] = int(number)
    if dataset.get("ContrastBolusAgent"):
        facts["contrast_agent"] = True
    if kept_term(dataset, "burned_in_annotation", "BurnedInAnnotation"):
        facts["burned_in_annotation"] = True
    return facts


def known_names(dataset: Any) -> KnownNames:
    """Names, numbers and dates of persons in a header, nested sequences and private tags included.

    For redacting texts about the same image; to be held in memory only.
    """
    words: set[str] = set()
    literals: set[str] = set()
    try:
        elements = list(dataset.iterall())
    except Exception:  # a header that cannot be walked gives no names, and no error of its own
        elements = []
    for element in elements:
        vr, keyword = str(element.VR), str(element.keyword)
        if vr == "PN":
            for part in _values(element.value):
                _add_name(part, words, literals)
        elif keyword in _LITERALS:
            literals.update(
                text for text in map(str.strip, _values(element.value)) if _telling(text)
            )
        elif vr == "DA":
            for text in _values(element.value):
                literals.update(_spellings(text.strip()))
    return KnownNames(frozenset(words), frozenset(literals))


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    many = not isinstance(value, str) and type(value).__name__ == "MultiValue"
    return [str(part) for part in (value if many else [value])]


def _add_name(name: str, words: set[str], literals: set[str]) -> None:
    for part in re.findall(r"[^\W\d_]+", name):
        if any("\u4e00" <= c <= "\u9fff" for c in part):
            literals.add(part)
        elif len(part) >= 3:
            words.add(part.lower())
    chinese = re.sub(r"[\^= ]", "", name)
    if re.fullmatch(r"[\u4e00-\u9fff]{2,6}", chinese):
        literals.add(chinese)


def _telling(text: str) -> bool:
    """Whether a value is long enough to mean somebody; "1" or "CT" is not."""
    digits = sum(c.isdigit() for c in text)
    return digits >= 4 or (len(text) >= 6 and bool(re.search(r"[^\W\d_]{3}", text)))


def _spellings(day: str) -> set[str]:
    """Forms in which a DICOM date (YYYYMMDD) may be written that the patterns do not know."""
    return {day} if re.fullmatch(r"(?:18|19|20)\d{6}", day) else set()
