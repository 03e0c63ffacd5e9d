"""What training runs on: peak, memory and number of devices, from a table or measured here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources

import torch
import yaml

from infimed.core.errors import UsageError, nearest_name
from infimed.training.device import gemm_peak

SMALL_MFU, WIDE_MFU, WIDE = 0.25, 0.45, 1024
"""Share of a CPU's matrix-product rate that training reaches below and from this hidden width
(benchmarks/training_widths.py)."""


@dataclass(frozen=True)
class Hardware:
    """Devices that train together.

    Attributes:
        flops: bf16 operations per second of one device at its peak. mfu: share of it assumed to be reached.
        gib: memory of one device.
    """

    name: str
    devices: int
    flops: float
    gib: float
    mfu: float
    source: str

    @property
    def cpu(self) -> bool:
        """Whether this machine's processor trains, under autocast over fp32 weights."""
        return self.name == "cpu"


def this_cpu(hidden: int) -> Hardware:
    """This machine without accelerators, its peak measured now, for a model of that hidden width."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    mfu = WIDE_MFU if hidden >= WIDE else SMALL_MFU
    return Hardware("cpu", 1, gemm_peak(torch.device("cpu"), "bf16"), memory, mfu, "measured now")


def hardware(name: str, hidden: int) -> Hardware:
    """``cpu``, or a name of the table with the number of devices: ``h100x8``.

    Raises:
        UsageError: no such name.
    """
    if name == "cpu":
        return this_cpu(hidden)
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
        kind, count, values["teraflops"] * 1e12, values["gib"], values["mfu"], values["source"]
    )
