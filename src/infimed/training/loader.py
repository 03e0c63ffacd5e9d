"""Rows ahead of time, in plan order.

A bounded number of rows is built by background threads while the model computes; they come out in
plan order whatever the threads do, so the number of workers cannot change training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from infimed.packing.plan import RowPlan
from infimed.training.rows import Row, RowBuilder


def rows_from(
    builder: RowBuilder,
    plans: Sequence[RowPlan],
    numbers: Iterable[int],
    prefetch: int,
    workers: int = 1,
) -> Iterator[Row]:
    """The rows of these numbers, in this order."""
    following = iter(numbers)
    ahead: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="rows") as pool:
        try:
            while True:
                for number in islice(following, prefetch - len(ahead)):
                    ahead.append(pool.submit(builder.build, plans[number], number))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
