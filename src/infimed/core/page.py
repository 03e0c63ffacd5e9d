"""What every self-contained HTML page of the project shares: template, style, escaping, numbers.

Invariants: templates escape everything by default and make control characters visible; a page
fetches nothing (its own Content-Security-Policy says so to the browser). Style and macros lie
beside this file as `page_style.css.j2` and `page_macros.html.j2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, TypeVar

import pyarrow as pa

from infimed.core.errors import InfiMedError

MAX_TEXT = 700
"""Longest text of a record or answer shown in full, characters."""

_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, those that turn the reading direction, and lone surrogates."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Section(Generic[Value]):
    """A part of a report: its value, or why there is none."""

    value: Value | None
    reason: str = ""


def section(load: Callable[[], Value], absent: str | None = None) -> Section[Value]:
    """The loaded part; with `absent` given nothing is loaded and that is the reason."""
    if absent is not None:
        return Section(None, absent)
    try:
        return Section(load())
    except InfiMedError as error:
        return Section(None, f"This part could not be read: {error.what}.")
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        pa.ArrowException,
    ) as error:
        return Section(None, f"This part could not be read ({type(error).__name__}).")


def clean(value: Any) -> Any:
    """Text without what a page cannot hold: control characters and lone surrogates made visible."""
    if type(value) is not str:
        return value
    return _CONTROL.sub("\ufffd", value.replace("\r\n", "\n"))


def plain(text: object, limit: int = MAX_TEXT) -> str:
    """`clean` text of at most `limit` characters."""
    whole: str = clean(str(text))
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


def number(value: float) -> str:
    """``1,234``; one decimal below 100, two below 1."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """``84.2 %``; a dash where there is no value."""
    return "–" if value is None else f"{100 * value:.1f} %"


def share(value: float) -> str:
    """Like per cent, but a small share that is not zero does not look like none."""
    return "< 0.1 %" if 0 < value < 0.0005 else percent(value)


def scaled(value: float) -> str:
    """``12.3 G`` for floating-point operations per second."""
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return number(value)


def duration(hours: float) -> str:
    """``42 s``, ``3.5 min`` or ``2.10 h``."""
    seconds = hours * 3600
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{hours:.2f} h"


def template(package: str, name: str) -> Any:
    """The template `name` of a package; it may include what lies in `infimed.core`.

    Every value is escaped unless the template says ``|safe``; an undefined name is an error.
    """
    import jinja2

    def source(wanted: str) -> str | None:
        for place in (package, "infimed.core"):
            file = resources.files(place).joinpath(wanted)
            if file.is_file():
                return file.read_text(encoding="utf-8")
        return None

    environment = jinja2.Environment(
        autoescape=True,
        finalize=clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(source),
    )
    environment.filters.update(
        plain=plain, number=number, scaled=scaled, duration=duration, percent=percent, share=share
    )
    return environment.get_template(name)
