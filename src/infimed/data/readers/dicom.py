"""A folder of DICOM files: one record a frame, with the header's safe facts said in a sentence.

Frames of a multi-frame file are all taken up to ``frames``, else evenly spaced. Groups and ids are
salted hashes; no identifying element leaves the file (`infimed.data.dicom.safe_facts`). To train on
reports, put a table beside the files instead (reader ``folder``), which may name DICOM files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from infimed.core.errors import DataError
from infimed.core.files import sha256_json
from infimed.data.describing import KINDS, sentence
from infimed.data.dicom import (
    chosen_frames,
    frame_count,
    group_key,
    open_dataset,
    refuse_non_image,
    safe_facts,
)
from infimed.data.imaging import LIMITS, sniff
from infimed.data.locators import read_bytes, with_fragment
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    defaults,
    hashed_group,
    integer_option,
    problem_of,
    walk_files,
)
from infimed.data.readers.tables import find_table
from infimed.data.record import Facts, ImageRef, Message, Record

NAME = "dicom"
OPTIONS: Mapping[str, str] = {
    "frames": f"most frames taken from one file (default {LIMITS.max_frames})",
    "prompt": "user turn (default: Describe this image.)",
    "salt": "text mixed into hashed ids and groups (default: from the folder's listing)",
}


def detect(path: Path) -> bool:
    """A DICOM file, or a folder without a table of images in which one is among the first 200 files."""
    if path.is_file():
        return _is_dicom(path)
    if not path.is_dir() or find_table(path) is not None:
        return False
    return any(_is_dicom(file) for file, _ in zip(walk_files(path), range(200), strict=False))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Records of every DICOM file in path order; other files are listed."""
    root = path if path.is_dir() else path.parent
    common = defaults(path, options)
    frames = integer_option(options, "frames", LIMITS.max_frames, 1, 10_000)
    salt = options.get("salt") or _listing_salt(path)
    for file in walk_files(path):
        relative = file.relative_to(root).as_posix()
        try:
            yield from _read_file(root, relative, common, options, frames, salt)
        except DataError as error:
            yield problem_of(error, relative)


def header_sentence(facts: Facts) -> str:
    """What the header states, as a sentence; '' when it does not even state a known modality."""
    return sentence(facts) if facts.get("modality") in KINDS else ""


def _read_file(
    root: Path, relative: str, common: Defaults, options: Options, most: int, salt: str
) -> Iterator[Item]:
    data = read_bytes(root, relative)
    suffix = Path(relative).suffix.lower()
    if sniff(data, suffix) != "DICOM":
        kind = "an empty file" if not data else "not a DICOM file"
        fix = "nothing to do if it is documentation; images go through the reader 'folder'"
        yield ReadProblem(relative, kind, fix, "empty" if not data else "not-data")
        return
    dataset = open_dataset(data, header_only=False)
    refuse_non_image(dataset)
    count = frame_count(dataset)
    name = "dicom-" + hashed_group(relative, salt)
    group = group_key(dataset, salt) or name
    for frame in chosen_frames(count, most):
        facts = safe_facts(dataset, frame)
        sentence = header_sentence(facts)
        locator = with_fragment(relative, frame=frame) if count > 1 else relative
        turns = [Message("user", (0, options.get("prompt", "Describe this image.")))]
        if sentence:
            turns.append(Message("assistant", (sentence,)))
        yield Record(
            id=f"{name}-frame-{frame}" if count > 1 else name,
            images=(ImageRef(locator),),
            messages=tuple(turns),
            task="caption",
            source=common.source,
            license=common.license,
            split=common.split,
            group=group,
            facts={
                key: facts[key]
                for key in ("modality", "anatomy", "side", "view", "sex", "age_band")
                if key in facts
            },
        )


def _listing_salt(path: Path) -> str:
    """A salt that is the same for the same files and unknown to whoever does not have them."""
    return sha256_json([[ascii(file.name), file.stat().st_size] for file in walk_files(path)])


def _is_dicom(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            head = handle.read(256)
    except OSError:
        return False
    return sniff(head, file.suffix.lower()) == "DICOM"
