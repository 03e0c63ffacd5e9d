"""The Parquet form of records and images in shards. `to_row` and `from_row` invert each other exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from infimed.core.errors import DataError
from infimed.core.files import canonical_json
from infimed.data.record import Facts, ImageRef, Message, Record

FORMAT_VERSION: Final = 1
LOCATOR_PREFIX: Final = "sha256:"

RECORDS: Final = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("messages", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("facts", pa.string()),
        ("n_images", pa.int32()),
        ("image_sha256", pa.list_(pa.string())),
        ("image_width", pa.list_(pa.int32())),
        ("image_height", pa.list_(pa.int32())),
        ("image_facts", pa.list_(pa.string())),
        ("text_words", pa.int32()),
    ]
)
"""One row a record; `messages`, `facts` and `image_facts` are JSON."""

HEAVY: Final = ("messages", "image_facts")
"""Columns that planning does not need."""

IMAGES: Final = pa.schema(
    [
        ("sha256", pa.string()),
        ("tar", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("facts", pa.string()),
    ]
)
"""One row an image, sorted by sha256; `offset` and `size` in bytes of the member's data."""


def facts_json(facts: Facts) -> str:
    """Facts as canonical JSON.

    Raises:
        DataError: a value is NaN, infinite, or not JSON.
    """
    bad = sorted(key for key, value in facts.items() if not _finite(value))
    if bad:
        raise DataError(
            "facts must be finite numbers, text, booleans or lists of them",
            where="facts." + bad[0],
            seen=str(facts[bad[0]])[:80],
            fix="leave the fact out where its value is not known",
        )
    return canonical_json(dict(facts))


def to_row(record: Record) -> dict[str, Any]:
    """A record whose images are all stored, as a row of `RECORDS`.

    Raises:
        DataError: facts are not JSON, or text holds lone surrogates.
    """
    messages = canonical_json([turn.to_dict() for turn in record.messages])
    row = {
        "id": record.id,
        "task": record.task,
        "messages": messages,
        "choices": list(record.choices),
        "answer": record.answer,
        "source": record.source,
        "license": record.license,
        "split": record.split,
        "group": record.group,
        "facts": facts_json(record.facts),
        "n_images": len(record.images),
        "image_sha256": [image.sha256 for image in record.images],
        "image_width": [image.width for image in record.images],
        "image_height": [image.height for image in record.images],
        "image_facts": [facts_json(image.facts) for image in record.images],
        "text_words": sum(len(turn.text.split()) for turn in record.messages),
    }
    try:
        canonical_json(row).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            "text holds a character that is not valid Unicode",
            where=ascii(record.id),
            fix="save the file as UTF-8",
        ) from error
    return row


def from_row(row: Mapping[str, Any]) -> Record:
    """Inverse of `to_row`."""
    images = tuple(
        ImageRef(LOCATOR_PREFIX + sha256, sha256, width, height, json.loads(facts))
        for sha256, width, height, facts in zip(
            row["image_sha256"],
            row["image_width"],
            row["image_height"],
            row["image_facts"],
            strict=True,
        )
    )
    return Record(
        id=row["id"],
        images=images,
        messages=tuple(Message.from_dict(turn) for turn in json.loads(row["messages"])),
        task=row["task"],
        choices=tuple(row["choices"]),
        answer=row["answer"],
        source=row["source"],
        license=row["license"],
        split=row["split"],
        group=row["group"],
        facts=json.loads(row["facts"]),
    )


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return all(_finite(item) for item in value)
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _finite(item) for key, item in value.items())
    return value is None or isinstance(value, (str, int, bool))
