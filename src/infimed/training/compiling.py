"""`train.compile`: the language model's blocks as fused code.

Rows differ in length and in their documents, so shapes are dynamic and attention, which loops over
documents, stays as it is: a block becomes what is before it and what is after it. The first
step takes about a minute longer. Rounding differs from the code that is not compiled. The
tower's blocks gain nothing (benchmarks/training_widths.py).
"""

from __future__ import annotations

import os
import shutil

import torch

from infimed.core.errors import RecipeError
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.training.memory import blocks

COMPILERS = ("g++", "clang++")


def compile_blocks(model: InfiMedForConditionalGeneration) -> None:
    """Compile every decoder block at its first call.

    Raises:
        RecipeError: training is on a CPU without a C++ compiler.
    """
    wanted = [os.environ["CXX"]] if "CXX" in os.environ else COMPILERS
    if not torch.cuda.is_available() and not any(map(shutil.which, wanted)):
        raise RecipeError(
            "compiling needs a C++ compiler, and none was found",
            where="train.compile",
            seen=f"no {' or '.join(wanted)} on PATH",
            fix="install g++, or set train.compile=false",
        )
    for block in blocks(model.model.language_model):
        if block._compiled_call_impl is None:
            block.compile(dynamic=True)
