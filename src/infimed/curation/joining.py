"""Joins the finished parts of a run into tables of the ledger while the rest is still being measured.

Decoding and compressing a million rows takes half a minute of one core; done afterwards, all other
cores of a large machine would wait for it. Rows are joined in order, so the bytes do not depend on the
order in which chunks are finished. Memory: one row group a table. Nothing in the ledger's own folder
changes; a run that is killed leaves its parts, and the joining begins anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from infimed.curation import ledger


class _GivenUp(Exception):
    """The run ended before all chunks were measured."""


class Joining:
    """One thread for each of `names`; use as a context, `look` after every finished chunk.

    Args:
        parts: of the run; the joined tables wait in its folder. chunks: how many there will be.
    """

    def __init__(self, parts: ledger.Parts, names: Sequence[str], chunks: int) -> None:
        self._parts, self._names, self._chunks = parts, tuple(names), chunks
        self._news = threading.Condition()
        self._given_up = self._ended = False
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._join, args=(name,), name=f"joining {name}", daemon=True)
            for name in self._names
        ]

    def __enter__(self) -> Joining:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._given_up = not self._ended
        self.look()
        for thread in self._threads:
            thread.join()

    def look(self) -> None:
        """There may be another finished chunk."""
        with self._news:
            self._news.notify_all()

    def finish(self) -> dict[str, Path]:
        """The joined tables by name, once there is no further chunk to come.

        Raises:
            Whatever kept a table from being written; `OSError` where a chunk is missing.
        """
        self._ended = True
        self.look()
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return {name: self._joined(name) for name in self._names}

    def _joined(self, name: str) -> Path:
        return self._parts.folder / f"{name}.joined"

    def _join(self, name: str) -> None:
        try:
            ledger.write_table(self._joined(name), name, self._tables(name))
        except _GivenUp:
            pass
        except BaseException as error:  # told by `finish`
            self._errors.append(error)

    def _tables(self, name: str) -> Iterator[pa.Table]:
        for chunk in range(self._chunks):
            with self._news:
                while not (self._given_up or self._ended or self._parts.done(chunk)):
                    self._news.wait()
            if self._given_up:
                raise _GivenUp
            yield self._parts.read(name, chunk)
