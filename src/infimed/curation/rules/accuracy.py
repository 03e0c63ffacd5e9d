"""Accuracy: does the text contradict the headers, or what can be true at all?

None of these rules judges a diagnosis; they compare stated words and numbers with recorded facts
and with physical limits.
"""

from __future__ import annotations

import math
import re
from typing import Final

from infimed.curation import lexicon
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
from infimed.curation.shortcuts import Cued, Cues, remembered
from infimed.curation.signals import Signals, fact_modalities
from infimed.data.record import Record
from infimed.matching.text import normalise

_IMPOSSIBLE = Cued(
    r"\b(?:T[12](?:[- ]?weighted)?|FLAIR|diffusion[- ]weighted) (?:axial |coronal |sagittal |chest |abdominal |brain )?"
    r"(?:CT|computed tomography|x-?rays?|radiographs?|ultrasound|sonogram|mammogram|fundus photo\w*|histology slide)\b"
    r"|\b(?:H ?& ?E|hematoxylin(?: and eosin)?)[- ](?:stained )?(?:CT|computed tomography|MRI|magnetic resonance\w*"
    r"|x-?ray|radiograph|ultrasound|sonogram|fundus photo\w*)\b"
    r"|\b(?:PA|AP) chest (?:MRI|magnetic resonance|ultrasound|sonogram|fundus|histology)\b"
    r"|\b(?:CT|computed tomography) (?:FLAIR|T[12][- ]weighted)\b"
    r"|\bHounsfield units? (?:on|in|of) (?:the |this )?(?:MRI|ultrasound|x-?ray|radiograph)\b"
    r"|\bmammogra(?:m|phy) of the (?:brain|knee|abdomen|head)\b|\bPA (?:view |projection )?(?:of the )?MRI\b",
    "t1", "t2", "flair", "weighted", "&", "toxylin", "pa ", "ap chest", "hounsfield", "mammogra",
)  # fmt: skip

_NUMBER = (
    r"(?:of |is |was |at |to |:|=|about |approximately |around )*\s*(?P<v>-?\d{1,5}(?:\.\d+)?)"
)
_RANGES: Final = (
    ("oxygen saturation in %", Cued(r"\b(?:SpO2|SaO2|O2 sat\w*|oxygen saturation)\s*" + _NUMBER + r"\s?%?", "o2", "oxygen"), 20, 100),
    ("ejection fraction in %", Cued(r"\b(?:LVEF|EF|ejection fraction)\s*" + _NUMBER + r"\s?%", "ef", "ejection"), 3, 95),
    ("attenuation in HU", Cued(r"(?<![\w.-])(?P<v>[-−]?\d{1,6}(?:\.\d+)?)\s?(?:HU|Hounsfield units?)\b", "hu", "hounsfield"), -1100, 4100),
    ("blood pH", Cued(r"\b(?:blood|arterial) pH\s*" + _NUMBER, "blood", "arterial"), 6.5, 8.0),
    ("heart rate per minute", Cued(r"\b(?:heart rate|HR|pulse)\s*" + _NUMBER + r"\s?(?:bpm|beats|/ ?min)", "heart", "hr", "pulse"), 10, 350),
    ("temperature in °C", Cued(r"\b(?:temperature|temp|fever)\s*" + _NUMBER + r"\s?°? ?C\b", "temp", "fever"), 20, 45),
    ("temperature in °F", Cued(r"\b(?:temperature|temp|fever)\s*" + _NUMBER + r"\s?°? ?F\b", "temp", "fever"), 70, 113),
    ("age in years", Cued(r"(?<!\d)(?P<v>\d{1,4})[- ]?(?:years?|yrs?)[- ]old\b", "old"), 0, 120),
    ("stenosis in %", Cued(r"(?P<v>\d{1,4})\s?% (?:\w+ )?(?:stenosis|occlusion|narrowing)\b", "%"), 0, 100),
)  # fmt: skip
_RANGE_CUES: Final = Cues(row[1] for row in _RANGES)
_DIGIT = re.compile(r"\d")
_CONCLUDED = re.compile(r"^\s*(?:yes|no)\b|\bso (?:yes|no)\b", re.IGNORECASE)
_IDENTITY = re.compile(
    r"is (?:this|it|the (?:image|scan|picture|film))(?: image| scan| picture| film)? an? (?P<what>[\w &-]+?) ?\?",
    re.IGNORECASE,
)
_PRESSURE = re.compile(
    r"\b(?:BP|blood pressure)\D{0,12}(?P<s>\d{2,3})\s?/\s?(?P<d>\d{2,3})\b", re.IGNORECASE
)
_LENGTH = re.compile(
    r"(?<![\d.])(?P<v>\d{1,6}(?:\.\d+)?)[- ]?(?P<u>[µμ]m|um|mm|cm|m)\b(?![/²³2])", re.IGNORECASE
)
_MM = {"μm": 0.001, "um": 0.001, "mm": 1.0, "cm": 10.0, "m": 1000.0}
_PRESENCE = re.compile(
    r".*?\b(?:is|are) (?:there )?(?:an? |any |the )?(?P<what>[\w -]+?)(?: (?:visible|present|seen|shown))?\s*\?"
    r"|.*?\b(?:does|do) (?:this|the) \w+ show (?:an? |any )?(?P<shown>[\w -]+?)\s*\?"
)
_PLURAL_CUES = re.compile(
    r"\b(?:or|and|from|shift\w*|deviat\w*|displac\w*|toward\w*|than|compar\w*)\b", re.IGNORECASE
)


def _modality_word(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    expected, claimed = fact_modalities(record), set(signals.text.modalities)
    if not expected or not claimed or expected & claimed:
        return None
    family = min(claimed)
    for where, text in turns(record):
        if match := lexicon.MODALITIES[family].search(text):
            fact = "/".join(sorted(expected))
            return Hit(
                where,
                f"text says {match.group(0)!r}, the facts say {fact}",
                start=match.start(),
                end=match.end(),
            )
    return None


def _region_word(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    stated = {
        lexicon.region_family(f.get("anatomy"))
        for f in (record.facts, *(i.facts for i in record.images))
    } - {""}
    if not stated or record.task not in ("caption", "report"):
        return None
    head = re.split(r"[.;\n]", record.response, maxsplit=1)[0]
    named = {region for region, pattern in lexicon.REGIONS.items() if pattern.search(head)}
    if (
        len(named) != 1
        or named & stated
        or not lexicon.SCAN_WORD.search(head)
        or lexicon.HEDGES.search(head)
    ):
        return None
    match = lexicon.REGIONS[named.pop()].search(head)
    assert match is not None
    evidence = f"text says {match.group(0)!r}, the facts say {'/'.join(sorted(stated))}"
    return Hit("response", evidence, start=match.start(), end=match.end())


def _identity_answer(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fact = record.facts.get("modality")
    if record.task != "closed" or not isinstance(fact, str) or signals.text.answer_polarity != "no":
        return None
    match = _IDENTITY.fullmatch(record.question.strip())
    if match is None or normalise(match["what"]) != normalise(fact):
        return None
    return Hit(
        "response", f"asked whether it is {match['what']!r}, answered 'no'; the facts say so"
    )


def _side_word(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fact = str(record.facts.get("side") or "").casefold()
    expected = {"left": "L", "l": "L", "right": "R", "r": "R"}.get(fact)
    said = signals.text.response_sides
    if expected and record.task == "closed" and said in ("L", "R") and said != expected:
        body = _CONCLUDED.sub("", record.response)
        if not lexicon.NEGATION.search(body) and not _PLURAL_CUES.search(body):
            return Hit(
                "response", f"the reply says {record.response[:60]!r}, the facts say {fact!r}"
            )
    if expected and record.task == "closed" and record.facts.get("question_type") == "laterality":
        asked, answer = signals.text.question_sides, signals.text.answer_polarity
        if asked not in ("L", "R") or not answer or (asked == expected) == (answer == "yes"):
            return None
        return Hit("response", f"answered {answer!r}, the facts say {fact!r}")
    if not expected or said not in ("L", "R") or said == expected:
        return None
    if record.task not in (
        "caption",
        "report",
        "open",
        "choice",
    ) or signals.text.question_sides in ("L", "R"):
        return None
    match = (lexicon.LEFT if said == "L" else lexicon.RIGHT).search(record.response)
    if (
        match is None
        or lexicon.NEGATION.search(record.response)
        or _PLURAL_CUES.search(record.response)
    ):
        return None
    return Hit(
        "response",
        f"text says {match.group(0)!r}, the facts say {fact!r}",
        start=match.start(),
        end=match.end(),
    )


def _presence_fact(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    present, name = record.facts.get("finding_present"), record.facts.get("finding")
    answer = signals.text.answer_polarity
    if (
        not isinstance(present, bool)
        or not isinstance(name, str)
        or record.task != "closed"
        or not answer
        or present == (answer == "yes")
    ):
        return None
    # Only a plain "is there a ..." states presence; "is it large", "is it on the left" do not.
    question = record.question.casefold().rsplit(". ", 1)[-1]
    match = _PRESENCE.fullmatch(question.strip())
    asked = (match["what"] or match["shown"]) if match else None
    if asked is None or normalise(asked) != normalise(name):
        return None
    return Hit(
        "response",
        f"answered {answer!r}, the facts say {name} is {'present' if present else 'absent'}",
    )


def _impossible_pair(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for where, text in turns(record):
        match = _IMPOSSIBLE.search(text)
        # A closed question may offer the impossible and be answered "no".
        if match and not (where == "question" and signals.text.answer_polarity == "no"):
            return span(where, match)
    return None


def _impossible_value(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    for where, text in turns(record):
        if not _DIGIT.search(text):
            continue
        for name, pattern, low, high in (_RANGES[i] for i in _RANGE_CUES.among(text)):
            for match in pattern.pattern.finditer(text):
                value = float(match["v"].replace("−", "-"))
                if not low <= value <= high:
                    bound = high if value > high else low
                    return Hit(
                        where, f"{name}: {match.group(0)}", value, bound, match.start(), match.end()
                    )
        if "/" in text and (pressure := _PRESSURE.search(text)):
            systolic, diastolic = float(pressure["s"]), float(pressure["d"])
            if diastolic >= systolic:
                return Hit(
                    where, pressure.group(0), diastolic, systolic, pressure.start(), pressure.end()
                )
    return None


def _impossible_size(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    if not record.images:
        return None
    stated = [
        (where, match)
        for where, text in turns(record)[-1:]
        if _DIGIT.search(text)
        for match in _LENGTH.finditer(text)
    ]
    if not stated:
        return None
    fields_mm = [
        math.hypot(float(s[0]) * i.height, float(s[1]) * i.width)
        for i in record.images
        if isinstance(s := i.facts.get("pixel_spacing_mm"), list)
        and len(s) == 2
        and i.width
        and all(isinstance(x, (int, float)) for x in s)
    ]
    largest = (
        min(limits["max_mm"], max(fields_mm) * 1.1)
        if fields_mm and len(fields_mm) == len(record.images)
        else limits["max_mm"]
    )
    for where, match in stated:
        size = float(match["v"]) * _MM[match["u"].casefold()]
        if size > largest and match["u"] != "m":
            return span(where, match, value=size, threshold=round(largest, 1))
    return None


def _size_fact(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fact = record.facts.get("finding_size_mm", record.facts.get("size_mm"))
    if not isinstance(fact, (int, float)) or isinstance(fact, bool) or fact <= 0:
        return None
    found = list(_LENGTH.finditer(record.response)) if _DIGIT.search(record.response) else []
    if len(found) != 1:
        return None
    stated = float(found[0]["v"]) * _MM[found[0]["u"].casefold()]
    ratio = max(stated, 1e-9) / float(fact)
    if 1 / limits["max_ratio"] <= ratio <= limits["max_ratio"]:
        return None
    return span("response", found[0], value=round(ratio, 4), threshold=limits["max_ratio"])


@remembered
def _stated_sexes(text: str) -> frozenset[str]:
    """ "female" and "male", as far as a text says of a patient that they are."""
    found = lexicon.STATED_SEX.finditer(text)
    return frozenset(lexicon.sex_of(m["sex"] or m["sex2"] or m["sex3"]) for m in found) - {""}


def _sex_organ(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fact = lexicon.sex_of(record.facts.get("sex"))
    whole = "\n".join([text for _, text in turns(record)])
    stated = _stated_sexes(whole)
    if len(stated) > 1:
        return None
    sex = next(iter(stated), fact)
    if fact and stated and sex != fact:
        match = lexicon.STATED_SEX.search(whole)
        return (
            Hit("facts", f"text says {match.group(0)!r}, the facts say {fact!r}") if match else None
        )
    if not sex:
        return None
    organs = lexicon.FEMALE_ORGANS if sex == "male" else lexicon.MALE_ORGANS
    for where, text in turns(record):
        for match in organs.finditer(text):
            before = text[max(0, match.start() - 30) : match.start()]
            # What is asked may be absent; a statement before the question is meant.
            asked = re.search(r"[.。]\s", text[match.start() :]) is None
            if where == "question" and asked and signals.text.answer_polarity == "no":
                continue
            if not lexicon.NEGATION.search(before) and not re.search(
                r"\b(?:mother|maternal|transgender)", text, re.I
            ):
                return Hit(
                    where,
                    f"{match.group(0)!r} in a {sex} patient",
                    start=match.start(),
                    end=match.end(),
                )
    return None


def _age_fact(record: Record, signals: Signals, limits: Limits) -> Hit | None:
    fact = record.facts.get("age")
    if not isinstance(fact, (int, float)) or isinstance(fact, bool):
        return None
    for where, text in turns(record):
        if match := lexicon.STATED_AGE.search(text):
            stated = float(match["age"] or match["zh"])
            if abs(stated - fact) > limits["max_years"]:
                return span(where, match, value=abs(stated - fact), threshold=limits["max_years"])
    return None


_CT = {"modality": "CT", "anatomy": "abdomen"}
_CT_CAPTION = "Axial CT of the abdomen showing a 12 mm cyst in the left kidney."

RULES: Final = (
    Rule(
        "accuracy.modality_word", 1, "accuracy", "drop",
        "The text calls the image another modality than its header or facts do.",
        _modality_word,
        Example(caption(_CT_CAPTION, facts=_CT)),
        Example(caption(_CT_CAPTION.replace("CT", "MRI"), facts=_CT)),
    ),
    Rule(
        "accuracy.region_word", 1, "accuracy", "drop",
        "The caption names a scan of another body region than the facts do.",
        _region_word,
        Example(caption(_CT_CAPTION, facts=_CT)),
        Example(caption("Axial CT of the brain showing an infarct.", facts=_CT)),
    ),
    Rule(
        "accuracy.identity_answer", 1, "accuracy", "drop",
        "Asked whether the image is what the facts say it is, the answer is no.",
        _identity_answer,
        Example(sample("Is this an MRI?", "no", facts={"modality": "CT"})),
        Example(sample("Is this a brain MRI?", "no", facts={"modality": "brain MRI"})),
    ),
    Rule(
        "accuracy.side_word", 1, "accuracy", "drop",
        "The answer names the other side than the facts do.",
        _side_word,
        Example(sample("On which side is the effusion?", "Left", "open", facts={"side": "left"})),
        Example(sample("On which side is the effusion?", "Right", "open", facts={"side": "left"})),
    ),
    Rule(
        "accuracy.presence_fact", 1, "accuracy", "drop",
        "A yes/no answer about a finding contradicts its recorded presence.",
        _presence_fact,
        Example(sample(facts={"finding": "pleural effusion", "finding_present": True})),
        Example(sample(facts={"finding": "pleural effusion", "finding_present": False})),
    ),
    Rule(
        "accuracy.impossible_pair", 1, "accuracy", "drop",
        "Words that exclude each other name one image, such as a T2-weighted CT.",
        _impossible_pair,
        Example(caption("T2-weighted MRI of the brain showing an infarct.")),
        Example(caption("T2-weighted CT of the brain showing an infarct.")),
    ),
    Rule(
        "accuracy.impossible_value", 1, "accuracy", "drop",
        "A measured value lies outside what is possible in a living patient or on a scanner.",
        _impossible_value,
        Example(caption("Hypodense liver lesion of 12 HU in a patient with SpO2 of 97 %.")),
        Example(caption("Hypodense liver lesion of 12 HU in a patient with SpO2 of 107 %.")),
    ),
    Rule(
        "accuracy.impossible_size", 1, "accuracy", "drop",
        "A length does not fit into the image, or into a body.",
        _impossible_size,
        Example(caption(_CT_CAPTION, image_facts={"pixel_spacing_mm": [0.7, 0.7]})),
        Example(caption(_CT_CAPTION.replace("12 mm", "120 cm"), image_facts={"pixel_spacing_mm": [0.7, 0.7]})),
        {"max_mm": Threshold(600, "length in mm where the field of view is not known")},
    ),
    Rule(
        "accuracy.size_fact", 1, "accuracy", "drop",
        "The stated size differs from the recorded size of the finding by more than rounding.",
        _size_fact,
        Example(caption(_CT_CAPTION, facts={"finding_size_mm": 12.4})),
        Example(caption(_CT_CAPTION.replace("mm", "cm"), facts={"finding_size_mm": 12.4})),
        {"max_ratio": Threshold(1.5, "stated over recorded size, either way")},
    ),
    Rule(
        "accuracy.sex_organ", 1, "accuracy", "drop",
        "An organ of the other sex, or another sex than the header's.",
        _sex_organ,
        Example(caption("Pelvic MRI showing an enlarged prostate.", facts={"sex": "M"})),
        Example(caption("Pelvic MRI showing an enlarged prostate.", facts={"sex": "F"})),
    ),
    Rule(
        "accuracy.age_fact", 1, "accuracy", "drop",
        "The text states another age than the header.",
        _age_fact,
        Example(caption("Chest radiograph of a 61-year-old man with cough.", facts={"age": 61})),
        Example(caption("Chest radiograph of a 61-year-old man with cough.", facts={"age": 16})),
        {"max_years": Threshold(1, "years between text and header")},
    ),
)  # fmt: skip
