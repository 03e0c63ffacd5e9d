"""Text from data that must not act: in a page's script element and in a spreadsheet's cell."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Final

_ESCAPED: Final = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def script_safe(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False)
    for character, escape in _ESCAPED.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", "replace").decode("utf-8")


def script_digest(script: str) -> str:
    """Base64 SHA-256 of a script, as a Content-Security-Policy names the one that may run."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()


def spreadsheet_text(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; `plain_text` inverts it."""
    return "'" + text if text.startswith((*_FORMULA, "'")) else text


def plain_text(cell: str) -> str:
    """Inverse of `spreadsheet_text`."""
    return cell[1:] if cell.startswith("'") else cell
