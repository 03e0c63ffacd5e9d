"""Rules over the whole data set: duplicates, and one question answered in two ways.

They run after the record rules, over the records that survived those, so that a blurred original
does not take its sharp copy with it. The first record in order is kept. Two different questions
about one image are never duplicates of each other.

Memory: a rule that names a `group` is shown only the records that share its key, some at a time
(`curation.judging`); images are opened only where fingerprints propose a pair.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from infimed.curation.columns import (
    CAPTION_LIKE,
    Flags,
    Keys,
    SetColumns,
    answered_key,
    asked_key,
    described_key,
    exact_key,
    pictured_key,
)
from infimed.curation.findings import Dimension, Finding, Hit, Severity
from infimed.curation.lexicon import modality_family
from infimed.curation.rules import gathering
from infimed.curation.rules.base import Limits, Threshold, finding
from infimed.curation.signals import ImageLevel
from infimed.matching.image import near_image_groups
from infimed.matching.text import critical_words, near_text_groups, normalise_answer


@dataclass(frozen=True, slots=True)
class Line:
    """What data-set rules know of one surviving record.

    Attributes:
        row: index in the shards. images: (sha256, pixel hash, fingerprint) each.
    """

    row: int
    record_id: str
    task: str
    question_key: str
    answer_key: str
    content_key: str
    images: tuple[tuple[str, str, bytes], ...]
    source: str = ""
    stopped: bool = False
    response_words: int = 0
    claims: tuple[str, ...] = ()


class Lookup(Protocol):
    """What data-set rules may ask for, a few records at a time."""

    def text(self, row: int) -> str:
        """All turns of a record as one text."""

    def answer(self, row: int) -> str:
        """The gold answer, or the last assistant turn."""

    def thumbnail(self, row: int, image: int) -> NDArray[np.uint8] | None:
        """Thumbnail of image number `image` of a record; None where it cannot be read."""


Found = list[tuple[int, Hit]]
DataSetCheck = Callable[[list[Line], Lookup, Limits], Found]


@dataclass(frozen=True, slots=True)
class DataSetRule:
    """A rule over all records: its check returns (row, Hit) pairs. Other fields as in `Rule`.

    Attributes:
        group: key of every record; the rule finds things only among records with equal keys, and
            its check is given whole groups, several at a time. None: all records at once.
        sees_pairs: whether the check must also see every record that shows two of these images.
        opens_images: whether the check looks at pixels, so that its groups are worth sharing out.
        check_columns: takes the place of `check` for a rule that needs no record, only columns.
        needs: how much of an image must be measured; pictures are told apart by their pixels.
    """

    id: str
    version: int
    dimension: Dimension
    severity: Severity
    catches: str
    check: DataSetCheck
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    group: Callable[[SetColumns], Keys] | None = None
    sees_pairs: bool = False
    opens_images: bool = False
    check_columns: Callable[[SetColumns, Flags, Limits], Found] | None = None
    needs: ImageLevel = "pixels"

    def limits(self, modality: str = "", task: str = "") -> dict[str, float]:
        """The thresholds; data-set rules do not vary by modality or task."""
        return {name: t.at(modality, task) for name, t in self.thresholds.items()}

    def apply(self, lines: list[Line], lookup: Lookup, limits: Limits) -> list[tuple[int, Finding]]:
        """(row, finding) for every record the rule objects to."""
        return [(row, finding(self, hit)) for row, hit in self.check(lines, lookup, limits)]


_CAPTION_LIKE: Final = CAPTION_LIKE

PAIRS_REMEMBERED: Final = 500_000
"""Pairs of images kept as compared and different, about 100 bytes each."""


def _exact_key(line: Line) -> tuple[object, ...]:
    pixels = tuple(image[1] or image[0] for image in line.images)
    # One question and a short answer are the same in any spelling; longer texts are compared whole.
    words = line.content_key if line.task in _CAPTION_LIKE else line.answer_key
    return line.task, line.question_key, words, pixels


def _exact(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    first: dict[tuple[object, ...], Line] = {}
    found: Found = []
    for line in lines:
        original = first.setdefault(_exact_key(line), line)
        if original is not line:
            found.append(
                (line.row, Hit("data set", f"same text and pixels as record {original.record_id}"))
            )
    return found


def side_by_side(lines: list[Line]) -> set[frozenset[str]]:
    """Pairs of images (sha256) that one record shows together: two studies, however alike."""
    return {
        frozenset((a[0], b[0])) for line in lines for a, b in itertools.combinations(line.images, 2)
    }


def image_clusters(
    lines: list[Line],
    lookup: Lookup,
    limits: Limits,
    together: set[frozenset[str]],
    different: set[tuple[str, str]],
) -> dict[str, tuple[str, str]]:
    """sha256 of every image -> (sha256 of the first image that shows the same picture, how).

    `together`: pairs that are never one picture, see `side_by_side`. `different`: pairs that were
    compared before and differ; grows, up to `PAIRS_REMEMBERED`. How is "same picture",
    "mirrored", "inverted", "cropped" or several; "" for the first itself and for the same pixels.
    """
    by_pixels: dict[str, str] = {}
    cluster: dict[str, str] = {}
    places: list[tuple[Line, int]] = []
    for line in lines:
        for number, (sha256, pixels, _) in enumerate(line.images):
            if sha256 in cluster:
                continue
            cluster[sha256] = by_pixels.setdefault(pixels or sha256, sha256)
            if cluster[sha256] == sha256 and pixels:
                places.append((line, number))
    shas = [line.images[number][0] for line, number in places]

    def remember(i: int, j: int) -> None:
        if len(different) < PAIRS_REMEMBERED:
            different.add((shas[i], shas[j]))

    groups = near_image_groups(
        [line.images[number][2] for line, number in places],
        lambda i: lookup.thumbnail(places[i][0].row, places[i][1]),
        min_correlation=limits["min_correlation"],
        max_local_difference=limits["max_local_difference"],
        apart=lambda i, j: (
            (shas[i], shas[j]) in different or frozenset((shas[i], shas[j])) in together
        ),
        on_different=remember,
    )
    same = {shas[i]: (shas[first], match.kind) for i, (first, match) in enumerate(groups) if match}
    return {sha256: same.get(root, (root, "")) for sha256, root in cluster.items()}


def _near_image(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    together = side_by_side(lines)
    different: set[tuple[str, str]] = set()
    groups: dict[tuple[object, ...], list[Line]] = {}
    taken: set[tuple[object, ...]] = set()
    for line in lines:
        if line.images and _exact_key(line) not in taken:
            taken.add(_exact_key(line))  # an exact duplicate is reported once, by the rule for it
            key = (line.task, line.question_key, line.answer_key, len(line.images))
            groups.setdefault(key, []).append(line)
    found: Found = []
    # Only pictures about which the same is asked and answered are compared with each other.
    for group in groups.values():
        if len({tuple(i[1] or i[0] for i in line.images) for line in group}) < 2:
            continue
        cluster = image_clusters(group, lookup, limits, together, different)
        first: dict[tuple[str, ...], Line] = {}
        for line in group:
            original = first.setdefault(tuple(cluster[i[0]][0] for i in line.images), line)
            if original is not line and [i[1] for i in original.images] != [
                i[1] for i in line.images
            ]:
                evidence = (
                    f"same question and answer about the same picture{_how(cluster, line, original)}"
                    f" as record {original.record_id}"
                )
                found.append((line.row, Hit("data set", evidence)))
    return sorted(found, key=lambda item: item[0])


def _how(cluster: Mapping[str, tuple[str, str]], *lines: Line) -> str:
    """In brackets how the pictures differ ("(mirrored, cropped)"); nothing for a plain copy."""
    kinds = {cluster[image[0]][1] for line in lines for image in line.images}
    kinds -= {"", "same picture"}
    return f" ({', '.join(sorted(kinds))})" if kinds else ""


def _near_text(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        if line.task in _CAPTION_LIKE:
            shown = tuple(image[1] or image[0] for image in line.images)
            groups.setdefault((line.task, shown), []).append(line)
    found: Found = []
    for group in groups.values():
        if len(group) < 2:
            continue
        texts = [lookup.text(line.row) for line in group]
        for index, first in enumerate(near_text_groups(texts, limits["min_jaccard"])):
            same = group[first]
            if first == index or _exact_key(same) == _exact_key(group[index]):
                continue
            if len(texts[index]) >= limits["min_chars"]:
                evidence = f"nearly the same text as record {same.record_id}"
                found.append(
                    (group[index].row, Hit("data set", evidence, threshold=limits["min_jaccard"]))
                )
    return sorted(found, key=lambda item: item[0])


def _conflict(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        if line.task not in _CAPTION_LIKE and line.images:
            shown = tuple(image[1] or image[0] for image in line.images)
            groups.setdefault((line.task, line.question_key, shown), []).append(line)
    found: Found = []
    for group in groups.values():
        if len({line.answer_key for line in group}) < 2:
            continue
        answers = [normalise_answer(lookup.answer(line.row)) for line in group]
        for index, line in enumerate(group):
            rival = next(
                (
                    k
                    for k, other in enumerate(answers)
                    if _contradict(line.task, answers[index], other)
                ),
                None,
            )
            if rival is not None:
                evidence = f"answered {answers[index]!r} here, {answers[rival]!r} in record {group[rival].record_id}"
                found.append((line.row, Hit("data set", evidence)))
    return sorted(found, key=lambda item: item[0])


def _missing_stop(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    """Texts without a final stop where their source and task otherwise always end with one."""
    total: Counter[tuple[str, str]] = Counter()
    stopped: Counter[tuple[str, str]] = Counter()
    long = [
        line
        for line in lines
        if line.task in ("caption", "report") and line.response_words >= limits["min_words"]
    ]
    for line in long:
        total[line.source, line.task] += 1
        stopped[line.source, line.task] += line.stopped
    found: Found = []
    for line in long:
        habit = stopped[line.source, line.task] / total[line.source, line.task]
        known = total[line.source, line.task] >= limits["min_records"]
        if known and habit >= limits["min_habit"] and not line.stopped:
            evidence = f"no full stop, which {habit:.0%} of the {line.task}s of this source have"
            found.append((line.row, Hit("response", evidence, 0.0, limits["min_habit"])))
    return found


def _missing_stop_columns(columns: SetColumns, alive: Flags, limits: Limits) -> Found:
    """`_missing_stop` on columns: the same findings without an object a record."""
    captions = np.array([task in ("caption", "report") for task in columns.tasks], bool)
    long = alive & captions[columns.task] & (columns.response_words >= limits["min_words"])
    habitat = columns.source.astype(np.int64) * len(columns.tasks) + columns.task
    total = np.bincount(habitat[long], minlength=1)
    stopped = np.bincount(habitat[long & columns.stopped], minlength=len(total))
    habit = stopped / np.maximum(total, 1)
    usual = (total >= limits["min_records"]) & (habit >= limits["min_habit"])
    found: Found = []
    for row in np.flatnonzero(long & ~columns.stopped).tolist():
        if usual[habitat[row]]:
            task = columns.tasks[columns.task[row]]
            evidence = (
                f"no full stop, which {habit[habitat[row]]:.0%} of the {task}s of this source have"
            )
            found.append((row, Hit("response", evidence, 0.0, limits["min_habit"])))
    return found


def _contradict(task: str, a: str, b: str) -> bool:
    """Whether two answers to one question exclude each other; open answers may be paraphrases."""
    if a == b or set(a.split()) == set(b.split()):
        return False
    if task in ("closed", "choice"):
        return True
    shared = set(a.split()) & set(b.split())
    if not shared:
        # Two short answers without a word in common are two answers, unless one names the other.
        short = max(len(a.split()), len(b.split())) <= 4
        families = {modality_family(a), modality_family(b)}
        return short and not (len(families) == 1 and families != {""}) and a not in b and b not in a
    return critical_words(a) != critical_words(b) and len(a.split()) == len(b.split())


RULES: Final = (
    DataSetRule(
        "completeness.missing_stop", 1, "completeness", "drop",
        "A caption or report without a final stop, where its source always writes one.",
        _missing_stop,
        {
            "min_habit": Threshold(0.55, "share of the source's texts that end with a stop"),
            "min_records": Threshold(50, "texts needed to speak of a habit"),
            "min_words": Threshold(4, "words below which a text may be a label"),
        },
        check_columns=_missing_stop_columns,
        needs="none",
    ),
    DataSetRule(
        "consistency.conflicting_answers", 1, "consistency", "drop",
        "The same question about the same image has answers that exclude each other.",
        _conflict,
        group=asked_key,
    ),
    DataSetRule(
        "duplication.exact", 1, "duplication", "drop",
        "Same text, same choices, same decoded pixels as an earlier record.",
        _exact,
        group=exact_key,
    ),
    DataSetRule(
        "duplication.near_image", 3, "duplication", "drop",
        "Same question and answer about a re-encoded, resized, rewindowed, mirrored, inverted or cropped copy of an earlier image.",
        _near_image,
        {
            "min_correlation": Threshold(0.9, "correlation of the thumbnails that confirms it"),
            "max_local_difference": Threshold(0.065, "largest local difference, share of the grey range"),
        },
        group=answered_key,
        sees_pairs=True,
        opens_images=True,
    ),
    DataSetRule(
        "duplication.near_text", 1, "duplication", "drop",
        "A caption, report or text that repeats an earlier one about the same images.",
        _near_text,
        {
            "min_jaccard": Threshold(0.8, "similarity of character 5-grams"),
            "min_chars": Threshold(40, "characters below which similarity proves nothing"),
        },
        group=described_key,
    ),
    DataSetRule(
        "consistency.contradicted", 1, "consistency", "drop",
        "A statement about an image that at least two other records about it contradict.",
        gathering.contradicted,
        {"min_votes": Threshold(2, "records that say otherwise, and more than agree")},
        group=pictured_key,
    ),
    DataSetRule(
        "consistency.tied", 1, "consistency", "note",
        "Two records about one image contradict each other, and no third one decides.",
        gathering.tied,
        group=pictured_key,
    ),
    DataSetRule(
        "accuracy.size_outlier", 1, "accuracy", "drop",
        "A length that is several times that of the same finding in other records of the image.",
        gathering.size_outlier,
        {"max_ratio": Threshold(3.0, "larger over smaller length")},
        group=pictured_key,
    ),
    DataSetRule(
        "relevance.image_elsewhere", 1, "relevance", "drop",
        "The image belongs to records of another modality, region or patient.",
        gathering.image_elsewhere,
        {"min_votes": Threshold(2, "records that say otherwise, and more than agree")},
        group=pictured_key,
    ),
)  # fmt: skip
