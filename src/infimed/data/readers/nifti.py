"""A folder of NIfTI volumes: one montage of axial slices a volume, or single slices.

NIfTI headers state geometry, not what was scanned; the sequence is taken from a BIDS-style ending
of the file name (``_T1w``, ``_FLAIR``, https://bids-specification.readthedocs.io) and the facts say
so. Volumes of one subject (``sub-01_...``) or one stem (``study2_T1W``, ``study2_FLAIR``) share a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from infimed.core.errors import DataError, UsageError, nearest_name
from infimed.data.imaging import LIMITS, ImageError
from infimed.data.locators import read_bytes, with_fragment
from infimed.data.nifti import PLANES, open_volume
from infimed.data.readers.base import (
    Defaults,
    Item,
    Options,
    ReadProblem,
    defaults,
    integer_option,
    problem_of,
    walk_files,
)
from infimed.data.readers.tables import find_table
from infimed.data.record import Fact, ImageRef, Message, Record

NAME = "nifti"
OPTIONS: Mapping[str, str] = {
    "mode": "montage (default): one picture a volume; slices: one record a slice",
    "slices": "slices in a montage (default 9), or taken from a volume (default 16)",
    "plane": "axial (default), coronal or sagittal",
    "prompt": "user turn (default: Describe this image.)",
}
SEQUENCES = {
    "t1w": ("T1-weighted MR", "MR"),
    "t1": ("T1-weighted MR", "MR"),
    "t1ce": ("contrast-enhanced T1-weighted MR", "MR"),
    "t1gd": ("contrast-enhanced T1-weighted MR", "MR"),
    "t2w": ("T2-weighted MR", "MR"),
    "t2": ("T2-weighted MR", "MR"),
    "flair": ("FLAIR MR", "MR"),
    "pdw": ("proton-density MR", "MR"),
    "swi": ("susceptibility-weighted MR", "MR"),
    "dwi": ("diffusion-weighted MR", "MR"),
    "bold": ("functional MR", "MR"),
    "ct": ("CT", "CT"),
    "pet": ("PET", "PT"),
}
SUFFIXES = (".nii.gz", ".nii")


def detect(path: Path) -> bool:
    """A NIfTI file, or a folder with one and without a table of images."""
    if path.is_file():
        return path.name.lower().endswith(SUFFIXES)
    if not path.is_dir() or find_table(path) is not None:
        return False
    return any(file.name.lower().endswith(SUFFIXES) for file in walk_files(path))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Records of every volume in path order; other files are listed."""
    mode, plane = options.get("mode", "montage"), options.get("plane", "axial")
    for name, seen, accepted in (("mode", mode, ("montage", "slices")), ("plane", plane, PLANES)):
        if seen not in accepted:
            raise UsageError(
                "not an accepted value",
                where=name,
                seen=seen,
                accepted=accepted,
                nearest=nearest_name(seen, accepted),
            )
    count = integer_option(
        options, "slices", 9 if mode == "montage" else LIMITS.max_frames, 1, 1000
    )
    root = path if path.is_dir() else path.parent
    common = defaults(path, options)
    for file in walk_files(path):
        relative = file.relative_to(root).as_posix()
        if not file.name.lower().endswith(SUFFIXES):
            fix = "nothing to do if it is documentation"
            yield ReadProblem(relative, "not a NIfTI volume", fix, "not-data")
            continue
        try:
            yield from _records(root, relative, common, options, mode, PLANES.index(plane), count)
        except DataError as error:
            yield problem_of(error, relative)


def name_facts(relative: str) -> tuple[str, dict[str, Fact]]:
    """(words, facts) that the ending of a file name states; ("", {}) when it states nothing."""
    stem = Path(relative).name.split(".")[0]
    known = SEQUENCES.get(stem.rsplit("_", 1)[-1].lower())
    if known is None:
        return "", {}
    words, modality = known
    return words, {"modality": modality, "sequence": words, "sequence_source": "file name"}


def subject_of(relative: str) -> str:
    """Group of a volume: its BIDS subject, else folder and stem without the last ``_part``."""
    for part in Path(relative).parts:
        if part.startswith("sub-"):
            return part.split("_")[0].split(".")[0]
    stem = Path(relative).name.split(".")[0]
    return (Path(relative).parent / (stem.rsplit("_", 1)[0] or stem)).as_posix()


def _records(
    root: Path, relative: str, common: Defaults, options: Options, mode: str, axis: int, count: int
) -> Iterator[Record]:
    words, facts = name_facts(relative)
    plane = PLANES[axis]
    article = "An" if plane == "axial" else "A"
    if mode == "montage":
        sentence = f"{count} {plane} slices of a {words} volume." if words else ""
        places = [("", with_fragment(relative, montage=count, axis=axis))]
    else:
        volume = open_volume(read_bytes(root, relative))
        depth = volume.values.shape[axis]
        if depth < 1:
            raise ImageError("no-pixels")
        margin = depth // 10 if depth > count else 0
        steps = min(count, depth - 2 * margin)
        span = depth - 1 - 2 * margin
        picks = sorted({margin + round(i * span / max(1, steps - 1)) for i in range(steps)})
        sentence = f"{article} {plane} {words} image." if words else ""
        places = [
            (f"-{plane}-{pick}", with_fragment(relative, axis=axis, slice=pick)) for pick in picks
        ]
    for tail, locator in places:
        turns = [Message("user", (0, options.get("prompt", "Describe this image.")))]
        if sentence:
            turns.append(Message("assistant", (sentence,)))
        yield Record(
            id=relative + tail,
            images=(ImageRef(locator),),
            messages=tuple(turns),
            task="caption",
            source=common.source,
            license=common.license,
            split=common.split,
            group=subject_of(relative),
            facts={**facts, "plane": plane},
        )
