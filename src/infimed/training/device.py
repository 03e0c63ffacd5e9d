"""Where training runs, and in what precision. The CUDA branch has not run on a GPU yet."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Final, Literal

import torch
from torch import Tensor

from infimed.core.recipe import Train

Precision = Literal["bf16", "fp32"]

PEAK_SECONDS: Final = 0.6
"""About how long the fastest matrix product is looked for."""
CPU_SHAPES: Final = ((512, 512, 512), (1024, 1024, 1024), (4096, 1024, 1024), (2048, 2048, 2048))
GPU_SHAPES: Final = ((4096, 4096, 4096), (8192, 4096, 4096), (8192, 8192, 8192))
"""Rows, inner and columns of the products that are tried. Which is fastest depends on caches."""


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast over fp32 master weights, or nothing for ``fp32``.

    Raises:
        ValueError: another precision, ``auto`` that nobody decided among them.
    """
    if precision not in ("bf16", "fp32"):
        raise ValueError(f"precision must be bf16 or fp32, got {precision!r}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


PROBE: Final = 256
"""Rows, inner and columns of the product that chooses the precision: 0.1 s where bf16 is emulated."""
BF16_CAPABILITY: Final = (8, 0)
"""Compute capability of the first GPUs whose matrix units take bf16 (Ampere)."""


def fastest_precision(device: torch.device) -> Precision:
    """``bf16`` where this device multiplies bf16 faster than fp32, else ``fp32``.

    A GPU's matrix units do from compute capability 8.0 on; older ones (V100, T4) have none for bf16. Of CPUs
    some have instructions for bf16 and the others emulate it, two to 400 times slower than fp32, so it is
    measured, in half a second at most, once a process: the best of three products each.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= BF16_CAPABILITY else "fp32"
    return "bf16" if _bf16_is_faster() else "fp32"


def decided(train: Train, device: torch.device) -> Train:
    """The same with ``precision: auto`` decided: bf16 where it is faster or a tower is kept in it."""
    if train.precision != "auto":
        return train
    chosen = "bf16" if train.frozen_dtype == "bf16" else fastest_precision(device)
    return train.model_copy(update={"precision": chosen})


@lru_cache
def _bf16_is_faster() -> bool:
    seconds = {}
    random = torch.Generator().manual_seed(0)  # training's own stream stays where it is
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.randn(PROBE, PROBE, generator=random).to(dtype)
        seconds[dtype] = min(_seconds(left, left) for _ in range(3))
    return seconds[torch.bfloat16] < seconds[torch.float32]


def set_threads(threads: int) -> None:
    """Use `threads` CPU threads; 0 keeps all cores."""
    if threads:
        torch.set_num_threads(threads)


def gemm_peak(device: torch.device, precision: str) -> float:
    """Operations per second of the fastest matrix product here, in the precision of training.

    What utilisation is measured against. Measured once a process for each device, precision and number
    of threads.
    """
    return _kept_peak(device, precision, torch.get_num_threads())


@lru_cache
def _kept_peak(device: torch.device, precision: str, threads: int) -> float:
    return measure_peak(device, precision)


def measure_peak(device: torch.device, precision: str) -> float:
    """The same, measured now in about a second: the best single product of several shapes, so that other
    work on the machine lowers it little. Shapes that would take longer than that, where the precision is
    emulated, are left out."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    random = torch.Generator(device).manual_seed(0)  # training's own stream stays where it is
    began, best = time.perf_counter(), 0.0
    shapes = GPU_SHAPES if device.type == "cuda" else CPU_SHAPES
    for number, (rows, inner, columns) in enumerate(shapes, start=1):
        work = 2.0 * rows * inner * columns
        if best and work / best > PEAK_SECONDS:
            continue
        left = torch.randn(rows, inner, dtype=dtype, device=device, generator=random)
        right = torch.randn(columns, inner, dtype=dtype, device=device, generator=random).t()
        _seconds(left, right)
        while True:
            best = max(best, work / _seconds(left, right))
            if time.perf_counter() - began > PEAK_SECONDS * number / len(shapes):
                break
    return best


def _seconds(left: Tensor, right: Tensor) -> float:
    """Seconds of one product of [rows, inner] and [inner, columns]."""
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    began = time.perf_counter()
    torch.mm(left, right)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - began
