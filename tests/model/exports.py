"""Tiny models of both kinds of tower, their exports, and the questions that both sides are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.conftest import REPOSITORY, tiny_preset, tiny_tokenizer_json

from infimed.data.record import Message
from infimed.inference.requests import Picture, Request
from infimed.model.export import Dtype, Written, write_export
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import Preset, build_config
from infimed.model.processing import Processor

KINDS = ("siglip", "dinov2")
QUESTIONS = (
    "Is there a pleural effusion?",
    "left or right",
    "7",
    "What is that? Say: ja, für mich",
)


def tiny(kind: str) -> Preset:
    """A preset of a grid of 4x4 at 32 px, whose tower is of that kind."""
    preset = tiny_preset()
    if kind == "siglip":
        return preset
    return replace(
        preset,
        vision={
            "model_type": "dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 8,
        },
        text={
            "model_type": "llama",
            "vocab_size": 320,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "tie_word_embeddings": True,
        },
        feature_strategy="default",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def built(kind: str, reducer: str = "average") -> InfiMedForConditionalGeneration:
    """A model whose every weight is random, so that none can be forgotten unnoticed."""
    torch.manual_seed(5)
    config = build_config(tiny(kind), image_token_id=3, reducer=reducer)
    model = InfiMedForConditionalGeneration(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def processor_of(kind: str, image_size: int = 32, visual_tokens: int = 16) -> Processor:
    """The processor of that kind of model at a grid."""
    preset = tiny(kind)
    return Processor(
        tiny_tokenizer_json(), image_size, visual_tokens, mean=preset.mean, std=preset.std
    )


def exported(
    folder: Path,
    kind: str,
    *,
    image_size: int = 32,
    visual_tokens: int = 16,
    reducer: str = "average",
    dtype: Dtype = "fp32",
    shard_size: str = "5GB",
) -> Written:
    """Export such a model into a new folder."""
    folder.mkdir()
    return write_export(
        folder,
        built(kind, reducer),
        processor_of(kind, image_size, visual_tokens),
        card="# A card\n",
        dtype=dtype,
        shard_size=shard_size,
    )


def pictures(folder: Path, side: int) -> list[Path]:
    """Two PNG files that are already of the grid's size, so that nobody resizes them."""
    made = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        path = folder / f"picture-{number}.png"
        Image.fromarray(pixels).save(path)
        made.append(path)
    return made


def requests(paths: Sequence[Path], max_new_tokens: int = 12) -> list[Request]:
    """Every question about the first picture, one about both, one about none."""

    def picture(path: Path) -> Picture:
        return Picture(path.name, lambda: np.asarray(Image.open(path)))

    shown = [picture(path) for path in paths]
    made = [
        Request(str(number), (Message("user", (0, text)),), (shown[0],), max_new_tokens)
        for number, text in enumerate(QUESTIONS)
    ]
    both = (Message("system", ("Be brief.",)), Message("user", (0, "against", 1, "left?")))
    made.append(Request("both", both, tuple(shown), max_new_tokens))
    made.append(Request("none", (Message("user", ("side?",)),), (), max_new_tokens))
    return made


def stock_order(folder: Path, asked: Sequence[Request], files: Sequence[Path]) -> dict[str, Any]:
    """The same questions as `benchmarks/stock_answers.py` takes them."""

    def part(piece: str | int) -> dict[str, str]:
        return {"type": "text", "text": piece} if isinstance(piece, str) else {"type": "image"}

    return {
        "folder": str(folder),
        "asked": [
            {
                "messages": [
                    {"role": turn.role, "content": [part(piece) for piece in turn.content]}
                    for turn in request.messages
                ],
                "images": [str(path) for path in files[: len(request.pictures)]],
                "max_new_tokens": request.max_new_tokens,
            }
            for request in asked
        ],
    }


def ask_stock(orders: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run `benchmarks/stock_answers.py` once, with whichever transformers this process has."""
    import transformers

    place = Path(transformers.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, REPOSITORY / "benchmarks" / "stock_answers.py"],
        input="\n".join(map(json.dumps, orders)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
