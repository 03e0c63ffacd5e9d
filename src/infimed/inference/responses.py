"""The append-only response store: one JSON line an answer, keyed by content. It is cache and resume.

Invariants: a key that is present is never asked again; a line torn by a kill is cut off on opening;
answers that failed are kept but asked again. Batches are fixed by the full list of requests and
answered whole, so a killed and resumed run ends with the bytes of an uninterrupted one. A model
whose answers do not depend on what else is asked (an endpoint: `independent` is true) is asked only
what is missing, and each answer is written, with what it cost, the moment it arrives. Cost: one
flush per batch, or per answer of an endpoint.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from infimed.core.console import err, progress
from infimed.core.errors import DataError
from infimed.core.files import atomic_open
from infimed.inference.requests import (
    ASK_AGAIN,
    STATUSES,
    Model,
    OptionScore,
    Request,
    Response,
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _line(key: str, response: Response) -> bytes:
    value: dict[str, Any] = {
        "key": key,
        "id": response.id,
        "status": response.status,
        "new_tokens": response.new_tokens,
        "text": response.text,
    }
    if response.error:
        value["error"] = response.error
    if response.attempts:
        value["prompt_tokens"] = response.prompt_tokens
        value["seconds"] = round(response.seconds, 3)
        value["attempts"] = response.attempts
    if response.options:
        value["options"] = [[option.logprob, option.tokens] for option in response.options]
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _parse(line: bytes) -> tuple[str, Response] | None:
    """(key, response) of a stored line, or None when it is not one."""
    try:
        value = json.loads(line)
        if value["status"] not in STATUSES:
            return None
        return str(value["key"]), Response(
            id=str(value["id"]),
            text=str(value["text"]),
            status=value["status"],
            new_tokens=int(value["new_tokens"]),
            error=str(value.get("error", "")),
            prompt_tokens=int(value.get("prompt_tokens", 0)),
            seconds=float(value.get("seconds", 0.0)),
            attempts=int(value.get("attempts", 0)),
            options=tuple(
                OptionScore(float(logprob), int(tokens))
                for logprob, tokens in value.get("options", ())
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None


def read_responses(path: Path) -> tuple[dict[str, Response], int, int]:
    """Stored answers by key, without changing the file.

    Returns:
        (responses, damaged lines passed over, bytes up to the end of the last whole line).
    """
    responses: dict[str, Response] = {}
    damaged = whole = 0
    try:
        with path.open("rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                parsed = _parse(line)
                if parsed is None:
                    damaged += 1
                else:
                    responses[parsed[0]] = parsed[1]
    except FileNotFoundError:
        pass
    return responses, damaged, whole


def keep_answers(path: Path, ids: Mapping[str, str]) -> None:
    """Rewrite a response file with the answers to these keys alone, each under the id given for its key.

    Without any left the file goes. Damaged lines go, too.
    """
    responses = read_responses(path)[0]
    kept = [(key, replace(one, id=ids[key])) for key, one in responses.items() if key in ids]
    if not kept:
        path.unlink(missing_ok=True)
        return
    with atomic_open(path) as handle:
        handle.writelines(_line(key, response) for key, response in kept)


class ResponseStore:
    """A response file open for appending; use as a context manager.

    Raises:
        DataError: another process has the file open for writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle: IO[bytes] = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._handle.close()
            raise DataError(
                "another process is writing these responses",
                where=str(path),
                fix="wait for it, or give another --out folder",
            ) from error
        self._responses, damaged, self._length = read_responses(path)
        self._handle.truncate(self._length)
        if damaged:
            err.print(
                f"{path}: {damaged} damaged lines passed over; they are asked again", markup=False
            )

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()

    def __contains__(self, key: str) -> bool:
        return key in self._responses and self._responses[key].status not in ASK_AGAIN

    def __getitem__(self, key: str) -> Response:
        return self._responses[key]

    def __len__(self) -> int:
        return len(self._responses)

    def add(self, items: Sequence[tuple[str, Response]]) -> None:
        """Append answers; on a full disk none of them is half-written.

        Raises:
            DataError: the disk is full.
        """
        data = b"".join(_line(key, response) for key, response in items)
        try:
            view = memoryview(data)
            while view:
                view = view[self._handle.write(view) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._handle.truncate(self._length)
            if error.errno in _FULL:
                raise DataError(
                    "the disk is full; the answers so far are kept",
                    where=str(self.path),
                    fix="free some space and run the same command again: it continues here",
                ) from error
            raise
        self._length += len(data)
        self._responses.update(items)

    def sync(self) -> None:
        """Flush to the disk itself."""
        os.fsync(self._handle.fileno())


def _answers(model: Model, batch: Sequence[Request]) -> dict[str, Response]:
    """One batch's answers by request id; a request left unanswered becomes an error.

    Raises:
        DataError: the model answered a request that was not asked.
    """
    wanted = {request.id for request in batch}
    got: dict[str, Response] = {}
    for response in model.respond(batch):
        if response.id not in wanted:
            raise DataError(
                "the model answered a request that was not in the batch", where=response.id
            )
        got[response.id] = response
    for request in batch:
        if request.id not in got:
            got[request.id] = Response(
                request.id, "", "error", error="the model returned no answer"
            )
    return got


def _ask_missing(
    model: Model, asked: Sequence[tuple[str, Request]], store: ResponseStore, title: str
) -> None:
    """Ask an independent model for what is not stored, keeping each answer as it arrives."""
    missing = {request.id: key for key, request in asked if key not in store}
    wanted = [request for _, request in asked if request.id in missing]
    with progress(title, len(asked), len(asked) - len(wanted), "answers") as advance:
        try:
            for response in model.respond(wanted) if wanted else ():
                if response.id not in missing:
                    raise DataError(
                        "the model answered a request that was not asked", where=response.id
                    )
                store.add([(missing.pop(response.id), response)])
                advance(1)
            store.add(
                [
                    (key, Response(name, "", "error", error="the model returned no answer"))
                    for name, key in missing.items()
                ]
            )
        finally:
            store.sync()


def ask(
    model: Model, requests: Sequence[Request], path: Path, *, title: str = "answers"
) -> dict[str, Response]:
    """Answer every request, from the store at `path` where it can, from the model where it must.

    Requests with equal keys are asked once. A batch with any missing answer is asked whole, and
    only what was missing is appended.

    Returns:
        response by request key.

    Raises:
        DataError: two requests share an id, the store is in use, or the disk is full.
    """
    keys = [request.key(model.fingerprint) for request in requests]
    if len({request.id for request in requests}) != len(requests):
        raise DataError("two requests have the same id", where=str(path))
    first_of: dict[str, int] = {}
    for index, key in enumerate(keys):
        first_of.setdefault(key, index)
    unique = sorted(first_of.values())
    asked = [requests[index] for index in unique]
    with ResponseStore(path) as store:
        if getattr(model, "independent", False):
            _ask_missing(model, [(keys[i], requests[i]) for i in unique], store, title)
            return {key: store[key] for key in first_of}
        batches = model.batches(asked)
        if sorted(index for batch in batches for index in batch) != list(range(len(asked))):
            raise ValueError("batches must cover every request exactly once")
        done = sum(keys[index] in store for index in unique)
        with progress(title, len(asked), done, "answers") as advance:
            for batch in batches:
                missing = [index for index in batch if keys[unique[index]] not in store]
                if not missing:
                    continue
                answers = _answers(model, [asked[index] for index in batch])
                store.add([(keys[unique[index]], answers[asked[index].id]) for index in missing])
                advance(len(missing))
        store.sync()
        return {key: store[key] for key in first_of}
