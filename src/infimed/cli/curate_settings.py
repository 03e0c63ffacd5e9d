"""``--set NAME=VALUE`` of the curate commands."""

from __future__ import annotations

from collections.abc import Sequence

from infimed.core.errors import UsageError


def parse_settings(texts: Sequence[str]) -> dict[str, str | float]:
    """``["a.b=1", "c=note"]`` as a mapping; numbers become numbers.

    Raises:
        UsageError: no "=", or nothing on one side of it.
    """
    made: dict[str, str | float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                "--set takes NAME=VALUE", seen=text, fix="--set completeness.cut_text=note"
            )
        try:
            made[name] = float(value)
        except ValueError:
            made[name] = value
    return made
