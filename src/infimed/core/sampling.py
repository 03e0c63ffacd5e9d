"""Seeded draws for examples and reviews: shuffled, and one from each group in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from infimed.core.seeds import stream

Item = TypeVar("Item")


def alternate(groups: Iterable[Sequence[Item]], count: int) -> list[Item]:
    """At most `count` items, one from each group in turn, so that no large group crowds out a small one."""
    waiting = [list(group) for group in groups if group]
    taken: list[Item] = []
    while waiting and len(taken) < count:
        for group in list(waiting):
            if len(taken) == count:
                break
            taken.append(group.pop(0))
            if not group:
                waiting.remove(group)
    return taken


def shuffled(items: Sequence[Item], seed: int, *names: str) -> list[Item]:
    """The items in an order that depends on seed, names and their number alone."""
    return [items[i] for i in stream(seed, *names).permutation(len(items))]
