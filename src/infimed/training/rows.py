"""From a planned row to tensors.

A row is one sequence: its documents one after another, targets shifted inside each branch, so a
document boundary needs no special case. What is random here (option order, augmentation) is drawn
from streams named after epoch row and record, never from global state: a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infimed.core.errors import DataError
from infimed.core.seeds import derive_seed, stream
from infimed.data.limits import ImageError
from infimed.data.record import ImageRef, Message, Record
from infimed.data.rendering import shown_as
from infimed.data.shards import DamagedRecord, ShardSet
from infimed.data.tarstore import DamagedImage
from infimed.model.attention import Document, PackedLayout
from infimed.model.processing import IGNORE, Processor, part_of
from infimed.model.tiling import NO_TILES, Grid, apart, cut, together, view_count
from infimed.packing.plan import WHOLE, DocumentPlan, RowPlan
from infimed.training.quarantine import LeftOut


@dataclass(frozen=True)
class Row:
    """One packed row, ready for the model.

    Attributes:
        input_ids, targets: int64 [T]; a target is the id that follows, or -100.
        layout: the documents; gives position ids and attention.
        questions: int64 [T]; the same for the words before an answer, which a stage may learn too.
        pixels: float32 [n, 3, S, S] of every view of an image, or None for a row without images.
        pooled: the tower's features [n, tokens, width] in place of pixels, from a cache.
        visual_tokens: tokens of each view, where some have fewer than the stage's grid.
        record_ids: ids of the records, in order. sources: where each comes from.
        left_out: documents whose image or record could not be read.
    """

    input_ids: Tensor
    targets: Tensor
    questions: Tensor
    layout: PackedLayout
    pixels: Tensor | None
    record_ids: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    pooled: Tensor | None = None
    visual_tokens: tuple[int, ...] | None = None
    sources: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """Images that the row shows; every tile is one."""
        shown = self.pixels if self.pooled is None else self.pooled
        return 0 if shown is None else len(shown)

    @property
    def target_tokens(self) -> int:
        """Positions that have a target."""
        return int((self.targets != IGNORE).sum())

    @property
    def question_tokens(self) -> int:
        """Positions before which a question goes on."""
        return int((self.questions != IGNORE).sum())

    def to(self, device: torch.device) -> Row:
        """The row on a device."""
        if device.type == "cpu":
            return self
        pixels = None if self.pixels is None else self.pixels.to(device)
        pooled = None if self.pooled is None else self.pooled.to(device)
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            targets=self.targets.to(device),
            questions=self.questions.to(device),
            pixels=pixels,
            pooled=pooled,
        )


def idle_row(token: int) -> Row:
    """A row that teaches nothing."""
    nothing = torch.full((2,), IGNORE)
    layout = PackedLayout((Document(2),))
    return Row(torch.full((2,), token), nothing, nothing, layout, None, ())


def without_images(record: Record) -> Record:
    """The record as a trained-blind twin sees it: the same words, no image."""
    messages = tuple(
        Message(turn.role, tuple(part for part in turn.content if isinstance(part, str)))
        for turn in record.messages
    )
    return Record(
        id=record.id,
        images=(),
        messages=messages,
        task=record.task,
        choices=record.choices,
        answer=record.answer,
        source=record.source,
        license=record.license,
        split=record.split,
        group=record.group,
        facts=record.facts,
    )


class PixelCache:
    """Views of images as uint8 squares, decoded once and kept up to a budget of bytes.

    When it is full nothing is forgotten but squares of another side, which belong to a stage that
    is over: in a pass over more images than fit, forgetting the oldest would forget each image just
    before it is shown again. May be used from several threads.
    """

    def __init__(self, shards: ShardSet, budget_bytes: int = 768 * 2**20) -> None:
        self.shards = shards
        self.budget = budget_bytes
        self.used = 0
        self.kept: dict[int, dict[tuple[str, str, Grid], NDArray[np.uint8]]] = {}
        self._lock = Lock()

    def square(self, image: ImageRef, side: int) -> NDArray[np.uint8]:
        """The image as uint8 [side, side, 3], with the grey levels that the record asks for."""
        return np.asarray(self.views(image, side, NO_TILES)[0])

    def views(self, image: ImageRef, side: int, grid: Grid) -> NDArray[np.uint8]:
        """The same with a grid of tiles: uint8 [1 + tiles, side, side, 3]."""
        key = (image.sha256 or image.locator, shown_as(image.facts), grid)
        found = self.kept.get(side, {}).get(key)
        if found is None:
            found = cut(self.shards.pixels(image), side, grid)
            with self._lock:
                self._keep(key, side, found)
        return found

    def _keep(self, key: tuple[str, str, Grid], side: int, views: NDArray[np.uint8]) -> None:
        same = self.kept.setdefault(side, {})
        if key in same:  # another thread decoded it too
            return
        if self.used + views.nbytes > self.budget:
            for other in [one for one in self.kept if one != side]:
                self.used -= sum(old.nbytes for old in self.kept.pop(other).values())
        if self.used + views.nbytes <= self.budget:
            same[key] = views
            self.used += views.nbytes


def augmented(
    image: NDArray[np.uint8], strength: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast, shift and zoom; never a flip, which would change the side.

    At strength 1: contrast and brightness ±30 %, shift ±10 % of width and height, zoom ±15 %.
    """
    height, width = image.shape[:2]
    contrast, brightness, shift_x, shift_y, zoom = random.uniform(-1, 1, 5) * strength
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0.0, 1 + 0.15 * zoom)
    matrix[:, 2] += np.array([shift_x, shift_y]) * 0.1 * np.array([width, height])
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    levels = (moved.astype(np.float32) - 128.0) * (1 + 0.3 * contrast) + 128.0 + 76.0 * brightness
    return np.clip(levels, 0, 255).astype(np.uint8)


def augmented_views(
    views: NDArray[np.uint8], grid: Grid, strength: float, seed: int
) -> NDArray[np.uint8]:
    """Views [1 + tiles, S, S, 3] of one and the same augmented image: tiles are cut from what was moved."""
    whole = augmented(views[0], strength, np.random.default_rng(seed))[None]
    if grid == NO_TILES:
        return whole
    sheet = augmented(together(views[1:], grid), strength, np.random.default_rng(seed))
    return np.concatenate([whole, apart(sheet, grid)])


class FeatureSource(Protocol):
    """Where the tower's features of images are kept."""

    def read(self, image: ImageRef) -> Tensor:
        """Features [tokens, width] of an image."""
        ...


class RowBuilder:
    """Builds rows of one stage.

    Args:
        processor: at the stage's grid.
        blind: build for the trained-blind twin: records lose their images.
        features: read the tower's features of images there instead of decoding them.
    """

    def __init__(
        self,
        shards: ShardSet,
        processor: Processor,
        cache: PixelCache,
        *,
        seed: int,
        augment: float = 0.0,
        blind: bool = False,
        features: FeatureSource | None = None,
    ) -> None:
        self.shards = shards
        self.processor = processor
        self.cache = cache
        self.seed = seed
        self.augment = augment
        self.blind = blind
        self.features = features

    def option_order(self, record: Record, number: int) -> Sequence[int] | None:
        """A fresh order of the options each time the record is seen."""
        if record.task != "choice":
            return None
        return (
            stream(self.seed, "options", number, record.id)
            .permutation(len(record.choices))
            .tolist()
        )

    def build(self, plan: RowPlan, number: int) -> Row:
        """The tensors of planned row `number` (its place in the stage, which names its streams)."""
        ids: list[int] = []
        targets: list[int] = []
        documents: list[Document] = []
        squares: list[NDArray[np.uint8]] = []
        names: list[str] = []
        sources: list[str] = []
        pooled: list[Tensor] = []
        tokens: list[int] = []
        left_out: list[LeftOut] = []
        parts: tuple[list[Any], ...] = (
            ids,
            targets,
            documents,
            squares,
            names,
            sources,
            pooled,
            tokens,
        )
        for place, document in enumerate(plan.documents):
            begun = [len(part) for part in parts]
            try:
                self._add(document, number, place, *parts)
            except (ImageError, DamagedImage, DamagedRecord) as error:
                for part, length in zip(parts, begun, strict=True):
                    del part[length:]
                left_out.append(self._left_out(document, number, error))
        if not ids:
            return replace(idle_row(self.processor.end_id), left_out=tuple(left_out))
        layout = PackedLayout(tuple(documents))
        grid = self.processor.visual_tokens
        return Row(
            input_ids=torch.tensor(ids),
            targets=torch.tensor(targets),
            questions=torch.tensor(_question_targets(ids, targets, documents)),
            layout=layout,
            pixels=self.processor.pixels(squares) if squares else None,
            record_ids=tuple(names),
            left_out=tuple(left_out),
            pooled=torch.stack(pooled) if pooled else None,
            visual_tokens=tuple(tokens) if any(n != grid for n in tokens) else None,
            sources=tuple(sources),
        )

    def _left_out(self, document: DocumentPlan, number: int, error: DataError) -> LeftOut:
        names = []
        for record in document.records:
            try:
                names.append(self.shards.record(record).id)
            except DamagedRecord as damaged:
                names.append(damaged.record_id)
        return LeftOut(number, tuple(names), error.where or "", error.what)

    def _add(
        self,
        plan: DocumentPlan,
        number: int,
        place: int,
        ids: list[int],
        targets: list[int],
        documents: list[Document],
        squares: list[NDArray[np.uint8]],
        names: list[str],
        sources: list[str],
        pooled: list[Tensor],
        tokens: list[int],
    ) -> None:
        trunk: list[int] = []
        branches: list[int] = []
        processor = self.processor
        if plan.visual_tokens:
            processor = processor.with_grid(
                processor.image_size, plan.visual_tokens, processor.tiles
            )
        for index, row_number in enumerate(plan.records):
            record = self.shards.record(row_number)
            if self.blind:
                record = without_images(record)
            order = self.option_order(record, number)
            messages = processor.conversation(record, option_order=order, answer=True)
            if plan.turns and plan.turns[index] != WHOLE:
                messages = part_of(messages, *plan.turns[index])
            encoded = processor.encode(messages, [image.size for image in record.images])
            if index == 0:
                trunk = encoded.input_ids[: encoded.trunk]
                ids.extend(trunk)
                targets.extend(encoded.targets[: encoded.trunk])
                for shown in encoded.images:
                    image = record.images[shown]
                    grid = processor.tiles_of(image.size)
                    tokens += [processor.visual_tokens] * view_count(grid)
                    if self.features is not None:
                        pooled.append(self.features.read(image))
                        continue
                    views = self.cache.views(image, processor.image_size, grid)
                    if self.augment:
                        seed = derive_seed(self.seed, "augment", number, place, shown)
                        views = augmented_views(views, grid, self.augment, seed)
                    squares.extend(views)
            elif encoded.input_ids[: encoded.trunk] != trunk:
                raise DataError(
                    "planned to share an image with another record, but their beginnings differ",
                    where=record.id,
                    fix="remove the run's plan/ folder: it was made with another template",
                )
            ids.extend(encoded.input_ids[encoded.trunk :])
            targets.extend(encoded.targets[encoded.trunk :])
            branches.append(len(encoded.input_ids) - encoded.trunk)
            names.append(record.id)
            sources.append(record.source)
        if not trunk:
            documents.extend(Document(length) for length in branches)
        else:
            documents.append(Document(len(trunk), tuple(branches)))


def _question_targets(
    ids: Sequence[int], targets: Sequence[int], documents: Sequence[Document]
) -> list[int]:
    """The id that follows wherever a branch (or a document without image) goes on and no answer does."""
    made = [IGNORE] * len(ids)
    at = 0
    for document in documents:
        parts = document.branches or (document.trunk,)
        at += document.trunk if document.branches else 0
        for length in parts:
            for place in range(at, at + length - 1):
                if targets[place] == IGNORE:
                    made[place] = ids[place + 1]
            at += length
    return made
