"""Where training runs, and in what precision. The CUDA branch has not run on a GPU yet."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

PEAK_SECONDS: Final = 0.6
"""About how long the fastest matrix product is looked for."""
CPU_SHAPES: Final = ((512, 512, 512), (1024, 1024, 1024), (4096, 1024, 1024), (2048, 2048, 2048))
GPU_SHAPES: Final = ((4096, 4096, 4096), (8192, 4096, 4096), (8192, 8192, 8192))
"""Rows, inner and columns of the products that are tried. Which is fastest depends on caches."""


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast over fp32 master weights, or nothing for ``fp32``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


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
    """The same, measured now in under a second: the best single product of several shapes, so that other
    work on the machine lowers it little."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    random = torch.Generator(device).manual_seed(0)  # training's own stream stays where it is
    began, best = time.perf_counter(), 0.0
    shapes = GPU_SHAPES if device.type == "cuda" else CPU_SHAPES
    for number, (rows, inner, columns) in enumerate(shapes, start=1):
        left = torch.randn(rows, inner, dtype=dtype, device=device, generator=random)
        right = torch.randn(columns, inner, dtype=dtype, device=device, generator=random).t()
        _seconds(left, right)
        while True:
            best = max(best, 2.0 * rows * inner * columns / _seconds(left, right))
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
