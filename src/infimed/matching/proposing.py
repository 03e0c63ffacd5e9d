"""Which pairs of images are worth comparing, without comparing all pairs.

Products of two coefficients of one parity class do not change when a picture is mirrored or
inverted. Random sums of such products, cut at their median over the collection or at zero, give
each image eight keys of 32 bits. Images whose keys agree in their leading bits and that stand close
in the order of a key are proposed, as are images that stand close to one of the 24 foreseen crops
of another. The cosine of the fingerprints in the best orientation then ranks the proposals.

Method: locality-sensitive hashing by random projections (Charikar 2002) of the degree-two
invariants, with the bounded look-up of sorted neighbourhoods (Hernandez & Stolfo 1995).
Invariant: the result depends on the fingerprints and their order alone. Cost: about 1 ms an image,
whatever the size of the collection; memory about 700 bytes an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infimed.matching.fingerprint import (
    CLASSES,
    FINE,
    WHOLE_ONLY,
    Floats,
    coefficients,
    mirrored_dots,
    resemblance,
    sharpened,
    turn,
    views,
)

Integers = NDArray[np.int64]
Codes = list[bytes]

TABLES: Final = 8
KEY_BITS: Final = 32
MIN_SIMILARITY: Final = 0.93
"""Cosine of two fingerprints, in one of few foreseen crops, below which they are not compared
finely. Copies reach 0.95."""

MIN_FINE_SIMILARITY: Final = 0.965
"""The same in the best of 256 foreseen crops, below which that crop is not moved to fit better. Copies of
phantoms reach 0.976 and copies of radiographs 0.984."""

MIN_SHARP_SIMILARITY: Final = 0.975
"""The same in the crop that fits best (`fingerprint.sharpened`), below which the pixels are not looked at.
Of 900 copies of phantoms and radiographs the least reached 0.983, of copies cropped, windowed and compressed
at once some stay below 0.98; of pairs of different phantoms that pass the two limits before, half do too."""

PER_IMAGE: Final = 16
"""Proposals kept for one image, the most similar ones."""

_RANKED: Final = 96
_WHOLE_WINDOW: Final = 96
_CROP_WINDOW: Final = 24
_BLOCK: Final = 256
_COMPARE_ALL: Final = 256
"""Images up to which everything is compared with everything."""
_SAMPLE: Final = 1 << 16
_PAIRS_AT_ONCE: Final = 100_000
_VIEWS_AT_ONCE: Final = 512
_REFINED_AT_ONCE: Final = 16
_ROUNDING: Final = 1e-3
"""Far more than two ways to add 64 products of unit vectors in single precision differ, and than rounding adds."""
_SHARPENED_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Proposals:
    """Pairs worth comparing, most similar first within each query.

    Attributes:
        query, found: numbers of the two images, int64 [n]. similarity: of fingerprints, [n].
    """

    query: Integers
    found: Integers
    similarity: Floats


@lru_cache(maxsize=1)
def _forms() -> tuple[Floats, tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Random quadratic forms, one a key bit, and the index pairs of their products."""
    width = 16
    upper = np.triu_indices(width)
    random = np.random.default_rng(20250922)  # fixed: keys must agree between runs
    shape = (CLASSES * len(upper[0]), TABLES * KEY_BITS)
    return random.standard_normal(shape).astype(np.float32), upper


def _values(vectors: Floats) -> Floats:
    """The invariants that key bits are cut from; [n, 64] -> [n, TABLES * KEY_BITS]."""
    forms, (left, right) = _forms()
    split = vectors.reshape(len(vectors), CLASSES, 16)
    products = split[:, :, left] * split[:, :, right]
    # Rounded, so that equal pictures never straddle a cut for the order of a sum.
    return np.asarray(np.round(products.reshape(len(vectors), len(forms)) @ forms, 4), np.float32)


def _whole(fingerprints: Codes) -> Floats:
    return views(coefficients(fingerprints), WHOLE_ONLY)[:, 0]


class ProposalIndex:
    """Images that can be found by their fingerprints. See the module docstring."""

    def __init__(self, fingerprints: Codes) -> None:
        self.size = len(fingerprints)
        self._whole = np.zeros((self.size, 64), np.float16)
        for start in range(0, self.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            self._whole[part] = _whole(fingerprints[part])
        self._fingerprints = fingerprints
        self._usable = np.flatnonzero(self._whole.any(axis=1))
        # Leading bits that must agree: few for few images, none where all can be compared.
        self._everything = self.size <= _COMPARE_ALL
        self._leading = int(np.clip(np.ceil(np.log2(max(2, self.size))) + 7, 12, 28))

    @cached_property
    def _cuts(self) -> Floats:
        """Where each invariant is cut to a bit."""
        step = -(-self.size // _SAMPLE) or 1
        sample = [
            _values(_whole(self._fingerprints[start : start + _BLOCK * step : step]))
            for start in range(0, self.size, _BLOCK * step)
        ]
        width = TABLES * KEY_BITS
        cuts = np.median(np.concatenate(sample), axis=0) if sample else np.zeros(width)
        # Where most images are copies of one, a median lies amid them and tells nothing.
        cuts.reshape(TABLES, KEY_BITS)[1::2] = 0.0
        return np.asarray(cuts)

    @cached_property
    def _tables(self) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
        """(images, their keys) in the order of each key. Many small collections never ask."""
        keys = np.zeros((self.size, TABLES), np.uint32)
        for start in range(0, self.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            keys[part] = self._keys(_whole(self._fingerprints[part]))
        tables = []
        for table in range(TABLES):
            order = self._usable[np.argsort(keys[self._usable, table], kind="stable")]
            tables.append((order.astype(np.uint32), keys[order, table]))
        return tables

    def equal_keys(self) -> Iterator[tuple[int, list[int]]]:
        """(first, later ones) of images with one whole key in common, table by table."""
        for order, keys in self._tables:
            if not len(keys):
                continue
            starts = np.flatnonzero(np.r_[True, np.diff(keys) != 0]).tolist()
            for start, end in itertools.pairwise([*starts, len(keys)]):
                if end - start > 1:
                    first, *rest = order[start:end].tolist()
                    yield first, rest

    def similarity(self, first: int, others: list[int]) -> Floats:
        """Cosine of one indexed image with others, each in its best orientation."""
        whole = self._whole[others].astype(np.float32)
        one = np.broadcast_to(self._whole[first].astype(np.float32), whole.shape)
        return resemblance(one, whole)[0]

    def _keys(self, vectors: Floats) -> NDArray[np.uint32]:
        bits = (_values(vectors) > self._cuts).reshape(-1, TABLES, KEY_BITS)
        packed = np.packbits(bits, axis=2).reshape(-1, TABLES, 4)
        return np.ascontiguousarray(packed).view(">u4")[:, :, 0].astype(np.uint32)

    def proposals(self, queries: Codes, *, myself: bool = False) -> Proposals:
        """The most similar images for every query, in blocks of queries.

        Args:
            queries: fingerprints. myself: the queries are the indexed images, in the same order,
                and none is proposed to itself.
        """
        parts = [
            self._block(queries[start : start + _BLOCK], start, myself)
            for start in range(0, len(queries), _BLOCK)
        ]
        if not parts:
            empty = np.zeros(0, np.int64)
            return Proposals(empty, empty, np.zeros(0, np.float32))
        query, found, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Proposals(query, found, similarity)

    def _block(self, queries: Codes, start: int, myself: bool) -> tuple[Integers, Integers, Floats]:
        seen = views(coefficients(queries))
        crops = seen.shape[1]
        flat = seen.reshape(-1, seen.shape[2])
        usable = np.flatnonzero(flat.any(axis=1))
        codes = (
            self._hopeful(flat, usable)
            if self._everything
            else self._neighbours(flat[usable], usable, usable % crops == 0)
        )
        if not codes:
            empty = np.zeros(0, np.int64)
            return empty, empty, np.zeros(0, np.float32)
        view, found = np.divmod(np.unique(np.concatenate(codes)), self.size)
        query = view // crops + start
        if myself:
            other = query != found
            view, found, query = view[other], found[other], query[other]
        similarity = np.zeros(len(view), np.float32)
        orientation = np.zeros(len(view), np.int8)
        for begin in range(0, len(view), _PAIRS_AT_ONCE):
            part = slice(begin, begin + _PAIRS_AT_ONCE)
            whole = self._whole[found[part]].astype(np.float32)
            similarity[part], orientation[part] = resemblance(flat[view[part]], whole)
        # Half precision is not worth a tie that depends on it.
        similarity = np.round(similarity, 3)
        good = similarity >= MIN_SIMILARITY
        query, found, similarity = query[good], found[good], similarity[good]
        chosen = _best(query, found, similarity, _RANKED)
        query, found, similarity = query[chosen], found[chosen], similarity[chosen]
        turned = orientation[good][chosen]
        view = self._refine(queries, start, query, found, similarity, turned)
        alike = np.flatnonzero(similarity >= MIN_FINE_SIMILARITY)
        query, found, view, turned = query[alike], found[alike], view[alike], turned[alike]
        similarity = self._sharpen(queries, query - start, found, turned, view)
        alike = np.flatnonzero(similarity >= MIN_SHARP_SIMILARITY)
        query, found, similarity = query[alike], found[alike], similarity[alike]
        chosen = _best(query, found, similarity, PER_IMAGE)
        return query[chosen], found[chosen], similarity[chosen]

    def _hopeful(self, vectors: Floats, usable: Integers) -> list[Integers]:
        """``view * size + image`` of all pairs that may reach `MIN_SIMILARITY`, found by matrix products.

        The largest of the eight signed sums of four class products is one of two sums of absolute
        values. A product of matrices adds in another order than `resemblance`, which has the last word.

        Args:
            vectors: [n, 64] of all views. usable: which of them are not flat.
        """
        whole = self._whole[self._usable].astype(np.float32).reshape(-1, CLASSES, 16)
        across = [np.ascontiguousarray(whole[:, c].T) for c in range(CLASSES)]
        codes: list[Integers] = []
        for begin in range(0, len(usable), _VIEWS_AT_ONCE):
            views = usable[begin : begin + _VIEWS_AT_ONCE]
            seen = vectors[views].reshape(-1, CLASSES, 16)
            even, odd, low, lowest = (seen[:, c] @ across[c] for c in range(CLASSES))
            plain = np.abs(even + odd) + np.abs(low + lowest)
            turned = np.abs(even - odd) + np.abs(low - lowest)
            view, image = np.nonzero(np.maximum(plain, turned) >= MIN_SIMILARITY - _ROUNDING)
            codes.append(views[view] * self.size + self._usable[image])
        return codes

    def _neighbours(
        self, vectors: Floats, views: Integers, whole: NDArray[np.bool_]
    ) -> list[Integers]:
        """``view * size + image`` of images that stand close to a view in the order of a key.

        Args:
            vectors: [n, 64] of the views. views: their numbers. whole: which are no crops.
        """
        keys = self._keys(vectors)
        window = np.where(whole, _WHOLE_WINDOW, _CROP_WINDOW)
        codes: list[Integers] = []
        shift = KEY_BITS - self._leading
        for table, (order, stored) in enumerate(self._tables):
            key = keys[:, table]
            low = np.searchsorted(stored, key >> shift << shift)
            high = np.searchsorted(stored, key | np.uint32((1 << shift) - 1), "right")
            centre = np.searchsorted(stored, key)
            low, high = np.maximum(low, centre - window), np.minimum(high, centre + window)
            count = np.maximum(0, high - low)
            total = int(count.sum())
            if not total:
                continue
            inside = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
            places = np.repeat(low, count) + inside
            codes.append(np.repeat(views, count) * self.size + order[places].astype(np.int64))
        return codes

    def _refine(
        self,
        queries: Codes,
        start: int,
        query: Integers,
        found: Integers,
        similarity: Floats,
        orientation: NDArray[np.int8],
    ) -> Integers:
        """Replace similarities by those in the best of many crops, in place; returns those crops of `FINE`."""
        views_of = np.zeros(len(query), np.int64)
        numbers, first = np.unique(query, return_index=True)
        ends = np.append(first[1:], len(query)).tolist()
        turned = turn(self._whole[found].astype(np.float32), orientation)
        for some in range(0, len(numbers), _REFINED_AT_ONCE):
            several = slice(some, some + _REFINED_AT_ONCE)
            codes = [queries[number] for number in (numbers[several] - start).tolist()]
            crops = views(coefficients(codes), FINE)
            for seen, begin, end in zip(crops, first[several].tolist(), ends[several], strict=True):
                cosine = seen @ turned[begin:end].T
                views_of[begin:end] = cosine.argmax(axis=0)
                similarity[begin:end] = cosine.max(axis=0)
        np.round(similarity, 3, out=similarity)
        return views_of

    def _sharpen(
        self,
        queries: Codes,
        query: Integers,
        found: Integers,
        orientation: NDArray[np.int8],
        view: Integers,
    ) -> Floats:
        """Similarities in the crops that fit best."""
        made = np.zeros(len(query), np.float32)
        for begin in range(0, len(query), _SHARPENED_AT_ONCE):
            part = slice(begin, begin + _SHARPENED_AT_ONCE)
            low = coefficients([queries[number] for number in query[part].tolist()])
            whole = turn(self._whole[found[part]].astype(np.float32), orientation[part])
            made[part] = sharpened(low, whole, view[part])
        return np.round(made, 3)


def _best(query: Integers, found: Integers, similarity: Floats, most: int) -> Integers:
    """Rows to keep: one a pair, the `most` most similar of each query, by query and rank."""
    order = np.lexsort((-similarity, found, query))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(query[order]) != 0) | (np.diff(found[order]) != 0)
    order = order[new]
    order = order[np.lexsort((found[order], -similarity[order], query[order]))]
    if not len(order):
        return order
    begins = np.r_[True, np.diff(query[order]) != 0]
    rank = np.arange(len(order)) - np.flatnonzero(begins)[np.cumsum(begins) - 1]
    return np.asarray(order[rank < most], np.int64)


@dataclass(frozen=True, slots=True)
class Hint:
    """How two fingerprints resemble each other best.

    Attributes:
        similarity: cosine. orientation: how the second lies, see `alignment.turned`.
        window: (top, bottom, left, right) kept of the first. reversed: kept of the second instead.
    """

    similarity: float
    orientation: int
    window: tuple[float, float, float, float]
    reversed: bool


@lru_cache(maxsize=128)
def _fine_views(code: bytes) -> Floats:
    """`views` of one fingerprint in all of `FINE`; an image is compared with several, one after the other."""
    return views(coefficients([code]), FINE)[0]


def hints(first: bytes, second: bytes, count: int = 2) -> list[Hint]:
    """The best ways to lay the second picture on the first, one an orientation and direction.

    Only ways that resemble nearly as well as the best are worth trying.
    """
    one, other = _fine_views(first), _fine_views(second)
    ways: list[tuple[float, bool, int, int]] = []
    for reversed_ in (False, True):
        cropped, whole = (other, one[0]) if reversed_ else (one, other[0])
        signed = np.round(mirrored_dots(cropped, whole), 3)
        for inverted, views_, values in (
            (0, signed.argmax(axis=0), signed.max(axis=0)),
            (4, signed.argmin(axis=0), -signed.min(axis=0)),
        ):
            for mirror, (view, value) in enumerate(
                zip(views_.tolist(), values.tolist(), strict=True)
            ):
                # Where nothing is cropped, both directions are one.
                if not (reversed_ and view == 0):
                    ways.append((-value, reversed_, inverted + mirror, view))
    ways.sort()
    worst = ways[0][0] + 0.01
    made: list[Hint] = []
    for negative, reversed_, orientation, view in ways[:count]:
        if negative <= worst:
            rows, columns = FINE.place(view)
            made.append(Hint(-negative, orientation, (*rows, *columns), reversed_))
    return made
