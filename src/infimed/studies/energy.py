"""Energy of a stretch of work, where the processor counts it.

The counters of Linux's powercap (Intel RAPL, also on newer AMD) hold the energy of whole packages: what other
processes burn at the same time is in it. Reading them often needs a privilege; where they cannot be
read the answer is None, and tables say "unavailable" instead of guessing from a power rating.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")
UNAVAILABLE: Final = "unavailable"


@dataclass(frozen=True)
class Reading:
    """Microjoules of every package counter, and where each begins again."""

    counters: dict[str, tuple[int, int]]


def read(folder: Path = POWERCAP) -> Reading | None:
    """The counters now; None where there are none or they may not be read."""
    found: dict[str, tuple[int, int]] = {}
    try:
        for zone in sorted(folder.glob("*")):
            # "intel-rapl:0" is a package; "intel-rapl:0:1" is a part of it and counted in it.
            if zone.name.count(":") == 1 and (zone / "energy_uj").exists():
                energy = int((zone / "energy_uj").read_text())
                found[zone.name] = (energy, int((zone / "max_energy_range_uj").read_text()))
    except (OSError, ValueError):
        return None
    return Reading(found) if found else None


def joules(begin: Reading | None, end: Reading | None) -> float | None:
    """Energy between two readings, J; None where one is missing or they are of other counters.

    A counter that began again in between is counted once round: it must be read more often than that.
    """
    if begin is None or end is None or begin.counters.keys() != end.counters.keys():
        return None
    total = 0
    for name, (before, span) in begin.counters.items():
        after = end.counters[name][0]
        total += after - before if after >= before else after + span - before
    return total / 1e6


def words(energy: float | None) -> str:
    """For tables."""
    return UNAVAILABLE if energy is None else f"{energy:,.0f} J"
