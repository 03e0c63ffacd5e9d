"""From a benchmark's own files to shards: found in a folder, checked, built once, kept in a cache.

A task with `layouts` is built from a folder below a data root (or from the Hub, only when asked
to) by the reader `mapped`. The shards lie in ``CACHE/tasks/NAME`` and are as private as their
source: only the owner may read that folder. Invariant: the same files and the same task file give
the same bytes; other files or another map replace the cached shards, never mix with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.console import progress
from infimed.core.errors import DataError, UsageError, missing_extra
from infimed.core.files import write_json
from infimed.data.fieldmap import FieldMap
from infimed.data.importing import import_data
from infimed.data.readers.rowfiles import matching_files
from infimed.data.record import ImageRef, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.groups import Chosen
from infimed.evaluation.spec import UNVERIFIED, TaskSpec, load_task


class NoData(DataError):
    """The files of a benchmark are not where they were looked for."""


@dataclass(frozen=True, slots=True)
class DataPlaces:
    """Where benchmarks may lie: roots with a folder each, and folders named for one task."""

    roots: tuple[Path, ...] = ()
    named: dict[str, Path] = field(default_factory=dict)

    @staticmethod
    def parse(values: Sequence[str]) -> DataPlaces:
        """From ``DIR`` and ``TASK=DIR`` as typed.

        Raises:
            UsageError: no such folder.
        """
        roots, named = [], {}
        for value in values:
            task, equals, place = value.partition("=")
            folder = Path(place if equals else value).expanduser()
            if not folder.is_dir():
                raise UsageError(
                    "no such folder", where="--data", seen=str(folder), accepted="DIR or TASK=DIR"
                )
            if equals:
                named[task] = folder
            else:
                roots.append(folder)
        return DataPlaces(tuple(roots), named)

    def candidates(self, spec: TaskSpec) -> list[Path]:
        """Folders that may hold a task's files, in the order in which they are tried.

        Below a root: the task's name, the last part of its Hub id, its other names (case does not
        matter). The root itself only where it has such a name: many benchmarks call their file
        test.json, and none may be taken for another.
        """
        if spec.name in self.named:
            return [self.named[spec.name]]
        names = [spec.name, spec.source.hub.rpartition("/")[2], *spec.source.folders]
        wanted = [name.lower() for name in names if name]
        found = []
        for root in self.roots:
            below = {
                entry.name.lower(): entry for entry in sorted(root.iterdir()) if entry.is_dir()
            }
            found += [below[name] for name in dict.fromkeys(wanted) if name in below]
            if root.resolve().name.lower() in wanted:
                found.append(root)
        return found


@dataclass(frozen=True, slots=True)
class Built:
    """A benchmark in shards.

    Attributes:
        task: its name. folder: where its files are. shards: where the shards are.
        questions: of the split that is asked. expected: how many there should be, where stated.
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
            text += f"; {self.left_out:,} rows left out, see {self.shards / 'problems.jsonl'}"
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


def locate(spec: TaskSpec, places: DataPlaces) -> tuple[Path, FieldMap]:
    """The folder with a task's files, and the layout they have there.

    Raises:
        NoData: no folder has the files of any layout.
    """
    tried = places.candidates(spec)
    for folder in tried:
        for layout in spec.layouts:
            splits = {found.split for found in matching_files(folder, layout)}
            if spec.split in splits and all(
                any(folder.glob(join.file)) for join in layout.join.values()
            ):
                return folder, layout
    raise NoData(
        "the files of this benchmark are not here",
        where=f"task {spec.name}",
        seen=", ".join(map(str, tried)) or None,
        accepted="; or ".join(_wanted(spec, layout) for layout in spec.layouts),
        fix=_how_to_get(spec),
    )


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


def build(spec: TaskSpec, places: DataPlaces, cache: Path, *, images: bool = True) -> Built:
    """Build a task's shards, or take them from the cache when nothing has changed.

    Args:
        images: False: questions without their images, also where the images are absent.

    Raises:
        NoData: its files are not there. DataError: no row of them can be read.
    """
    folder, layout = locate(spec, places)
    out = cache / "tasks" / (spec.name if images else f"{spec.name}.text")
    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "map": layout.model_dump_json(exclude_defaults=True),
        "source": spec.name,
        "license": str(spec.source.license.value),
        "images": "keep" if images else "none",
    }
    with progress(f"build {spec.name}", None, unit="rows") as advance:
        summary = import_data(
            folder,
            out,
            reader="mapped",
            options=options,
            overwrite=True,
            progress=lambda items, problems: advance(1),
        )
    expected = spec.source.questions.value if spec.source.questions else None
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
) -> tuple[JoinedShards, list[Built]]:
    """All that `specs` ask: built benchmarks and, for the others, the user's `own` shards.

    With `out`, ``out/TASK/data.json`` says for every built task which data it was.
    """
    built = [build(spec, places, cache, images=images) for spec in specs if spec.layouts]
    if out is not None:
        for one in built:
            write_json(out / one.task / "data.json", one.note())
    sets = [open_shards(one.shards) for one in built]
    return JoinedShards([*([own] if own is not None else []), *sets]), built


def download(spec: TaskSpec, cache: Path) -> Path:
    """Fetch a task's files from the Hub at its pinned revision; returns their folder.

    Only the files that a layout names are fetched. Where no revision is pinned the newest is taken,
    and the commit it had is the name of the returned folder.

    Raises:
        UsageError: the task is not on the Hub, or the extra `hub` is not installed.
        DataError: it cannot be fetched (no network, terms not accepted, no such revision).
    """
    if not spec.source.hub:
        raise UsageError("this benchmark is not on the Hub", where=spec.name, fix=_how_to_get(spec))
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise missing_extra("hub", "huggingface_hub") from error
    pinned = spec.source.revision.value if spec.source.revision else UNVERIFIED
    patterns = [
        pattern.partition("#")[0].removeprefix("**/")
        for layout in spec.layouts
        for group in (*layout.files.values(), [join.file for join in layout.join.values()])
        for pattern in group
    ]
    try:
        folder = snapshot_download(
            spec.source.hub,
            repo_type="dataset",
            revision=None if pinned == UNVERIFIED else str(pinned),
            allow_patterns=patterns,
            cache_dir=cache / "hub",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            "cannot be fetched from the Hub",
            where=spec.source.hub,
            seen=str(error).strip().partition("\n")[0],
            fix=_how_to_get(spec),
        ) from error
    return Path(folder)


def _wanted(spec: TaskSpec, layout: FieldMap) -> str:
    files = " or ".join(layout.files.get(spec.split, ())) or "no file of its split"
    joined = [join.file for join in layout.join.values()]
    return " with ".join([files, *joined])


def _how_to_get(spec: TaskSpec) -> str:
    name = spec.source.hub.rpartition("/")[2] or spec.name
    place = f"--data ROOT with ROOT/{name}, or --data {spec.name}=FOLDER"
    got = f"{spec.source.get} " if spec.source.get else ""
    return f"{got}{'huggingface.co/datasets/' + spec.source.hub + '; ' if spec.source.hub else ''}{place}"
