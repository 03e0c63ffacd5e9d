"""Record sources for the benchmark: a phantom clinic in memory, and a source with damaged records.

Both have the interface that curation reads shards through, so the engine that judges real data
judges the damaged set. Memory: one PNG a changed image; the phantom clinic keeps grey images grey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes, sha256_json
from infimed.curation.corruption.base import Corrupted, Pixels
from infimed.curation.engine import RecordSource
from infimed.data import imaging
from infimed.data.record import ImageRef, Record


class PhantomSource:
    """A phantom clinic generated on the fly; patients of another seed share nothing with it."""

    def __init__(self, records: int, seed: int, size: int = 256) -> None:
        """At least one record; whole patients, so a few more than `records` may be there."""
        from infimed.data.phantom.patient import generate_patient

        self._images: dict[str, NDArray[np.uint8]] = {}
        self.records: list[Record] = []
        patient = 0
        while len(self.records) < records:
            case = generate_patient(seed, patient, size=size)
            keys = {image.locator: _key(image.pixels) for image in case.images}
            for image in case.images:
                self._images[keys[image.locator]] = image.pixels
            for record in case.records:
                refs = tuple(replace(r, sha256=keys[r.locator]) for r in record.images)
                self.records.append(replace(record, images=refs))
            patient += 1
        self.data_hash = sha256_json(["phantom", len(self.records), seed, size])

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int, /) -> Record:
        """Record `number`."""
        return self.records[number]

    def pixels(self, ref: ImageRef, /) -> Pixels:
        """RGB pixels of an image."""
        if ref.sha256 not in self._images:
            raise DataError("no such image in this clinic", seen=ref.sha256[:80])
        return _rgb(self._images[ref.sha256])


class FirstRecords:
    """The first `count` records of a source."""

    def __init__(self, source: RecordSource, count: int) -> None:
        self._source, self._count = source, min(count, len(source))
        self.data_hash = sha256_json([source.data_hash, "first", self._count])

    def __len__(self) -> int:
        return self._count

    def record(self, number: int, /) -> Record:
        """Record `number`."""
        return self._source.record(number)

    def pixels(self, ref: ImageRef, /) -> Pixels:
        """RGB pixels of an image."""
        return self._source.pixels(ref)


class CorruptedSource:
    """A clean source with some rows replaced by damaged records and some added at its end."""

    def __init__(
        self, clean: RecordSource, damaged: Mapping[int, Corrupted], added: Sequence[Corrupted] = ()
    ) -> None:
        self._clean = clean
        self._stored: dict[str, bytes] = {}
        self._damaged = {row: self._adopt(one) for row, one in damaged.items()}
        self._added = [self._adopt(one) for one in added]
        lines = [f"{row} {record.to_json()}" for row, record in sorted(self._damaged.items())]
        lines += [record.to_json() for record in self._added]
        digest = hashlib.sha256("\n".join([clean.data_hash, *lines]).encode("utf-8", "replace"))
        self.data_hash = digest.hexdigest()

    def _adopt(self, one: Corrupted) -> Record:
        """The damaged record with references to its changed images."""
        images = list(one.record.images)
        for number, content in one.images.items():
            ref = images[number]
            if isinstance(content, bytes):
                data, size = content, (ref.width, ref.height)
            else:
                data, size = _png(content), (content.shape[1], content.shape[0])
            key = sha256_bytes(data or repr(ref.locator).encode())
            self._stored[key] = data
            images[number] = replace(ref, sha256=key, width=size[0], height=size[1])
        return replace(one.record, images=tuple(images))

    def __len__(self) -> int:
        return len(self._clean) + len(self._added)

    def record(self, number: int, /) -> Record:
        """Record `number`: damaged where it was replaced, added behind the clean ones."""
        if number >= len(self._clean):
            return self._added[number - len(self._clean)]
        return self._damaged.get(number) or self._clean.record(number)

    def pixels(self, ref: ImageRef, /) -> Pixels:
        """RGB pixels of an image.

        Raises:
            DataError: the stored bytes are damaged.
        """
        data = self._stored.get(ref.sha256)
        return self._clean.pixels(ref) if data is None else imaging.decode(data, ref.facts)


def _key(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def _rgb(pixels: NDArray[np.uint8]) -> Pixels:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def _png(pixels: Pixels) -> bytes:
    import cv2

    ok, data = cv2.imencode(
        ".png", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    if not ok:
        raise DataError("a changed image cannot be stored", seen=str(pixels.shape))
    return bytes(data.tobytes())
