"""Structured logs without patient data: one JSON object a line, of fields that are named here.

Invariant: a line holds no text of a request, an answer, a header or an exception: only our event names, ids,
hashes, counts, codes, and the files and lines of a traceback. Lines of other libraries give their logger, their
level and the kind of an exception; what uvicorn says is a constant, and is kept without its arguments.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import Final, TextIO

FIELDS: Final = (
    "request_id", "client", "route", "status", "code", "milliseconds", "first_token_milliseconds",
    "body_bytes", "images", "prompt_tokens", "new_tokens", "reused_tokens", "frames", "kind", "reason", "entries", "chain",
)  # fmt: skip
"""Fields that a line of ours may have."""
_CONSTANT: Final = ("infimed.serving", "uvicorn.error")


def frames_of(error: BaseException | None) -> list[str]:
    """Where an exception was raised and what kind it is; never what it says."""
    if error is None:
        return []
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return [*places, type(error).__name__]


class JsonLines(logging.Formatter):
    """A record as a JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        """See the module."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name in _CONSTANT:
            line["event"] = str(record.msg)
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None and value != []:
                line[name] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["frames"] = frames_of(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def set_up(stream: TextIO | None = None) -> None:
    """Send every log line of this process to stderr in this form; warnings from all, all of ours."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("infimed.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.INFO if name == "infimed.serving" else logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
