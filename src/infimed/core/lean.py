"""Start without a package that another one would import for nothing.

pyarrow imports pandas, where it is installed, at the first array that is made: a third of the time a
process takes to start, for conversions that it never asks for. To such a process pandas is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Refused(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self._name:
            raise ModuleNotFoundError(f"{fullname} is left out of this process", name=fullname)
        return None


def leave_out(package: str) -> None:
    """From here on, importing `package` fails in this process as if it were not installed."""
    sys.meta_path.insert(0, _Refused(package))
