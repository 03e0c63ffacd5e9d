"""What is computed for many together, so that one of them that cannot be computed fails alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def halved(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], object],
    failed: Callable[[Item, Exception], object],
) -> None:
    """Do `work` for all together; where it raises, for each half by itself, until who raises is alone.

    Cost: one call where nothing fails; about 2 log2(n) more for one item that does, 2 n - 1 for all.

    Args:
        work: leaves no trace when it raises. Its parts come in the order of `items`.
        failed: told who raised alone and what, in the same order.
    """
    if not items:
        return
    try:
        work(items)
    except Exception as error:
        if len(items) == 1:
            failed(items[0], error)
            return
        middle = len(items) // 2
        halved(items[:middle], work, failed)
        halved(items[middle:], work, failed)
