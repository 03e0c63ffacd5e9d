"""What the studies of a preset have in common: the recipe that arms change, the data, the questions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from infimed.core.errors import UsageError, nearest_name
from infimed.core.files import write_text
from infimed.core.recipe import Recipe, load_recipe
from infimed.core.stage import Part
from infimed.evaluation.spec import TaskSpec, load_task, task_names
from infimed.studies.definition import Split

PLACE = "to-be-made"
"""Stands for the folder of the data in a recipe that is not bound to one."""


class Clinic(Part):
    """Generated patients of one modality, so that a small model learns to look within a minute.

    Attributes:
        splits: shares of the patients in turn.
    """

    modality: str
    patients: int = Field(ge=4)
    seed: int = Field(ge=0)
    size: int = Field(ge=48, le=1024)
    splits: dict[Literal["train", "dev", "test"], float]


class Base(Part):
    """A preset of the studies.

    Attributes:
        name: of the preset. clinic: generated data; None reads `data.root`, which is then given.
        further: folders beside `data.root` whose records are trained on too. minutes: of a cell, a first
            guess until one is measured. limit: questions a task.
    """

    name: str
    clinic: Clinic | None = None
    further: tuple[str, ...] = ()
    minutes: float = Field(gt=0)
    limit: int | None = Field(None, ge=1)


def base_names() -> list[str]:
    """Presets that studies know."""
    folder = resources.files("infimed.studies").joinpath("bases")
    ends = "-data.yaml"
    return sorted(f.name.removesuffix(ends) for f in folder.iterdir() if f.name.endswith(ends))


@lru_cache
def load_base(preset: str) -> Base:
    """The base of a preset.

    Raises:
        UsageError: there is none.
    """
    if preset not in base_names():
        raise UsageError(
            "no such preset of the studies",
            where="--preset",
            seen=preset,
            accepted=base_names(),
            nearest=nearest_name(preset, base_names()),
        )
    return Base.model_validate(
        yaml.safe_load(_file(f"bases/{preset}-data.yaml").read_text("utf-8"))
    )


def base_recipe(preset: str, changes: Mapping[str, Any], root: Path | str = PLACE) -> Recipe:
    """The preset's recipe with an arm's changes, on the data in `root`.

    Raises:
        RecipeError: a key that the recipe does not have, or keys that contradict one another.
    """
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_recipe(str(_file(f"bases/{preset}.yaml")), [f"data.root={root}", *overrides])


def task_of(name: str, split: Split, folder: Path) -> str:
    """The name under which a study's task is asked: one that ships, or a file.

    Raises:
        UsageError: no such task. DataError: its file is wrong.
    """
    shipped = _file(f"tasks/{name}.yaml")
    if not shipped.is_file() and name not in task_names():
        raise UsageError("no such task", seen=name, accepted=task_names())
    known = str(shipped) if shipped.is_file() else name
    if split == "test":
        return known
    spec: TaskSpec = load_task(known)
    values = spec.model_dump(mode="json", exclude_defaults=True)
    values |= {"name": f"{spec.name}_{split}", "split": split}
    file = folder / f"{values['name']}.yaml"
    write_text(file, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return str(file)


def _file(name: str) -> Path:
    return Path(str(resources.files("infimed.studies").joinpath(name)))
