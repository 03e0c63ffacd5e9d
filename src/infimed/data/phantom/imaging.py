"""From truth to pixels: the modality's drawing, then the acquisition (blur, noise, window, 8 bits).

Invariant: `render_image` is pure; the same truth and size give the same bytes on one machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.data.phantom import abdomen, brain, chest, fundus, histology, ultrasound
from infimed.data.phantom.canvas import Float, Pose, gaussian, noise_field
from infimed.data.phantom.truth import Ellipse, ImageTruth

Place = Callable[[str, bool, int, float, Pose, np.random.Generator], tuple[Ellipse, ...]]
Render = Callable[[ImageTruth, int], Float]

DRAWINGS: dict[str, tuple[Place, Render]] = {
    "chest_radiograph": (chest.place, chest.render),
    "brain_mri": (brain.place, brain.render),
    "abdominal_ct": (abdomen.place, abdomen.render),
    "fundus_photograph": (fundus.place, fundus.render),
    "histology": (histology.place, histology.render),
    "ultrasound": (ultrasound.place, ultrasound.render),
}
CT_NOISE_HU = 350.0
"""HU per unit of acquisition noise: the width of a usual abdominal window."""


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """Pixels of one image.

    Attributes:
        pixels: uint8 [H, W] or [H, W, 3] (RGB), as displayed.
        hu: int16 [H, W] in Hounsfield units (CT only).
    """

    pixels: NDArray[np.uint8]
    hu: NDArray[np.int16] | None = None


def _noisy(image: Float, sigma: float, rng: np.random.Generator) -> Float:
    """Add detector noise: half white, half with the grain of a few pixels of a 192-pixel image."""
    size = image.shape[0]
    noise = noise_field(size, 192, rng)
    if image.ndim == 3:
        noise = noise[..., None]
    return image + noise * np.float32(sigma)


def render_image(truth: ImageTruth, size: int) -> RenderedImage:
    """Draw the image of `truth` at `size` x `size` pixels."""
    drawn = DRAWINGS[truth.modality][1](truth, size)
    taken = truth.acquisition
    drawn = gaussian(drawn, taken.blur)
    rng = np.random.default_rng(truth.noise_seed)
    if truth.modality == "abdominal_ct":
        hu = np.clip(_noisy(drawn, taken.noise * CT_NOISE_HU, rng), -1024, 3071).astype(np.int16)
        shown = abdomen.display(hu.astype(np.float32), taken.window_center, taken.window_width)
        return RenderedImage(to_bytes(shown), hu)
    return RenderedImage(to_bytes(_noisy(drawn, taken.noise, rng)))


def to_bytes(image: Float) -> NDArray[np.uint8]:
    """[0, 1] to 8 bits, clipped and rounded."""
    scaled: NDArray[Any] = np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)
    return scaled.astype(np.uint8)
