"""From a benchmark's own files to shards: checked, built once, kept in a cache.

A task with `layouts` is built by the reader `mapped` from the folder that `places` finds. The shards
lie in ``CACHE/tasks/NAME`` and are as private as their source: only the owner may read that folder.
Invariant: the same files and the same task file give the same bytes; other files or another map
replace the cached shards, never mix with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.console import progress
from infimed.core.errors import DataError, UsageError
from infimed.core.files import write_json
from infimed.data.fieldmap import FieldMap
from infimed.data.importing import import_data
from infimed.data.record import Facts, ImageRef, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.groups import Chosen
from infimed.evaluation.places import DataPlaces, NoData, download, locate
from infimed.evaluation.spec import TaskSpec, load_task


@dataclass(frozen=True, slots=True)
class Built:
    """A benchmark in shards.

    Attributes:
        task: its name. folder: where its files are. shards: where the shards are.
        questions: of the split that is asked. expected: how many there should be, where that is
            stated and all of them were built.
        left_out: rows with a problem; `problems.jsonl` in the shards says which and why.
        data_sha256: of the shards.
    """

    task: str
    folder: Path
    shards: Path
    questions: int
    expected: int | None
    left_out: int
    data_sha256: str

    def note(self) -> dict[str, Any]:
        """What is written beside the answers."""
        return {
            "folder": str(self.folder.resolve()),
            "questions": self.questions,
            "expected": self.expected,
            "left_out": self.left_out,
            "data_sha256": self.data_sha256,
        }

    def describe(self) -> str:
        """One line for the user."""
        text = f"{self.task}: {self.questions:,} questions from {self.folder}"
        if self.expected is not None and self.expected != self.questions:
            text += f", expected {self.expected:,}: not the published set"
        if self.left_out:
            text += f"; rows left out: {self.left_out:,}, see {self.shards / 'problems.jsonl'}"
        return text


class JoinedShards:
    """Several shard sets read as one; an image is looked for in all of them."""

    def __init__(self, sets: Sequence[ShardSet]) -> None:
        self.sets = tuple(sets)

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def __iter__(self) -> Iterator[Record]:
        for one in self.sets:
            yield from one

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """uint8 RGB [H, W, 3] of an image. Raises DataError when no set holds it."""
        holder = next((one for one in self.sets[1:] if one.holds(ref)), self.sets[0])
        return holder.pixels(ref)

    def image_facts(self, sha256: str) -> Facts:
        """Stored facts of an image. Raises DataError when no set holds it."""
        ref = ImageRef(sha256, sha256)
        holder = next((one for one in self.sets[1:] if one.holds(ref)), self.sets[0])
        return holder.image_facts(sha256)


@dataclass(frozen=True, slots=True)
class Available:
    """What can be asked: names of tasks, where their files are, and why others are left out."""

    names: tuple[str, ...]
    places: DataPlaces
    left_out: tuple[str, ...]


def available(
    chosen: Chosen, places: DataPlaces, cache: Path, *, own: bool, hub: bool = False
) -> Available:
    """The chosen tasks whose data is there, found before any model is loaded.

    Args:
        own: whether there are shards of the user's own records. hub: fetch what is not there.

    Raises:
        NoData: a task that was named has no data, or none of a group's tasks has.
    """
    names, left_out, named = [], [], dict(places.named)
    for name in chosen.names:
        spec = load_task(name)
        try:
            if not spec.layouts and not own:
                raise NoData(
                    "no imported data here",
                    where=f"task {name}",
                    fix="give --shards DIR (made by: infimed data import)",
                )
            if spec.layouts:
                try:
                    locate(spec, places)
                except NoData:
                    if not hub:
                        raise
                    named[spec.name] = download(spec, cache)
                    locate(spec, DataPlaces(named=named))
            names.append(name)
        except (DataError, UsageError) as error:
            if name not in chosen.by_group:
                raise
            left_out.append(f"left out {name}: {error.what}; {error.fix}")
    if not names:
        raise NoData(
            "the data of none of these tasks is here",
            seen=", ".join(map(str, places.roots)) or None,
            fix="give --data DIR; docs/tasks.md says what each task reads",
        )
    return Available(tuple(names), DataPlaces(places.roots, named), tuple(left_out))


def read_options(
    spec: TaskSpec, layout: FieldMap, *, images: bool = True, limit: int | None = None
) -> dict[str, str]:
    """Options of the reader `mapped` for a task's files."""
    return {
        "map": layout.model_dump_json(exclude_defaults=True),
        "source": spec.name,
        "license": str(spec.source.license.value),
        **({"sample": str(limit)} if limit is not None else {}),
        "images": spec.split if images else "none",  # controls learn from texts alone
    }


def build(
    spec: TaskSpec,
    places: DataPlaces,
    cache: Path,
    *,
    images: bool = True,
    limit: int | None = None,
) -> Built:
    """Build a task's shards, or take them from the cache when nothing has changed.

    Args:
        images: False: questions without their images, also where the images are absent.
        limit: only the questions that this limit asks, where the whole is not built yet: the images
            of a large benchmark need not all be decoded for a first look.

    Raises:
        NoData: its files are not there. DataError: no row of them can be read.
    """
    folder, layout = locate(spec, places)
    out = cache / "tasks" / (spec.name if images else f"{spec.name}.text")
    if out.exists():
        limit = None
    if limit is not None:
        out = out.with_name(f"{out.name}.{limit}")
    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with progress(f"build {spec.name}", None, unit="rows") as advance:
        summary = import_data(
            folder,
            out,
            reader="mapped",
            options=read_options(spec, layout, images=images, limit=limit),
            overwrite=True,
            progress=lambda items, problems: advance(1),
        )
    expected = spec.source.questions.value if spec.source.questions and limit is None else None
    return Built(
        task=spec.name,
        folder=folder,
        shards=out,
        questions=summary.splits.get(spec.split, 0),
        expected=expected if isinstance(expected, int) else None,
        left_out=summary.problems,
        data_sha256=summary.data_hash,
    )


def gather(
    specs: Sequence[TaskSpec],
    places: DataPlaces,
    cache: Path,
    out: Path | None = None,
    *,
    own: ShardSet | None = None,
    images: bool = True,
    limit: int | None = None,
) -> tuple[JoinedShards, list[Built]]:
    """All that `specs` ask: built benchmarks and, for the others, the user's `own` shards.

    With `out`, ``out/TASK/data.json`` says for every built task which data it was.
    """
    built = [
        build(spec, places, cache, images=images, limit=limit) for spec in specs if spec.layouts
    ]
    if out is not None:
        for one in built:
            write_json(out / one.task / "data.json", one.note())
    sets = [open_shards(one.shards) for one in built]
    return JoinedShards([*([own] if own is not None else []), *sets]), built
