"""Token lengths of records, measured once and cached: what the planner packs by.

`data` knows no tokenizer. The function that measures is given from above, and `key` names it
(tokenizer and template hash), so that lengths of another tokenizer are never taken for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from infimed.core.files import atomic_open, sha256_json

if TYPE_CHECKING:
    from infimed.data.record import Record
    from infimed.data.shards import ShardSet


@dataclass(frozen=True, slots=True)
class Measure:
    """Lengths of one record in tokens.

    Attributes:
        text_tokens: the whole rendered record except visual tokens.
        target_tokens: tokens that are trained on.
        images: images in the record.
        trunk_tokens: text tokens before and around the images that every question about the same
            images shares.
        exchanges: of a record with several answers, five numbers for each of them and what leads to it:
            turns, images, text tokens where a part of the record begins with it, text tokens where a part
            goes on, target tokens. Empty for a single answer.
    """

    text_tokens: int
    target_tokens: int
    images: int
    trunk_tokens: int
    exchanges: tuple[tuple[int, int, int, int, int], ...] = ()


LENGTHS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("text_tokens", pa.int32()),
        ("target_tokens", pa.int32()),
        ("images", pa.int32()),
        ("trunk_tokens", pa.int32()),
        ("exchanges", pa.list_(pa.int32())),
    ]
)


def token_lengths(
    shards: ShardSet, measure: Callable[[Record], Measure], key: str, cache: Path, batch: int = 4096
) -> pa.Table:
    """Lengths of every record in shard order (columns of `LENGTHS`).

    The table is kept in `cache` under a name made of `key` and the data's hash; a second call
    reads it back without calling `measure`.
    """
    name = sha256_json({"key": key, "data": shards.data_hash, "columns": LENGTHS.names})
    file = cache / f"lengths-{name[:32]}.parquet"
    if file.is_file():
        try:
            table = pq.read_table(file)
        except pa.ArrowInvalid:  # damaged cache: measure again
            table = None
        if table is not None and table.schema.equals(LENGTHS) and table.num_rows == len(shards):
            return table
    with (
        atomic_open(file) as handle,
        pq.ParquetWriter(handle, LENGTHS, compression="zstd") as writer,
    ):
        for rows in _batches(shards, measure, batch):
            writer.write_table(pa.Table.from_pylist(rows, schema=LENGTHS))
    return pq.read_table(file)


def _batches(
    shards: ShardSet, measure: Callable[[Record], Measure], batch: int
) -> Iterator[list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    for record in shards:
        lengths = measure(record)
        rows.append(
            {
                "id": record.id,
                "text_tokens": lengths.text_tokens,
                "target_tokens": lengths.target_tokens,
                "images": lengths.images,
                "trunk_tokens": lengths.trunk_tokens,
                "exchanges": [number for exchange in lengths.exchanges for number in exchange],
            }
        )
        if len(rows) >= batch:
            yield rows
            rows = []
    if rows:
        yield rows
