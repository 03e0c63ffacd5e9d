"""Benchmarks that a recipe asks besides its own records: found early, built once, kept in the run folder.

A task of `evaluation.tasks` that reads files of its own is asked from them where `evaluation.data` says
where they lie; without it, such a task is asked of the run's own records of that source. The shards in
``RUN/benchmarks`` are the run's own copy: later changes of the files do not reach a run that has begun,
and their hashes stand in the run's data.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infimed.core.console import err
from infimed.core.errors import DataError, RecipeError
from infimed.core.files import read_json, write_json
from infimed.core.recipe import Recipe
from infimed.core.run import RunFolder
from infimed.data.fieldmap import FieldMap
from infimed.data.locators import DATA_URL, parse_locator
from infimed.data.readers import mapped
from infimed.data.record import Record
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.places import DataPlaces, NoData, locate
from infimed.evaluation.sources import JoinedShards, build, read_options
from infimed.evaluation.spec import TaskSpec, load_task

FOLDER: Final = "benchmarks"
FILE: Final = "benchmarks.json"
LOOKED_AT: Final = 20
"""Questions whose images are looked for before a run begins."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A benchmark in the run folder.

    Attributes:
        task: its name. shards: folder, relative to the run's `FOLDER`. data_sha256: of the shards.
        images: whether any question shows one.
    """

    task: str
    shards: str
    data_sha256: str
    images: bool


def benchmark_specs(recipe: Recipe) -> list[TaskSpec]:
    """The recipe's tasks that are asked from files of their own.

    Raises:
        RecipeError: `evaluation.data` names a task that is not asked, or one without files of its own.
    """
    given = recipe.evaluation.data
    specs = [load_task(name) for name in recipe.evaluation.tasks]
    own = [spec for spec in specs if spec.layouts]
    if given is None:
        return []
    if not isinstance(given, dict):
        return own
    names = [spec.name for spec in own]
    for task in given:
        if task not in names:
            raise RecipeError(
                "not a task of this recipe that reads files of its own",
                where="evaluation.data",
                seen=task,
                accepted=names or "none of evaluation.tasks does",
            )
    return [spec for spec in own if spec.name in given]


def places(recipe: Recipe) -> DataPlaces:
    """Where the recipe says that benchmarks lie.

    Raises:
        RecipeError: no such folder.
    """
    given = recipe.evaluation.data
    named = dict(given) if isinstance(given, dict) else {}
    roots = (given,) if isinstance(given, Path) else ()
    for folder in (*named.values(), *roots):
        if not folder.is_dir():
            raise RecipeError("no such folder", where="evaluation.data", seen=str(folder))
    return DataPlaces(roots, named)


def check_benchmarks(recipe: Recipe) -> list[str]:
    """Lines that say which benchmarks are asked from where.

    Raises:
        RecipeError: `evaluation.data` or `evaluation.text_only` is wrong.
        DataError: the files of a benchmark are not there, or its images are not.
    """
    specs = benchmark_specs(recipe)
    known = places(recipe)
    lines = []
    for spec in specs:
        folder, layout = _located(spec, known)
        text_only = spec.name in recipe.evaluation.text_only
        lost = None if text_only else _lost_image(spec, folder, layout)
        if lost is not None:
            raise DataError(
                "the images of this benchmark are not here",
                where=f"task {spec.name}",
                seen=str(folder / lost),
                fix=f"add them, or ask it without, as a control: evaluation.text_only=[{spec.name}]",
            )
        how = ", without its images: a control, not a score of the benchmark" if text_only else ""
        lines.append(f"benchmark {spec.name}: {folder}{how}")
    asked = {spec.name for spec in specs}
    for name in recipe.evaluation.tasks:
        if load_task(name).layouts and name not in asked:
            lines.append(
                f"note: {name} is asked of this recipe's own records of source '{name}'; "
                f"evaluation.data={{{name}: FOLDER}} asks the benchmark's files"
            )
    return lines


def _located(spec: TaskSpec, known: DataPlaces) -> tuple[Path, FieldMap]:
    try:
        return locate(spec, known)
    except NoData as error:
        raise DataError(
            error.what,
            where=f"evaluation.data: task {spec.name}",
            seen=error.seen,
            accepted=error.accepted,
            fix=f"evaluation.data={{{spec.name}: FOLDER}}, or leave the task out",
        ) from error


def _lost_image(spec: TaskSpec, folder: Path, layout: FieldMap) -> str | None:
    """An image of the first questions that is not there."""
    looked = 0
    for item in mapped.read(folder, read_options(spec, layout)):
        if not isinstance(item, Record) or item.split != spec.split:
            continue
        for image in item.images:
            path = parse_locator(image.locator).path
            if not DATA_URL.match(path) and not (folder / path).is_file():
                return path
        looked += 1
        if looked == LOOKED_AT:
            break
    return None


def keep_benchmarks(recipe: Recipe, run: RunFolder) -> dict[str, str]:
    """Build the recipe's benchmarks into the run folder, once; their hashes by name, for data.json.

    Raises:
        RecipeError, DataError: as `check_benchmarks`.
    """
    specs = benchmark_specs(recipe)
    file = run / FOLDER / FILE
    if specs and not file.is_file():
        check_benchmarks(recipe)
        known = places(recipe)
        made: list[dict[str, Any]] = []
        for spec in specs:
            built = build(
                spec,
                known,
                run / FOLDER,
                images=spec.name not in recipe.evaluation.text_only,
                limit=recipe.evaluation.limit,
            )
            err.print(built.describe(), markup=False)
            write_json(run / "evaluation" / spec.name / "data.json", built.note())
            note = {key: value for key, value in built.note().items() if key != "folder"}
            shards = open_shards(built.shards)
            made.append(
                {
                    "task": spec.name,
                    "shards": built.shards.relative_to(run / FOLDER).as_posix(),
                    "images": any(r.images for r in shards if r.split == spec.split),
                    **note,
                }
            )
            shards.close()
        write_json(file, made)
    return {f"benchmark {one.task}": one.data_sha256 for one in kept(run)}


def kept(run: RunFolder) -> list[Kept]:
    """The benchmarks that a run keeps; none where it asks its own records only."""
    file = run / FOLDER / FILE
    if not file.is_file():
        return []
    try:
        return [
            Kept(str(v["task"]), str(v["shards"]), str(v["data_sha256"]), bool(v["images"]))
            for v in read_json(file)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(
            "does not say which benchmarks were built",
            where=str(file),
            fix=f"remove {run / FOLDER}: the same command builds them again",
        ) from error


def evaluation_shards(run: RunFolder, own: ShardSet) -> ShardSet | JoinedShards:
    """Everything that is asked: the run's own shards, then its benchmarks.

    Raises:
        DataError: a benchmark's shards are gone, or were changed since the run began.
    """
    sets = [own]
    for one in kept(run):
        shards = open_shards(run / FOLDER / one.shards)
        if shards.data_hash != one.data_sha256:
            raise DataError(
                "the shards of this benchmark changed since the run began",
                where=str(run / FOLDER / one.shards),
            )
        sets.append(shards)
    return JoinedShards(sets) if len(sets) > 1 else own


def without_images(run: RunFolder, recipe: Recipe) -> Sequence[str]:
    """Benchmarks no question of which shows an image, by their nature or as asked."""
    asked = [one.task for one in kept(run) if not one.images]
    return [*asked, *(t for t in recipe.evaluation.text_only if t not in asked)]
