"""What an application gives while it works: pieces of text, and one result at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Delta:
    """Text that follows what came before in the same part ("" where there is one part only)."""

    text: str
    part: str = ""


@dataclass(frozen=True)
class Result:
    """All of it, ready for JSON; exactly one, the last."""

    value: dict[str, Any]


Update: TypeAlias = Delta | Result
