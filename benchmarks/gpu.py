"""Everything that awaits a GPU, from one command: is packing exact there, how fast, in how much memory.

    python benchmarks/gpu.py --json gpu.json                # one GPU of 80 GB; about ten minutes
    python benchmarks/gpu.py --device cpu --dry-run         # the same code, tiny, anywhere

    exactness   every attention backend of the device, packed against separate, leaks (gpu_exactness.py)
    widths      `infimed-1.7b`, random weights: a packed row of 4,096 tokens, forward, backward and update;
                model-FLOP utilisation against the matrix peak measured here, and memory
    arms        benchmarks/training.py on this device: padded, full grid, low grid, cached features;
                `mini` must be there (infimed weights mini)

Prints the whole table as JSON and exits with 1 if a check of exactness failed. Not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpu_exactness import exactness
from infimed.core.recipe import LearningRate, Stage, Train
from infimed.core.run import environment
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.modeling import InfiMedForConditionalGeneration, count_parameters
from infimed.model.presets import Preset, build_config, preset
from infimed.model.processing import IGNORE
from infimed.training.device import autocast, fastest_precision, gemm_peak
from infimed.training.flops import Flops
from infimed.training.meter import peak_memory_gib
from infimed.training.optimizer import freeze, make_optimizer
from infimed.training.rows import Row
from infimed.training.step import RowLoss, row_weights
from training import finish, run, settle

IMAGE = 3
DOCUMENTS, VISUAL_TOKENS, TEXT_TOKENS, TARGETS = 20, 144, 60, 50
"""Of the row at real widths: an image and a caption a document."""


def median_seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of `repeats` calls after two to warm up."""
    seconds = []
    for number in range(repeats + 2):
        settle(device)
        began = time.perf_counter()
        work()
        settle(device)
        if number >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def tiny(chosen: Preset) -> Preset:
    """The preset with two layers of a few heads."""
    text = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return replace(
        chosen,
        text={**chosen.text, **text, **heads},
        vision={**chosen.vision, **vision, "intermediate_size": 128},
    )


def wide_row(model: InfiMedForConditionalGeneration, side: int, *, cached: bool) -> Row:
    """A packed row of captions, with pixels or with features of the tower."""
    torch.manual_seed(1)
    length = VISUAL_TOKENS + TEXT_TOKENS
    ids = torch.randint(4, model.config.text_config.vocab_size, (DOCUMENTS, length))
    targets = ids.roll(-1, 1)
    ids[:, :VISUAL_TOKENS] = IMAGE
    targets[:, : length - TARGETS] = IGNORE
    targets[:, -1] = IGNORE
    width = model.config.vision_config.hidden_size
    return Row(
        input_ids=ids.flatten(),
        targets=targets.flatten(),
        questions=torch.full_like(targets.flatten(), IGNORE),
        layout=PackedLayout((Document(VISUAL_TOKENS, (TEXT_TOKENS,)),) * DOCUMENTS),
        pixels=None if cached else torch.randn(DOCUMENTS, 3, side, side),
        record_ids=tuple(map(str, range(DOCUMENTS))),
        pooled=torch.randn(DOCUMENTS, VISUAL_TOKENS, width) if cached else None,
    )


def widths(device: torch.device, chosen: Preset, peak: float, repeats: int) -> list[dict[str, Any]]:
    """Seconds, utilisation and memory of a training step: language alone, with the frozen tower, all."""
    rate = LearningRate(projector=1e-4, language=1e-5)
    cases = {
        "language and projector, cached features": (rate, True),
        "language and projector, frozen tower": (rate, False),
        "everything learns": (rate.model_copy(update={"vision": 1e-6}), False),
    }
    return [
        {"case": name, **_wide_step(device, chosen, peak, repeats, *case)}
        for name, case in cases.items()
    ]


def _wide_step(
    device: torch.device,
    chosen: Preset,
    peak: float,
    repeats: int,
    rate: LearningRate,
    cached: bool,
) -> dict[str, Any]:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    stage = Stage(
        name="widths", image_size=chosen.image_size, visual_tokens=VISUAL_TOKENS, row_tokens=4096,
        learning_rate=rate,
    )  # fmt: skip
    try:
        with device:
            model = InfiMedForConditionalGeneration(build_config(chosen, image_token_id=IMAGE))
        model.float().train()
        model.set_grid(VISUAL_TOKENS, chosen.image_size)
        model.set_attention(PACKED)
        freeze(model, rate)
        optimizer = make_optimizer(model, stage, Train())
        module = RowLoss(model)
        row = wide_row(model, chosen.image_size, cached=cached)
        weights = row_weights(row, "token")
        placed, weight = row.to(device), weights.weights.to(device)

        def step() -> None:
            with autocast(device, fastest_precision(device)):
                loss, _, _ = module(placed, weight, weights.total, 1)
            loss.backward()
            finish(optimizer)

        seconds = median_seconds(step, device, repeats)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error).splitlines()[0]}
    flops = Flops(model, chosen.image_size).row(row).total
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "parameters": count_parameters(model),
        "tokens": row.layout.tokens,
        "seconds": seconds,
        "tokens_per_second": row.layout.tokens / seconds,
        "flops": flops,
        "mfu": flops / seconds / peak,
        "memory_gib": peak_memory_gib() if memory is None else memory,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    about = {**environment(), "device": str(device), "torch_cuda": torch.version.cuda}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        about |= {
            "gpu": found.name,
            "gpu_memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
        }
    return about


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes: does it run at all?")
    parser.add_argument("--preset", help="of the arms; default mini, or nano when dry")
    parser.add_argument("--samples", type=int, help="captions per optimizer step of the arms")
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    device, dry = arguments.device, arguments.dry_run
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --dry-run shows that everything runs")
    arguments.preset = arguments.preset or ("nano" if dry else "mini")
    arguments.samples = arguments.samples or (2 if dry else 64)
    arguments.steps, arguments.arms = (1 if dry else 8), "padded,full,low,cache"
    real = preset("infimed-1.7b")
    arguments.precision = fastest_precision(device)
    peak = gemm_peak(device, arguments.precision)
    checks = exactness(device)
    table = {
        "machine": machine(device),
        "dry_run": dry,
        "passed": all(check["passed"] for check in checks),
        "exactness": checks,
        "precision": arguments.precision,
        "matrix_peak": peak,
        "widths": widths(device, tiny(real) if dry else real, peak, 1 if dry else 10),
        "preset": arguments.preset,
        "arms": run(arguments, seed=1),
    }
    text = json.dumps(table, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.exit(0 if table["passed"] else 1)


if __name__ == "__main__":
    main()
