"""What training runs on: peak, memory and number of devices, from a table or measured here."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import torch
import yaml

from infimed.core.errors import UsageError, nearest_name
from infimed.training.device import Precision, fastest_precision, gemm_peak

CPU_PRODUCTS = 0.62
"""Share of the fastest product's rate that the products of a training step reach on a CPU, the time of moving
memory apart (benchmarks/training_widths.py)."""
BANDWIDTH_ELEMENTS = 2**26


@dataclass(frozen=True)
class Hardware:
    """Devices that train together.

    Attributes:
        flops: operations per second of one device at its peak, in bf16; of a CPU in `precision`. mfu: share of it assumed to be reached.
        bandwidth: bytes per second between one device and its memory. gib: memory of one device.
    """

    name: str
    devices: int
    flops: float
    bandwidth: float
    gib: float
    mfu: float
    source: str
    precision: Precision = "bf16"

    @property
    def cpu(self) -> bool:
        """Whether this machine's processor trains, under autocast over fp32 weights."""
        return self.name == "cpu"


def this_cpu(precision: str = "auto") -> Hardware:
    """This machine without accelerators, measured now, in the faster precision or a named one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = torch.device("cpu")
    chosen: Precision = fastest_precision(cpu)
    if precision != "auto":
        chosen = "bf16" if precision == "bf16" else "fp32"
    peak = gemm_peak(cpu, chosen)
    return Hardware("cpu", 1, peak, memory_rate(), memory, CPU_PRODUCTS, "measured now", chosen)


@lru_cache
def memory_rate() -> float:
    """Bytes per second with which this machine adds one large fp32 tensor to another."""
    left, right = torch.ones(BANDWIDTH_ELEMENTS), torch.ones(BANDWIDTH_ELEMENTS)
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        left.add_(right)
        taken.append(time.perf_counter() - began)
    return 12 * BANDWIDTH_ELEMENTS / min(taken)


def hardware(name: str, precision: str = "auto") -> Hardware:
    """``cpu``, or a name of the table with the number of devices: ``h100x8``.

    Args:
        precision: of training; with ``auto`` a CPU's faster one, and bf16 elsewhere.

    Raises:
        UsageError: no such name.
    """
    if name == "cpu":
        return this_cpu(precision)
    text = resources.files("infimed.training").joinpath("hardware.yaml").read_text("utf-8")
    known = yaml.safe_load(text)
    several = re.fullmatch(r"(.+)x([1-9]\d*)", name)
    kind, count = (several[1], int(several[2])) if several and name not in known else (name, 1)
    if kind not in known:
        raise UsageError(
            "no such hardware",
            where="--hardware",
            seen=name,
            accepted=["cpu", *(f"{one}xN" for one in known)],
            nearest=nearest_name(kind, list(known)),
        )
    values = known[kind]
    return Hardware(
        kind,
        count,
        values["teraflops"] * 1e12,
        values["terabytes"] * 1e12,
        values["gib"],
        values["mfu"],
        values["source"],
    )
