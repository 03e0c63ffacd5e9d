"""`infimed estimate`: memory and time of a recipe on some hardware, before the run.

Memory and the seconds of a step follow from the recipe alone. The time of a stage needs its plan, so the
data and the tokenizer must be there; without them it is left open, and said why.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infimed.core.console import table
from infimed.core.errors import InfiMedError
from infimed.core.recipe import Recipe
from infimed.model.presets import preset
from infimed.pipeline.dryrun import clock, estimate
from infimed.pipeline.precision import on_hardware
from infimed.training.estimate import GIB, estimate_stages, meta_model
from infimed.training.hardware import hardware
from infimed.training.optimizer import check_ranks, parameters_by_module

PARTS = {
    "parameters": "weights",
    "gradients": "grads",
    "optimizer": "state",
    "activations": "kept",
    "logits": "logits",
}
"""Parts of memory with their heads in the table."""


def estimate_recipe(recipe: Recipe, machine_name: str) -> dict[str, Any]:
    """Plain values for tables and JSON: the hardware, and a list of stages.

    Raises:
        UsageError: no such hardware. RecipeError: the optimizer does not train on several devices.
    """
    chosen = preset(recipe.model.preset)
    machine = hardware(machine_name, recipe.train.precision)
    recipe = on_hardware(recipe, machine)
    check_ranks(recipe.train, machine.devices)
    try:
        planned = {stage.stage: stage for stage in estimate(recipe, machine)}
        why = None
    except InfiMedError as error:
        planned, why = {}, str(error)
    stages = []
    for one in estimate_stages(recipe, chosen, machine):
        plan = planned.get(one.stage)
        stages.append(
            {
                "stage": one.stage,
                "gib": {part: getattr(one.memory, part) / GIB for part in PARTS},
                "moments_gib": {name: held / GIB for name, held in one.memory.moments.items()},
                "peak_gib": one.memory.peak / GIB,
                "fits": one.memory.peak / GIB <= machine.gib,
                "step_tflop": one.flops / 1e12,
                "step_seconds": one.seconds,
                "steps": None if plan is None else plan.steps,
                "seconds": None if plan is None else plan.seconds,
            }
        )
    return {
        "hardware": {
            "name": machine.name,
            "devices": machine.devices,
            "peak_tflops": machine.flops / 1e12,
            "precision": machine.precision,
            "assumed_mfu": machine.mfu,
            "terabytes_per_second": machine.bandwidth / 1e12,
            "memory_gib": machine.gib,
            "source": machine.source,
        },
        "parameters": parameters_by_module(meta_model(chosen, recipe.model.reducer)),
        "stages": stages,
        "seconds": sum(one.seconds for one in planned.values()) if planned else None,
        "no_plan": why,
    }


def estimate_table(found: dict[str, Any]) -> Table:
    """The estimate for people; memory is of one device, GiB."""
    rows = []
    for stage in found["stages"]:
        held = [f"{stage['gib'][part]:.2f}" for part in PARTS]
        peak = f"{stage['peak_gib']:.2f}" + ("" if stage["fits"] else " !")
        steps = "" if stage["steps"] is None else f"{stage['steps']:,}"
        whole = "" if stage["seconds"] is None else clock(stage["seconds"])
        seconds = f"{stage['step_seconds']:.3g} s"
        rows.append((stage["stage"], *held, peak, seconds, steps, whole))
    whole = "" if found["seconds"] is None else clock(found["seconds"])
    rows.append(("all", *[""] * len(PARTS), "", "", "", whole))
    return table(
        "estimate",
        ["stage", *PARTS.values(), "peak", "a step", "steps", "time"],
        rows,
        numeric=1,
    )


def estimate_notes(found: dict[str, Any]) -> list[str]:
    """What the table rests on, and what is wrong."""
    machine, counts = found["hardware"], found["parameters"]
    lines = [
        "parameters: "
        + ", ".join(f"{module} {count:,}" for module, count in counts.items())
        + f"; {sum(counts.values()) / 1e9:.3f} B together",
        f"{machine['devices']} x {machine['name']}: {machine['peak_tflops']:.2f} TFLOP/s in {machine['precision']} "
        f"({machine['source']}), of which {100 * machine['assumed_mfu']:.0f} % are assumed to be reached; "
        f"{1000 * machine['terabytes_per_second']:.0f} GB/s to memory, {machine['memory_gib']:.0f} GiB. Memory in GiB a device, rows as full as they get; kept = activations kept for the backward "
        "pass, time within a factor of two.",
    ]
    if not all(stage["fits"] for stage in found["stages"]):
        lines.append(
            "! does not fit. Try train.activation_checkpointing=true, train.optimizer=adafactor, "
            "train.frozen_dtype=bf16, or fewer row_tokens."
        )
    if found["no_plan"]:
        lines.append(f"no total time without a plan: {found['no_plan']}")
    return lines
