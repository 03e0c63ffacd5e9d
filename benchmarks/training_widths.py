"""Training at the widths of `infimed-1.7b`: what share of the matrix-product peak is reached, and what fits.

    python benchmarks/training_widths.py --layers 2 --json widths.json
    python benchmarks/training_widths.py --layers 2 --compile
    python benchmarks/training_widths.py --full --json full.json       (20 GiB free, minutes)

Weights are random. `--layers` takes so many blocks of the language model and of the tower and trains a
packed row of 4,096 tokens, 20 documents of an image and a caption, under bf16 autocast. Shares are of the
fastest bf16 product of several shapes, tried between the rounds of the same process; every time is the
best of the rounds. Operations count attention per document; the head is timed apart.
`--full` is one optimizer step of the whole model: tower frozen in bf16, Adafactor, blocks computed again,
a row of 2,048 tokens; beside it what `infimed estimate` foresees for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from infimed.core.allocator import TUNABLES, VARIABLE
from infimed.core.recipe import LearningRate, Stage, Train
from infimed.core.run import environment
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import build_config, preset
from infimed.model.processing import IGNORE
from infimed.training.compiling import compile_blocks
from infimed.training.device import autocast, measure_peak
from infimed.training.estimate import meta_model, stage_memory, stage_work
from infimed.training.flops import Flops
from infimed.training.hardware import this_cpu
from infimed.training.loss import target_losses
from infimed.training.memory import round_matrices, save_memory
from infimed.training.meter import peak_memory_gib
from infimed.training.optimizer import freeze, make_optimizer, set_rates
from infimed.training.rows import Row
from infimed.training.step import RowLoss, row_weights

CHOSEN = preset("infimed-1.7b")
IMAGE_TOKEN, VISUAL_TOKENS, CAPTION = 151655, 144, 60
CPU = torch.device("cpu")
TOP = 12
"""Operations of the profile that are kept."""


def packed_layout(tokens: int) -> PackedLayout:
    """Documents of an image and a caption that fill a row, the last one with the rest."""
    document = Document(VISUAL_TOKENS, (CAPTION,))
    count = tokens // document.length
    rest = tokens - count * document.length
    last = Document(VISUAL_TOKENS, (CAPTION + rest,))
    return PackedLayout((document,) * (count - 1) + (last,))


def packed_row(tokens: int) -> Row:
    """That row with random words and pixels; captions are learned."""
    layout = packed_layout(tokens)
    ids = torch.randint(0, 150_000, (tokens,))
    targets = torch.full((tokens,), IGNORE)
    at = 0
    for document in layout.documents:
        ids[at : at + VISUAL_TOKENS] = IMAGE_TOKEN
        begin, at = at + VISUAL_TOKENS, at + document.length
        targets[begin : at - 1] = ids[begin + 1 : at]
    size = CHOSEN.image_size
    return Row(
        input_ids=ids,
        targets=targets,
        questions=torch.full((tokens,), IGNORE),
        layout=layout,
        pixels=torch.randn(len(layout.documents), 3, size, size),
        record_ids=tuple(str(number) for number in range(len(layout.documents))),
    )


def shallow_model(layers: int) -> InfiMedForConditionalGeneration:
    """The preset's widths with so many blocks in tower and language model."""
    config = build_config(CHOSEN, image_token_id=IMAGE_TOKEN)
    config.vision_config.num_hidden_layers = layers
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = config.text_config.layer_types[:layers]
    model = InfiMedForConditionalGeneration(config)
    model.set_grid(VISUAL_TOKENS, CHOSEN.image_size)
    model.set_attention(PACKED)
    return model.train()


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def top_operations(work: Callable[[], Any]) -> list[dict[str, Any]]:
    """Where the time goes: operations by their own time, as shares of all."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    rows = recorded.key_averages()
    whole = sum(row.self_cpu_time_total for row in rows)
    ordered = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:TOP]
    return [
        {
            "operation": row.key[:60],
            "calls": row.count,
            "milliseconds": round(row.self_cpu_time_total / 1e3, 1),
            "share": round(row.self_cpu_time_total / whole, 4),
        }
        for row in ordered
    ]


def shares_of_peak(layers: int, tokens: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Language blocks, tower and head timed apart, each against the peak of the same process."""
    torch.manual_seed(0)
    model, row = shallow_model(layers), packed_row(tokens)
    freeze(model, LearningRate(projector=1e-3, language=1e-4))
    if compiled:
        compile_blocks(model)
    language = model.model.language_model
    embedded = torch.randn(1, tokens, language.config.hidden_size) * 0.02
    positions, wanted = row.layout.position_ids(), torch.randn(tokens, embedded.shape[-1])
    last: dict[str, Tensor] = {}

    def train_blocks() -> None:
        model.zero_grad()
        with autocast(CPU, "bf16"):
            hidden = language(
                inputs_embeds=embedded.requires_grad_(True),
                position_ids=positions,
                attention_mask=None,
                use_cache=False,
                layout=row.layout,
            ).last_hidden_state[0]
        last["hidden"] = hidden.detach()
        hidden.backward(wanted.to(hidden.dtype))

    def run_tower() -> None:
        assert row.pixels is not None
        with torch.no_grad(), autocast(CPU, "bf16"):
            model.pooled_features(row.pixels)

    def train_head() -> None:
        with autocast(CPU, "bf16"):
            hidden = last["hidden"].clone().requires_grad_(True)
            target_losses(model.lm_head, hidden, row.targets).sum().backward()

    parts = {"language": train_blocks, "tower": run_tower, "head": train_head}
    taken: dict[str, list[float]] = {name: [] for name in parts}
    peak = 0.0
    for number in range(rounds + 1):
        peak = max(peak, measure_peak(CPU, "bf16"))
        for name, work in parts.items():
            seconds = seconds_of(work)
            if number:  # the first round warms up, and compiles
                taken[name].append(seconds)
    best = {name: min(times) for name, times in taken.items()}
    flops = Flops(model, CHOSEN.image_size)
    whole = flops.row(row)
    head = flops.head.operations(row.target_tokens, True, True)
    work = {
        "language": whole.language - head,
        "tower": row.images * flops.image(),
        "head": head,
    }
    both = (work["language"] + work["tower"]) / (best["language"] + best["tower"])
    return {
        "layers": layers,
        "tokens": tokens,
        "documents": len(row.layout.documents),
        "compiled": compiled,
        "peak_gflops": peak / 1e9,
        "seconds": best,
        "every_second": taken,
        "gflop": {name: one / 1e9 for name, one in work.items()},
        "mfu": {
            **{name: work[name] / best[name] / peak for name in parts},
            "language with frozen tower": both / peak,
        },
        "profile": {name: top_operations(work) for name, work in parts.items()},
    }


def whole_model() -> InfiMedForConditionalGeneration:
    """All of the preset with random weights; never more in memory than it ends with."""
    model = meta_model(CHOSEN)
    model.config.image_token_id = IMAGE_TOKEN
    model.set_grid(VISUAL_TOKENS, CHOSEN.image_size)
    round_matrices(model.model.vision_tower)
    model.to_empty(device="cpu")
    model.tie_weights()
    language, embeddings = model.model.language_model, model.model.vision_tower.embeddings
    language.rotary_emb = type(language.rotary_emb)(config=language.config)
    embeddings.position_ids = torch.arange(embeddings.num_positions).unsqueeze(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.uniform_(-0.03, 0.03)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def one_step(tokens: int) -> dict[str, Any]:
    """One optimizer step of the whole model, and what was foreseen."""
    stage = Stage(
        name="full",
        image_size=CHOSEN.image_size,
        visual_tokens=VISUAL_TOKENS,
        row_tokens=tokens,
        learning_rate=LearningRate(projector=1e-4, language=1e-5),
    )
    train = Train(optimizer="adafactor", activation_checkpointing=True, frozen_dtype="bf16")
    machine = this_cpu()
    row = packed_row(tokens)
    planned = meta_model(CHOSEN)
    memory = stage_memory(planned, stage, train, machine, row.layout)
    work = stage_work(planned, stage, train, machine, row.layout)
    del planned

    torch.manual_seed(0)
    model = whole_model()
    freeze(model, stage.learning_rate)
    save_memory(model, train)
    optimizer = make_optimizer(model, stage, train)
    set_rates(optimizer, 1.0)
    weights = row_weights(row, "token")
    marks = [("built", peak_memory_gib(), 0.0)]
    began = time.perf_counter()

    def mark(name: str) -> None:
        marks.append((name, peak_memory_gib(), time.perf_counter() - began))
        print(f"{name}: {marks[-1][1]:.2f} GiB, {marks[-1][2]:.1f} s", file=sys.stderr, flush=True)

    module = RowLoss(model)
    learning = [p for p in model.parameters() if p.requires_grad]
    for turn in ("first", "second"):  # the first meets memory that the kernel must still clear
        began = time.perf_counter()
        with autocast(CPU, train.precision):
            loss, _, _ = module(row, weights.weights, weights.total, 1)
        mark(f"{turn} forward")
        loss.backward()
        mark(f"{turn} backward")
        norm = float(torch.nn.utils.clip_grad_norm_(learning, train.clip))
        mark(f"{turn} norm")
        optimizer.step()
        optimizer.zero_grad()
        mark(f"{turn} update")
    seconds = marks[-1][2]
    foreseen = work.seconds(machine, 1, 1)
    return {
        "tokens": tokens,
        "loss": float(loss.detach()),
        "gradient_norm": norm,
        "peak_gflops": machine.flops / 1e9,
        "memory_gb_per_second": machine.bandwidth / 1e9,
        "tflop": work.flops / 1e12,
        "marks": marks,
        "peak_gib": peak_memory_gib(),
        "foreseen_gib": memory.peak / 2**30,
        "foreseen_moments_gib": {name: one / 2**30 for name, one in memory.moments.items()},
        "memory_over_foreseen": peak_memory_gib() / (memory.peak / 2**30),
        "seconds": seconds,
        "foreseen_seconds": foreseen,
        "seconds_over_foreseen": seconds / foreseen,
    }


def main() -> None:
    if VARIABLE not in os.environ:  # as `infimed train` does
        os.environ[VARIABLE] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.argv])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.full:
        result = one_step(arguments.tokens or 2048)
    else:
        result = shares_of_peak(
            arguments.layers,
            arguments.tokens or 4096,
            arguments.rounds,
            arguments.compile,
        )
    result = {"cpu": environment()["cpu"], "threads": torch.get_num_threads(), **result}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
