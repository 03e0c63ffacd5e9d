"""Operators 6 and 8-14: a stated fact is wrong."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from infimed.curation.corruption.base import (
    ANSWERED,
    Context,
    Corrupted,
    Operator,
    chinese,
    edited,
    family,
    first_question,
    image_number,
    last_answer,
    pick,
    with_question,
    with_response,
    with_turn,
)
from infimed.data.record import Record

MODALITY_WORDS: Final = (
    ("CT", re.compile(r"\bCT\b|\bcomputed tomography\b", re.I), ("CT", "computed tomography")),
    ("MR", re.compile(r"\bMRI\b|\bmagnetic resonance imaging\b|磁共振|核磁", re.I), ("MRI", "magnetic resonance imaging")),
    ("XR", re.compile(r"\b(?:radiograph|x-?ray)\b|X线|X光", re.I), ("radiograph", "X-ray")),
    ("US", re.compile(r"\b(?:ultrasound|sonogram)\b|超声", re.I), ("ultrasound", "sonogram")),
    ("OP", re.compile(r"\bfundus photograph\b|眼底照片", re.I), ("fundus photograph",)),
    ("SM", re.compile(r"\bhistology slide\b|\bphotomicrograph\b|病理切片", re.I), ("histology slide",)),
)  # fmt: skip
_ZH_MODALITY: Final = {
    "CT": "CT",
    "MR": "磁共振",
    "XR": "X线",
    "US": "超声",
    "OP": "眼底照片",
    "SM": "病理切片",
}
_QUANTITY = re.compile(
    r"(?<![\d.])(?P<v>\d+(?:\.\d+)?)(?P<gap>[ -]?)(?P<u>mm Hg|mmHg|mm|cm|[µμ]m|mg/dL|g/dL|mEq/L|mg|mcg|[µμ]g|mL|bpm|/min|°C|毫米|厘米)(?![\w])"
)
_UNITS: Final = {
    "mm": "cm", "cm": "mm", "µm": "mm", "μm": "mm", "mg": "mcg", "mcg": "mg", "µg": "mg", "μg": "mg",
    "毫米": "厘米", "厘米": "毫米",
}  # fmt: skip
_SEQUENCE = re.compile(r"\b(?P<s>T1|T2|FLAIR|DWI)(?=\b|[- ]?w|加权)")
_STAIN = re.compile(
    r"\bH ?& ?E\b|\bha?ematoxylin(?: and|-) eosin\b|\bPAS\b|\bGiemsa\b|\btrichrome\b", re.I
)
_STAINS: Final = ("PAS", "Masson trichrome", "Giemsa", "Congo red", "H&E")
_INSERTED: Final = (
    "A right pleural effusion is present.", "There is a fracture of the left clavicle.",
    "A 3 cm mass is seen in the liver.", "There is a subdural haematoma.",
    "An aortic aneurysm is noted.", "There is marked lymphadenopathy.",
)  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.。;；])\s*")
_SEX_WORDS: Final = (
    ("woman", "man"), ("women", "men"), ("female", "male"), ("girl", "boy"), ("lady", "gentleman"),
    ("女性", "男性"), ("女", "男"),
)  # fmt: skip
_AGE = re.compile(r"\b(?P<n>\d{1,3})(?=[- ]?year|[- ]?yr|岁)")
_SIDE = re.compile(r"\b(?:left|right)\b|[左右]", re.I)
_MALE: Final = ("The prostate is enlarged.", "A cyst is seen in the left testis.")
_FEMALE: Final = ("The uterus contains a fibroid.", "A cyst is seen in the right ovary.")


def sibling_caption(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """The caption of another image of the same modality."""
    if record.task not in ("caption", "report"):
        return None
    other = context.other(
        random,
        lambda r: (
            r.task == record.task
            and family(r) == family(record)
            and r.group != record.group
            and r.response != record.response
        ),
    )
    return None if other is None else Corrupted(with_response(record, other.response))


def wrong_modality(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Another modality's name where the text says what the image is."""
    if not record.images and not record.facts.get("modality"):
        return None
    places = _claims(record)
    for index in places:
        text = record.messages[index].text
        for name, pattern, _ in MODALITY_WORDS:
            match = pattern.search(text)
            if match is None:
                continue
            others = [entry for entry in MODALITY_WORDS if entry[0] != name]
            chosen = others[int(random.integers(len(others)))]
            new = (
                _ZH_MODALITY[chosen[0]]
                if chinese(match.group(0)) or chinese(text)
                else pick(random, chosen[2])
            )
            if (
                match.group(0).casefold() in ("computed tomography", "magnetic resonance imaging")
                and len(chosen[2]) > 1
            ):
                new = new if chinese(text) else chosen[2][1]
            if match.start() == 0:
                new = new[0].upper() + new[1:]
            changed = text[: match.start()] + new + text[match.end() :]
            if index == last_answer(record):
                made = edited(record, lambda _, t=changed: t)  # type: ignore[misc]
                return None if made is None else Corrupted(made)
            return Corrupted(with_turn(record, index, changed))
    return None


def _claims(record: Record) -> list[int]:
    """Turns whose modality words state what the image is."""
    answers = [i for i, turn in enumerate(record.messages) if turn.role == "assistant"]
    if record.task in ("caption", "report", "dialogue", "open") or record.task == "closed":
        places = answers
    else:
        places = []
    question = first_question(record)
    presupposed = re.search(
        r"\b(?:in|on|of) (?:this|the) (?:[\w-]+ ){0,3}?(?:CT|MRI|radiograph|x-?ray|ultrasound)\b",
        record.question,
        re.I,
    )
    identity = (
        re.match(r"\s*is this an? ", record.question, re.I)
        and (record.answer or "").lower() == "yes"
    )
    if question >= 0 and record.task in ("closed", "open") and (presupposed or identity):
        places = [*places, question]
    return places


def wrong_number(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Ten times more or less (1), another unit (2), or both (3) in one quantity."""
    index = last_answer(record)
    if record.task == "choice" or (index >= 0 and not _QUANTITY.search(record.response)):
        index = first_question(record)
        if record.images:
            return None  # the options of a size question are the matter of another operator
    if index < 0:
        return None
    text = record.messages[index].text
    found = list(_QUANTITY.finditer(text))
    if not found:
        return None
    match = found[int(random.integers(len(found)))]
    value, unit = match["v"], match["u"]
    if severity != 2 or unit not in _UNITS:
        value = _shifted(value, 1 if random.random() < 0.5 else -1)
    if severity >= 2 and unit in _UNITS:
        unit = _UNITS[unit]
        if severity == 3:  # the two errors add up, they do not cancel
            grows = unit in ("cm", "厘米", "mg") or (
                unit == "mm" and "m" in match["u"] and match["u"] not in ("cm", "厘米")
            )
            value = _shifted(match["v"], 1 if grows else -1)
    changed = text[: match.start()] + value + match["gap"] + unit + text[match.end() :]
    if index == last_answer(record):
        made = edited(record, lambda _: changed)
        return None if made is None else Corrupted(made)
    return Corrupted(with_turn(record, index, changed))


def _shifted(value: str, places: int) -> str:
    number = float(value) * 10.0**places
    return f"{number:.6g}"


def wrong_sequence(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """T1 for T2, FLAIR or DWI, one stain for another, where the text says what the image is."""
    for index in (last_answer(record), *range(len(record.messages))):
        if index < 0 or (record.task == "closed" and record.messages[index].role == "user"):
            continue
        text = record.messages[index].text
        made = _SEQUENCE.sub(
            lambda m: pick(random, [s for s in ("T1", "T2") if s != m["s"]]), text, count=1
        )
        if made == text:
            made = _STAIN.sub(
                lambda m: pick(
                    random,
                    [s for s in _STAINS if s.casefold() != m.group(0).casefold().replace(" ", "")],
                ),
                text,
                count=1,
            )
        if made != text:
            if record.task == "choice":
                return None
            if index == last_answer(record):
                whole = edited(record, lambda _, t=made: t)  # type: ignore[misc]
                return None if whole is None else Corrupted(whole)
            return Corrupted(with_turn(record, index, made))
    return None


def edit_findings(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Insert `severity` findings that are not there, or omit as many sentences."""
    if record.task not in ("caption", "report") or chinese(record.response):
        return None
    sentences = [s for s in _SENTENCE.split(record.response) if s.strip()]
    if random.random() < 0.5 and len(sentences) > severity + 1:
        for _ in range(severity):
            sentences.pop(int(random.integers(len(sentences))))
    else:
        for index in random.permutation(len(_INSERTED))[:severity]:
            sentences.insert(int(random.integers(1, len(sentences) + 1)), _INSERTED[int(index)])
    return Corrupted(with_response(record, " ".join(sentences)))


def flip_image(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Mirror the image and keep the side words."""
    words = record.response + " " + record.question
    if not record.images or not _SIDE.search(words):
        return None
    number = image_number(record, random)
    pixels = context.pixels(record.images[number])
    return Corrupted(record, {number: np.ascontiguousarray(pixels[:, ::-1])})


def wrong_rendering(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Not inverted (3), a window far too narrow or wide (2), stored values folded over (1)."""
    if not record.images:
        return None
    number = image_number(record, random)
    pixels = context.pixels(record.images[number])
    values = pixels.astype(np.float32)
    if float(np.ptp(values, axis=2).mean()) > 12:
        return None  # a colour photograph has no window
    if severity == 3:
        made = 255.0 - values
    elif severity == 2:
        centre, width = (200.0, 60.0) if random.random() < 0.5 else (127.0, 3000.0)
        made = (values - centre) / width * 255.0 + 127.5
    else:
        made = np.mod(values * 2.0, 256.0)
    return Corrupted(record, {number: np.clip(made, 0, 255).astype(np.uint8)})


def clash_demographics(
    record: Record, context: Context, random: np.random.Generator, severity: int
) -> Corrupted | None:
    """Another age (1), the other sex (2), an organ of the other sex (3); whichever the text allows."""
    order = {
        1: (_other_age, _other_sex),
        2: (_other_sex, _other_age),
        3: (_other_organ, _other_sex),
    }
    for change in order[severity]:
        made = change(record, random)
        if made is not None:
            return Corrupted(made)
    return None


def _other_age(record: Record, random: np.random.Generator) -> Record | None:
    if not isinstance(record.facts.get("age"), (int, float)):
        return None  # without a header nothing says which of two ages is right
    for index, turn in enumerate(record.messages):
        if match := _AGE.search(turn.text):
            age = int(match["n"])
            new = age + int(random.integers(15, 40)) * (-1 if age > 60 else 1)
            return with_turn(
                record, index, turn.text[: match.start()] + str(new) + turn.text[match.end() :]
            )
    return None


def _other_sex(record: Record, random: np.random.Generator) -> Record | None:
    for index, turn in enumerate(record.messages):
        for a, b in _SEX_WORDS:
            for old, new in ((a, b), (b, a)):
                bounds = ("", "") if chinese(old) else (r"\b", r"\b")
                match = re.search(bounds[0] + old + bounds[1], turn.text)
                if match and (chinese(old) or _AGE.search(turn.text[: match.start()])):
                    text = turn.text[: match.start()] + new + turn.text[match.end() :]
                    return with_turn(record, index, text)
    return None


def _other_organ(record: Record, random: np.random.Generator) -> Record | None:
    whole = " ".join(turn.text for turn in record.messages)
    sex = str(record.facts.get("sex") or "")[:1].upper()
    if sex not in ("F", "M"):
        stated = re.search(
            r"\d[- ]year[- ]old (?:\w+ ){0,2}?(?P<f>woman|female|girl)|\d[- ]year[- ]old (?:\w+ ){0,2}?(?:man|male|boy)",
            whole,
        )
        if stated is None:
            return None
        sex = "F" if stated["f"] else "M"
    if record.task in ANSWERED:
        text = pick(random, _MALE if sex == "F" else _FEMALE)
        return with_question(record, f"{text} {record.question}")
    if record.task not in ("caption", "report"):
        return None
    return with_response(
        record, f"{record.response.rstrip()} {pick(random, _MALE if sex == 'F' else _FEMALE)}"
    )


OPERATORS: Final = (
    Operator(6, "caption of a sibling image", ("accuracy",), "pair", sibling_caption),
    Operator(8, "wrong modality word", ("accuracy",), "text", wrong_modality),
    Operator(9, "wrong unit or number", ("accuracy",), "text", wrong_number),
    Operator(10, "wrong sequence or stain", ("accuracy",), "text", wrong_sequence),
    Operator(11, "finding inserted or omitted", ("accuracy",), "text", edit_findings, held_out=True),
    Operator(12, "image mirrored, side words kept", ("accuracy",), "image", flip_image),
    Operator(13, "inverted, wrong window or folded values", ("accuracy", "readability"), "image", wrong_rendering, held_out=True),
    Operator(14, "demographic clash", ("accuracy",), "text", clash_demographics),
)  # fmt: skip
