"""What planning knows of every record: columns of the index, joined with verdicts and token lengths.

No image is opened for it, and no message but once to measure it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infimed.core.files import canonical_json
from infimed.core.recipe import Data
from infimed.data.measure import Measure, token_lengths
from infimed.data.record import Record
from infimed.data.shards import ShardSet
from infimed.model.processing import Processor
from infimed.packing.overlong import Exchanges
from infimed.training.rows import without_images

INDEX = ["task", "source", "split", "license", "image_sha256", "facts"]


@dataclass(frozen=True)
class Index:
    """Planning columns of all records; one entry a record, in shard order.

    Attributes:
        task, source: strings. train: bool, whether it may be trained on.
        image_key: a number per distinct tuple of images; -1 for records without images.
        text_tokens, target_tokens, trunk_tokens, images: see `Measure`; every view is an image.
        exchanges: lengths of the parts of records with several answers.
        facts: facts of every record as JSON.
    """

    task: NDArray[np.str_]
    source: NDArray[np.str_]
    train: NDArray[np.bool_]
    image_key: NDArray[np.int64]
    text_tokens: NDArray[np.int64]
    target_tokens: NDArray[np.int64]
    trunk_tokens: NDArray[np.int64]
    images: NDArray[np.int64]
    exchanges: Exchanges
    facts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.task)

    def repeated(self, copies: int) -> Index:
        """So many times as many records, each copy with images of its own."""
        numbers = np.tile(np.arange(len(self)), copies)
        apart = np.repeat(np.arange(copies), len(self)) * (int(self.image_key.max(initial=-1)) + 1)
        keys = self.image_key[numbers]
        return Index(
            self.task[numbers], self.source[numbers], self.train[numbers],
            np.where(keys >= 0, keys + apart, keys), self.text_tokens[numbers],
            self.target_tokens[numbers], self.trunk_tokens[numbers], self.images[numbers],
            self.exchanges.take(numbers), self.facts * copies,
        )  # fmt: skip


def read_index(
    shards: ShardSet,
    processor: Processor,
    cache: Path,
    data: Data,
    *,
    kept: NDArray[np.int64] | None,
    blind: bool = False,
) -> Index:
    """Index ⋈ verdicts ⋈ lengths.

    Args:
        data: which splits, licences and consents are trained on.
        kept: shard rows that curation keeps; None keeps all.
        blind: lengths and keys as the trained-blind twin sees the records.
    """
    columns = shards.index(INDEX)
    measure: Callable[[Record], Measure] = processor.measure
    if blind:
        measure = lambda record: processor.measure(without_images(record))  # noqa: E731
    key = f"{processor.template_hash}{'-blind' if blind else ''}"
    if processor.tiles and not blind:
        key += f"-{processor.tiles}-tiles-of-{processor.image_size}"
    lengths = token_lengths(shards, measure, key, cache)
    train = _is_in(columns["split"], data.train_splits)
    if kept is not None:
        allowed = np.zeros(len(shards), dtype=bool)
        allowed[kept] = True
        train &= allowed
    if data.licenses:
        train &= _is_in(columns["license"], data.licenses)
    if data.consents:
        train &= _consented(columns["facts"], data.consents)

    def column(name: str) -> NDArray[np.int64]:
        return np.asarray(lengths[name].to_numpy(), dtype=np.int64)

    return Index(
        task=np.array(columns["task"].to_pylist()),
        source=np.array(columns["source"].to_pylist()),
        train=train,
        image_key=np.full(len(shards), -1) if blind else _image_keys(columns["image_sha256"]),
        text_tokens=column("text_tokens"),
        target_tokens=column("target_tokens"),
        trunk_tokens=column("trunk_tokens"),
        images=column("images"),
        exchanges=_exchanges(lengths["exchanges"].combine_chunks()),
        facts=tuple(columns["facts"].to_pylist()),
    )


def index_of(records: Sequence[Record], processor: Processor, data: Data) -> Index:
    """The same of records that are not in shards yet; images are told apart by their locators.

    An image whose size is not known yet counts as a large square one.
    """
    measured = [processor.measure(_measurable(record, processor)) for record in records]
    shown = [" ".join(image.locator for image in record.images) for record in records]
    numbers: dict[str, int] = {}
    train = [
        (not data.licenses or record.license in data.licenses)
        and (not data.consents or record.facts.get("consent") in data.consents)
        for record in records
    ]
    flat = [[n for part in lengths.exchanges for n in part] for lengths in measured]
    return Index(
        task=np.array([record.task for record in records], dtype=np.str_),
        source=np.array([record.source for record in records], dtype=np.str_),
        train=np.array(train, dtype=bool),
        image_key=np.array([numbers.setdefault(s, len(numbers)) if s else -1 for s in shown], int),
        text_tokens=np.array([m.text_tokens for m in measured], int),
        target_tokens=np.array([m.target_tokens for m in measured], int),
        trunk_tokens=np.array([m.trunk_tokens for m in measured], int),
        images=np.array([m.images for m in measured], int),
        exchanges=_exchanges(pa.array(flat, pa.list_(pa.int32()))),
        facts=tuple(canonical_json(dict(record.facts)) for record in records),
    )


def _measurable(record: Record, processor: Processor) -> Record:
    if not processor.tiles or all(min(image.size) for image in record.images):
        return record
    square = math.isqrt(processor.tiles) * processor.image_size
    images = [
        image if min(image.size) else replace(image, width=square, height=square)
        for image in record.images
    ]
    return replace(record, images=tuple(images))


def _is_in(column: pa.ChunkedArray, values: Sequence[str]) -> NDArray[np.bool_]:
    found = pc.is_in(column, value_set=pa.array(values, pa.string()))
    return np.array(found.to_numpy(), dtype=bool)


def _consented(facts: pa.ChunkedArray, consents: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the fact `consent` is one of these. Few distinct texts name it, so each is read once."""
    known: dict[str, bool] = {}
    found = np.zeros(len(facts), dtype=bool)
    for number, text in enumerate(facts.to_pylist()):
        if '"consent"' in text:
            if text not in known:
                known[text] = json.loads(text).get("consent") in consents
            found[number] = known[text]
    return found


def _image_keys(shown: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number per distinct tuple of images; -1 for records without images."""
    names = np.array([" ".join(images or ()) for images in shown.to_pylist()])
    distinct, number = np.unique(names, return_inverse=True)
    return (
        np.where(names == "", -1, number).astype(np.int64)
        if len(distinct)
        else number.astype(np.int64)
    )


def _exchanges(column: Any) -> Exchanges:
    """The list column of `LENGTHS`, five numbers an exchange."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(), np.int64) // 5
    numbers = np.asarray(column.flatten().to_numpy(), np.int64).reshape(-1, 5)
    start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Exchanges(start, *np.ascontiguousarray(numbers.T))
