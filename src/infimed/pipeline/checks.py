"""Checks of a recipe against what it points to: the data, the preset's grid, the weights, the tasks."""

from __future__ import annotations

from infimed.core.errors import DataError, RecipeError
from infimed.core.recipe import Recipe
from infimed.evaluation.tasks import load_task
from infimed.model.configuration import grid_side, token_side
from infimed.model.presets import preset
from infimed.model.weights import ensure_weights
from infimed.pipeline.benchmarks import benchmark_specs, check_benchmarks


def check_export(recipe: Recipe) -> None:
    """Refuse a recipe whose last stage ends in a form that the wanted export does not have.

    Raises:
        RecipeError: stock LLaVA is wanted of fewer or reduced tokens, or the other way round; or any
            export of a model that tiles.
    """
    if recipe.export is None:
        return
    last = recipe.stages[-1]
    full = grid_side(last.image_size, preset(recipe.model.preset).patch_size) ** 2
    if last.tiles:
        raise RecipeError(
            "a model that shows large images as tiles cannot be exported",
            where="export",
            seen=recipe.export,
            accepted="null",
            fix=f"stages.{last.name}.tiles=0",
        )
    pooled = last.visual_tokens != full
    learned = recipe.model.reducer != "average"
    fits = "infimed_vl" if pooled or learned else "llava"
    if recipe.export == fits:
        return
    fix = f"set export={fits}"
    if recipe.export == "llava" and learned:
        fix += ", or model.reducer=average"
    elif recipe.export == "llava":
        fix += f", or end at the full grid: stages.{last.name}.visual_tokens={full}"
    raise RecipeError(
        f"the last stage, {last.name}, ends at {last.visual_tokens} visual tokens of {full} that the tower "
        f"gives at {last.image_size} px, with the reducer {recipe.model.reducer}",
        where="export",
        seen=recipe.export,
        accepted=fits,
        fix=fix,
    )


def check_recipe(recipe: Recipe) -> list[str]:
    """Lines that say what was checked and what deserves attention.

    Raises:
        RecipeError: a grid does not fit the preset's tower, or a task is unknown.
        DataError: data or weights are not there.
    """
    chosen = preset(recipe.model.preset)
    for stage in recipe.stages:
        token_side(stage.visual_tokens, stage.image_size, chosen.patch_size)
    check_export(recipe)
    low = recipe.evaluation.low_grid
    if low is not None:
        token_side(low.visual_tokens, low.image_size, chosen.patch_size)
    benchmarks = {spec.name for spec in benchmark_specs(recipe)}
    for name in recipe.evaluation.tasks:
        spec = load_task(name)
        if spec.name in benchmarks:
            continue  # its files are not those that are trained on
        asked = spec.split
        if asked in recipe.data.train_splits:
            raise RecipeError(
                f"the task {name} asks split '{asked}', and the recipe trains on it",
                where="data.train_splits",
                seen=", ".join(recipe.data.train_splits),
                fix=f"take '{asked}' out of data.train_splits",
            )
    found = check_benchmarks(recipe)
    root = recipe.data.root
    if root is not None:
        if not root.exists():
            raise DataError(
                "no such file or folder",
                where="data.root",
                seen=str(root),
                fix="give data.root=FOLDER",
            )
        split = recipe.data.split_file
        base = root if root.is_dir() else root.parent
        if split is not None and not (base / split).exists():
            raise DataError(
                "no such file",
                where="data.split_file",
                seen=str(base / split),
                accepted="a path relative to data.root",
            )
    if recipe.model.weights is None:
        ensure_weights(chosen.name, offline=True)
    lines = [
        f"preset {chosen.name}: full grid {chosen.image_size} px, {chosen.full_tokens} visual tokens"
    ]
    last = recipe.stages[-1]
    if last.visual_tokens != grid_side(last.image_size, chosen.patch_size) ** 2:
        lines.append(
            f"note: the last stage ends at {last.visual_tokens} visual tokens; only the full grid of its "
            "image size exports as stock LLaVA"
        )
    if last.tiles:
        lines.append("note: the last stage tiles large images; such a model cannot be exported")
    if recipe.model.reducer != "average":
        lines.append(
            f"note: the reducer {recipe.model.reducer} has weights, so the model exports as infimed_vl "
            "at every grid"
        )
    return [*lines, *found]
