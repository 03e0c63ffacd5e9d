"""Errors a user can act on.

Every error names the key or file, the value seen, what is accepted, the nearest valid name and the
command that fixes it. The class decides the exit code, so a shell script can tell a typo (3) from
broken data (4) from a model that diverged (6).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USAGE = 2
EXIT_RECIPE = 3
EXIT_DATA = 4
EXIT_MEMORY = 5
EXIT_NON_FINITE = 6
EXIT_NOT_PROMOTED = 7
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class InfiMedError(Exception):
    """Base of every error that reaches the user as a message instead of a traceback.

    Args:
        what: what is wrong, one sentence.
        where: the recipe key, file or record id it concerns.
        seen: the value that was found.
        accepted: what would have been accepted.
        nearest: the valid name closest to `seen` ("did you mean").
        fix: the command or edit that mends it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        seen: object = None,
        accepted: str | Iterable[str] | None = None,
        nearest: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.seen = seen
        self.accepted = (
            accepted if accepted is None or isinstance(accepted, str) else ", ".join(accepted)
        )
        self.nearest = nearest
        self.fix = fix
        super().__init__(self.render())

    def render(self) -> str:
        """The message as plain text: one line of problem, then one line per known detail."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        lines = [head]
        if self.seen is not None:
            lines.append(
                f"  seen:      {self.seen!r}"
                if isinstance(self.seen, str)
                else f"  seen:      {self.seen}"
            )
        if self.accepted is not None:
            lines.append(f"  accepted:  {self.accepted}")
        if self.nearest is not None:
            lines.append(f"  did you mean: {self.nearest}")
        if self.fix is not None:
            lines.append(f"  fix:       {self.fix}")
        return "\n".join(lines)


class UsageError(InfiMedError):
    """The command line itself is wrong."""

    exit_code = EXIT_USAGE


class RecipeError(InfiMedError):
    """A recipe key or a relation between keys is wrong."""

    exit_code = EXIT_RECIPE


class DataError(InfiMedError):
    """A file, image, record, shard or checkpoint is missing, unreadable or inconsistent."""

    exit_code = EXIT_DATA


class MemoryBudgetError(InfiMedError):
    """The work does not fit in the memory that is there."""

    exit_code = EXIT_MEMORY


class NonFiniteError(InfiMedError):
    """Loss or gradient became NaN or infinite; nothing was updated."""

    exit_code = EXIT_NON_FINITE


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to `name`, or None when nothing is close enough to suggest."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def missing_extra(extra: str, package: str) -> UsageError:
    """The error for an optional dependency that is not installed."""
    return UsageError(
        f"this needs the package '{package}', which is not installed",
        fix=f"pip install 'infimed[{extra}]'",
    )
