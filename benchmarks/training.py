"""Training speed, arm against arm in one run: padded or packed, full or low grid, with a feature cache.

    python benchmarks/training.py mini --json training-mini.json
    python benchmarks/training.py nano

Every arm has its own copy of the same model and trains the same captions, so many per optimizer step, in
the same dtype, threads and allocator, one arm after another; samples per second are from the median
step of all seeds. Loss is per target token on captions that no arm trained on, at the arm's own grid.

    naive   stock LLaVA, padded to the longest of a batch, logits everywhere (benchmarks/naive.py)
    padded  our model, batches of 8 padded, logits at targets, full grid
    full    packed rows, full grid
    low     packed rows, low grid
    cache   packed rows, low grid, features of the frozen tower kept
    lora    packed rows, low grid, adapters of rank 16 instead of the language model's own weights

"predicted" is the ratio of floating-point operations that the two arms execute, padding and the whole
attention square included where an arm computes them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infimed.core.allocator import TUNABLES, VARIABLE, return_free_memory
from infimed.core.recipe import LearningRate, Lora, Stage, Train
from infimed.core.run import environment
from infimed.core.seeds import stream
from infimed.data.record import ImageRef
from infimed.model.attention import PACKED
from infimed.model.loading import build_model
from infimed.model.modeling import InfiMedForConditionalGeneration, count_parameters
from infimed.model.presets import preset
from infimed.model.processing import IGNORE, Encoded, Processor
from infimed.model.weights import ensure_weights
from infimed.packing.filling import fill_rows
from infimed.packing.plan import DocumentPlan, RowPlan
from infimed.training.device import autocast, fastest_precision
from infimed.training.lora import add_adapters
from infimed.training.loss import target_losses
from infimed.training.optimizer import freeze, make_optimizer, set_rates
from infimed.training.rows import PixelCache, Row, RowBuilder
from infimed.training.step import RowLoss, row_weights
from naive import by_length, naive_step, padded, stock
from training_data import Captions, captions
from training_table import show

GRIDS = {"mini": ((336, 576), (224, 64)), "nano": ((96, 144), (48, 36))}
RATES = {"mini": (1e-3, 1e-4), "nano": (1e-3, 1e-3)}
PADDED_BATCH = 8
NAIVE_BATCHES = (1, 4)
ROW_TOKENS = 4096


@dataclass
class Arm:
    """One way to train: a step over numbered captions, and what it executes."""

    name: str
    model: torch.nn.Module
    processor: Processor
    step: Callable[[Sequence[int]], float]
    held_out: Callable[[Sequence[int]], float]
    flops: Callable[[Sequence[int]], dict[str, float]]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Cached:
    """Features of the frozen tower, in memory; the package's cache without its files."""

    def __init__(self, model: InfiMedForConditionalGeneration, processor: Processor) -> None:
        self.model, self.processor = model, processor
        self.kept: dict[str, Tensor] = {}

    def fill(self, data: Captions, precision: str, batch: int = 16) -> float:
        """Seconds that it took for all images."""
        began = time.perf_counter()
        device = self.model.device
        squares = PixelCache(data)  # type: ignore[arg-type]
        shown = [record.images[0] for record in data.made]
        for at in range(0, len(shown), batch):
            some = shown[at : at + batch]
            pixels = self.processor.pixels(
                [squares.square(one, self.processor.image_size) for one in some]
            ).to(device)
            with torch.no_grad(), autocast(device, precision):
                made = self.model.pooled_features(pixels, self.processor.visual_tokens)
            for image, features in zip(some, made.cpu(), strict=True):
                self.kept[image.locator] = features
        return time.perf_counter() - began

    def read(self, image: ImageRef) -> Tensor:
        """Features [visual_tokens, width] of an image."""
        return self.kept[image.locator]


def encoded(processor: Processor, data: Captions) -> list[Encoded]:
    """All captions at the processor's grid."""
    return [processor.encode(processor.conversation(record, answer=True)) for record in data.made]


def operations(
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    samples: Sequence[Encoded],
    batches: Sequence[Sequence[int]] | None,
    *,
    everywhere: bool = False,
    vision: bool = True,
) -> dict[str, float]:
    """Floating-point operations of a step by part; tower frozen, the rest forward and backward.

    Args:
        batches: numbers of samples padded together, or None for packed rows. everywhere: logits of every
            position. vision: the tower runs.
    """
    text, tower = model.config.text_config, model.config.vision_config
    words, decoder = model.get_input_embeddings().weight, model.model.language_model
    language = count_parameters(decoder) - words.numel()
    learning = sum(p.numel() for p in decoder.parameters() if p.requires_grad and p is not words)
    work = 4 * language + 2 * learning  # forward, gradient of the input, gradient of the weight
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    lengths = [len(sample.input_ids) for sample in samples]
    real = float(sum(lengths))
    if batches is None:
        computed, pairs = real, sum(n * (n + 1) / 2 for n in lengths)
    else:
        longest = [max(lengths[i] for i in batch) for batch in batches]
        computed = float(sum(n * len(batch) for n, batch in zip(longest, batches, strict=True)))
        pairs = float(sum(n * n * len(batch) for n, batch in zip(longest, batches, strict=True)))
    targets = sum(sum(t != IGNORE for t in sample.targets) for sample in samples)
    patches = (processor.image_size // int(tower.patch_size)) ** 2
    forward = 2 * count_parameters(model.model.vision_tower) * patches
    forward += 4 * tower.num_hidden_layers * tower.hidden_size * patches**2
    return {
        "tokens": work * real,
        "padding": work * (computed - real),
        "attention": 12 * text.num_hidden_layers * text.num_attention_heads * width * pairs,
        "logits": (6.0 if words.requires_grad else 4.0)
        * words.numel()
        * (computed if everywhere else targets),
        "vision": float(len(samples) * forward) if vision else 0.0,
        "projector": 6.0
        * count_parameters(model.model.multi_modal_projector)
        * len(samples)
        * processor.visual_tokens,
    }


def stage_of(name: str, grid: tuple[int, int]) -> Stage:
    projector, language = RATES[name]
    return Stage(
        name="arm",
        image_size=grid[0],
        visual_tokens=grid[1],
        row_tokens=ROW_TOKENS,
        learning_rate=LearningRate(projector=projector, language=language),
    )


def pixels_of(processor: Processor, data: Captions, chosen: Sequence[int]) -> Tensor:
    cache = PixelCache(data)  # type: ignore[arg-type]
    shown = [data.record(i).images[0] for i in chosen]
    return processor.pixels([cache.square(image, processor.image_size) for image in shown])


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given, before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def finish(optimizer: torch.optim.Optimizer) -> None:
    """Clip, update, clear."""
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    set_rates(optimizer, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_and_not(
    losses: Callable[[Sequence[int], bool], float], optimizer: torch.optim.Optimizer
) -> tuple[Callable[[Sequence[int]], float], Callable[[Sequence[int]], float]]:
    """An optimizer step, and the loss alone, of an arm whose `losses` says whether to go backward."""

    def step(chosen: Sequence[int]) -> float:
        loss = losses(chosen, True)
        finish(optimizer)
        return loss

    def held_out(chosen: Sequence[int]) -> float:
        with torch.no_grad():
            return losses(chosen, False)

    return step, held_out


def packed_arm(
    name: str,
    label: str,
    make: Callable[[], Any],
    data: Captions,
    grid: tuple[int, int],
    precision: str,
    *,
    cache: bool = False,
    lora: Lora | None = None,
) -> Arm:
    """Rows of `ROW_TOKENS`, as the trainer builds and computes them."""
    model, base = make()
    device = model.device
    processor = base.with_grid(*grid)
    model.set_grid(grid[1], grid[0])
    model.set_attention(PACKED)
    if lora is not None:
        add_adapters(model, lora, seed=1)
    model.to(device).train()
    stage = stage_of(name, grid)
    freeze(model, stage.learning_rate)
    optimizer = make_optimizer(model, stage, Train())
    samples = encoded(processor, data)
    kept = Cached(model, processor) if cache else None
    if kept is not None:
        print(
            f"features of {len(data.made)} images: {kept.fill(data, precision):.1f} s, once",
            flush=True,
        )
    builder = RowBuilder(data, processor, PixelCache(data), seed=1, features=kept)  # type: ignore[arg-type]
    module = RowLoss(model)

    def rows(chosen: Sequence[int]) -> list[Row]:
        lengths = np.array([len(samples[i].input_ids) for i in chosen])
        place = fill_rows(
            lengths, np.ones_like(lengths), row_tokens=ROW_TOKENS, max_images=64, window=4096
        )
        plans = [
            RowPlan(
                tuple(
                    DocumentPlan((chosen[i],), int(lengths[i]), 1, 0)
                    for i in np.flatnonzero(place == row).tolist()
                )
            )
            for row in range(place.max() + 1)
        ]
        return [builder.build(plan, number) for number, plan in enumerate(plans)]

    def losses(chosen: Sequence[int], learn: bool) -> float:
        built = rows(chosen)
        weights = [row_weights(row, "token") for row in built]
        whole = sum(one.total for one in weights)
        total = 0.0
        for row, one in zip(built, weights, strict=True):
            with autocast(device, precision):
                loss, _, _ = module(row.to(device), one.weights.to(device), whole, 1)
            if learn:
                loss.backward()
            total += float(loss.detach())
        return total

    step, held_out = learning_and_not(losses, optimizer)

    return Arm(
        label, model, processor, step, held_out,
        lambda chosen: operations(
            model, processor, [samples[i] for i in chosen], None, vision=not cache
        ),
    )  # fmt: skip


def padded_arm(
    name: str, make: Callable[[], Any], data: Captions, grid: tuple[int, int], precision: str
) -> Arm:
    """Our model on batches of 8, padded to the longest of similar lengths."""
    model, base = make()
    device = model.device
    processor = base.with_grid(*grid)
    model.set_grid(grid[1], grid[0])
    model.set_attention("sdpa")
    model.train()
    stage = stage_of(name, grid)
    freeze(model, stage.learning_rate)
    optimizer = make_optimizer(model, stage, Train())
    samples = encoded(processor, data)

    def losses(chosen: Sequence[int], learn: bool) -> float:
        some = [samples[i] for i in chosen]
        whole = sum(sum(t != IGNORE for t in sample.targets) for sample in some)
        pixels, total = pixels_of(processor, data, chosen).to(device), 0.0
        for batch in by_length(some, PADDED_BATCH):
            ids, mask, labels = padded([some[i] for i in batch], processor.end_id)
            targets = torch.full_like(labels, IGNORE)
            targets[:, :-1] = labels[:, 1:]
            ids, mask, targets = (tensor.to(device) for tensor in (ids, mask, targets))
            with autocast(device, precision):
                embedded = torch.cat(
                    [
                        model.embed(ids[row : row + 1], features)
                        for row, features in enumerate(model.image_features(pixels[batch])[:, None])
                    ]
                )
                hidden = model.model.language_model(
                    inputs_embeds=embedded, attention_mask=mask, use_cache=False
                ).last_hidden_state
                found = target_losses(model.lm_head, hidden.flatten(0, 1), targets.flatten())
            loss = found.sum() / whole
            if learn:
                loss.backward()
            total += float(loss.detach())
        return total

    step, held_out = learning_and_not(losses, optimizer)

    def flops(chosen: Sequence[int]) -> dict[str, float]:
        some = [samples[i] for i in chosen]
        return operations(model, processor, some, list(by_length(some, PADDED_BATCH)))

    return Arm("padded", model, processor, step, held_out, flops)


def naive_arm(
    name: str,
    make: Callable[[], Any],
    data: Captions,
    grid: tuple[int, int],
    precision: str,
    batch: int,
) -> Arm:
    """The naive script with the batch size that is fastest here."""
    own, base = make()
    processor = base.with_grid(*grid)
    own.set_grid(grid[1], grid[0])
    model = stock(own).to(own.device)
    model.train()
    stage = stage_of(name, grid)
    freeze(model, stage.learning_rate)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, stage, Train())  # type: ignore[arg-type]
    samples = encoded(processor, data)

    def step(chosen: Sequence[int]) -> float:
        set_rates(optimizer, 1.0)
        some = [samples[i] for i in chosen]
        pixels = pixels_of(processor, data, chosen).to(model.device)
        return naive_step(
            model, optimizer, some, pixels, precision, batch=batch, pad=processor.end_id
        )

    def held_out(chosen: Sequence[int]) -> float:
        some, total = [samples[i] for i in chosen], 0.0
        shown = pixels_of(processor, data, chosen)
        for part in by_length(some, batch):
            ids, mask, labels = (
                one.to(model.device) for one in padded([some[i] for i in part], processor.end_id)
            )
            with torch.no_grad(), autocast(model.device, precision):
                out = model(
                    input_ids=ids, attention_mask=mask, labels=labels,
                    pixel_values=shown[part].to(model.device), use_cache=False,
                )  # fmt: skip
            total += float(out.loss) * int((labels != IGNORE).sum())
        return total / sum(sum(t != IGNORE for t in sample.targets) for sample in some)

    def flops(chosen: Sequence[int]) -> dict[str, float]:
        some = [samples[i] for i in chosen]
        return operations(own, processor, some, list(by_length(some, batch)), everywhere=True)

    return Arm(f"naive (batch {batch})", model, processor, step, held_out, flops)


def best_naive(
    name: str, make: Callable[[], Any], data: Captions, grid: tuple[int, int], precision: str
) -> Arm:
    """The naive arm with the fastest batch size."""
    tried: dict[int, float] = {}
    for batch in NAIVE_BATCHES:
        arm = naive_arm(name, make, data, grid, precision, batch)
        chosen = list(range(4))
        arm.step(chosen)
        began = time.perf_counter()
        arm.step(chosen)
        settle(arm.model.device)  # type: ignore[arg-type]
        tried[batch] = (time.perf_counter() - began) / len(chosen)
        del arm
        forget()
    print("naive, seconds a sample by batch size:", {k: round(v, 3) for k, v in tried.items()})
    return naive_arm(name, make, data, grid, precision, min(tried, key=lambda size: tried[size]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("preset", choices=sorted(GRIDS))
    parser.add_argument("--samples", type=int, default=16, help="captions per optimizer step")
    parser.add_argument("--steps", type=int, default=8, help="timed steps; the first is left out")
    parser.add_argument("--seeds", type=int, default=2, help="runs, each with other captions")
    parser.add_argument("--arms", default="naive,padded,full,low,cache")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument(
        "--precision", choices=["auto", "bf16", "fp32"], default="auto", help="auto: the faster one"
    )
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    if os.environ.get(VARIABLE) != TUNABLES:
        os.environ[VARIABLE] = TUNABLES
        os.execv(os.sys.executable, [os.sys.executable, *os.sys.argv])  # type: ignore[attr-defined]
    if arguments.precision == "auto":
        arguments.precision = fastest_precision(arguments.device)
    results = []
    for seed in range(1, arguments.seeds + 1):
        results.append(run(arguments, seed))
    show(arguments.preset, arguments.precision, results)
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "machine": environment(),
                    "threads": torch.get_num_threads(),
                    "precision": arguments.precision,
                    "seeds": results,
                },
                indent=1,
            )
        )


def run(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """All arms on one seed's captions, on `arguments.device`."""
    name, per_step, precision = arguments.preset, arguments.samples, arguments.precision
    full, low = GRIDS[name]
    folders = ensure_weights(name, offline=True)

    def make() -> tuple[InfiMedForConditionalGeneration, Processor]:
        torch.manual_seed(seed)
        model, processor = build_model(preset(name), folders.vision, folders.language)
        return model.to(arguments.device), processor

    held = 2 * per_step
    needed = (arguments.steps + 1) * per_step + held
    data = captions(make()[1], needed, seed=1000 + seed, size=192)
    builders: dict[str, Callable[[], Arm]] = {
        "naive": lambda: best_naive(name, make, data, full, precision),
        "padded": lambda: padded_arm(name, make, data, full, precision),
        "full": lambda: packed_arm(name, "full", make, data, full, precision),
        "low": lambda: packed_arm(name, "low", make, data, low, precision),
        "cache": lambda: packed_arm(name, "cache", make, data, low, precision, cache=True),
        "lora": lambda: packed_arm(name, "lora", make, data, low, precision, lora=Lora()),
    }
    order = stream(seed, "order").permutation(needed - held).tolist()
    steps = [order[at : at + per_step] for at in range(0, needed - held, per_step)]
    unseen = list(range(needed - held, needed))
    words = arguments.arms.split(",")
    # One after another, so that memory holds one: to and fro with the seeds, as the machine drifts.
    found = {
        word: trained(builders[word](), steps, unseen, arguments.device, seed)
        for word in (words if seed % 2 else words[::-1])
    }
    return [found[word] for word in words]


def trained(
    arm: Arm, steps: Sequence[Sequence[int]], unseen: Sequence[int], device: torch.device, seed: int
) -> dict[str, Any]:
    """What an arm did on these captions; the first step is not timed."""
    for number, chosen in enumerate(steps):
        began = time.perf_counter()
        arm.losses.append(arm.step(chosen))
        settle(device)
        arm.seconds.append(time.perf_counter() - began)
        print(
            f"seed {seed} {arm.name} step {number}: {arm.seconds[-1]:.2f} s {arm.losses[-1]:.3f}",
            flush=True,
        )
    counted = [arm.flops(chosen) for chosen in steps[1:]]
    result = {
        "arm": arm.name,
        "samples_per_second": len(steps[0]) / statistics.median(arm.seconds[1:]),
        "seconds": arm.seconds,
        "losses": arm.losses,
        "held_out": arm.held_out(unseen),
        "samples": sum(map(len, steps)),
        "learning": sum(p.numel() for p in arm.model.parameters() if p.requires_grad),
        "flops_per_sample": {
            part: statistics.mean(one[part] for one in counted) / len(steps[0])
            for part in counted[0]
        },
    }
    del arm
    forget()
    return result


def forget() -> None:
    """Give back what an arm held; it is part of a circle."""
    gc.collect()
    return_free_memory()


if __name__ == "__main__":
    main()
