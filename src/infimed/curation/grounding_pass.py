"""One chunk of a grounding pass: the losses of records with, without and with foreign images.

Rows are keyed by the images shown and the tokens up to the last of them, so a question about an image
and a question for which it is the foreign one grow from the same trunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from infimed.curation.engine import RecordSource
from infimed.curation.grounding_sets import ImageSet, Key, image_key
from infimed.data.record import Message, Record
from infimed.inference.answer_loss import IGNORE, Continuation, LossRow, answer_losses
from infimed.inference.local import LocalModel, encode_pictures
from infimed.inference.requests import Picture, picture_of

BRANCH_TOKENS: Final = 1024
"""Most tokens of questions and answers in one row, unless a single one has more."""
ROWS_PER_PASS: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """One record's losses in nats per target token.

    Attributes:
        row: of the record. status: "ok", or why nothing was measured.
        target_tokens: tokens of the answer after the last image, its closing token included.
        loss, loss_without, loss_swapped: with its images, without, mean over foreign ones; None
            where it could not be measured. swaps: foreign image sets tried.
    """

    row: int
    status: str = "ok"
    target_tokens: int = 0
    loss: float | None = None
    loss_without: float | None = None
    loss_swapped: float | None = None
    swaps: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A record as turns and as tokens: its trunk, what follows it, and the same without images."""

    row: int
    key: Key
    messages: tuple[Message, ...]
    trunk: tuple[int, ...]
    branch: Continuation
    blind: Continuation
    target_tokens: int


def unillustrated(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with their images left out."""
    return tuple(
        Message(turn.role, tuple(part for part in turn.content if isinstance(part, str)))
        for turn in messages
    )


def _last_targets(targets: Sequence[int], count: int) -> tuple[int, ...]:
    """Targets with all but the last `count` set to IGNORE."""
    left = sum(target != IGNORE for target in targets) - count
    kept = []
    for target in targets:
        if target != IGNORE and left > 0:
            left -= 1
            target = IGNORE
        kept.append(target)
    return tuple(kept)


def _asked(local: LocalModel, row: int, record: Record) -> _Asked | Measured:
    processor = local.processor
    messages = processor.conversation(record, answer=True)
    encoded = processor.encode(messages, [image.size for image in record.images])
    ids, targets = encoded.input_ids, encoded.targets
    branch = Continuation(tuple(ids[encoded.trunk :]), tuple(targets[encoded.trunk :]))
    count = sum(target != IGNORE for target in branch.targets)
    if count == 0:
        return Measured(row, "no answer after the last image")
    limit = int(local.model.config.text_config.max_position_embeddings)
    if len(ids) > limit:
        return Measured(row, "too long for the model", count)
    plain = processor.encode(unillustrated(messages))
    blind = Continuation(tuple(plain.input_ids), _last_targets(plain.targets, count))
    trunk = tuple(ids[: encoded.trunk])
    return _Asked(row, image_key(record), messages, trunk, branch, blind, count)


def _shown(messages: Sequence[Message]) -> list[int]:
    return [part for turn in messages for part in turn.content if isinstance(part, int)]


def _pictures(shards: RecordSource, record: Record) -> list[Picture]:
    refs = [record.images[index] for index in _shown(record.messages)]
    return [picture_of(ref, shards.pixels) for ref in refs]


def _swapped_trunk(local: LocalModel, asked: _Asked, other: Record) -> tuple[int, ...]:
    """The tokens up to the last image with another record's images, which may have other tiles."""
    if not local.processor.tiles:
        return asked.trunk
    foreign = (other.images[index].size for index in _shown(other.messages))
    sizes = dict(zip(_shown(asked.messages), foreign, strict=True))
    encoded = local.processor.encode(asked.messages, sizes)
    return tuple(encoded.input_ids[: encoded.trunk])


def measure_sets(
    local: LocalModel,
    shards: RecordSource,
    sets: Sequence[ImageSet],
    foreign: Mapping[Key, tuple[Key, ...]],
    examples: Mapping[Key, int],
) -> list[Measured]:
    """Measure all records of some image sets.

    Args:
        foreign: image sets to swap in, by image set. examples: a record that shows each image set.
    """
    limit = int(local.model.config.text_config.max_position_embeddings)
    done: list[Measured] = []
    ready: list[_Asked] = []
    for each in sets:
        for row in each.rows:
            asked = _asked(local, row, shards.record(row))
            if isinstance(asked, _Asked):
                ready.append(asked)
            else:
                done.append(asked)
    keys = {key: None for asked in ready for key in (asked.key, *foreign[asked.key])}
    pictures = [p for key in keys for p in _pictures(shards, shards.record(examples[key]))]
    with torch.no_grad():
        features, failed = encode_pictures(local.model, local.processor, pictures)
    cells: dict[tuple[Key, tuple[int, ...]], list[tuple[Continuation, tuple[int, str]]]]
    cells = defaultdict(list)
    for asked in ready:
        broken = [failed[sha] for sha in asked.key if sha in failed]
        if broken:
            done.append(Measured(asked.row, f"image: {broken[0]}", asked.target_tokens))
            continue
        cells[asked.key, asked.trunk].append((asked.branch, (asked.row, "own")))
        cells[(), ()].append((asked.blind, (asked.row, "without")))
        for other in foreign[asked.key]:
            if not any(sha in failed for sha in other):
                trunk = _swapped_trunk(local, asked, shards.record(examples[other]))
                if len(trunk) + len(asked.branch.ids) > limit:
                    continue  # the other image has more tiles than there is room for
                cells[other, trunk].append((asked.branch, (asked.row, "swapped")))
    losses = _losses(local, cells, features)
    for asked in ready:
        if (asked.row, "own") in losses:
            swapped = losses.get((asked.row, "swapped"), [])
            done.append(
                Measured(
                    asked.row,
                    "ok" if swapped else "ok, no foreign image",
                    asked.target_tokens,
                    losses[asked.row, "own"][0],
                    losses[asked.row, "without"][0],
                    sum(swapped) / len(swapped) if swapped else None,
                    len(swapped),
                )
            )
    return sorted(done, key=lambda measured: measured.row)


def _losses(
    local: LocalModel,
    cells: Mapping[tuple[Key, tuple[int, ...]], Sequence[tuple[Continuation, tuple[int, str]]]],
    features: Mapping[str, Tensor],
) -> dict[tuple[int, str], list[float]]:
    """Losses by (row, view) of all cells, in passes of rows with trunks of one length."""
    rows: dict[int, list[tuple[LossRow, list[tuple[int, str]]]]] = defaultdict(list)
    for (key, trunk), asked in cells.items():
        shown = torch.cat([features[sha] for sha in key]) if key else None
        for part in _split(asked):
            row = LossRow(trunk, tuple(continuation for continuation, _ in part), shown)
            rows[len(trunk)].append((row, [owner for _, owner in part]))
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for alike in rows.values():
        for first in range(0, len(alike), ROWS_PER_PASS):
            batch = alike[first : first + ROWS_PER_PASS]
            for (_, owners), losses in zip(
                batch, answer_losses(local, [row for row, _ in batch]), strict=True
            ):
                for owner, loss in zip(owners, losses, strict=True):
                    found[owner].append(loss)
    return found


def _split(
    asked: Sequence[tuple[Continuation, tuple[int, str]]],
) -> list[list[tuple[Continuation, tuple[int, str]]]]:
    """Consecutive parts of at most BRANCH_TOKENS tokens."""
    parts: list[list[tuple[Continuation, tuple[int, str]]]] = []
    tokens = BRANCH_TOKENS
    for item in asked:
        length = len(item[0].ids)
        if tokens + length > BRANCH_TOKENS:
            parts.append([])
            tokens = 0
        parts[-1].append(item)
        tokens += length
    return parts
