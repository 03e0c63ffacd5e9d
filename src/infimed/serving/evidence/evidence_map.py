"""An evidence map: how much each part of an image has to do with an answer, and when that is nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from infimed.data.stored import encode_png
from infimed.serving.evidence.requests import Method

LEAST: Final = 0.1
"""Nats. An answer whose log-probability neither a part nor all of the image moves by as much does not depend on it;
see docs/evidence.md for what was measured."""
HARDLY: Final = "the answer hardly depends on the image"
OPAQUE: Final = 0.6
"""Share of the colour where the heat is 1."""


@dataclass(frozen=True)
class EvidenceMap:
    """What was found.

    Attributes:
        values: nats [rows, columns] over the WHOLE image as shown: what hiding each cell takes from the answer's
            log-probability, or what the cell adds to it.
        target: the text whose probability was looked at. logprob: its log-probability with the whole image, nats.
        total: what hiding all of the image takes, nats. sha256: of the image, as asked.
        prompt_tokens: with the image. passes: versions of the image that the model looked at.
    """

    values: NDArray[np.float64] = field(repr=False)
    method: Method
    target: str = field(repr=False)
    logprob: float
    total: float
    sha256: str
    prompt_tokens: int = 0
    passes: int = 0

    @property
    def most(self) -> float:
        """What the cell that matters most takes or adds, nats."""
        return float(self.values.max())

    @property
    def depends(self) -> bool:
        """Whether the answer depends on the image at all."""
        return max(self.most, abs(self.total)) >= LEAST

    @property
    def heat(self) -> NDArray[np.float32]:
        """0..1 [rows, columns], a share of `most`; all 0 where the answer hardly depends on the image."""
        if not self.depends or self.most <= 0:
            return np.zeros(self.values.shape, np.float32)
        return (np.maximum(self.values, 0) / self.most).astype(np.float32)

    @property
    def note(self) -> str:
        """What to say instead of a map; "" where there is one."""
        return "" if self.depends else HARDLY

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "heat": [[round(float(value), 4) for value in row] for row in self.heat],
            "method": self.method,
            "target": self.target,
            "logprob": self.logprob,
            "drop": self.most,
            "drop_without_image": self.total,
            "depends": self.depends,
            "note": self.note,
            "image_sha256": self.sha256,
        }

    def png(self, over: NDArray[np.uint8]) -> bytes:
        """The map over the image as a PNG.

        Args:
            over: uint8 [H, W, 3], the whole image at any resolution.
        """
        return encode_png(overlay(self.heat, over))


def overlay(heat: NDArray[np.float32], over: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image [H, W, 3] in colours where there is heat; grey values stay where there is none.

    The colours (matplotlib's inferno) get brighter with the heat, so they can be told apart without seeing colours.
    """
    height, width = over.shape[:2]
    wide = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    levels = np.rint(255 * wide).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    share = (OPAQUE * wide)[:, :, None]
    return np.asarray(np.rint(over * (1 - share) + colours * share), np.uint8)
