"""Near-duplicate texts, and the words that forbid calling two texts the same.

A changed side, negation, number, unit, MR sequence or stain makes another statement out of the same
sentence ("left effusion" and "right effusion" share 97 % of their characters), so similarity alone
never decides: texts are duplicates only when their critical words agree too.

Method: MinHash with one permutation (Li, Owen & Zhang 2012, densified as Shrivastava & Li 2014) on
character 5-grams proposes, exact Jaccard confirms, critical words veto. Whole blocks of texts are
hashed at once in one buffer. Cost: about 15 microseconds per 200-character text; memory 400 bytes
per text besides the texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SHINGLE: Final = 5
BINS: Final = 128
_BANDS: Final = ((4, 64), (8, 128))
"""(rows of a band, bins that are cut into such bands)."""

_BLOCK_CHARS: Final = 1 << 20
_EMPTY: Final = np.uint32(0xFFFFFFFF)

# Points, slashes and signs stay where they belong to a number: 2.5, -20, 120/80, but T2-weighted.
_GAPS = re.compile(r"[^\w%<>=+./-]+|[./-](?!\d)|(?<=[^\W\d_])[./-]")
_SPACES = re.compile(r"\s+")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")

_LOOSE_SIGNS = re.compile(r"[./-](?!\d)|(?<=[a-z])[./-]")
_ASCII: Final = {
    code: chr(code).lower() if re.match(r"[\w%<>=+./-]", chr(code)) else " " for code in range(128)
}

CRITICAL: Final = re.compile(
    r"""
    (?<![a-z])(?:left|right|bilateral|both|unilateral|ipsilateral|contralateral
      |no|not|none|never|without|absent|absence|negative|positive|neither|nor|denies|normal|abnormal
      |benign|malignant|upper|lower|anterior|posterior|superior|inferior|medial|lateral
      |increased|decreased|larger|smaller|improved|worse|worsened|new|stable|resolved
      |t1|t2|flair|dwi|adc|stir|contrast|noncontrast|unenhanced|enhanced
      |h&e|pas|giemsa|trichrome|mm|cm|µm|um|nm|mg|mcg|µg|μg|μm|g|kg|ml|l|hu|male|female
      |mild|moderate|severe|acute|chronic|ct|mri|mr|x-?ray|radiograph|ultrasound|pet)(?![a-z])
    |n't(?![a-z])|\d+(?:[.,]\d+)?
    |[左右双两无不没非未上下前后内外增减男女]|良性|恶性|阴性|阳性|正常|异常|急性|慢性|轻度|中度|重度
    """,
    re.VERBOSE,
)
"""Words whose change makes another statement."""


def normalise(text: str) -> str:
    """One spelling per text: NFKC, case folded, punctuation to spaces, decimals and signs kept."""
    if text.isascii():
        spaced = text.translate(_ASCII)
        if "." in spaced or "-" in spaced or "/" in spaced:
            spaced = _LOOSE_SIGNS.sub(" ", spaced)
        return " ".join(spaced.split())
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _SPACES.sub(" ", _GAPS.sub(" ", folded)).strip()


def normalise_answer(text: str) -> str:
    """`normalise` without articles, so that "the brain" equals "Brain"."""
    return _SPACES.sub(" ", _ARTICLES.sub(" ", normalise(text))).strip() or normalise(text)


@lru_cache(maxsize=4096)
def critical_words(text: str) -> tuple[str, ...]:
    """Side, negation, number, unit, sequence and stain words of `text`, sorted, repeats kept."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(sorted(CRITICAL.findall(folded)))


_FACTORS: Final = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)  # fmt: skip


def _hashes(codes: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Hash of every run of five code points; uint64 [n - 4]."""
    count = len(codes) - SHINGLE + 1
    wide = codes.astype(np.uint64)
    mixed = wide[:count] * _FACTORS[0]
    for place in range(1, SHINGLE):
        mixed += wide[place : count + place] * _FACTORS[place]
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Sorted distinct values; for short arrays several times as fast as `np.unique`."""
    values = np.sort(values)
    new = np.ones(len(values), bool)
    new[1:] = values[1:] != values[:-1]
    return values[new]


def shingles(text: str) -> NDArray[np.uint64]:
    """Distinct hashed character 5-grams of the normalised text, sorted; uint64 [n].

    Texts shorter than five characters have one shingle: themselves, padded.
    """
    return _distinct(_hashes(_codes(normalise(text).ljust(SHINGLE))))


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Share of common shingles of two sorted shingle sets."""
    both = np.sort(np.concatenate([a, b]))
    common = int((both[1:] == both[:-1]).sum())
    return common / max(1, len(a) + len(b) - common)


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """MinHash signatures, uint32 [n, BINS]: the share of equal entries estimates the Jaccard index.

    The smallest hash of each of `BINS` bins; an empty bin borrows from the next filled one.
    """
    made = np.full((len(texts), BINS), _EMPTY, np.uint32)
    plain = np.array([text.isascii() for text in texts], bool)
    rows = np.flatnonzero(plain)
    codes, lengths = _plain_codes([texts[row] for row in rows.tolist()])
    # Texts that are too short for one run are padded, one by one.
    by_hand = np.sort(np.concatenate([np.flatnonzero(~plain), rows[lengths < SHINGLE]]))
    long = lengths >= SHINGLE
    _fill(made, rows[long], codes[np.repeat(long, lengths)], lengths[long])
    spelled = [normalise(texts[row]).ljust(SHINGLE) for row in by_hand.tolist()]
    _fill(made, by_hand, _codes("".join(spelled)), np.array([len(t) for t in spelled], np.int64))
    return _densified(made)


def _fill(
    made: NDArray[np.uint32],
    rows: NDArray[np.int64],
    codes: NDArray[np.integer],
    lengths: NDArray[np.int64],
) -> None:
    """Smallest hashes of the texts in one buffer of code points, into their rows."""
    if not len(rows):
        return
    hashed = _hashes(codes)
    # Runs that begin in the last four characters of a text reach into the next one.
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), bool)
    for back in range(1, SHINGLE):
        inside[ends - back] = False
    inside = inside[: len(hashed)]
    owner = np.repeat(rows, lengths)[: len(hashed)][inside]
    hashed = hashed[inside]
    place = owner * BINS + (hashed >> np.uint64(57)).astype(np.int64)
    np.minimum.at(made.reshape(-1), place, hashed.astype(np.uint32))


_TABLE: Final = np.array([ord(_ASCII[code]) for code in range(128)], np.uint8)
_KINDS: Final = np.array(
    [(1 if chr(c).isalpha() else 2 if chr(c).isdigit() else 3 if chr(c) in "./-" else 0) for c in range(128)],
    np.uint8,
)  # fmt: skip


def _plain_codes(texts: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`normalise` of ASCII texts all at once: code points one after another, and lengths."""
    raw = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    codes, kinds = _TABLE[raw], _KINDS[raw]
    same = owner[1:] == owner[:-1]
    before_digit, after_letter = np.zeros(len(raw), bool), np.zeros(len(raw), bool)
    before_digit[:-1] = same & (kinds[1:] == 2)
    after_letter[1:] = same & (kinds[:-1] == 1)
    codes = np.where((kinds == 3) & (~before_digit | after_letter), np.uint8(32), codes)
    # One space between words, none at either end.
    filled = codes != 32
    words, holders = codes[filled], owner[filled]
    gap = np.zeros(len(words), bool)
    gap[1:] = (np.diff(np.flatnonzero(filled)) > 1) & (holders[1:] == holders[:-1])
    places = np.arange(len(words)) + np.cumsum(gap)
    joined = np.full(len(words) + int(gap.sum()), 32, np.uint8)
    joined[places] = words
    lengths = np.bincount(holders, minlength=len(texts)) + np.bincount(
        holders[gap], minlength=len(texts)
    )
    return joined, lengths


def _densified(made: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Empty bins take the value of the next filled bin to the right, changed by the distance."""
    empty = made == _EMPTY
    if not empty.any():
        return made
    twice = np.concatenate([~empty, ~empty], axis=1)
    places = np.where(twice, np.arange(2 * BINS), 2 * BINS)
    next_filled = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    distance = next_filled - np.arange(BINS)
    borrowed = np.take_along_axis(made, next_filled % BINS, axis=1)
    shifted = borrowed + distance.astype(np.uint32) * np.uint32(0x9E3779B1)
    return np.where(empty, shifted, made)


def _band_keys(made: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One key a band and text, uint64 [n, bands], from signatures [n, BINS].

    Short bands find texts that differ more; long bands still tell texts of one template apart.
    """
    keys = []
    for rows, bins in _BANDS:
        parts = made[:, :bins].reshape(len(made), -1, rows).astype(np.uint64)
        mixed = np.zeros(parts.shape[:2], np.uint64)
        for row in range(rows):
            mixed = (mixed ^ parts[:, :, row]) * _FACTORS[row % SHINGLE]
            mixed ^= mixed >> np.uint64(31)
        keys.append(mixed)
    return np.concatenate(keys, axis=1)


def _hashed(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Band keys [n, bands] and signatures cut to one byte an entry [n, BINS]."""
    keys = np.zeros((len(texts), sum(bins // rows for rows, bins in _BANDS)), np.uint64)
    short = np.zeros((len(texts), BINS), np.uint8)
    for start, block in _blocks(texts):
        made = signatures(block)
        part = slice(start, start + len(block))
        keys[part], short[part] = _band_keys(made), made.astype(np.uint8)
    return keys, short


def _blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    start, block, chars = 0, [], 0
    for index, text in enumerate(texts):
        block.append(text)
        chars += len(text)
        if chars >= _BLOCK_CHARS:
            yield start, block
            start, block, chars = index + 1, [], 0
    if block:
        yield start, block


def _proposed(texts: Sequence[str], min_jaccard: float) -> NDArray[np.int64]:
    """(earlier, later) pairs worth an exact comparison, int64 [n, 2], by later and earlier.

    Within a bucket every text meets the first and the previous one, never all: at most two pairs a
    text and band, however crowded a bucket is.
    """
    keys, short = _hashed(texts)
    packed: list[NDArray[np.int64]] = []
    total = np.int64(len(texts))
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        column = keys[order, band]
        new = np.r_[True, column[1:] != column[:-1]]
        starts = np.flatnonzero(new)
        first = order[starts][np.cumsum(new) - 1]
        later = np.flatnonzero(~new)
        packed.append(order[later] * total + first[later])
        chained = later[order[later - 1] != first[later]]
        packed.append(order[chained] * total + order[chained - 1])
    later, earlier = np.divmod(_distinct(np.concatenate(packed)), total)
    alike = np.zeros(len(later), bool)
    # Three standard deviations of the estimate below the limit.
    limit = BINS * min_jaccard - 3 * (BINS * min_jaccard * (1 - min_jaccard)) ** 0.5
    for start in range(0, len(later), 1 << 16):
        part = slice(start, start + (1 << 16))
        alike[part] = (short[earlier[part]] == short[later[part]]).sum(axis=1) >= limit
    return np.stack([earlier[alike], later[alike]], axis=1)


def near_text_groups(texts: Sequence[str], min_jaccard: float = 0.8) -> list[int]:
    """For every text the index of the first text it duplicates, or its own index.

    A text joins the group of the first proposed text whose group's first text reaches
    `min_jaccard` with it and has the same critical words. Time and memory are linear in the number
    of texts, whatever they have in common.

    Args:
        texts: a list, or any sequence that fetches a text when it is asked for.
    """
    first = list(range(len(texts)))
    if len(texts) < 2:
        return first
    sets = lru_cache(maxsize=4096)(lambda index: shingles(texts[index]))

    def same(other: int, index: int) -> bool:
        one, two = texts[other], texts[index]
        if one == two:
            return True
        alike = jaccard(sets(other), sets(index)) >= min_jaccard
        return alike and critical_words(one) == critical_words(two)

    tried: set[int] = set()
    current = -1
    for earlier, later in _proposed(texts, min_jaccard).tolist():
        if later != current:
            current, tried = later, set()
        root = first[earlier]
        if first[later] == later and root not in tried:
            tried.add(root)
            if same(root, later):
                first[later] = root
    return first
