"""Answers of a model to many questions: one at a time, together, and by transformers' own `generate`.

    python benchmarks/generation.py ../shared/data/vqa_rad runs/mini --json generation.json

The first 64 test questions of VQA-RAD (about 11 images) are asked in every way, for 4 and for 32 new tokens.
The end of a turn is ignored, so that every answer has exactly so many tokens and the times can be
compared. The arms:

    one            each question alone, its image encoded for it
    together       in batches; questions about an image share its encoding and its trunk
    not shared     in batches, every question with an image of its own
    generate one   transformers' generate on the same weights, each question alone
    generate many  the same, padded on the left, in the same batches; no image is shared

Nothing is asserted. Written are questions a second, and how often an answer differs from that of the first arm.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from infimed.cli.chat import load_picture
from infimed.core.console import err, out, table
from infimed.core.run import environment
from infimed.data.readers import read
from infimed.data.record import Record
from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture, Request
from infimed.model.loading import build_model, find_checkpoint, load_checkpoint
from infimed.model.presets import preset
from infimed.model.processing import Processor
from infimed.model.weights import ensure_weights
from naive import stock

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Endless(Processor):
    """A processor whose answers never end by themselves."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """None."""
        return ()


def endless(processor: Processor) -> Endless:
    """The same processor without an end of turn."""
    return Endless(
        processor.tokenizer_json,
        processor.image_size,
        processor.visual_tokens,
        processor.mean,
        processor.std,
        processor.image_token,
    )


def load(source: str, dtype: torch.dtype) -> LocalModel:
    """A run's last checkpoint, a checkpoint folder, or a preset's base weights."""
    if source == "mini":
        folders = ensure_weights("mini", offline=True)
        model, processor = build_model(preset("mini"), folders.vision, folders.language)
        model.to(dtype)
    else:
        model, processor = load_checkpoint(find_checkpoint(Path(source)), dtype)
    return LocalModel(model, endless(processor), "benchmark")


def questions(data: Path, count: int) -> list[Request]:
    """The first test questions, images decoded already."""
    options = {"split_file": "../vqa_rad_split.json"}
    test = (
        item
        for item in read(data, "vqa_rad", options)
        if isinstance(item, Record) and item.split == "test"
    )
    pictures: dict[str, Picture] = {}
    made = []
    for number, record in enumerate(islice(test, count)):
        name = record.images[0].locator
        pictures.setdefault(name, load_picture(data / name))
        turns = tuple(turn for turn in record.messages if turn.role == "user")
        made.append(Request(f"{number}", turns, (pictures[name],)))
    return made


def one_by_one(local: LocalModel, asked: Sequence[Request]) -> list[str]:
    """Each question alone."""
    return [next(iter(local.respond([request]))).text for request in asked]


def together(local: LocalModel, asked: Sequence[Request]) -> list[str]:
    """Batches as they are planned."""
    texts = [""] * len(asked)
    for batch in local.batches(asked):
        for index, response in zip(batch, local.respond([asked[i] for i in batch]), strict=True):
            texts[index] = response.text
    return texts


def unshared(local: LocalModel, asked: Sequence[Request]) -> list[str]:
    """Batches, every question with its own copy of the image."""
    alone = [
        replace(
            r, pictures=tuple(Picture(f"{p.sha256}-{r.id}", p.load, p.size) for p in r.pictures)
        )
        for r in asked
    ]
    return together(local, alone)


@torch.no_grad()
def generate(local: LocalModel, asked: Sequence[Request], batch: int) -> list[str]:
    """transformers' generate of the stock class on the same weights, padded on the left."""
    model, processor = stock(local.model).to(local.model.dtype).eval(), local.processor
    texts = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        prompts = [processor.encode(r.messages, generation=True).input_ids for r in part]
        longest, pad = max(map(len, prompts)), processor.end_id
        ids = torch.tensor([[*[pad] * (longest - len(p)), *p] for p in prompts])
        mask = torch.tensor([[*[0] * (longest - len(p)), *[1] * len(p)] for p in prompts])
        pixels = processor.pixels([r.pictures[0].load() for r in part])
        most = part[0].max_new_tokens
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels.to(model.dtype),
            max_new_tokens=most,
            min_new_tokens=most,
            do_sample=False,
            pad_token_id=pad,
        )
        texts += [processor.decode(row[longest:].tolist()) for row in made]
    return texts


ARMS: dict[str, Callable[[LocalModel, Sequence[Request]], list[str]]] = {
    "one": one_by_one,
    "together": together,
    "not shared": unshared,
    "generate one": lambda local, asked: generate(local, asked, 1),
    "generate many": lambda local, asked: generate(local, asked, local.batch_size),
}


def measure(local: LocalModel, asked: Sequence[Request], arms: Sequence[str]) -> dict[str, Any]:
    """Seconds and texts of every arm; the first two questions go before the clock starts."""
    found: dict[str, Any] = {}
    for name in arms:
        ARMS[name](local, asked[:2])
        began = time.perf_counter()
        texts = ARMS[name](local, asked)
        seconds = time.perf_counter() - began
        err.print(f"{name}: {seconds:.1f} s")
        found[name] = {"seconds": seconds, "texts": texts}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of VQA-RAD, its split file beside it")
    parser.add_argument("model", help="run folder, checkpoint folder, or mini for base weights")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--json", type=Path, help="also write everything there")
    arguments = parser.parse_args()
    asked = questions(arguments.data, arguments.questions)
    found: dict[str, Any] = {"machine": environment(), "threads": torch.get_num_threads()}
    rows = []
    for dtype in arguments.dtypes:
        local = load(arguments.model, DTYPES[dtype])
        for tokens in arguments.tokens:
            posed = [replace(request, max_new_tokens=tokens) for request in asked]
            arms = measure(local, posed, arguments.arms)
            found[f"{dtype}-{tokens}"] = arms
            first = arms[arguments.arms[0]]
            for name, arm in arms.items():
                differ = sum(a != b for a, b in zip(arm["texts"], first["texts"], strict=True))
                arm["differ"] = differ / len(asked)
                rows.append(
                    (
                        dtype,
                        str(tokens),
                        name,
                        f"{len(asked) / arm['seconds']:.2f}",
                        f"{first['seconds'] / arm['seconds']:.2f}",
                        f"{100 * arm['differ']:.1f}",
                    )
                )
        del local
    columns = ["dtype", "tokens", "arm", "questions/s", "x the first", "differ %"]
    out.print(table("generation", columns, rows, numeric=3))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
