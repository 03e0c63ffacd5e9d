"""Splits for data that states none: shares of groups, decided by each group's name alone.

A group (a patient, an image) never crosses a split, and adding records moves no group that was there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from infimed.core.errors import UsageError
from infimed.core.seeds import derive_seed
from infimed.data.readers.base import SPLIT_NAMES, Item, ReadProblem
from infimed.data.record import Record, Split


def parse_shares(text: str) -> list[tuple[Split, float]]:
    """``"train=0.8,test=0.2"`` as (split, cumulated share).

    Raises:
        UsageError: not of that form, an unknown split, or shares that do not add up to 1.
    """
    total = 0.0
    shares: list[tuple[Split, float]] = []
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            total += float(share)
            shares.append((SPLIT_NAMES[name.strip().lower()], total))
        except (KeyError, ValueError):
            raise UsageError(
                "not a split with its share",
                where="splits",
                seen=part,
                accepted="train=0.8,test=0.2",
            ) from None
    if abs(total - 1) > 1e-6:
        raise UsageError("the shares do not add up to 1", where="splits", seen=text)
    return shares


def split_for(record: Record, shares: list[tuple[Split, float]]) -> Split:
    """The split of a record's group."""
    point = derive_seed(0, "split", record.source, record.group or record.id) / 2**63
    return next((split for split, below in shares if point < below), shares[-1][0])


def assign_splits(items: Iterator[Item], text: str) -> Iterator[Item]:
    """Every record with the split of its group; problems pass through."""
    shares = parse_shares(text)
    for item in items:
        yield (
            item if isinstance(item, ReadProblem) else replace(item, split=split_for(item, shares))
        )
