"""Rules that hear all records about one image: who contradicts the others?

A claim that stands alone against at least two records is dropped; one against one is only noted on
both, because nothing tells who is right. Memory: the claims of the records that have some.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from infimed.curation.findings import Hit
from infimed.curation.rules.base import Limits

if TYPE_CHECKING:
    from infimed.curation.rules.dataset import Found, Line, Lookup

_ABOUT_RECORD: Final = "record "


def by_image(lines: list[Line]) -> Iterator[list[Line]]:
    """Records that show the same decoded pixels, two or more of them, in order."""
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if len(line.images) == 1 and line.claims:
            groups[line.images[0][1] or line.images[0][0]].append(line)
    for group in groups.values():
        if len(group) > 1:
            yield group


def _votes(group: list[Line], about_record: bool) -> dict[str, dict[str, list[Line]]]:
    """Subject -> value -> records that claim it."""
    votes: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in group:
        for claim in line.claims:
            if claim.startswith(_ABOUT_RECORD) is about_record:
                subject, _, value = claim.rpartition("=")
                votes[subject][value].append(line)
    return votes


def _outvoted(
    group: list[Line], about_record: bool, least: int
) -> Iterator[tuple[Line, str, int, int]]:
    """(record, evidence, votes for, votes against) of every claim with more votes against it."""
    for subject, values in sorted(_votes(group, about_record).items()):
        if subject.endswith(":mm") or len(values) < 2:
            continue
        counts = Counter({value: len(who) for value, who in values.items()})
        inner = {
            line.row: sum(line in who for who in values.values())
            for who in values.values()
            for line in who
        }
        for value, count in sorted(counts.items()):
            against = [v for v in counts if v != value]
            rivals = max(counts[v] for v in against)
            if rivals < max(least, count if least == 1 else count + 1):
                continue
            best = max(against, key=lambda v: (counts[v], v))
            for line in values[value]:
                if inner[line.row] > 1 and not about_record:
                    continue  # a record that says both is for another rule
                said = f"{subject}={value}"
                yield (
                    line,
                    f"{said}, but {counts[best]} others about this image say {best}",
                    count,
                    rivals,
                )


def contradicted(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    """Records whose statement about the image is outvoted by the other records about it."""
    return _collect(lines, False, int(limits["min_votes"]))


def tied(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    """Two records about one image that contradict each other, without a third to decide."""
    found: Found = []
    for group in by_image(lines):
        for line, evidence, count, rivals in _outvoted(group, False, 1):
            if count == rivals == 1:
                found.append((line.row, Hit("data set", evidence, float(count), float(rivals))))
    return _first_each(found)


def image_elsewhere(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    """Records whose modality, region or patient differs from the other records of the same image."""
    return _collect(lines, True, int(limits["min_votes"]))


def size_outlier(lines: list[Line], lookup: Lookup, limits: Limits) -> Found:
    """A length that differs from the other records' length of the same finding by a factor."""
    found: Found = []
    for group in by_image(lines):
        for subject, values in sorted(_votes(group, False).items()):
            if not subject.endswith(":mm") or len(values) < 2:
                continue
            for value, who in sorted(values.items()):
                own = float(value)
                rest = [(float(v), len(w)) for v, w in values.items() if v != value]
                far = sum(
                    n for v, n in rest if max(v, own) > limits["max_ratio"] * max(1e-9, min(v, own))
                )
                if far and far >= len(who) and far == sum(n for _, n in rest):
                    other = rest[0][0]
                    evidence = (
                        f"{subject.removesuffix(':mm')} of {own:g} mm, elsewhere {other:g} mm"
                    )
                    found += [(line.row, Hit("data set", evidence, own, other)) for line in who]
    return _first_each(found)


def _collect(lines: list[Line], about_record: bool, least: int) -> Found:
    found: Found = []
    for group in by_image(lines):
        for line, evidence, count, rivals in _outvoted(group, about_record, least):
            found.append((line.row, Hit("data set", evidence, float(count), float(rivals))))
    return _first_each(found)


def _first_each(found: Found) -> Found:
    seen: set[int] = set()
    out: Found = []
    for row, hit in sorted(found, key=lambda item: item[0]):
        if row not in seen:
            seen.add(row)
            out.append((row, hit))
    return out
