"""Image measurements from one decode: about 1 ms for grey 512x512 on one core without the decoding.

Everything after the exact hash runs on a grey copy of at most 512 pixels a side; the shares all
come from one histogram. OpenCV releases the interpreter lock, so threads scale. A grey image may
be given with one channel or three equal ones: the signals are the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from infimed.curation.sharpness import edge_sharpness, shrink
from infimed.curation.signals import ImageLevel, ImageSignals
from infimed.matching.fingerprint import fingerprint

WORK_SIDE: Final = 512
ROWS: Final = 128
"""At least so many rows, evenly spread, speak for the grey values of an image that has more."""
EDGE_STEP: Final = 40
LIT: Final = 24
_LEVELS: Final = np.arange(256, dtype=np.float64)


def measure_image(
    pixels: NDArray[np.uint8], sha256: str = "", level: ImageLevel = "look"
) -> ImageSignals:
    """The signals of one image.

    Args:
        pixels: decoded, uint8 [H, W] grey or [H, W, 3] RGB. sha256: key of the stored bytes.
        level: "look" for all of them, "pixels" for size, pixel hash and fingerprint.
    """
    import cv2

    pixels = without_repeats(pixels)
    height, width = pixels.shape[:2]
    full = pixels if pixels.ndim == 2 else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    if level == "pixels":
        return ImageSignals(
            sha256=sha256, width=width, height=height, pixel_hash=pixel_hash(pixels),
            fingerprint=fingerprint(full),
        )  # fmt: skip
    grey = shrink(full, WORK_SIDE)
    # Shares of some ten thousand pixels need no more of them; next to each other they say the same.
    rows = grey[:: max(1, len(grey) // ROWS)]
    share = cv2.calcHist([rows], [0], None, [256], [0, 256]).reshape(-1).astype(np.float64)
    mode = int(share.argmax())
    share /= rows.size
    cumulative = np.cumsum(share)
    low, high = np.searchsorted(cumulative, (0.005, 0.995)).tolist()
    mean = float(share @ _LEVELS)
    std = float(np.sqrt(share @ (_LEVELS - mean) ** 2))
    positive = share[share > 0]

    def between(first: int, last: int) -> float:
        return float(cumulative[last] - (cumulative[first - 1] if first else 0.0))

    bright = between(200, 255)
    sharp, least = edge_sharpness(grey)
    # OpenCV gives None for nothing: an image one pixel wide has no neighbours.
    steps = np.zeros((len(grey), 0), np.uint8)
    if grey.shape[1] > 1:
        steps = np.asarray(cv2.absdiff(grey[:, 1:], grey[:, :-1]))
    return ImageSignals(
        sha256=sha256,
        width=width,
        height=height,
        pixel_hash=pixel_hash(pixels),
        fingerprint=fingerprint(full),
        mean=round(mean, 3),
        std=round(std, 3),
        spread=float(high - low),
        mode_share=round(between(max(0, mode - 2), min(255, mode + 2)), 4),
        dark_share=round(between(0, 4), 4),
        bright_share=round(between(251, 255), 4),
        white_share=round(between(235, 255), 4),
        two_tone=round(between(0, 64) + between(235, 255), 4),
        edges=round(edge_share(steps), 4),
        entropy=round(float(-(positive @ np.log2(positive))), 3),
        sharpness=round(sharp, 3),
        least_sharpness=round(least, 3),
        blocking=round(block_steps(steps if grey is full else _middle_steps(full)), 3),
        flat=round(flat_share(grey, steps), 4),
        noise=round(noise_level(grey), 3),
        colour=round(colour_share(pixels), 4),
        axis_lines=int(bright >= 0.5 and has_axis_lines(grey)),
    )


def unreadable(sha256: str, problem: str) -> ImageSignals:
    """The signals of an image that could not be decoded."""
    return ImageSignals(sha256=sha256, problem=problem)


def without_repeats(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel [H, W] of an RGB image whose channels are all equal; any other as it is."""
    import cv2

    if pixels.ndim == 2:
        return pixels
    sampled = pixels[:: max(1, len(pixels) // 16)]
    if (sampled[..., 0] != sampled[..., 1]).any() or (sampled[..., 1] != sampled[..., 2]).any():
        return pixels
    red, green, blue = cv2.split(pixels)
    same = np.array_equal(red, green) and np.array_equal(green, blue)
    return np.asarray(green, np.uint8) if same else pixels


def pixel_hash(pixels: NDArray[np.uint8]) -> str:
    """BLAKE3 of shape and decoded pixels: equal for the same picture in another file format.

    As safe against made collisions as SHA-256, in a fifth of its time, which was a tenth of measuring.
    Three equal channels count as one, so that a grey picture has one hash in grey and RGB files.
    """
    pixels = without_repeats(pixels)
    digest = blake3(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def block_steps(steps: NDArray[np.uint8]) -> float:
    """Mean step across the borders of 8x8 blocks over the mean step elsewhere, across columns.

    1 for an image that was never a JPEG of low quality, or was resized since.

    Args:
        steps: absolute differences of horizontal neighbours, uint8 [H, W - 1].
    """
    import cv2

    if min(steps.shape) < 63:
        return 1.0
    # Saturated steps are edges of the picture; blocks are faint.
    columns = cv2.reduce(cv2.min(steps, 24), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).reshape(-1)
    borders = columns[7::8]
    across = float(borders.mean()) / len(steps)
    inside = float((columns.sum() - borders.sum()) / (len(columns) - len(borders))) / len(steps)
    return (across + 0.05) / (inside + 0.05)


def _middle_steps(full: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Steps of the middle of a large image at its own scale, on the grid of its blocks."""
    import cv2

    height, width = full.shape
    top, left = (max(0, (n - WORK_SIDE) // 2) // 8 * 8 for n in (height, width))
    middle = full[top : top + WORK_SIDE, left : left + WORK_SIDE]
    return np.asarray(cv2.absdiff(middle[:, 1:], middle[:, :-1]))


def flat_share(grey: NDArray[np.uint8], steps: NDArray[np.uint8]) -> float:
    """Share of the pixels above `LIT` whose left neighbour has exactly the same value.

    About 0.1 to 0.5 in what a sensor saw, above 0.8 in what was drawn. 0 for a black image.

    Args:
        steps: absolute differences of horizontal neighbours.
    """
    import cv2

    if not steps.size:
        return 0.0
    lit = cv2.threshold(grey, LIT, 255, cv2.THRESH_BINARY)[1][:, 1:]
    count = cv2.countNonZero(lit)
    if count < 0.02 * steps.size:
        return 0.0
    return 1.0 - cv2.countNonZero(cv2.bitwise_and(lit, steps)) / count


def noise_level(grey: NDArray[np.uint8]) -> float:
    """Noise standard deviation in grey levels (Immerkaer 1996, difference of two Laplacians)."""
    import cv2

    height, width = grey.shape
    if min(height, width) < 3:
        return 0.0
    # The mask [[1, -2, 1], [-2, 4, -2], [1, -2, 1]] is Sobel's second derivative both ways; exact in 16 bits.
    rest = cv2.Sobel(grey, cv2.CV_16S, 2, 2, ksize=3)
    total = float(cv2.norm(rest[1:-1, 1:-1], cv2.NORM_L1))
    return total * float(np.sqrt(np.pi / 2)) / (6.0 * (height - 2) * (width - 2))


def has_axis_lines(grey: NDArray[np.uint8]) -> bool:
    """Whether a thin dark line crosses 40 % of a bright image both ways, as a chart's axes do."""
    import cv2

    height, width = grey.shape
    if min(height, width) < 32 or float((grey >= 200).mean()) < 0.5:
        return False
    dark = (grey < 140).astype(np.uint8)

    def thin_line(mask: NDArray[np.uint8], length: int) -> bool:
        lines = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((1, max(3, length)), np.uint8))
        thick = cv2.erode(lines, np.ones((7, 1), np.uint8))
        return bool(lines.any()) and not thick.any()

    return thin_line(dark, int(0.4 * width)) and thin_line(
        np.ascontiguousarray(dark.T), int(0.4 * height)
    )


def edge_share(steps: NDArray[np.uint8]) -> float:
    """Share of the absolute differences of neighbours that are at least `EDGE_STEP`."""
    import cv2

    if not steps.size:
        return 0.0
    large = cv2.threshold(steps, EDGE_STEP - 1, 255, cv2.THRESH_BINARY)[1]
    return cv2.countNonZero(large) / steps.size


def colour_share(pixels: NDArray[np.uint8]) -> float:
    """Share of the pixels whose channels differ by 30 or more, on a grid of about 96 a side."""
    import cv2

    if pixels.ndim == 2:
        return 0.0
    height, width = pixels.shape[:2]
    sampled = pixels[:: max(1, height // 96), :: max(1, width // 96)]
    red, green, blue = (np.ascontiguousarray(sampled[..., channel]) for channel in range(3))
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return float((spread >= 30).mean())
