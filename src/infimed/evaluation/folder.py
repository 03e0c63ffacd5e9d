"""An evaluation folder by itself: what is in it, and where the records are that it is about.

``evaluation.json`` beside the answers names tasks, ways of asking and shards, so that
`infimed score` and `infimed compare` need nothing but the folder. Folders written before there was
such a file are read from what lies in them. Nothing here asks a model or imports torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json, write_json, write_text
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.sample import Shards
from infimed.evaluation.sources import JoinedShards, gather
from infimed.evaluation.spec import Breakdown, load_task, task_names

FILE: Final = "evaluation.json"
TASK_FILE: Final = "task.yaml"
FORMAT: Final = 1
_FIRST: Final = ("model", "text-only")
"""Labels that name the model itself, where a folder does not say which comes first."""
_LAST: Final = ("image-zeroed", "trained-blind", "low-grid")


@dataclass(frozen=True, slots=True)
class Place:
    """Where shards are, relative to the evaluation folder, and the hash of what they hold."""

    path: str
    data_sha256: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation folder is about.

    Attributes:
        folder: where it is. tasks: names, or task files that lie in it. labels: ways of asking, the
            model first. prior_splits: what the controls learn from. breakdowns: cuts of every table
            beside those of the tasks. places: its shards; empty where they are not known.
    """

    folder: Path
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    prior_splits: tuple[str, ...]
    places: tuple[Place, ...]
    breakdowns: tuple[Breakdown, ...] = ()


def note_evaluation(
    out: Path,
    shards: Shards,
    tasks: Sequence[str],
    labels: Sequence[str],
    prior_splits: Sequence[str],
    breakdowns: Sequence[Breakdown] = (),
) -> None:
    """Write ``evaluation.json``; a task of the user's own is copied beside its answers."""
    sets = [one for one in getattr(shards, "sets", (shards,)) if isinstance(one, ShardSet)]
    names = []
    for task in tasks:
        name = load_task(task).name
        own = out / name / TASK_FILE
        if task.endswith(".yaml") and Path(task).resolve() != own.resolve():
            write_text(own, Path(task).read_text(encoding="utf-8"))
        names.append(name)
    value = {
        "format": FORMAT,
        "tasks": names,
        "labels": list(labels),
        "prior_splits": list(prior_splits),
        "breakdowns": [one.model_dump(mode="json") for one in breakdowns],
        "shards": [
            {"path": _relative(one.path, out), "data_sha256": one.data_hash} for one in sets
        ],
    }
    file = out / FILE
    if not file.is_file() or read_json(file) != value:
        write_json(file, value)


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


def find_evaluation(path: Path) -> Path:
    """The evaluation folder that `path` is, or that the run folder `path` holds.

    Raises:
        DataError: there is none. UsageError: a run folder holds several.
    """
    if _is_evaluation(path):
        return path
    inner = [entry for entry in sorted(path.glob("evaluation*")) if _is_evaluation(entry)]
    if len(inner) > 1:
        raise UsageError(
            "this run was evaluated more than once; name one of its folders",
            where=str(path),
            accepted=[str(entry) for entry in inner],
        )
    if not inner:
        raise DataError(
            "no evaluation here" if path.is_dir() else "no such folder",
            where=str(path),
            accepted="a folder that infimed eval wrote, or a run folder",
            fix="infimed eval RUN --tasks ...",
        )
    return inner[0]


def _is_evaluation(path: Path) -> bool:
    return path.is_dir() and (
        (path / FILE).is_file()
        or (path / "scores.json").is_file()
        or any(path.glob("*/*.run.json"))
    )


def read_evaluation(folder: Path) -> Evaluated:
    """What a folder is about, from its ``evaluation.json`` or, without one, from what lies in it.

    Raises:
        DataError: the file is damaged, or there are no answers.
    """
    file = folder / FILE
    if not file.is_file():
        return _discovered(folder)
    value = read_json(file)
    try:
        if value["format"] != FORMAT:
            raise DataError(
                "written by another version", where=str(file), seen=value["format"],
                accepted=str(FORMAT),
            )  # fmt: skip
        return Evaluated(
            folder=folder,
            tasks=tuple(task_of(folder, str(name)) for name in value["tasks"]),
            labels=tuple(map(str, value["labels"])),
            prior_splits=tuple(map(str, value["prior_splits"])),
            places=tuple(Place(str(p["path"]), str(p["data_sha256"])) for p in value["shards"]),
            breakdowns=tuple(Breakdown.model_validate(one) for one in value.get("breakdowns", ())),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(
            "does not say what was asked",
            where=str(file),
            fix="remove it: tasks and labels are then read from the folder itself",
        ) from error


def task_of(folder: Path, name: str) -> str:
    """A task as it is loaded: its file where one lies beside the answers, else its name."""
    own = folder / name / TASK_FILE
    return str(own) if own.is_file() else name


def _discovered(folder: Path) -> Evaluated:
    """Tasks and labels by their files; shards of the run folder around it, where there is one."""
    manifests = sorted(folder.glob("*/*.run.json"))
    if not manifests:
        raise DataError(
            "no answers here", where=str(folder), accepted="TASK/LABEL.run.json",
            fix="infimed eval RUN --tasks ... --out " + str(folder),
        )  # fmt: skip
    tasks: dict[str, set[str]] = {}
    for path in manifests:
        tasks.setdefault(path.parent.name, set()).add(path.name.removesuffix(".run.json"))
    unknown = [
        name for name in tasks if name not in task_names() and not (folder / name / TASK_FILE).exists()
    ]  # fmt: skip
    if unknown:
        raise DataError(
            "the task of these answers does not ship with InfiMed, and its file is not beside them",
            where=str(folder), seen=", ".join(unknown),
            fix=f"copy it to {folder / unknown[0] / TASK_FILE}",
        )  # fmt: skip
    known = set.union(*tasks.values())
    first = [label for label in _FIRST if label in known]
    last = [label for label in _LAST if label in known]
    middle = sorted(known - {*first, *last})
    shards = folder.resolve().parent / "shards"
    places: tuple[Place, ...] = ()
    if (shards / "manifest.json").is_file():
        places = (Place("../shards", open_shards(shards).data_hash),)
    return Evaluated(
        folder=folder,
        tasks=tuple(task_of(folder, name) for name in tasks),
        labels=(*first, *middle, *last),
        prior_splits=trained_on(folder.parent),
        places=places,
    )


def trained_on(run: Path) -> tuple[str, ...]:
    """The splits a run was trained on; the controls learn from the same."""
    from infimed.core.recipe import load_recipe

    recipe = run / "recipe.yaml"
    return tuple(load_recipe(str(recipe)).data.train_splits) if recipe.exists() else ("train",)


def open_evaluated(
    found: Evaluated,
    *,
    shards: Sequence[Path] = (),
    data: DataPlaces | None = None,
    cache: Path | None = None,
) -> tuple[JoinedShards, list[str]]:
    """The records and images a folder is about, and what the user should know about them.

    Args:
        shards: where imported data is now, where it was moved. data, cache: where benchmarks lie, to
            build them again, and the cache they are built in.

    Raises:
        DataError: they are not known, not there, or others than those that were asked.
    """
    notes: list[str] = []
    if shards or data is not None:
        given = [open_shards(path) for path in shards]
        specs = [spec for spec in map(load_task, found.tasks) if spec.layouts]
        if data is not None and specs:
            assert cache is not None
            views, limit = _asked_how(found)
            joined, made = gather(specs, data, cache, images=views != {"none"}, limit=limit)
            given += joined.sets
            notes += [one.describe() for one in made]
        if not given:
            raise UsageError(
                "no task of this folder is built from files", where=str(found.folder),
                fix="give --shards DIR",
            )  # fmt: skip
        known = {place.data_sha256 for place in found.places}
        notes += [
            f"{one.path.name}: not the data that was asked by its hash; scored only if every question is in it"
            for one in given
            if known and one.data_hash not in known
        ]
        return JoinedShards([*given, *_still_there(found, given)]), notes
    if not found.places:
        raise DataError(
            "the folder does not say where its records are", where=str(found.folder),
            fix="give --shards DIR for imported data, --data DIR for benchmarks",
        )  # fmt: skip
    return JoinedShards([_open(found.folder, place) for place in found.places]), notes


def _still_there(found: Evaluated, given: Sequence[ShardSet]) -> list[ShardSet]:
    """Noted shards that are kept beside given ones: those replace what is lost or, where nothing is, all."""
    hashes = {one.data_hash for one in given}
    opened = []
    for place in found.places:
        if place.data_sha256 in hashes:
            continue
        with contextlib.suppress(DataError):
            opened.append(_open(found.folder, place))
    return opened if len(opened) < len(found.places) else []


def _open(folder: Path, place: Place) -> ShardSet:
    path = Path(os.path.normpath(folder.resolve() / place.path))
    try:
        opened = open_shards(path)
    except DataError as error:
        raise DataError(
            f"the records of this evaluation are no longer there ({error.what})",
            where=str(path),
            fix="say where they are: --shards DIR for imported data, --data DIR for benchmarks",
        ) from error
    if opened.data_hash != place.data_sha256:
        opened.close()
        raise DataError(
            "these are not the records that were asked",
            where=str(path), seen=opened.data_hash[:16], accepted=place.data_sha256[:16],
            fix="say where they are: --shards DIR for imported data, --data DIR for benchmarks",
        )  # fmt: skip
    return opened


def _asked_how(found: Evaluated) -> tuple[set[str], int | None]:
    """What the labels were shown, and the limit where all were asked under the same one."""
    views: set[str] = set()
    limits: set[int | None] = set()
    for path in sorted(found.folder.glob("*/*.run.json")):
        manifest: dict[str, Any] = read_json(path)
        views.add(str(manifest.get("view", "images")))
        limits.add(manifest.get("limit"))
    return views, limits.pop() if len(limits) == 1 else None
