"""Which images a grounding pass shows to which question: the record's own, and another patient's.

Pure functions of the records and a seed; no image is opened here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from infimed.core.seeds import stream
from infimed.curation.signals import record_modality
from infimed.data.record import Record

Key = tuple[str, ...]
"""Content hashes of a record's images, in the order in which the turns show them."""


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images that records show together.

    Attributes:
        key: their hashes. rows: records that show them. modality: '' when unknown.
        groups: patients they belong to.
    """

    key: Key
    rows: tuple[int, ...]
    modality: str
    groups: frozenset[str]


def image_key(record: Record) -> Key:
    """Hashes of a record's images in the order in which its turns show them."""
    shown = [part for turn in record.messages for part in turn.content if isinstance(part, int)]
    return tuple(record.images[index].sha256 or record.images[index].locator for index in shown)


def image_sets(records: Sequence[tuple[int, Record]]) -> list[ImageSet]:
    """The distinct image sets of records (row, record), in order of first appearance."""
    rows: dict[Key, list[int]] = defaultdict(list)
    modality: dict[Key, str] = {}
    groups: dict[Key, set[str]] = defaultdict(set)
    for row, record in records:
        key = image_key(record)
        if key:
            rows[key].append(row)
            modality.setdefault(key, record_modality(record))
            if record.group:
                groups[key].add(record.group)
    return [ImageSet(k, tuple(r), modality[k], frozenset(groups[k])) for k, r in rows.items()]


def arranged(sets: Sequence[ImageSet], seed: int) -> list[ImageSet]:
    """Sets of one number of images and one modality side by side, in random order inside."""
    shuffled = [sets[int(index)] for index in stream(seed, "grounding").permutation(len(sets))]
    return sorted(shuffled, key=lambda each: (len(each.key), each.modality))


def foreign_keys(order: Sequence[ImageSet], swaps: int) -> dict[Key, tuple[Key, ...]]:
    """For each image set up to `swaps` sets of other patients, of as many images.

    The next ones in `order`, cyclically: first among those of the same modality, and where that has
    no other patient, among all.
    """
    pools: dict[tuple[int, str], list[ImageSet]] = defaultdict(list)
    alike: dict[int, list[ImageSet]] = defaultdict(list)
    for each in order:
        pools[len(each.key), each.modality].append(each)
        alike[len(each.key)].append(each)
    found = {}
    for pool in pools.values():
        for at, each in enumerate(pool):
            chosen = _following(pool, at, swaps)
            if not chosen:
                everyone = alike[len(each.key)]
                chosen = _following(everyone, everyone.index(each), swaps)
            found[each.key] = chosen
    return found


def _following(pool: Sequence[ImageSet], at: int, most: int) -> tuple[Key, ...]:
    own = pool[at]
    chosen: list[Key] = []
    for step in range(1, len(pool)):
        other = pool[(at + step) % len(pool)]
        if not (own.groups & other.groups or set(own.key) & set(other.key)):
            chosen.append(other.key)
            if len(chosen) == most:
                break
    return tuple(chosen)
