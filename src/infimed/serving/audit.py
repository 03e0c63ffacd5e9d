"""Who asked which model what, as hashes: an append-only file, written where the operator asks for it.

A line is a JSON object. Before a model is asked, ``asked`` has the hashes of the turns and of every image; ``ended``
has how the answer ended and the hash of its text, and is written before the end of the answer is sent. All hashes are HMAC-SHA-256
under a key of the operator's, so no text and no image can be found by trying: without the key they say nothing.
``chain`` is the HMAC of the line and of the chain before it, so a line that is changed, left out or moved shows.

What it cannot show: lines cut off at the end, unless a later chain was noted elsewhere (the server logs it when it
starts and stops); and anything, against someone who has the key. Invariant: nothing is asked that cannot be
written down (`audit_failed`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infimed.core.errors import DataError, UsageError
from infimed.core.files import canonical_json, sha256_file
from infimed.serving.asking import Ask, Done, Event, Failed
from infimed.serving.refusals import Refusal

LOG: Final = logging.getLogger("infimed.serving")
SHORTEST_KEY: Final = 32
BEGIN: Final = "0" * 64
"""The chain before the first line."""
LONGEST_LINE: Final = 2**16


def read_audit_key(path: Path) -> bytes:
    """The key in a file: its first line.

    Raises:
        UsageError: the file cannot be read, or the key is too short.
    """
    fix = f"openssl rand -hex 32 > {path.name}"
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the audit key cannot be read", where=str(path), fix=fix) from error
    if len(key) < SHORTEST_KEY or len(key.split()) != 1:
        raise UsageError(
            "the audit key is too short or no single word",
            where=str(path),
            accepted=f"at least {SHORTEST_KEY} characters",
            fix=fix,
        )
    return key.encode()


@dataclass(frozen=True)
class Hasher:
    """Hashes under a key; what is hashed for one purpose says nothing about another."""

    key: bytes

    def of(self, purpose: str, data: bytes) -> str:
        """64 hex digits."""
        return hmac.new(self.key, purpose.encode() + b"\0" + data, hashlib.sha256).hexdigest()

    def image(self, sha256: str) -> str:
        """Of an image, by the SHA-256 of its file."""
        return self.of("image", sha256.encode())

    def answer(self, text: str) -> str:
        """Of an answer's text."""
        return self.of("answer", text.encode("utf-8", "surrogatepass"))

    def prompt(self, ask: Ask) -> str:
        """Of all turns of a question; an image is its number."""
        turns = [[turn.role, *turn.content] for turn in ask.request.messages]
        return self.of("prompt", canonical_json(turns).encode("utf-8", "surrogatepass"))

    def line(self, entry: dict[str, Any], before: str) -> tuple[bytes, str]:
        """An entry as a line, and its chain."""
        chain = self.of("chain", f"{before}\0{canonical_json(entry)}".encode())
        return canonical_json({**entry, "chain": chain}).encode() + b"\n", chain


class Audit:
    """The file while a server writes it. Not thread-safe.

    Raises:
        UsageError: another server writes it. DataError: it cannot be opened, or is not whole.
    """

    def __init__(self, path: Path, key: bytes, keys: bool = True) -> None:
        """`keys`: whether a client is the name of a key; else it is an address, which is hashed."""
        self.path, self.hasher, self._keys = path, Hasher(key), keys
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataError(f"the audit file cannot be opened ({error.strerror})", where=str(path)) from error  # fmt: skip
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = verified(path, self.hasher)
        except BlockingIOError as error:
            os.close(self._file)
            raise UsageError("another server writes this audit file", where=str(path), fix="name another --audit") from error  # fmt: skip
        except BaseException:
            os.close(self._file)
            raise
        self.entries, self.chain = found.entries, found.chain

    def close(self) -> None:
        """Log how far the file goes, and write what the system still holds of it to the disk."""
        self.tell()
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def asked(self, ask: Ask, model: str) -> None:
        """A question, before it is put to the model.

        Raises:
            Refusal: it cannot be written down.
        """
        # One frame of a file, or one window of it, is known by the file.
        files = [picture.sha256.split("#")[0] for picture in ask.request.pictures]
        images = [self.hasher.image(sha256) for sha256 in files]
        self._write("asked", ask.request.id, client=self._client(ask.client), model=model,
                    prompt=self.hasher.prompt(ask), images=images)  # fmt: skip

    def ended(self, ask: Ask, outcome: str, answer: str | None = None) -> None:
        """How an answer ended: `stop`, `length`, `left` where the client had gone, or a code.

        Raises:
            Refusal: it cannot be written down.
        """
        more = {} if answer is None else {"answer": self.hasher.answer(answer)}
        self._write("ended", ask.request.id, outcome=outcome, **more)

    def worked(self, client: str, model: str) -> None:
        """Something else than an answer was computed, such as scores of options.

        Raises:
            Refusal: it cannot be written down.
        """
        self._write("worked", None, client=self._client(client), model=model)

    def _client(self, client: str) -> str:
        return client if self._keys else self.hasher.of("client", client.encode())[:16]

    def _write(self, event: str, request: str | None, **facts: object) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"number": self.entries, "time": now, "event": event, "request": request, **facts}
        line, chain = self.hasher.line(entry, self.chain)
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, before)  # the disk is full: no half line is left
                raise OSError("short write")
        except OSError:
            LOG.error("audit_failed", extra={"request_id": request})
            raise Refusal("audit_failed") from None
        self.entries, self.chain = self.entries + 1, chain

    def tell(self) -> None:
        """Log how far the file goes: a chain that is noted elsewhere shows later that no line was cut off."""
        LOG.info("audit", extra={"entries": self.entries, "chain": self.chain})


async def recorded(audit: Audit, ask: Ask, model: str, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:  # fmt: skip
    """The events of an answer, its question and its end written down before they are told."""
    audit.asked(ask, model)
    outcome = "left"
    try:
        async for event in events:
            if isinstance(event, Done | Failed):
                outcome = ""
                try:
                    if isinstance(event, Done):
                        audit.ended(ask, event.finish, event.text)
                    else:
                        audit.ended(ask, event.code)
                except Refusal as refusal:
                    event = Failed(refusal.code)
            yield event
    except Refusal as refusal:
        outcome = refusal.code
        raise
    finally:
        if outcome:
            with contextlib.suppress(Refusal):
                audit.ended(ask, outcome)
        if isinstance(events, AsyncGenerator):
            await events.aclose()


@dataclass(frozen=True)
class Verified:
    """What a whole file holds.

    Attributes:
        chain: of its last line. first, last: times. chains: whether the one that was asked for is there.
    """

    entries: int
    chain: str
    first: str = ""
    last: str = ""


def verified(path: Path, hasher: Hasher, chain: str | None = None) -> Verified:
    """Read a file and compute every chain anew.

    Args:
        chain: one that was noted earlier, and must be there.

    Raises:
        DataError: a line is damaged, changed, left out or moved; or that chain is not there.
    """
    before, number, first, last, there = BEGIN, 0, "", "", chain is None
    for entry, raw in entries(path):
        said = entry.pop("chain", None)
        line, now = hasher.line(entry, before)
        if line != raw or entry.get("number") != number or said != now:
            raise DataError(
                "this line, or one before it, was changed, left out or moved; or the key is another",
                where=f"{path}:{number + 1}",
                fix="keep the file, and let the server begin a new one (--audit)",
            )
        before, number, last = now, number + 1, str(entry.get("time"))
        first = first or last
        there = there or now == chain
    if not there:
        raise DataError(
            "no line has this chain: lines were cut off the end", where=str(path), seen=chain
        )
    return Verified(number, before, first, last)


def entries(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The entries of a file, each with its line.

    Raises:
        DataError: it cannot be read, or a line is no entry.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                try:
                    entry = json.loads(raw) if raw.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    entry = None
                if not isinstance(entry, dict):
                    raise DataError(
                        "this line is damaged",
                        where=f"{path}:{number}",
                        fix="keep the file, and let the server begin a new one (--audit)",
                    )
                yield entry, raw
    except OSError as error:
        raise DataError(f"the audit file cannot be read ({error.strerror})", where=str(path)) from error  # fmt: skip


def requests_with(
    path: Path, hasher: Hasher, images: Sequence[Path], answers: Sequence[str]
) -> list[dict[str, Any]]:
    """Entries that show one of these image files, or end with one of these answers."""
    shown = {hasher.image(sha256_file(image)) for image in images}
    said = {hasher.answer(answer) for answer in answers}
    return [
        entry
        for entry, _ in entries(path)
        if shown & set(entry.get("images", ())) or entry.get("answer") in said
    ]
