"""What the kernel does for processes that belong together."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1


def signal_at_death_of_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
