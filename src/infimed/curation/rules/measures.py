"""Rules on quantities: units that are missing, sizes that do not fit, laboratory values and doses
that no patient has.

The ranges are wide on purpose: they catch a slipped decimal point or a wrong unit, not a rare
patient. Sources: reference ranges of common clinical chemistry, extended to the extremes that are
reported in survivors; usual adult doses, extended tenfold either way.
"""

from __future__ import annotations

import re
from typing import Final

from infimed.curation.findings import Hit
from infimed.curation.rules.base import (
    Example,
    Limits,
    Rule,
    Threshold,
    caption,
    sample,
    span,
    turns,
)
from infimed.curation.shortcuts import Cued, Cues
from infimed.curation.signals import Signals
from infimed.data.record import Record

_SIZE_QUESTION = Cued(
    r"\b(?:how (?:large|big|long|wide|thick)|what (?:is|are|was) the (?:\w+ )?(?:size|diameter|length|width|thickness)s?)\b|多大|直径是",
    "how ", "what ",
)  # fmt: skip
_BARE_NUMBER = re.compile(
    r"\s*(?:about |approximately |around |over |under |less than |more than )?\d+(?:\.\d+)?(?:\s?(?:x|×|to|-)\s?\d+(?:\.\d+)?)*\s*\.?\s*"
)
_LENGTH = re.compile(
    r"(?<![\d.,])(?P<v>\d{1,6}(?:\.\d+)?)\s?(?P<u>[µμ]m|mm|cm|毫米|厘米)(?![\w/²³])"
)
_MM: Final = {"µm": 0.001, "μm": 0.001, "mm": 1.0, "cm": 10.0, "毫米": 1.0, "厘米": 10.0}
_N = r"(?:\s+(?:level|count|concentration|rate))?\s*(?:,|:|=|is|was|of|are|at)?\s*(?:is |was |of |at )?(?P<v>\d{1,7}(?:,\d{3})*(?:\.\d+)?)\s?"
_VALUES: Final = (
    ("heart rate per minute", Cued(r"\b(?:pulse|heart rate|HR)" + _N + r"(?:/|bpm|beats|per) ?", "pulse", "heart", "hr"), 15, 320),
    ("respiratory rate per minute", Cued(r"\b(?:respirations|respiratory rate|RR)" + _N + r"(?:/|breaths|per) ?", "respir", "rr"), 3, 120),
    ("temperature in °C", Cued(r"\btemperature" + _N + r"° ?C", "temperature"), 22, 45),
    ("temperature in °F", Cued(r"\btemperature" + _N + r"° ?F", "temperature"), 72, 113),
    ("temperature in °C", Cued(r"\b[Tt]emperature (?:is|of|was) (?P<v>\d{1,4}(?:\.\d+)?) ?C\b", "temperature", flags=0), 22, 45),
    ("haemoglobin in g/dL", Cued(r"\b(?:hemoglobin|haemoglobin|Hb|Hgb)" + _N + r"g/dL", "g/dl"), 1.5, 28),
    ("sodium in mEq/L", Cued(r"\b(?:sodium|Na\+?)" + _N + r"(?:mEq|mmol)/L", "sodium", "na"), 90, 210),
    ("potassium in mEq/L", Cued(r"\b(?:potassium|K\+?)" + _N + r"(?:mEq|mmol)/L", "potassium", "k"), 1, 13),
    ("chloride in mEq/L", Cued(r"\b(?:chloride|Cl-?)" + _N + r"(?:mEq|mmol)/L", "chloride", "cl"), 50, 160),
    ("bicarbonate in mEq/L", Cued(r"\b(?:bicarbonate|HCO3-?)" + _N + r"(?:mEq|mmol)/L", "bicarb", "hco3"), 2, 70),
    ("calcium in mg/dL", Cued(r"\b(?:calcium|Ca2\+)" + _N + r"mg/dL", "calcium", "ca2+"), 3, 22),
    ("creatinine in mg/dL", Cued(r"\bcreatinine" + _N + r"mg/dL", "creatinine"), 0.15, 30),
    ("urea nitrogen in mg/dL", Cued(r"\b(?:urea nitrogen|BUN)" + _N + r"mg/dL", "urea", "bun"), 1, 300),
    ("glucose in mg/dL", Cued(r"\bglucose" + _N + r"mg/dL", "glucose"), 8, 2500),
    ("bilirubin in mg/dL", Cued(r"\bbilirubin" + _N + r"mg/dL", "bilirubin"), 0.04, 60),
    ("albumin in g/dL", Cued(r"\balbumin" + _N + r"g/dL", "albumin"), 0.6, 8),
    ("leukocytes per mm3", Cued(r"\bleukocyte count" + _N + r"(?:/mm|/µL|cells)", "leukocyte"), 100, 900_000),
    ("platelets per mm3", Cued(r"\bplatelet count" + _N + r"(?:/mm|/µL)", "platelet"), 1000, 4_000_000),
    ("haematocrit in %", Cued(r"\b(?:hematocrit|haematocrit)" + _N + r"%", "ematocrit"), 5, 80),
    ("body mass index", Cued(r"\b(?:BMI|body mass index)" + _N + r"(?:kg)", "bmi", "mass index"), 7, 120),
    ("weight in kg", Cued(r"\bweigh(?:s|t|ing)" + _N + r"kg\b", "kg"), 0.3, 450),
    ("height in cm", Cued(r"\b(?:is|height is|height of) (?P<v>\d{1,4}(?:\.\d+)?) ?cm (?:\(\d|tall)", "cm "), 25, 260),
    ("systolic pressure in mm Hg", Cued(r"\bblood pressure (?:is |was |of )?(?P<v>\d{1,4})/\d{1,4} ?mm ?Hg", "pressure"), 30, 320),
    ("diastolic pressure in mm Hg", Cued(r"\bblood pressure (?:is |was |of )?\d{1,4}/(?P<v>\d{1,4}) ?mm ?Hg", "pressure"), 10, 220),
)  # fmt: skip
_VALUE_CUES: Final = Cues(row[1] for row in _VALUES)
_NOT_BLOOD = re.compile(
    r"\b(?:urin\w+|sweat|CSF|cerebrospinal|stool|fecal|fluid|pleural|ascit\w+|fractional|tablets?|diet\w*|intake"
    r"|infus\w+|solution|saline)\b",
    re.IGNORECASE,
)
_CUE = re.compile(
    r"pulse|rate|respirat|temperature|globin|sodium|potassium|chloride|bicarb|calcium|creatinine|urea|BUN|HR\b|RR\b"
    r"|glucose|bilirubin|albumin|count|ematocrit|BMI|mass index|weigh|tall|cm \(|pressure|Na\+|K\+|Cl-|HCO3|Ca2|Hb|Hgb",
    re.IGNORECASE,
)
_DOSES: Final[dict[str, tuple[float, float]]] = {
    "aspirin": (30, 5000), "acetylsalicylic acid": (30, 5000), "acetaminophen": (50, 10_000), "paracetamol": (50, 10_000), "ibuprofen": (50, 8000),
    "metformin": (100, 6000), "lisinopril": (1, 160), "enalapril": (0.5, 160), "amlodipine": (1, 40),
    "atorvastatin": (2, 320), "simvastatin": (2, 320), "metoprolol": (2, 1600), "atenolol": (5, 800),
    "propranolol": (1, 1600), "furosemide": (4, 2000), "hydrochlorothiazide": (3, 400), "spironolactone": (5, 1600),
    "prednisone": (0.5, 1000), "prednisolone": (0.5, 1000), "dexamethasone": (0.1, 200), "hydrocortisone": (2, 2000),
    "levothyroxine": (0.005, 2), "thyroxine": (0.005, 2), "digoxin": (0.03, 5), "fentanyl": (0.005, 5), "morphine": (0.5, 1000),
    "naloxone": (0.02, 20), "epinephrine": (0.005, 50), "adrenaline": (0.005, 50), "atropine": (0.05, 50), "warfarin": (0.3, 60),
    "heparin": (1, 1000), "amoxicillin": (25, 12_000), "azithromycin": (50, 5000), "ciprofloxacin": (25, 4000), "doxycycline": (10, 1000),
    "vancomycin": (25, 10_000), "ceftriaxone": (25, 10_000), "isoniazid": (10, 3000), "rifampin": (20, 3000), "fluoxetine": (2, 300),
    "sertraline": (5, 800), "haloperidol": (0.1, 200), "lithium": (50, 6000), "diazepam": (0.2, 200), "lorazepam": (0.1, 40),
    "omeprazole": (2, 400), "ranitidine": (15, 1500), "folic acid": (0.05, 50), "methotrexate": (0.5, 30_000), "allopurinol": (10, 3000),
    "colchicine": (0.1, 20), "phenytoin": (10, 3000), "valproate": (50, 10_000), "carbamazepine": (20, 4000),
}  # fmt: skip
"""Drug -> (least, most) single or daily dose in mg that a text can mean."""
_DOSE = Cued(
    r"\b(?P<drug>" + "|".join(sorted(_DOSES, key=len, reverse=True)) + r")\b[^.;\d]{0,20}?"
    r"(?P<v>\d{1,6}(?:\.\d+)?)\s?(?P<u>mg|mcg|[µμ]g|g)\b(?!/)",
    *_DOSES,
)
_MASS = re.compile(r"\d\s?[mµμ]?c?g\b", re.IGNORECASE)
_MG: Final = {"mg": 1.0, "mcg": 0.001, "µg": 0.001, "μg": 0.001, "g": 1000.0}


_LESIONS: Final[tuple[tuple[str, Cued, float, float], ...]] = (
    ("lacune", Cued(r"\blacun(?:e|es|ar infarcts?)\b", "lacun"), 1, 25),
    ("microaneurysm", Cued(r"\bmicroaneurysms?\b", "microaneurysm"), 0.01, 1.5),
    ("cotton-wool spot", Cued(r"\bcotton[- ]wool spots?\b", "cotton"), 0.05, 5),
    ("retinal finding", Cued(r"\b(?:retinal ha?emorrhages?|hard exudates?)\b", "hemorrhage", "haemorrhage", "exudate"), 0.02, 12),
    ("mitotic figure", Cued(r"\bmitotic figures?\b", "mitotic"), 0.004, 0.06),
    ("gland or nucleus", Cued(r"\b(?:malignant glands?|nucle(?:us|i))\b", "gland", "nucle"), 0.003, 1.5),
    ("nodule", Cued(r"\bnodules?\b", "nodule"), 0.8, 60),
    ("granuloma", Cued(r"\bgranulomas?\b", "granuloma"), 0.3, 60),
    ("calculus", Cued(r"\b(?:renal|ureteric|ureteral|kidney|bladder|urinary) (?:calcul(?:us|i)|stones?)\b|\bgallstones?\b", "calcul", "stone"), 0.5, 100),
    ("calcification", Cued(r"\b(?:liver|hepatic|pulmonary|breast) (?:micro)?calcifications?\b", "calcification"), 0.05, 60),
    ("organ cyst", Cued(r"\b(?:renal|kidney|hepatic|liver|pancreatic|splenic) cysts?\b", "cyst"), 1, 250),
    ("haemangioma", Cued(r"\bha?emangiomas?\b", "mangioma"), 1, 250),
    ("metastasis", Cued(r"\bmetastas[ie]s\b", "metastas"), 1, 250),
    ("hydronephrosis", Cued(r"\bhydronephrosis\b", "hydroneph"), 4, 200),
    ("brain tumour", Cued(r"\bbrain tumou?rs?\b", "brain tum"), 1, 130),
    ("infarct", Cued(r"\b(?:cortical|cerebral|brain) infarcts?\b", "infarct"), 1, 200),
    ("subdural haematoma", Cued(r"\bsubdural ha?ematomas?\b", "subdural"), 1, 220),
    ("appendix", Cued(r"\bappendix\b", "appendix"), 2, 200),
    ("aneurysm", Cued(r"\baneurysms?\b", "aneurysm"), 0.8, 200),
)  # fmt: skip
"""Finding, how text names it, and (least, most) mm of what has been described."""
_LESION_CUES: Final = Cues(row[1] for row in _LESIONS)
_DIGIT = re.compile(r"\d")
_OF_SIZE = re.compile(
    r"[.;:\n]|\bfrom\b|\baway\b|\bslice|\babove\b|\bbelow\b|\bdistance\b|\bdistal\b", re.IGNORECASE
)


def _lesions(text: str) -> list[tuple[str, Cued, float, float]]:
    """The entries of `_LESIONS` that a text names."""
    return [_LESIONS[i] for i in _LESION_CUES.among(text) if _LESIONS[i][1].pattern.search(text)]


def _lesion_size(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if not any(unit in record.response for unit in ("mm", "cm", "µm", "μm")):
        return None
    text = record.response
    for length in _LENGTH.finditer(text):
        # The finding stands in the same clause, before or after its length.
        start = max([0, *(m.end() for m in _OF_SIZE.finditer(text[: length.start()]))])
        stop = _OF_SIZE.search(text, length.end())
        clause = text[start : stop.start() if stop else len(text)]
        if not re.search(r"[a-z]{4}", clause):
            clause = text
        named = _lesions(clause)
        if not named and record.task in ("open", "closed"):
            named = _lesions(record.question)
        if len(named) != 1 or len(_LENGTH.findall(clause)) > 2:
            continue
        name, _, low, high = named[0]
        size = float(length["v"]) * _MM[length["u"]]
        if not low <= size <= high:
            bound = high if size > high else low
            return Hit(
                "response", f"{name}: {length.group(0)}", size, bound, length.start(), length.end()
            )
    return None


def _missing_unit(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if record.task not in ("open", "choice", "closed") or not _SIZE_QUESTION.search(
        record.question
    ):
        return None
    if _LENGTH.search(record.question):
        return None
    match = _BARE_NUMBER.fullmatch(record.response)
    return None if match is None else span("response", match)


def _outside_field(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fields = _fields_mm(record) if _DIGIT.search(record.response) else []
    if not fields:
        return None
    largest = limits["max_share"] * max(max(rows, columns) for rows, columns, _ in fields)
    for match in _LENGTH.finditer(record.response):
        size = float(match["v"]) * _MM[match["u"]]
        if size > largest:
            return span("response", match, value=round(size, 3), threshold=round(largest, 1))
    return None


def _below_pixel(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fields = _fields_mm(record) if _DIGIT.search(record.response) else []
    if not fields:
        return None
    smallest = limits["min_pixels"] * min(spacing for _, _, spacing in fields)
    for match in _LENGTH.finditer(record.response):
        size = float(match["v"]) * _MM[match["u"]]
        # A report rounds to a digit, so half of its last digit is allowed for.
        digits = len(match["v"].partition(".")[2])
        if size + 0.5 * 10.0**-digits * _MM[match["u"]] < smallest:
            return span("response", match, value=round(size, 4), threshold=round(smallest, 4))
    return None


def _fields_mm(record: Record) -> list[tuple[float, float, float]]:
    """(height, width, pixel spacing) in mm of every image; () unless all are known."""
    out = []
    for image in record.images:
        spacing = image.facts.get("pixel_spacing_mm")
        if not (isinstance(spacing, list) and len(spacing) == 2 and image.width and image.height):
            return []
        if not all(isinstance(x, (int, float)) and x > 0 for x in spacing):
            return []
        rows, columns = float(spacing[0]), float(spacing[1])
        out.append((rows * image.height, columns * image.width, min(rows, columns)))
    return out


def _vital_value(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for where, text in turns(record):
        if not _DIGIT.search(text):
            continue
        for name, pattern, low, high in (_VALUES[i] for i in _VALUE_CUES.among(text)):
            for match in pattern.pattern.finditer(text):
                if not _CUE.search(text):
                    break
                value = float(match["v"].replace(",", ""))
                before = text[max(0, match.start() - 40) : match.start()]
                if not low <= value <= high and not _NOT_BLOOD.search(before):
                    bound = high if value > high else low
                    return Hit(
                        where, f"{name}: {match.group(0)}", value, bound, match.start(), match.end()
                    )
    return None


def _dose(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for where, text in turns(record):
        if "g" not in text or not _MASS.search(text):
            continue
        for match in _DOSE.finditer(text):
            low, high = _DOSES[match["drug"].casefold()]
            dose = float(match["v"]) * _MG[match["u"].casefold()]
            if not low <= dose <= high:
                return span(where, match, value=dose, threshold=high if dose > high else low)
    return None


_SPACED = {"pixel_spacing_mm": [0.7, 0.7]}
_CYST = "Axial CT of the abdomen showing a 12 mm cyst in the left kidney."

RULES: Final = (
    Rule(
        "completeness.missing_unit", 1, "completeness", "drop",
        "A size is asked for and the answer is a number without a unit.",
        _missing_unit,
        Example(sample("How large is the cyst?", "12 mm", "open", image_facts=_SPACED)),
        Example(sample("How large is the cyst?", "12", "open", image_facts=_SPACED)),
    ),
    Rule(
        "accuracy.outside_field", 1, "accuracy", "drop",
        "A length is larger than what the image can show.",
        _outside_field,
        Example(caption(_CYST, image_facts=_SPACED)),
        Example(caption(_CYST.replace("12 mm", "40 cm"), image_facts=_SPACED)),
        {"max_share": Threshold(0.8, "share of the longer side of the field of view")},
    ),
    Rule(
        "accuracy.below_pixel", 1, "accuracy", "drop",
        "A length is too small to be seen at the image's pixel spacing.",
        _below_pixel,
        Example(caption(_CYST, image_facts=_SPACED)),
        Example(caption(_CYST.replace("12 mm", "0.5 mm"), image_facts=_SPACED)),
        {"min_pixels": Threshold(1.5, "pixels")},
    ),
    Rule(
        "accuracy.lesion_size", 1, "accuracy", "drop",
        "A finding is larger or smaller than any that has been described.",
        _lesion_size,
        Example(caption("Axial T2-weighted MRI of the brain showing a lacune of 9 mm.")),
        Example(caption("Axial T2-weighted MRI of the brain showing a lacune of 90 mm.")),
    ),
    Rule(
        "accuracy.vital_value", 1, "accuracy", "drop",
        "A vital sign or laboratory value that no living patient has.",
        _vital_value,
        Example(sample("His pulse is 85/min and hemoglobin is 12.1 g/dL. Next step?", "Aspirin", "text", images=0)),
        Example(sample("His pulse is 850/min and hemoglobin is 12.1 g/dL. Next step?", "Aspirin", "text", images=0)),
    ),
    Rule(
        "accuracy.dose", 1, "accuracy", "drop",
        "A drug dose that is a thousand times off, such as mg for micrograms.",
        _dose,
        Example(sample("She takes levothyroxine 100 mcg daily. Next step?", "TSH", "text", images=0)),
        Example(sample("She takes levothyroxine 100 mg daily. Next step?", "TSH", "text", images=0)),
    ),
)  # fmt: skip
