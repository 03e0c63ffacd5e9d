"""`infimed estimate --inference`: memory of one device and bounds of time for answering with a recipe's model.

The grid is that of the recipe's last stage. Every device of the hardware answers alone.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from infimed.core.console import table
from infimed.core.recipe import Recipe
from infimed.inference.estimate import DTYPES, Load, estimate_inference
from infimed.model.presets import preset
from infimed.training.hardware import hardware

GIB = 2**30
KIB = 2**10


def estimate_answers(
    recipe: Recipe, machine_name: str, requests: int, images: int, new_tokens: int
) -> dict[str, Any]:
    """Plain values for the table and JSON: the hardware, the load, and what each precision needs.

    Raises:
        UsageError: no such hardware.
    """
    machine = hardware(machine_name)
    last = recipe.stages[-1]
    tokens = last.visual_tokens
    rows = []
    for dtype in DTYPES:
        load = Load(
            requests,
            images,
            new_tokens,
            visual_tokens=tokens,
            views=last.views,
            image_size=last.image_size,
            reducer=recipe.model.reducer,
            dtype=dtype,
        )
        need = estimate_inference(preset(recipe.model.preset), load)
        # One peak for both: of a GPU the bf16 one, of a CPU the faster; the other products reach no more.
        prompts, step = need.seconds(machine.flops, machine.bandwidth)
        rows.append(
            {
                "dtype": dtype,
                "weights_gib": need.weights / GIB,
                "cache_kib_per_token": need.cache_token / KIB,
                "cache_gib_per_request": need.cache_request / GIB,
                "images_gib": need.image / GIB,
                "prompt_gib": need.prompt / GIB,
                "total_gib": need.total / GIB,
                "fits": need.total / GIB <= machine.gib,
                "requests_that_fit": need.fitting(machine.gib * GIB),
                "prompt_seconds": prompts,
                "step_seconds": step,
                "tokens_per_second": requests / step,
            }
        )
    return {
        "hardware": {
            "name": machine.name,
            "peak_tflops": machine.flops / 1e12,
            "precision": machine.precision,
            "terabytes_per_second": machine.bandwidth / 1e12,
            "memory_gib": machine.gib,
            "source": machine.source,
        },
        "load": {
            "preset": recipe.model.preset,
            "requests": requests,
            "images": images,
            "visual_tokens": tokens,
            "prompt_tokens": need.prompt_tokens,
            "new_tokens": new_tokens,
        },
        "needs": rows,
    }


def answer_table(found: dict[str, Any]) -> Table:
    """The estimate for people."""
    needs = found["needs"]
    rows = [
        ("weights, GiB", *(f"{n['weights_gib']:.3f}" for n in needs)),
        ("cache of a token, KiB", *(f"{n['cache_kib_per_token']:.1f}" for n in needs)),
        ("cache of a request, GiB", *(f"{n['cache_gib_per_request']:.4f}" for n in needs)),
        ("encoding images, GiB", *(f"{n['images_gib']:.3f}" for n in needs)),
        ("reading prompts, GiB", *(f"{n['prompt_gib']:.3f}" for n in needs)),
        ("in all, GiB", *(f"{n['total_gib']:.2f}{'' if n['fits'] else ' !'}" for n in needs)),
        ("requests that fit at once", *(f"{n['requests_that_fit']:,}" for n in needs)),
        ("prompts at least, ms", *(f"{1e3 * n['prompt_seconds']:.3g}" for n in needs)),
        ("a step at least, ms", *(f"{1e3 * n['step_seconds']:.3g}" for n in needs)),
        ("tokens a second at most", *(f"{n['tokens_per_second']:,.0f}" for n in needs)),
    ]
    return table("answering", ["", *(n["dtype"] for n in needs)], rows, numeric=1)


def answer_notes(found: dict[str, Any]) -> list[str]:
    """What the table rests on, and what is wrong."""
    machine, load = found["hardware"], found["load"]
    lines = [
        f"{load['preset']}, {load['requests']} requests of {load['images']} images of {load['visual_tokens']} "
        f"tokens each, {load['prompt_tokens']} tokens with the text, {load['new_tokens']} to write; one "
        f"{machine['name']}: {machine['peak_tflops']:.2f} TFLOP/s in {machine['precision']} ({machine['source']}), "
        f"{1000 * machine['terabytes_per_second']:.0f} GB/s to memory, {machine['memory_gib']:.0f} GiB. "
        "Times are what nothing beats: operations at the peak, bytes at the full bandwidth; images that "
        "requests share are counted each time."
    ]
    if not all(need["fits"] for need in found["needs"]):
        lines.append("! does not fit: take fewer requests at once, or bf16.")
    return lines
