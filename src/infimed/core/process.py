"""Processes that belong together end together."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Opened here, not in a child between fork and exec, where another thread's loader lock may be held."""


def signal_at_death_of_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent ends, however that happens."""
    _LIBC.prctl(PR_SET_PDEATHSIG, number)


def signal_at_death_of_starter(number: int = signal.SIGTERM) -> None:
    """Send this process a signal when the process that started it through `multiprocessing` ends.

    That is not the kernel's parent where a fork server stands between them, which lives as long as its children do.
    """
    starter = multiprocessing.parent_process()
    if starter is None:
        return

    def watch() -> None:
        wait([starter.sentinel])
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="watch starter", daemon=True).start()
