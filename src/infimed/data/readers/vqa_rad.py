"""VQA-RAD in its OSF layout: ``VQA_RAD Dataset Public.json`` beside ``VQA_RAD Image Folder/``.

Source: Lau et al. 2018, "A dataset of clinically generated visual questions and answers about
radiology images", doi:10.1038/sdata.2018.251. Known slips of the file are normalised and the raw
value is kept in the facts: ``CLOSED `` with a space, combined question types ("POS, PRES"),
"ATRIB", "Other". Modality, plane and view of an image become facts of its records where the answers to its questions
of these types state exactly one. Invariant: one record a question, duplicates included; images that
share a case share a group, so that no split can divide them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import read_json
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    candidates,
    defaults,
    first_object,
    json_items,
    problem_of,
    split_name,
)
from infimed.data.record import Fact, ImageRef, Record, Split, question_record

NAME = "vqa_rad"
OPTIONS: Mapping[str, str] = {
    "split_file": "JSON {parts: {train: [image names], ...}}, path relative to the data folder",
}

IMAGE_FOLDER = "VQA_RAD Image Folder"
NULLS = ("", "NULL", "NA", "N/A", "NONE")
TYPES = {"ATRIB": "ATTRIB", "ATTRIBUTE": "ATTRIB", "PRESENCE": "PRES", "POSITION": "POS"}
SAID: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "modality": {
        "MRI": re.compile(r"\b(?:mri|mr|t1|t2|flair|dwi|adc|diffusion)\b"),
        "CT": re.compile(r"\b(?:ct|cect|cat scan|computed tomography)\b"),
        "XR": re.compile(r"\b(?:x[- ]?ray|cxr|radiograph|plain film)s?\b"),
    },
    "plane": {
        "axial": re.compile(r"\b(?:axial|transverse|cross[- ]section\w*)\b"),
        "sagittal": re.compile(r"\bsagg?itt?al\b"),
    },
    "view": {
        "PA": re.compile(r"\b(?:pa|posterior[- ]anterior|posteroanterior)\b"),
        "AP": re.compile(r"\b(?:ap|anterior[- ]posterior|anteroposterior)\b"),
        "LATERAL": re.compile(r"\blateral (?:film|view|x-?ray|projection)\b"),
    },
}
"""How answers and affirmed questions name an image's facts. "Coronal" is left out: it is said of
radiographs and of slices."""
ORGANS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}


def detect(path: Path) -> bool:
    """A JSON file whose first object has ``image_name``, ``question_type`` and ``phrase_type``."""
    return _file(path) is not None


def read(path: Path, options: Options) -> Iterator[Item]:
    """One record a question. With a split file, an image that no part names is a problem."""
    file = _file(path)
    if file is None:
        yield ReadProblem(str(path), "no VQA-RAD JSON in this folder", "", "reader")
        return
    common = defaults(path, {"source": "vqa_rad", **options}, license="CC0-1.0")
    parts = split_parts(file.parent / options["split_file"]) if "split_file" in options else None
    groups, said = _case_groups(file), _said(file)
    for position, item in enumerate(json_items(file)):
        if isinstance(item, ReadProblem):
            yield item
            continue
        where, value = item
        try:
            if not isinstance(value, dict):
                raise DataError("not a JSON object")
            yield _record(value, position, common, parts, groups, said)
        except DataError as error:
            yield problem_of(error, where)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            yield ReadProblem(
                where, f"not a VQA-RAD question ({type(error).__name__}: {error})", ""
            )


def split_parts(file: Path) -> dict[str, Split]:
    """Image name to part.

    Raises:
        DataError: the file is missing, malformed, or names an image in two parts.
    """
    content = read_json(file)
    parts = content.get("parts", content) if isinstance(content, dict) else None
    if not isinstance(parts, dict) or not all(isinstance(names, list) for names in parts.values()):
        raise DataError("expected {parts: {train: [image names], ...}}", where=str(file))
    made: dict[str, Split] = {}
    for part, names in parts.items():
        split = split_name(part, f"{file.name}: parts")
        for name in names:
            if made.get(str(name), split) != split:
                raise DataError("an image is in two parts", where=file.name, seen=str(name))
            made[str(name)] = split
    return made


def question_types(raw: str) -> list[str]:
    """Normalised question types of a possibly combined field: ``"POS, atrib"`` is [POS, ATTRIB]."""
    pieces = [piece.strip().upper() for piece in raw.replace(";", ",").split(",")]
    return list(dict.fromkeys(TYPES.get(piece, piece) for piece in pieces if piece not in NULLS))


def _record(
    value: Mapping[str, Any],
    position: int,
    common: Defaults,
    parts: Mapping[str, Split] | None,
    groups: Mapping[str, str],
    said: Mapping[str, Mapping[str, str]],
) -> Record:
    image, question = _text(value.get("image_name")), _text(value.get("question"))
    answer = _text(value.get("answer"))
    if not image:
        raise DataError("a question without its image")
    if not question or not answer:
        raise DataError("a question or an answer is missing", seen=_text(value.get("qid")))
    kind = _text(value.get("answer_type")).upper()
    if kind not in ("CLOSED", "OPEN"):
        raise DataError("unknown answer_type", seen=kind, accepted="CLOSED, OPEN")
    if parts is not None and image not in parts:
        raise DataError(
            "the image is in no part of the split file", seen=image, fix="add it to a part"
        )
    raw_type = str(value.get("question_type") or "")
    types = question_types(raw_type)
    facts: dict[str, Fact] = {
        "question_type": types[0] if types else "OTHER",
        "question_types": types or ["OTHER"],
        "question_type_raw": raw_type,
        "answer_type": kind,
        "phrase_type": _text(value.get("phrase_type")),
    }
    organ = _text(value.get("image_organ")).upper()
    if organ:
        facts["anatomy"] = ORGANS.get(organ, organ.lower())
    facts |= said.get(image, {})
    linked = _text(value.get("qid_linked_id"))
    if linked:
        facts["rephrasing"] = linked
    for key in ("question_relation", "evaluation"):
        if _text(value.get(key)):
            facts[key] = _text(value.get(key))
    return question_record(
        id=f"vqa_rad-{_text(value.get('qid')) or position}",
        question=question,
        answer=answer.lower() if kind == "CLOSED" and answer.lower() in ("yes", "no") else answer,
        images=(ImageRef(f"{IMAGE_FOLDER}/{image}"),),
        task="closed" if kind == "CLOSED" else "open",
        source=common.source,
        license=common.license,
        split=parts[image] if parts is not None else common.split,
        group=groups.get(image, image),
        facts=facts,
    )


def _text(value: object) -> str:
    """Trimmed text; NULL, NA and missing are ''. An answer of 0 stays "0"."""
    text = " ".join(str(value).split()) if isinstance(value, (str, int, float)) else ""
    return "" if text in NULLS else text


def _said(file: Path) -> dict[str, dict[str, str]]:
    """Image name to what its questions' answers state of modality, plane and view, if they agree."""
    found: dict[str, dict[str, set[str]]] = {}
    for item in json_items(file):
        if isinstance(item, ReadProblem) or not isinstance(item[1], dict):
            continue
        value = item[1]
        if not {"MODALITY", "PLANE"} & set(question_types(str(value.get("question_type") or ""))):
            continue
        answer = _text(value.get("answer")).lower()
        # The words of a question count only when it is affirmed; an answer speaks for itself.
        text = _text(value.get("question")).lower() if answer == "yes" else answer
        facts = found.setdefault(_text(value.get("image_name")), {})
        for name, words in SAID.items():
            named = {word for word, pattern in words.items() if pattern.search(text)}
            if named:
                facts.setdefault(name, set()).update(named)
    return {
        image: {name: next(iter(values)) for name, values in facts.items() if len(values) == 1}
        for image, facts in found.items()
    }


def _case_groups(file: Path) -> dict[str, str]:
    """Image name to group: images linked through shared cases are one group (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for item in json_items(file):
        if isinstance(item, ReadProblem) or not isinstance(item[1], dict):
            continue
        image, case = _text(item[1].get("image_name")), _text(item[1].get("image_case_url"))
        if image and case:
            first, second = sorted((root("image " + image), root("case " + case)))
            parent[second] = first
    images: dict[str, list[str]] = {}
    for name in sorted(parent):
        if name.startswith("image "):
            images.setdefault(root(name), []).append(name.removeprefix("image "))
    return {name: min(members) for members in images.values() for name in members}


def _file(path: Path) -> Path | None:
    for file in candidates(path, (".json",)):
        if {"image_name", "question_type", "phrase_type"} <= set(first_object(file)):
            return file
    return None
