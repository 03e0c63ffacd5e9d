"""What an import must remember of all its records, on disk and transactional.

SQLite holds ids (duplicates are named), locators already decoded, the index of stored images and
the counts of closed shards. Everything of one shard is committed in one transaction after the
shard's files are in place; a kill at any moment leaves the state of the last closed shard.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.files import sha256_bytes
from infimed.data.describing import Stated, all_values, stated
from infimed.data.readers.base import ReadProblem
from infimed.data.record import ImageRef, Record
from infimed.data.stored import StoredImage

_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ids (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS locators (key BLOB PRIMARY KEY, sha256 TEXT, facts TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (sha256 TEXT PRIMARY KEY, tar TEXT, at INTEGER, size INTEGER,
    width INTEGER, height INTEGER, format TEXT, facts TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stated (place INTEGER PRIMARY KEY, sha256 TEXT UNIQUE, locator TEXT,
    reader_facts TEXT, content TEXT);
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, counts TEXT);
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all closed shards."""

    records: int
    images: int
    image_uses: int
    shards: int
    items: int
    problems: int
    problem_codes: Mapping[str, int]
    tasks: Mapping[str, int]
    splits: Mapping[str, int]


class WorkState:
    """The working folder's memory. Use `open`; one writer at a time."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self._folder = folder
        self._db = connection
        self.running: dict[str, Future[StoredImage]] = {}
        totals = self.totals()
        self.shards, self.items, self.problems = totals.shards, totals.items, totals.problems

    @staticmethod
    def open(folder: Path, fingerprint: str, *, resume: bool) -> WorkState:
        """The state in `folder` if it belongs to the same work, else a new one in an emptied folder."""
        file = folder / "state.sqlite"
        if folder.exists():
            if file.is_file():
                try:
                    state = WorkState(folder, _connect(file))
                    if resume and state.about("fingerprint") == fingerprint:
                        return state
                    state.close()
                except sqlite3.OperationalError as error:
                    if "locked" in str(error):
                        raise DataError(
                            "another import is writing here",
                            where=str(folder),
                            fix="wait until it has finished, or stop it first",
                        ) from None
                except sqlite3.DatabaseError:
                    pass  # damaged: begin again below
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        connection = _connect(file)
        connection.execute("INSERT INTO about VALUES ('fingerprint', ?)", (fingerprint,))
        connection.commit()
        return WorkState(folder, connection)

    def about(self, key: str) -> str | None:
        """A stored word about the work."""
        row = self._db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def duplicate_id(self, identity: str, where: str) -> ReadProblem | None:
        """The problem when this id was imported before."""
        if (
            self._db.execute("SELECT 1 FROM ids WHERE id = ?", (_digest(identity),)).fetchone()
            is None
        ):
            return None
        return ReadProblem(
            where,
            "this id was used before; ids must be unique",
            "give it another id",
            "duplicate-id",
        )

    def add_id(self, identity: str) -> None:
        """Remember an imported id."""
        self._db.execute("INSERT INTO ids VALUES (?)", (_digest(identity),))

    def known_image(self, key: str) -> tuple[str, int, int, str] | None:
        """(sha256, width, height, facts JSON) of an image decoded before under this key."""
        row = self._db.execute(
            "SELECT l.sha256, i.width, i.height, l.facts FROM locators l JOIN images i ON i.sha256 = l.sha256"
            " WHERE l.key = ?",
            (_digest(key),),
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2], row[3])

    def has_content(self, sha256: str) -> bool:
        """Whether an image with this content is stored."""
        return (
            self._db.execute("SELECT 1 FROM images WHERE sha256 = ?", (sha256,)).fetchone()
            is not None
        )

    def add_content(self, stored: StoredImage, tar: str, offset: int, facts: str) -> None:
        """Remember where a new image was written."""
        kind = "jpeg" if stored.extension == "jpg" else "png"
        row = (
            stored.sha256,
            tar,
            offset,
            len(stored.data),
            stored.width,
            stored.height,
            kind,
            facts,
        )
        self._db.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def add_locator(self, key: str, sha256: str, facts: str) -> None:
        """Remember which image a key leads to."""
        self._db.execute(
            "INSERT OR REPLACE INTO locators VALUES (?, ?, ?)", (_digest(key), sha256, facts)
        )

    def note(self, shown: ImageRef, record: Record, number: int) -> None:
        """Join what a stored record states of its image `number` with what is known of that image.

        `shown` is how the reader referred to it.
        """
        sha256 = record.images[number].sha256
        row = self._db.execute("SELECT content FROM stated WHERE sha256 = ?", (sha256,)).fetchone()
        before = None if row is None else Stated(**json.loads(row[0]))
        content = json.dumps(asdict(stated(record, number, before)))
        if row is not None:
            self._db.execute("UPDATE stated SET content = ? WHERE sha256 = ?", (content, sha256))
            return
        self._db.execute(
            "INSERT INTO stated (sha256, locator, reader_facts, content) VALUES (?, ?, ?, ?)",
            (sha256, shown.locator, json.dumps(dict(shown.facts)), content),
        )

    def descriptions(self) -> Iterator[Record]:
        """Captions and questions of what is stated of each image, in first-seen order."""
        query = "SELECT sha256, locator, reader_facts, content FROM stated ORDER BY place"
        values = all_values(Stated(**json.loads(row[3])) for row in self._db.execute(query))
        for sha256, locator, facts, content in self._db.execute(query):
            image = ImageRef(locator, facts=json.loads(facts))
            yield from Stated(**json.loads(content)).records(sha256, image, values)

    def commit_shard(self, **counts: object) -> None:
        """Close the current shard: from here on it is kept."""
        self._db.execute("INSERT INTO shards VALUES (?, ?)", (self.shards, json.dumps(counts)))
        self._db.commit()
        totals = self.totals()
        self.shards, self.items, self.problems = totals.shards, totals.items, totals.problems

    def rollback(self) -> None:
        """Forget the open shard."""
        self._db.rollback()

    def totals(self) -> Totals:
        """Counts over all closed shards."""
        sums: Counter[str] = Counter()
        codes: Counter[str] = Counter()
        tasks: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        shards = 0
        for (text,) in self._db.execute("SELECT counts FROM shards ORDER BY number"):
            counts = json.loads(text)
            shards += 1
            for key in ("records", "image_uses", "items"):
                sums[key] += counts[key]
            codes.update(counts["problems"])
            tasks.update(counts["tasks"])
            splits.update(counts["splits"])
        images = self._db.execute("SELECT COUNT(*) FROM images").fetchone()[0]
        return Totals(
            sums["records"],
            images,
            sums["image_uses"],
            shards,
            sums["items"],
            codes.total(),
            codes,
            tasks,
            splits,
        )

    def image_rows(self, batch: int = 4096) -> Iterator[list[dict[str, Any]]]:
        """Rows of ``images.parquet`` sorted by sha256, in batches."""
        cursor = self._db.execute("SELECT * FROM images ORDER BY sha256")
        names = ("sha256", "tar", "offset", "size", "width", "height", "format", "facts")
        while rows := cursor.fetchmany(batch):
            yield [dict(zip(names, row, strict=True)) for row in rows]

    def close(self) -> None:
        """Close the database; what was not committed is gone."""
        self._db.close()


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=0.5)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # one import at a time
    connection.executescript(_TABLES)
    connection.execute("BEGIN EXCLUSIVE")
    connection.commit()
    return connection


def _digest(text: str) -> bytes:
    """16 bytes that stand for a text of any length."""
    return bytes.fromhex(sha256_bytes(text.encode("utf-8", "surrogatepass")))[:16]
