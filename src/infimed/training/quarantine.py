"""What a run could not read, left out by rule instead of ending it: `quarantine.jsonl`.

An image that was whole at import can fail later: a disk loses a block, a codec changes. The rule is a
function of the plan and the bytes alone: the *document* that shows such an image, or holds a record
that cannot be read, is left out of its row, and the loss of the step is divided by what is left.
Nothing takes its place, so every other document is trained as planned, and a resumed run meets the same
failure at the same step. A run stops once more images have failed than its budget allows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError
from infimed.core.run import MetricsLog

UNREADABLE = "quarantine.jsonl"


@dataclass(frozen=True)
class LeftOut:
    """A document that was left out of its row.

    Attributes:
        row: number of the row in its stage. records: ids of the document's records.
        where: the image or record that failed. what: why.
    """

    row: int
    records: tuple[str, ...]
    where: str
    what: str


class Quarantine:
    """Counts what failed in a run, keeps its list, and stops the run past a budget.

    Args:
        file: the list; only the first rank writes it. share: of the images that a stage shows, how many
            may fail; one may in any case.
    """

    def __init__(self, file: Path, share: float, *, writes: bool = True) -> None:
        self._log = MetricsLog(file)
        self.share = share
        self.writes = writes
        self.failed: set[str] = set()

    def rewind(self, step: int) -> None:
        """Forget what failed after `step`: it will fail again."""
        known = [line for line in self._log.read() if line["step"] <= step]
        self.failed = {line["where"] for line in known}
        if self.writes and self._log.path.exists():
            self._log.rewind(step)

    def add(self, found: Iterable[dict[str, Any]], *, step: int, stage: str, images: int) -> None:
        """Note what failed in a step.

        Args:
            found: `LeftOut` as dictionaries, from all ranks. images: images that the stage shows.

        Raises:
            DataError: more failed than the budget allows; everything is noted first.
        """
        for line in found:
            self.failed.add(line["where"])
            if self.writes:
                self._log.append({"step": step, "stage": stage, **line})
        allowed = max(1, int(self.share * images))
        if len(self.failed) > allowed:
            raise DataError(
                f"{len(self.failed)} images or records of this run could not be read, more than the "
                f"{allowed} that are allowed",
                where=str(self._log.path),
                fix="look at the list: import the data again if the disk is at fault, or raise "
                "train.bad_images",
            )


def as_text(found: Iterable[LeftOut]) -> str:
    """One rank's list, for the others."""
    return json.dumps([asdict(one) for one in found])


def from_texts(texts: Iterable[str]) -> list[dict[str, Any]]:
    """The lists of all ranks, by row."""
    together: list[dict[str, Any]] = [one for text in texts for one in json.loads(text)]
    return sorted(together, key=lambda one: (one["row"], one["where"]))
