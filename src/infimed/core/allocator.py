"""Keep large blocks instead of returning them to the kernel at every training step.

glibc's default maps and unmaps every large tensor; page faults then cost about a third of training
time on a CPU. The settings are read when a process starts, so the process starts itself again once.
Cost: resident memory shrinks only when `return_free_memory` is called.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184"


def restart_tuned() -> None:
    """Replace this process by itself with the allocator tuned; does nothing where that is done already.

    Other C libraries ignore the variable. A user's own GLIBC_TUNABLES is left as it is.
    """
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ[VARIABLE] = TUNABLES
    os.execv(sys.executable, [sys.executable, "-m", "infimed.cli.main", *sys.argv[1:]])


def return_free_memory() -> None:
    """Give unused heap pages back to the kernel; does nothing on other C libraries.

    Rows of different lengths fragment a heap that is never trimmed. Called every few steps this
    keeps resident memory flat at the price of faulting the pages in once more.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
