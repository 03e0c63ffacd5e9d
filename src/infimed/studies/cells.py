"""Cells: an arm with a seed, as an ordinary recipe with a content key.

What decides the result decides the key: recipe, damage, what is held equal to what, how it is asked. So cells
are shared between studies wherever their recipes agree, and a changed recipe is another cell. The folder
that the data lie in and the names of study and arm are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infimed.core.files import sha256_json
from infimed.core.recipe import Recipe
from infimed.studies.base import Base, base_recipe, load_base
from infimed.studies.definition import Arm, Damage, Split, Study, Unit, Variant

FORMAT: Final = 2
"""Counts up when the same key would give another result."""
BLIND: Final = "trained-blind"


@dataclass(frozen=True)
class Equal:
    """What is held equal, and to what: the recipe and damage of the reference arm."""

    unit: Unit
    recipe: Recipe
    damage: Damage | None


@dataclass(frozen=True)
class Cell:
    """One training with what is asked of it.

    Attributes:
        recipe: on data whose folder is not known yet. damage_seed: of the damage. ways: how the model is
            asked; a blind twin is asked without images. overrides: of `data.*`, from the command line.
    """

    base: Base
    recipe: Recipe
    damage: Damage | None
    damage_seed: int
    blind: bool
    ways: tuple[str, ...]
    tasks: tuple[str, ...]
    split: Split
    equal: Equal | None

    @property
    def key(self) -> str:
        """Names the cell by its content."""
        equal = self.equal and {
            "unit": self.equal.unit,
            "recipe": _plain(self.equal.recipe),
            "damage": _damage(self.equal.damage),
        }
        return sha256_json(
            {
                "format": FORMAT,
                "base": self.base.model_dump(mode="json", exclude={"minutes"}),
                "recipe": _plain(self.recipe),
                "damage": _damage(self.damage),
                "damage_seed": self.damage_seed if self.damage else None,
                "blind": self.blind,
                "ways": list(self.ways),
                "tasks": list(self.tasks),
                "split": self.split,
                "equal": equal,
            }
        )[:16]

    @property
    def kind(self) -> str:
        """Names cells that cost as much: the same but for the seed."""
        plain = _plain(self.recipe)
        plain["train"]["seed"] = 0
        equal = self.equal and [self.equal.unit, _damage(self.equal.damage)]
        made = [
            plain,
            _damage(self.damage),
            self.blind,
            list(self.ways),
            list(self.tasks),
            equal,
        ]
        return sha256_json(made)[:16]


@dataclass(frozen=True)
class Planned:
    """A cell with the place it has in a study."""

    study: str
    preset: str
    arm: str
    seed: int
    cell: Cell


def cell_of(base: Base, preset: str, variant: Variant, arm: Arm, seed: int, split: Split) -> Cell:
    """The cell of an arm.

    Raises:
        RecipeError: the arm's recipe is not valid.
    """
    recipe = _recipe(preset, variant, arm, seed + arm.seed_offset)
    reference = variant.arm(arm.equal_to or variant.reference)
    unit = arm.equal or variant.held_equal
    other = _recipe(preset, variant, reference, seed + arm.seed_offset)
    # An arm that trains what the reference trains has as much of everything, and shares its cell.
    alike = (_plain(recipe), arm.damage) == (_plain(other), reference.damage)
    equal = None if alike or unit == "nothing" else Equal(unit, other, reference.damage)
    return Cell(
        base=base,
        recipe=recipe,
        damage=arm.damage,
        damage_seed=seed,
        blind=arm.blind,
        ways=(BLIND,) if arm.blind else variant.ways,
        tasks=variant.tasks,
        split=split,
        equal=equal,
    )


def plan(
    studies: Sequence[Study], preset: str, split: Split, seeds: Iterable[int] | None = None
) -> list[Planned]:
    """Every cell of the studies, first seed first: when time runs out, all arms have as many seeds.

    Within a seed the studies take turns. Arms that need the same damaged data lie beside one another in a study,
    and side by side one would wait while the other makes them.

    Raises:
        RecipeError: an arm's recipe is not valid.
    """
    base = load_base(preset)
    chosen = None if seeds is None else set(seeds)
    made: list[tuple[tuple[int, int], Planned]] = []
    for study in studies:
        variant = study.presets.get(preset)
        if variant is None:
            continue
        for place, seed in enumerate(variant.seeds):
            if chosen is not None and seed not in chosen:
                continue
            for turn, arm in enumerate(variant.arms):
                cell = cell_of(base, preset, variant, arm, seed, split)
                made.append(((place, turn), Planned(study.name, preset, arm.name, seed, cell)))
    return [planned for _, planned in sorted(made, key=lambda one: one[0])]


def distinct(planned: Iterable[Planned]) -> list[Cell]:
    """The cells, each once, in the order in which they are first needed."""
    return list({one.cell.key: one.cell for one in planned}.values())


def _recipe(preset: str, variant: Variant, arm: Arm, seed: int) -> Recipe:
    return base_recipe(preset, {**variant.recipe, **arm.recipe, "train.seed": seed})


def _plain(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides a result."""
    values = recipe.model_dump(mode="json")
    del values["name"]
    del values["data"]["root"]
    del values["evaluation"]
    return values


def _damage(damage: Damage | None) -> dict[str, Any] | None:
    return None if damage is None else damage.model_dump(mode="json")
