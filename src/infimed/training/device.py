"""Where training runs, and in what precision. The CUDA branch has not run on a GPU yet."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


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
