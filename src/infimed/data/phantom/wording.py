"""How the clinic speaks of modalities, sides, sizes and findings. Words only, no drawing of lots."""

from __future__ import annotations

from infimed.data.phantom.catalogue import FindingKind, Modality
from infimed.data.phantom.truth import SIZE_BUCKETS, Finding, ImageTruth


def subject(truth: ImageTruth) -> str:
    """The patient in words: "a 63-year-old woman"."""
    article = "an" if str(truth.age).startswith(("8", "11", "18")) else "a"
    return f"{article} {truth.age}-year-old {'woman' if truth.sex == 'F' else 'man'}"


def picture(truth: ImageTruth) -> str:
    """The image in words, with its view: "T2-weighted brain MRI"."""
    view = truth.acquisition.view
    return {
        "chest_radiograph": f"{view} chest radiograph",
        "brain_mri": f"axial {view} brain MRI",
        "abdominal_ct": "axial contrast-enhanced abdominal CT",
        "fundus_photograph": "colour fundus photograph",
        "histology": "H&E histology slide",
        "ultrasound": f"{view} liver ultrasound",
    }[truth.modality]


def article_for(words: str) -> str:
    """ "a" or "an" in front of `words`."""
    if words.startswith(("H&E", "AP ")):
        return "an"
    return "an" if words[0].lower() in "aeio" else "a"


def on_side(modality: Modality, side: str) -> str:
    """Where something is: "on the patient's left side", "in the left half of the image"."""
    if modality.radiological:
        return f"on the patient's {side} side"
    return f"in the {side} half of the image"


def region(modality: Modality, side: str, level: int) -> str:
    """One of four regions: "right upper", "left posterior"."""
    return f"{side} {modality.levels[level]}"


def regions(modality: Modality) -> tuple[str, ...]:
    """The four regions of a modality."""
    return tuple(region(modality, side, level) for side in ("right", "left") for level in (0, 1))


def spot(modality: Modality, finding: Finding) -> str:
    """Where a finding is, as exactly as its kind allows: "right upper zone", "left"."""
    side = modality.side_of(finding.half)
    if not modality.kind(finding.key).free_level:
        return side
    return region(modality, side, finding.level)


def length(modality: Modality, fraction: float) -> str:
    """A length given as a fraction of the image width, rounded as a report would: "45 mm"."""
    mm = fraction * modality.field_mm
    if modality.field_mm < 2:
        return f"{max(10, round(mm * 100) * 10)} µm"
    if modality.field_mm < 50:
        return f"{mm:.1f} mm"
    return f"{max(1, round(mm / 5) * 5) if mm >= 20 else round(mm)} mm"


def size_options(modality: Modality, kind: FindingKind) -> tuple[str, ...]:
    """Ranges of length that split the kind's sizes in three."""
    low, high = kind.sizes
    step = (high - low) / SIZE_BUCKETS
    borders = [_border(modality, low + step * (index + 1)) for index in range(SIZE_BUCKETS - 1)]
    return (f"under {borders[0]}", f"{borders[0]} to {borders[1]}", f"over {borders[1]}")


def _border(modality: Modality, fraction: float) -> str:
    mm = fraction * modality.field_mm
    if modality.field_mm < 2:
        return f"{round(mm * 1000)} µm"
    return f"{mm:.2f} mm" if modality.field_mm < 50 else f"{round(mm)} mm"


def several(kind: FindingKind, count: int) -> str:
    """A finding with its number: "a calcified granuloma", "3 calcified granulomas"."""
    return kind.with_article if count == 1 else f"{count} {kind.plural}"


def be(count: int) -> str:
    """The verb for a number."""
    return "is" if count == 1 else "are"
