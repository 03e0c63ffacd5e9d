"""Tower, reducer and projector as one ONNX graph: normalised pixels in, image embeddings out.

For engines that run a language model of their own. The grid is fixed (positions are baked, see
`export`), the batch is free. The graph is fp32, whatever precision the weights beside it have, and agrees
with PyTorch to 1e-4 in onnxruntime. Cost: 10 to 60 seconds, and the tower once more in memory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from infimed.core.errors import missing_extra
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor

OPSET: Final = 18
PIXELS, FEATURES = "pixel_values", "image_features"


class Vision(nn.Module):
    """The part of a model that becomes the graph."""

    def __init__(self, model: InfiMedForConditionalGeneration, visual_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.visual_tokens = visual_tokens

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[batch, 3, S, S] -> [batch, visual_tokens, d]."""
        return self.model.image_features(pixel_values, self.visual_tokens)


def require_onnx() -> None:
    """Refuse early where the packages are not there.

    Raises:
        UsageError: names the extra.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra("onnx", package)


def export_onnx(file: Path, model: InfiMedForConditionalGeneration, processor: Processor) -> None:
    """Write the graph of a model whose positions are baked at the processor's image size.

    Weights above 2 GB go into a file beside it, as ONNX demands.

    Raises:
        UsageError: a package of the extra ``onnx`` is missing.
    """
    require_onnx()
    vision = Vision(model, processor.visual_tokens).eval()
    example = torch.zeros(2, 3, processor.image_size, processor.image_size)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            vision,
            (example,),
            dynamo=True,
            dynamic_shapes={PIXELS: {0: torch.export.Dim("batch", min=1)}},
            input_names=[PIXELS],
            output_names=[FEATURES],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of packages that it does not need here, and of its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
