"""Images that are sent once and shown in later requests: in memory only, each client's own, soon forgotten.

``POST /v1/infimed/files`` takes one file as ``multipart/form-data`` and gives its id, ``file-`` and the SHA-256 of
the content, which `image_url.url` takes in place of a ``data:`` URL. Invariants: no byte touches a disk, a file
name is never read, a client finds nothing of another's, and what is there takes a bounded number of bytes. What is
full refuses; nothing is forgotten before its time to make room. Needs the package ``python-multipart`` of the extra ``serve``.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from infimed.core.files import sha256_bytes
from infimed.serving.refusals import Refusal
from infimed.serving.settings import Settings

PREFIX: Final = "file-"
MOST_PARTS: Final = 4
"""Of a form: the file, and what OpenAI's clients send beside it."""
IGNORED: Final = frozenset({"purpose"})
"""Fields that OpenAI's clients send and that have no effect here."""


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Attributes:
        kind: its declared media type. until: when it is forgotten, by the clock of `Uploads`.
    """

    data: bytes = field(repr=False)
    kind: str
    until: float


class Uploads:
    """What clients have sent. For one event loop; not thread-safe."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings, self._clock = settings, clock
        self._kept: dict[tuple[str, str], Upload] = {}  # in the order in which they are forgotten

    @property
    def held_bytes(self) -> int:
        """Of all files that are kept."""
        return sum(len(upload.data) for upload in self._kept.values())

    def put(self, client: str, data: bytes, kind: str) -> str:
        """Keep a file for `times.upload`; returns its id. The same content again begins its time anew.

        Raises:
            Refusal: there is no room for it.
        """
        self.sweep()
        name, limits = PREFIX + sha256_bytes(data), self.settings.limits
        before = self._kept.pop((client, name), None)
        own = [upload for (whose, _), upload in self._kept.items() if whose == client]
        if sum(len(upload.data) for upload in own) + len(data) > limits.upload_bytes_per_client:
            raise self._full("too_many_uploads", own)
        if self.held_bytes + len(data) > limits.upload_bytes:
            raise self._full("overloaded", list(self._kept.values()))
        seconds = self.settings.times.upload
        kept = data if before is None else before.data
        self._kept[client, name] = Upload(kept, kind, self._clock() + seconds)
        asyncio.get_running_loop().call_later(seconds, self.sweep)  # also where nobody comes again
        return name

    def get(self, client: str, name: str, place: str) -> Upload:
        """A file of this client.

        Raises:
            Refusal: there is none, or it is forgotten; which of both, and whether another has it, is not told.
        """
        self.sweep()
        found = self._kept.get((client, name))
        if found is None:
            raise Refusal("image_upload", param=place)
        return found

    def drop(self, client: str, name: str) -> None:
        """Forget a file now.

        Raises:
            Refusal: this client has no such file.
        """
        self.get(client, name, "id")
        del self._kept[client, name]

    def sweep(self) -> None:
        """Forget what is over its time."""
        now = self._clock()
        for key in [key for key, upload in self._kept.items() if upload.until <= now]:
            del self._kept[key]

    def _full(self, code: str, there: list[Upload]) -> Refusal:
        soonest = min((upload.until for upload in there), default=self._clock())
        return Refusal(code, param="file", retry_after=max(1, math.ceil(soonest - self._clock())))


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


def form_file(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Content and declared type of the file in a form; a missing type is ``application/octet-stream``.

    Raises:
        Refusal: it is no form, or has other fields than one ``file``.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal("form_expected")
    try:
        parts = _parts(body, options[b"boundary"])
    except (FormParserError, ValueError):
        raise Refusal("invalid_form") from None
    found: list[tuple[bytes, str]] = []
    for part in parts:
        disposition, names = parse_options_header(part.headers.get(b"content-disposition"))
        name = names.get(b"name", b"").decode("latin-1")
        encoding = part.headers.get(b"content-transfer-encoding", b"binary").lower()
        if disposition != b"form-data" or encoding not in (b"binary", b"8bit", b"7bit"):
            raise Refusal("invalid_form")
        if name in IGNORED:
            continue
        if name != "file":
            raise Refusal("unknown_field", detail="send 'file' alone")
        declared = part.headers.get(b"content-type", b"application/octet-stream")
        found.append((bytes(part.data), declared.decode("latin-1").split(";")[0].strip().lower()))
    if len(found) != 1:
        raise Refusal("missing_field" if not found else "invalid_form", param="file")
    return found[0]


def _parts(body: bytes, boundary: bytes) -> list[_Part]:
    """The parts of a form.

    Raises:
        FormParserError: it is none. ValueError: it is cut, or has too many parts.
    """
    from python_multipart.multipart import MultipartParser

    parts: list[_Part] = []
    name, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == MOST_PARTS:
            raise ValueError("too many parts")
        parts.append(_Part())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_part_data": lambda data, start, stop: parts[-1].data.extend(data[start:stop]),
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_end": end,
        },
    )
    parser.write(body)
    parser.finalize()
    if not ended:
        raise ValueError("the form is cut")
    return parts
