"""Shared fixtures: a tokenizer and a model small enough to build in every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# A command that tunes the allocator would replace the test process by itself; `make test` sets the real value.
os.environ.setdefault("GLIBC_TUNABLES", "")

REPOSITORY = Path(__file__).parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if REAL_DATA.is_dir():
        return
    skip = pytest.mark.skip(reason="the development data is not beside this checkout")
    for item in items:
        if "real_data" in item.keywords:
            item.add_marker(skip)


@lru_cache(maxsize=1)
def tiny_tokenizer_json() -> str:
    """A byte-level BPE with ChatML and image tokens, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["user assistant system", "Is there a pleural effusion on the left side? yes no right"]
    tokenizer.train_from_iterator(text * 4, trainer)
    return str(tokenizer.to_str())


def tiny_preset():  # type: ignore[no-untyped-def]
    """A preset of grid 4x4 at 32 px, hidden 32, two layers."""
    from infimed.model.presets import Preset, _qwen3, _siglip

    return Preset(
        name="tiny",
        vision=_siglip(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        ),
        text=_qwen3(
            vocab_size=320,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=64,
            max_position_embeddings=512,
        ),
        image_size=32,
        feature_strategy="full",
    )


def tiny_model(seed: int = 0, reducer: str = "average"):  # type: ignore[no-untyped-def]
    """A model of the tiny preset; equal for equal seeds."""
    from infimed.model.modeling import InfiMedForConditionalGeneration
    from infimed.model.presets import build_config

    torch.manual_seed(seed)
    model = InfiMedForConditionalGeneration(
        build_config(tiny_preset(), image_token_id=3, reducer=reducer)
    )
    return model.float().eval()


def tiny_processor():  # type: ignore[no-untyped-def]
    """A processor at the tiny model's full grid."""
    from infimed.model.processing import Processor

    return Processor(tokenizer_json=tiny_tokenizer_json(), image_size=32, visual_tokens=16)


@pytest.fixture
def make_model() -> Callable[..., torch.nn.Module]:
    """A factory of tiny models."""
    return tiny_model


@pytest.fixture
def processor():  # type: ignore[no-untyped-def]
    """A processor at the tiny model's full grid."""
    return tiny_processor()
