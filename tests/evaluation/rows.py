"""Synthetic rows of every task in its real layout, multiplied into files or records.

``rows/TASK.yaml`` holds three rows for each layout of the task; ``$n`` in a text or a file name is
the number of the copy, ``image:a`` an image in Parquet. Nothing in it is real data.
"""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from infimed.data.record import ImageRef, Record, question_record

FOLDER = Path(__file__).parent / "rows"
COPIES = 134
"""Copies of the three rows: 402 questions."""


@cache
def rows_of(task: str) -> dict[str, Any]:
    """The committed rows of a task."""
    return yaml.safe_load((FOLDER / f"{task}.yaml").read_text(encoding="utf-8"))


def numbered(value: Any, n: int) -> Any:
    """The value with every ``$n`` replaced."""
    if isinstance(value, str):
        return value.replace("$n", str(n))
    if isinstance(value, list):
        return [numbered(item, n) for item in value]
    if isinstance(value, dict):
        return {numbered(key, n): numbered(item, n) for key, item in value.items()}
    return value


def copies_of(rows: Any, copies: int) -> Any:
    """The rows once a copy: a longer list, or an object with more keys."""
    if isinstance(rows, dict):
        return {key: item for n in range(copies) for key, item in numbered(rows, n).items()}
    return [row for n in range(copies) for row in numbered(rows, n)]


@cache
def picture(name: str, kind: str = "PNG") -> bytes:
    """A small image, different for every name."""
    seed = int.from_bytes(name.encode()[-6:], "big")
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def with_pictures(value: Any) -> Any:
    """``image:NAME`` as the Hub stores an image: {bytes, path}."""
    if isinstance(value, str) and value.startswith("image:"):
        return {"bytes": picture(value), "path": f"{value[6:]}.png"}
    return value


def write_layout(task: str, number: int, folder: Path, copies: int = COPIES) -> Path:
    """Write the files of a task's layout `number`; returns the folder."""
    content = rows_of(task)
    for name, rows in content["layouts"][number].items():
        if "$n" in name:
            for n in range(copies):
                write_file(folder / numbered(name, n), numbered(rows, n), content, name)
        else:
            write_file(folder / name, copies_of(rows, copies), content, name)
    for name in content.get("images", ()):
        for n in range(copies if "$n" in name else 1):
            file = folder / numbered(name, n)
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = "PNG" if file.suffix == ".png" else "JPEG"
            file.write_bytes(picture(name, kind))
    return folder


def write_file(file: Path, rows: Any, content: dict[str, Any], name: str) -> None:
    """One file of rows in the form that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.suffix == ".jsonl" or name in content.get("lines", ())
    if file.suffix == ".parquet":
        made = [{key: with_pictures(item) for key, item in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(made), file, row_group_size=100)
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            if name not in content.get("headless", ()):
                writer.writeheader()
            writer.writerows(rows)
    elif lines:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.write_text(text, encoding="utf-8")
    else:
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def records_of(task: str, copies: int = COPIES) -> list[Record]:
    """Records of a task that asks imported data."""
    made = []
    for row in copies_of(rows_of(task)["records"], copies):
        images = tuple(ImageRef(f"{name}.png", sha256=name) for name in row["images"])
        made.append(
            question_record(
                id=row["id"],
                question=row["question"],
                answer=row["answer"],
                images=images,
                task=row["task"],
                choices=tuple(row.get("choices", ())),
                source=row["source"],
                split="test",
                facts=row["facts"],
            )
        )
    return made
