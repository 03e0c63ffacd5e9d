"""A result in the shape of DICOM TID 1500 (PS3.16, Imaging Measurement Report), as JSON.

It is *not* a DICOM object, and says so in its first field: it has no patient, no study, no UIDs and no references to
images, because this server keeps none of them, and no code for what a free text states. It has the nesting, the value types and the
coded headings that a system which reads structured reports expects, so that a hospital's own software can make one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from infimed.inference.disclaimer import DISCLAIMER

NOTICE: Final = "This is not a DICOM object. It has the shape of TID 1500 and lacks patient, study, UIDs and image references."

Item = dict[str, Any]


def _code(value: str, meaning: str, scheme: str = "DCM") -> Item:
    return {"value": value, "scheme": scheme, "meaning": meaning}


CONCEPTS: Final = {
    "root": _code("126000", "Imaging Measurement Report"),
    "language": _code("121049", "Language of Content Item and Descendants"),
    "observer_type": _code("121005", "Observer Type"),
    "device": _code("121007", "Device"),
    "device_name": _code("121013", "Device Observer Name"),
    "device_model": _code("121015", "Device Observer Model Name"),
    "findings": _code("121070", "Findings"),
    "finding": _code("121071", "Finding"),
    "impressions": _code("121072", "Impressions"),
    "impression": _code("121073", "Impression"),
    "recommendations": _code("121074", "Recommendations"),
    "recommendation": _code("121075", "Recommendation"),
    "comparison": _code("111424", "Comparison to previous studies"),
    "certainty_finding": _code("111012", "Certainty of Finding"),
    "certainty_impression": _code("111013", "Certainty of Impression"),
    "summary": _code("121111", "Summary"),
}
"""Coded headings, all of DICOM's own scheme (PS3.16 annex D)."""
PERCENT: Final = _code("%", "Percent", "UCUM")
LANGUAGES: Final = {"en": "English", "zh": "Chinese"}


def text(concept: str, value: str, *inner: Item, relationship: str = "CONTAINS") -> Item:
    """A TEXT item."""
    item = {
        "relationship": relationship,
        "value_type": "TEXT",
        "concept": CONCEPTS[concept],
        "text": value,
    }
    return {**item, "content": list(inner)} if inner else item


def number(concept: str, probability: float) -> Item:
    """A probability as a NUM item in percent, a property of the item that holds it."""
    return {
        "relationship": "HAS PROPERTIES",
        "value_type": "NUM",
        "concept": CONCEPTS[concept],
        "numeric_value": round(100 * probability, 1),
        "unit": PERCENT,
    }


def container(concept: str, items: list[Item]) -> Item:
    """A CONTAINER item."""
    return {
        "relationship": "CONTAINS",
        "value_type": "CONTAINER",
        "concept": CONCEPTS[concept],
        "continuity": "SEPARATE",
        "content": items,
    }


def coded(concept: str, code: Item, relationship: str) -> Item:
    """A CODE item."""
    return {
        "relationship": relationship,
        "value_type": "CODE",
        "concept": CONCEPTS[concept],
        "code": code,
    }


def structured(
    name: str,
    result: Mapping[str, Any],
    sections: Mapping[str, str],
    edited: bool,
    notes: Sequence[str] = (),
) -> Item:
    """A result as a tree of content items.

    Args:
        name: of the application. sections: its texts as the user left them.
        edited: whether the user changed any of them. notes: what has to be known before it is read.
    """
    language = str(result.get("language") or "en")
    content = [
        coded("language", _code(language, LANGUAGES.get(language, language), "RFC5646"), "HAS CONCEPT MOD"),
        coded("observer_type", CONCEPTS["device"], "HAS OBS CONTEXT"),
        text("device_name", "InfiMed", relationship="HAS OBS CONTEXT"),
        text("device_model", str(result.get("model_hash") or "not stated"), relationship="HAS OBS CONTEXT"),
        *_BODIES[name](result, sections),
    ]  # fmt: skip
    return {
        "notice": NOTICE,
        "disclaimer": DISCLAIMER,
        "notes": list(notes),
        "template": {"mapping_resource": "DCMR", "identifier": "1500"},
        "completion_flag": "PARTIAL",
        "verification_flag": "UNVERIFIED",
        "changed_by_hand": edited,
        "request_id": result.get("request_id"),
        "root": {
            "value_type": "CONTAINER",
            "concept": CONCEPTS["root"],
            "continuity": "SEPARATE",
            "content": content,
        },
    }


def _ask(result: Mapping[str, Any], sections: Mapping[str, str]) -> list[Item]:
    confidence = result.get("confidence")
    sure = [] if confidence is None else [number("certainty_finding", float(confidence))]
    items = [text("finding", sections["answer"], *sure)]
    if result.get("abstained"):
        items.append(text("summary", sections["note"]))
    return [container("findings", items)]


def _report(_: Mapping[str, Any], sections: Mapping[str, str]) -> list[Item]:
    made = [container("findings", [text("finding", sections["findings"])])]
    if "comparison" in sections:
        made[0]["content"].append(text("comparison", sections["comparison"]))
    if "without_heading" in sections:
        made[0]["content"].append(text("summary", sections["without_heading"]))
    return [*made, container("impressions", [text("impression", sections["impression"])])]


def _differential(result: Mapping[str, Any], _: Mapping[str, str]) -> list[Item]:
    """A score that no calibration made a probability is no certainty: it is text, and says so."""
    calibrated = bool(result.get("calibrated"))

    def sure(value: Any) -> Item:
        if calibrated:
            return number("certainty_impression", float(value))
        score = f"Model's score, not a probability: {100 * float(value):.1f} %"
        return text("summary", score, relationship="HAS PROPERTIES")

    items = [text("impression", str(each["name"]), sure(each["probability"])) for each in result["candidates"]]  # fmt: skip
    cannot = text("impression", "Cannot tell", sure(result["cannot_tell"]))
    return [container("impressions", [*items, cannot])]


def _consult(_: Mapping[str, Any], sections: Mapping[str, str]) -> list[Item]:
    made = [container("findings", [text("summary", sections["message"] or "not stated")])]
    if "urgent" in sections:
        made.insert(0, container("recommendations", [text("recommendation", sections["urgent"])]))
    return made


_BODIES: Final = {
    "ask": _ask,
    "report": _report,
    "differential": _differential,
    "consult": _consult,
}
