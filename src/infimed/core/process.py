"""What the kernel does for processes that belong together."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Opened here, not in a child between fork and exec, where another thread's loader lock may be held."""


def signal_at_death_of_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent ends, however that happens."""
    _LIBC.prctl(PR_SET_PDEATHSIG, number)
