"""The precision that a run trains in: what its recipe names, or with ``auto`` the faster one, chosen once."""

from __future__ import annotations

import torch
import yaml

from infimed.core.recipe import Recipe
from infimed.core.run import RunFolder
from infimed.training.device import best_device, decided
from infimed.training.hardware import Hardware


def settled(
    recipe: Recipe, run: RunFolder | None = None, device: torch.device | None = None
) -> Recipe:
    """The recipe with ``train.precision`` decided: as the run folder has it, else the faster one on `device`.

    A run goes on in the precision it began with, wherever it goes on: its bits depend on it.

    Args:
        device: where training will run, by default the best one here.
    """
    if recipe.train.precision != "auto":
        return recipe
    known = _of_run(run)
    if known is not None:
        train = recipe.train.model_copy(update={"precision": known})
    else:
        train = decided(recipe.train, device or best_device())
    return recipe.model_copy(update={"train": train})


def on_hardware(recipe: Recipe, machine: Hardware) -> Recipe:
    """The recipe with ``train.precision`` decided as on a machine that need not be here."""
    if recipe.train.precision != "auto":
        return recipe
    chosen = "bf16" if recipe.train.frozen_dtype == "bf16" else machine.precision
    train = recipe.train.model_copy(update={"precision": chosen})
    return recipe.model_copy(update={"train": train})


def _of_run(run: RunFolder | None) -> str | None:
    """The precision that a run began with; None for a new one."""
    if run is None or not (run / "recipe.yaml").is_file():
        return None
    values = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    found = values.get("train", {}).get("precision")
    return found if found in ("bf16", "fp32") else None
