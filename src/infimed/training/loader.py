"""Rows ahead of time, in plan order.

A bounded number of rows is built by background threads while the model computes; they come out in
plan order whatever the threads do, so the number of workers cannot change training.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from infimed.packing.plan import RowPlan
from infimed.training.rows import Row, RowBuilder


def rows_from(
    builder: RowBuilder, plans: Sequence[RowPlan], start: int, prefetch: int, workers: int = 1
) -> Iterator[tuple[int, Row]]:
    """(number, row) from row `start` to the end of the stage."""
    with ThreadPoolExecutor(workers, thread_name_prefix="rows") as pool:
        ahead: deque[tuple[int, Future[Row]]] = deque()
        following = start
        try:
            while following < len(plans) or ahead:
                while following < len(plans) and len(ahead) < prefetch:
                    ahead.append(
                        (following, pool.submit(builder.build, plans[following], following))
                    )
                    following += 1
                number, future = ahead.popleft()
                yield number, future.result()
        finally:
            for _, future in ahead:
                future.cancel()
