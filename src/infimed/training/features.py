"""Features of a frozen tower, computed once an image and kept on disk for a stage.

With the tower frozen and augmentation off, an image gives the same features every time it is shown. The
cache holds them before anything that learns: pooled where the reducer is the average, at the tower's
whole grid where the reducer has weights. They are kept in the precision the projector computes in, and
computed ahead of the stage in fixed groups of images, so that neither a kill nor the number of ranks
changes a bit of them. The folder is named after all they depend on: the tower's weights, the
pixels, the grid, the precision. Every entry carries a checksum. Cost: ``tokens x width`` numbers
an image (49 KB for `mini` at 64 tokens in bf16; 442 KB at its whole grid of 576).
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infimed.core.console import err, progress
from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes, sha256_json, write_failed
from infimed.core.recipe import Stage, Train
from infimed.data.record import ImageRef
from infimed.data.rendering import shown_as
from infimed.data.schema import LOCATOR_PREFIX
from infimed.data.shards import ShardSet
from infimed.model.configuration import grid_side
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor
from infimed.model.reducers import pool_grid
from infimed.packing.plan import Plan
from infimed.training.device import autocast
from infimed.training.parallel import World
from infimed.training.rows import PixelCache

GROUP: Final = 16
"""Images that go through the tower together. Part of what the numbers depend on."""
FOLDER: Final = "features"


def cacheable(stage: Stage, train: Train) -> bool:
    """Whether a stage shows every image the same way, as one view, to a tower that does not learn."""
    same = stage.learning_rate.vision == 0 and stage.augment == 0
    return train.feature_cache and same and not stage.tiles


def tower_hash(model: InfiMedForConditionalGeneration) -> str:
    """16 hex digits naming the tower's weights."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return content.hexdigest()[:16]


class FeatureCache:
    """Features of some images of a shard set; see `fill` and `read`.

    Args:
        folder: named after `key`. images: rows of the shards' image index, int64, sorted, distinct.
        shape: (tokens, width) of an entry.

    Attributes:
        filled: images that were computed by the ranks of this process. seconds: that it took.
    """

    def __init__(
        self,
        folder: Path,
        shards: ShardSet,
        images: NDArray[np.int64],
        shape: tuple[int, int],
        precision: str,
    ) -> None:
        self.folder = folder
        self.images = images
        self.filled, self.seconds = 0, 0.0
        self._shards = shards
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        stored = np.dtype(np.uint16 if precision == "bf16" else np.uint32)
        self._entries = self._open("features.bin", (len(images), *shape), stored)
        # A checksum is written after its entry, as checksum + 1, so that 0 says "not there".
        self._sums = self._open("checksums.bin", (len(images),), np.dtype(np.uint64))
        names = shards.images["sha256"].take(images).to_pylist()
        self._place = {name: place for place, name in enumerate(names)}

    def _open(self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> np.memmap:
        """The file as an array, all zeros where it is new; several ranks may open it at once."""
        file = self.folder / name
        size = int(np.prod(shape)) * dtype.itemsize
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as handle:
                if handle.tell() != size:
                    handle.truncate(size)
        except OSError as error:
            raise write_failed(file, str(error)) from error
        return np.memmap(file, dtype=dtype, mode="r+", shape=shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return int(self._entries.nbytes)

    def missing(self) -> list[range]:
        """Groups of places of which an entry is not there."""
        starts = range(0, len(self.images), GROUP)
        groups = [range(at, min(at + GROUP, len(self.images))) for at in starts]
        return [group for group in groups if not self._sums[group.start : group.stop].all()]

    def fill(self, features_of: Callable[[list[ImageRef]], Tensor], world: World) -> None:
        """Compute what is missing; every rank calls it and does its share.

        Args:
            features_of: features [n, tokens, width] of images.
        """
        title, todo = "features", self.missing()
        self.filled = sum(map(len, todo))
        mine = todo[world.rank :: world.size]
        with progress(title, len(mine), unit="groups", quiet=not world.main or not mine) as advance:
            for group in mine:
                names = self._shards.images["sha256"].take(self.images[group.start : group.stop])
                refs = [ImageRef(LOCATOR_PREFIX + n, sha256=n) for n in names.to_pylist()]
                made = features_of(refs).to(self._dtype).cpu().contiguous()
                stored = made.view(torch.uint8).numpy().view(self._entries.dtype)
                self._entries[group.start : group.stop] = stored
                self._sums[group.start : group.stop] = [zlib.crc32(one.data) + 1 for one in stored]
                advance(1)
        self._entries.flush()
        self._sums.flush()

    def read(self, image: ImageRef) -> Tensor:
        """Features [tokens, width] of an image.

        Raises:
            DataError: it is not in the cache, damaged, or shown with grey levels of its own.
        """
        sha256 = image.sha256 or image.locator.removeprefix(LOCATOR_PREFIX)
        stored = self._shards.image_facts(sha256)
        own = image.facts if "window_center" in image.facts else {**stored, **image.facts}
        if shown_as(own) != shown_as(stored):
            raise DataError(
                "a record shows an image with a window of its own, which the feature cache cannot hold",
                where=image.locator,
                fix="train.feature_cache=false",
            )
        place = self._place.get(sha256)
        if place is None:
            raise DataError("an image is not in the feature cache", where=image.locator)
        entry = np.array(self._entries[place])
        if zlib.crc32(entry.data) + 1 != int(self._sums[place]):
            raise DataError(
                "the feature cache is damaged",
                where=str(self.folder),
                fix="remove this folder and run again",
            )
        return torch.from_numpy(entry.view(np.uint8)).view(self._dtype)


def shown_images(shards: ShardSet, plan: Plan) -> NDArray[np.int64]:
    """Rows of the image index that a plan shows, sorted, each once."""
    column = shards.index(["image_sha256"])["image_sha256"].combine_chunks()
    shown = column.take(np.unique(plan.documents.records)).flatten()
    names = np.unique(np.array(shown.to_pylist(), dtype="S64"))
    known = np.array(shards.images["sha256"].to_pylist(), dtype="S64")
    return np.searchsorted(known, names).astype(np.int64)


def kept_tokens(model: InfiMedForConditionalGeneration, processor: Processor) -> int:
    """Features of an image that do not change while a stage trains the reducer."""
    learns = any(True for _ in model.model.multi_modal_reducer.parameters())
    grid = grid_side(processor.image_size, model.patch_size)
    return grid * grid if learns else processor.visual_tokens


@torch.no_grad()
def stage_features(
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    shards: ShardSet,
    plan: Plan,
    folder: Path,
    *,
    precision: str,
    world: World,
) -> FeatureCache:
    """The filled cache of a stage; caches of other grids in `folder` are removed.

    Args:
        model: whole, on the rank's device, its grid set. processor: at the stage's grid.

    Raises:
        DataError: the disk has no room for it.
    """
    images = shown_images(shards, plan)
    tokens = kept_tokens(model, processor)
    key = sha256_json(
        [
            tower_hash(model), shards.data_hash, sha256_bytes(images.tobytes()), GROUP, precision,
            processor.image_size, tokens, processor.mean, processor.std,
            model.config.vision_feature_layer, model.config.vision_feature_select_strategy,
        ]
    )[:16]  # fmt: skip
    width = int(model.config.vision_config.hidden_size)
    shape = (tokens, width)
    own = folder / f"{processor.image_size}px-{tokens}-{key}"
    world.together(lambda: _make_room(own, len(images) * shape[0] * shape[1] * 4, world))
    cache = world.together(lambda: FeatureCache(own, shards, images, shape, precision))
    squares = PixelCache(shards, budget_bytes=0)

    def features_of(refs: list[ImageRef]) -> Tensor:
        pixels = processor.pixels([squares.square(ref, processor.image_size) for ref in refs])
        with autocast(world.device, precision):
            return pool_grid(model.tower_features(pixels.to(world.device)), math.isqrt(tokens))

    began = time.perf_counter()
    world.together(lambda: cache.fill(features_of, world))
    cache.seconds = time.perf_counter() - began
    if world.main:
        err.print(
            f"features of {len(images):,} images kept ({cache.nbytes / 2**20:,.0f} MB, filled in "
            f"{cache.seconds:.1f} s): the tower runs {len(images):,} times in this stage instead of "
            f"{plan.images:,}"
        )
    return cache


def _make_room(own: Path, size: int, world: World) -> None:
    if not world.main:
        return
    for other in own.parent.glob("*px-*"):
        if other != own:
            shutil.rmtree(other)
    own.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(own).free
    if not (own / "features.bin").exists() and free < size:
        raise DataError(
            f"the feature cache of this stage may take {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free",
            where=str(own),
            fix="free some space, or train.feature_cache=false",
        )
