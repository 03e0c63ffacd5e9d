"""One record explained beyond the ledger: its texts, its images, and the limits that held for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2

from infimed.core.errors import InfiMedError
from infimed.core.files import atomic_open
from infimed.curation.hiding import HIDDEN, hidden_image
from infimed.curation.ledger import Explanation
from infimed.curation.report_examples import said
from infimed.curation.rubric import Rubric
from infimed.curation.signals import limits_modalities
from infimed.data.shards import ShardSet


def limits_in_force(explanation: Explanation, rubric: Rubric) -> dict[str, str]:
    """Rule id -> the limits that held for this record's modality and task, and where they differ from
    the general ones."""
    general, *claimed = limits_modalities(
        str(explanation.signals.get("modality") or ""), explanation.signals.get("modalities") or ()
    )
    task = str(explanation.signals.get("task") or "")
    made = {}
    for rule in rubric.all_rules:
        parts = []
        for name, limit in rule.thresholds.items():
            here = limit.at(general, task)
            why = task if task in limit.by_task else general
            special = f" (for {why}; otherwise {limit.value:g})" if here != limit.value else ""
            for family in claimed:
                if (there := limit.at(family, task)) != here:
                    special = f" (and {there:g}, as the text says {family}: both must object)"
            parts.append(f"{name} {here:g}{special}: {limit.meaning}")
        if parts:
            made[rule.id] = "; ".join(parts)
    return made


def record_lines(
    explanation: Explanation, shards: ShardSet, images: Path | None = None
) -> Iterator[str]:
    """The record's texts, with what the rules point at between » and «, and where its images are.

    Args:
        images: folder to write the images into, as PNG.
    """
    record = shards.record(explanation.verdict.row)
    facts = [f"{k} {v}" for k, v in (("modality", explanation.signals.get("modality")),) if v]
    yield ", ".join(
        [f"task {record.task}", *([f"source {record.source}"] if record.source else []), *facts]
    )
    for text in said(record, explanation.findings)[0]:
        words = "".join(f"»{p.text}«" if p.mark else p.text for p in text.pieces)
        lines = words.splitlines() or [""]
        yield f"  {text.name:<9} {lines[0]}"
        yield from (f"            {line}" for line in lines[1:])
    for number, ref in enumerate(record.images):
        where = f"images.parquet key {ref.sha256}" if ref.sha256 else ref.locator
        yield f"  image {number}   {ref.width} x {ref.height} px, {where}"
        if images is None:
            continue
        if hidden_image(number, explanation.findings):
            yield f"            not written: {HIDDEN}"
            continue
        try:
            path = _write(shards, explanation, number, images)
        except InfiMedError as error:
            yield f"            cannot be shown: {error.what}"
        else:
            yield f"            written to {path}"


def _write(shards: ShardSet, explanation: Explanation, number: int, folder: Path) -> Path:
    ref = shards.record(explanation.verdict.row).images[number]
    pixels = shards.pixels(ref)
    # The row, not the record's id, names the file: an id may hold any character.
    path = folder / f"row-{explanation.verdict.row}-image-{number}.png"
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    with atomic_open(path) as handle:
        handle.write(data.tobytes())
    return path
