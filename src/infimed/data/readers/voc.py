"""Pascal VOC boxes (``Annotations/*.xml``, ``JPEGImages/``) as statements of what is counted.

Each image gives a caption with the count of every class, one closed question a class of the data
set ("Are there platelets in this image?") and one open count question a class that is present.
Source of the form: Everingham et al. 2010, The Pascal Visual Object Classes Challenge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from infimed.core.errors import DataError
from infimed.data.readers.base import (
    SPLIT_NAMES,
    Defaults,
    Item,
    Options,
    defaults,
    problem_of,
)
from infimed.data.readers.folder import unnamed_files
from infimed.data.record import Fact, ImageRef, Record, Split, question_record

NAME = "voc"
OPTIONS: Mapping[str, str] = {"prompt": "user turn of captions (default: Describe this image.)"}
MAX_XML_BYTES = 8 * 2**20
PLURALS = {
    "rbc": ("red blood cell", "red blood cells"),
    "wbc": ("white blood cell", "white blood cells"),
    "platelets": ("platelet", "platelets"),
}
"""Spelled-out names of the classes of BCCD; other labels stay as they are."""


def detect(path: Path) -> bool:
    """A folder with ``Annotations/*.xml``."""
    return any((path / "Annotations").glob("*.xml"))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Caption and questions of every annotated image, then the images without annotation."""
    common = defaults(path, options)
    splits = _splits(path)
    annotations: list[tuple[str, str, Counter[str]]] = []
    named: set[str] = set()
    for file in sorted((path / "Annotations").glob("*.xml")):
        where = file.relative_to(path).as_posix()
        named.add(where)
        try:
            image, counts = annotation(file)
        except DataError as error:
            yield problem_of(error, where)
            continue
        annotations.append((file.stem, _image_place(path, image, file.stem), counts))
    classes = sorted({name for _, _, counts in annotations for name in counts})
    for stem, locator, counts in annotations:
        named.add(locator)
        yield from _records(
            stem,
            locator,
            counts,
            classes,
            splits.get(stem) or common.split,
            common,
            options,
        )
    named.update(file.relative_to(path).as_posix() for file in path.glob("ImageSets/*/*.txt"))
    yield from unnamed_files(path, named, common)


def annotation(file: Path) -> tuple[str, Counter[str]]:
    """(image file name, objects by class) of one VOC file.

    Raises:
        DataError: too large, no XML, or XML that declares entities (never expanded).
    """
    data = file.read_bytes()
    if len(data) > MAX_XML_BYTES:
        raise DataError(
            "the annotation is too large", seen=len(data), accepted=f"at most {MAX_XML_BYTES} bytes"
        )
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError("the annotation declares entities, which are not accepted")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise DataError("the annotation is not valid XML", fix="export it again") from None
    name = (root.findtext("filename") or "").strip()
    labels = ((item.findtext("name") or "").strip() for item in root.iter("object"))
    return name, Counter(label for label in labels if label)


def counted(label: str, count: int) -> str:
    """ "3 red blood cells", "1 platelet", "2 nodule"."""
    one, many = PLURALS.get(label.lower(), (label, label))
    return f"{count} {one if count == 1 else many}"


def _records(
    stem: str,
    locator: str,
    counts: Counter[str],
    classes: list[str],
    split: Split,
    common: Defaults,
    options: Options,
) -> Iterator[Record]:
    images = (ImageRef(locator),)
    facts: dict[str, Fact] = {"counts": {name: counts[name] for name in classes}}

    def record(name: str, question: str, answer: str, task: str, **more: Fact) -> Record:
        return question_record(
            id=f"{stem}-{name}",
            question=question,
            answer=answer,
            images=images,
            task=task,  # type: ignore[arg-type]
            source=common.source,
            license=common.license,
            split=split,
            group=stem,
            facts={**facts, **more},
        )

    present = [counted(name, counts[name]) for name in classes if counts[name]]
    said = (
        " and ".join(filter(None, (", ".join(present[:-1]), present[-1])))
        if present
        else "no labelled object"
    )
    prompt = options.get("prompt", "Describe this image.")
    yield record("caption", prompt, f"The image shows {said}.", "caption")
    for name in classes:
        _, many = PLURALS.get(name.lower(), (name, name))
        answer = "yes" if counts[name] else "no"
        question = f"Are there {many} in this image?"
        yield record(
            f"presence-{name}", question, answer, "closed", question_type="PRES", finding=name
        )
        if counts[name]:
            question = f"How many {many} are in this image?"
            yield record(
                f"count-{name}",
                question,
                str(counts[name]),
                "open",
                question_type="COUNT",
                finding=name,
            )


def _image_place(path: Path, name: str, stem: str) -> str:
    """Where the image of an annotation is, relative to the data folder."""
    plain = name if name and "/" not in name and "\\" not in name else f"{stem}.jpg"
    for folder in ("JPEGImages", "images", "."):
        for candidate in (plain, f"{stem}.jpg", f"{stem}.png"):
            if (path / folder / candidate).is_file():
                return candidate if folder == "." else f"{folder}/{candidate}"
    return f"JPEGImages/{plain}"


def _splits(path: Path) -> dict[str, Split]:
    """Image stem to split, from ``ImageSets/Main/{train,val,test}.txt``."""
    made: dict[str, Split] = {}
    for file in sorted(path.glob("ImageSets/Main/*.txt")):
        split = SPLIT_NAMES.get(file.stem.lower())
        if split is None:
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip():
                made.setdefault(line.split()[0], split)
    return made
