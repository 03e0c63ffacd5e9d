"""The training images most like an image: exact cosine over all of them, in a bounded part of memory.

An image's feature is the mean of the tower's patch features of the view that shows all of it, at length 1. Features lie on
disk in half precision and are read block by block; products are in single precision. Nothing is approximated, so
a search costs one pass over the file (docs/evidence.md has the time a million images).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.serving.evidence.index_files import (
    MANIFEST,
    Halves,
    blocks,
    check_data,
    open_features,
    open_rows,
    read_manifest,
)

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel
    from infimed.inference.requests import Pixels

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Near:
    """A training image and the records that show it.

    Attributes:
        id: of the first of them. records: how many there are. similarity: cosine, -1..1.
        thumbnail: a small JPEG, where the index was made with them.
    """

    id: str
    source: str
    licence: str
    similarity: float
    thumbnail: bytes | None = field(default=None, repr=False)
    records: int = 1


@torch.no_grad()
def pooled(local: LocalModel, images: Pixels | Sequence[Pixels]) -> Vector:
    """Features [images, width] of uint8 [H, W, 3] images."""
    weight = next(local.model.parameters())
    pixels = local.processor.pixels(list(images)).to(weight.device, weight.dtype)
    means = local.model.tower_features(pixels).float().mean(dim=1)
    made = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
    return np.asarray(made, np.float32)


def tower_fingerprint(local: LocalModel) -> str:
    """Names what decides the features: the tower's weights as they are loaded, and how it is shown an image."""
    digest = hashlib.sha256()
    processor, config = local.processor, local.model.config
    shown = (processor.image_size, processor.mean, processor.std)
    layer = (config.vision_feature_layer, config.vision_feature_select_strategy)
    digest.update(repr((shown, layer)).encode())
    for name, tensor in sorted(local.model.model.vision_tower.state_dict().items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def nearest_rows(features: Halves, query: Vector, k: int) -> tuple[NDArray[np.int64], Vector]:
    """Rows of the `k` features [images, width] with the largest cosines to `query` [width], and these; the
    earlier row first where they are equal."""
    wanted = torch.from_numpy(np.ascontiguousarray(query, np.float32))
    rows, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for start, block in blocks(features):
        # A copy, since torch warns of read-only arrays; the block is read from disk anyway.
        own = (torch.from_numpy(np.array(block)).float() @ wanted).numpy()
        least = np.partition(own, len(own) - k)[len(own) - k] if len(own) > k else -np.inf
        best = np.flatnonzero(own >= least)  # with all that are equal to the last
        rows = np.concatenate([rows, start + best])
        scores = np.concatenate([scores, own[best]])
        order = np.lexsort((rows, -scores))[:k]
        rows, scores = rows[order], scores[order]
    return rows, scores


@dataclass(frozen=True)
class Index:
    """An open index. Its files may be replaced while it is open, see `current`.

    Attributes:
        tower: whose features they are. state: of the files that decide whether it is up to date.
        starts: first row of each group of `rows`, and of what would follow. lock: one thread reads rows at a time.
    """

    folder: Path
    tower: str
    features: Halves = field(repr=False)
    rows: pq.ParquetFile = field(repr=False)
    manifest: dict[str, Any] = field(repr=False)
    state: tuple[object, ...] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @staticmethod
    def open(folder: Path) -> Index:
        """Open an index.

        Raises:
            DataError: it is not complete, damaged, or its data were changed since.
        """
        manifest = read_manifest(folder)
        state = _state(folder, manifest)
        check_data(folder, manifest)
        features, rows = open_features(folder, manifest), open_rows(folder, manifest)
        groups = [rows.metadata.row_group(n).num_rows for n in range(rows.num_row_groups)]
        starts = np.cumsum([0, *groups])
        return Index(folder, str(manifest["tower"]), features, rows, manifest, state, starts)

    def check_tower(self, fingerprint: str) -> None:
        """That a model's features can be compared with these.

        Raises:
            DataError: they are another tower's.
        """
        if fingerprint != self.tower:
            raise DataError(
                "the index was made with another vision tower, image size or --dtype",
                where=str(self.folder),
                seen=self.tower[:16],
                accepted=fingerprint[:16],
                fix="make it with infimed index from the checkpoint that is served",
            )

    def current(self) -> Index:
        """This index, or its new state where somebody was forgotten since.

        Raises:
            DataError: it is gone, damaged, or its data were changed without it.
        """
        if _state(self.folder, self.manifest) == self.state:
            return self
        made = Index.open(self.folder)
        made.check_tower(self.tower)
        return made

    def __len__(self) -> int:
        return len(self.features)

    def search(self, query: Vector, k: int) -> list[Near]:
        """The `k` images most like a feature [width], the likest first."""
        numbers, scores = nearest_rows(self.features, query, k)
        return [self._near(int(row), float(score)) for row, score in zip(numbers, scores, strict=True)]  # fmt: skip

    def _near(self, row: int, similarity: float) -> Near:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        try:
            with self.lock:
                table = self.rows.read_row_group(group)
            (found,) = table.slice(row - int(self.starts[group]), 1).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError("the rows cannot be read", where=str(self.folder)) from error
        return Near(
            found["ids"][0],
            found["source"],
            found["license"],
            similarity,
            found["thumbnail"],
            len(found["ids"]),
        )


def _state(folder: Path, manifest: dict[str, Any]) -> tuple[object, ...]:
    """What changes when the index or the shards beside it are written anew."""
    files = [folder / MANIFEST]
    files += [folder / str(one["path"]) / "manifest.json" for one in manifest["shards"]]
    return tuple(map(_stamp, files))


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
