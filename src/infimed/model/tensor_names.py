"""A model's tensors under the names of some file, and how they are filled from it.

`Expected` says under which name a file must hold which of the model's own tensors. It is first made of
a model without memory: names and shapes are compared with the file's header before anything is
allocated, so a configuration that promises more than the file holds costs nothing. Filling holds one
stored tensor at a time and casts it to the model's type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from infimed.core.errors import DataError
from infimed.model.configuration import InfiMedConfig
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.weight_files import StoredTensor

Expected = Mapping[str, tuple[Tensor, ...]]
"""Stored name -> own tensors that the stored one holds one after another along its first axis."""

VISION, LINEAR_1, LINEAR_2 = (
    "model.vision_tower.",
    "model.multi_modal_projector.linear_1.",
    "model.multi_modal_projector.linear_2.",
)
LANGUAGE, HEAD = "model.language_model.", "lm_head."


_PUBLISHED = (
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
)
"""DINOv2's attention, as transformers names it from 5.20 on and as the Hub does; every version reads the latter."""


def published(name: str) -> str:
    """A DINOv2 tensor's name as the Hub publishes it, whatever transformers calls it; others unchanged."""
    if ".encoder.layer." not in f".{name}":
        return name
    for own, hub in _PUBLISHED:
        name = name.replace(own, hub)
    return name


def by_published_names(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Stored tensors by their published names.

    Raises:
        DataError: one tensor is there under two names.
    """
    found: dict[str, StoredTensor] = {}
    for name, entry in stored.items():
        if published(name) in found:
            raise DataError(
                f"holds {published(name)} under two names", where=str(entry.file), seen=name
            )
        found[published(name)] = entry
    return found


def first_prefix(names: Iterable[str], candidates: Iterable[str]) -> str | None:
    """The first of the candidates with which any name begins."""
    known = list(names)
    return next((c for c in candidates if any(name.startswith(c) for name in known)), None)


def renamed(
    model: InfiMedForConditionalGeneration, prefixes: Mapping[str, str]
) -> dict[str, tuple[Tensor, ...]]:
    """The model's tensors whose names begin with one of `prefixes`, each under its other prefix.

    The output layer is left out where it is tied to the embedding.
    """
    own = model.state_dict()
    if model.config.tie_word_embeddings:
        own.pop("lm_head.weight")
    return {
        other + published(name.removeprefix(prefix)): (tensor,)
        for prefix, other in prefixes.items()
        for name, tensor in own.items()
        if name.startswith(prefix)
    }


def skeleton(config: InfiMedConfig, where: str) -> InfiMedForConditionalGeneration:
    """The model without memory.

    Raises:
        DataError: no model can be made of the configuration.
    """
    try:
        with torch.device("meta"):
            return InfiMedForConditionalGeneration(config)
    except Exception as error:  # whatever torch or transformers raise for sizes that do not fit
        raise DataError(
            f"no model can be made of this config.json ({error})", where=where
        ) from error


def check_match(expected: Expected, stored: Mapping[str, StoredTensor], where: str) -> None:
    """Refuse files that do not hold exactly what is expected.

    Raises:
        DataError: tensors are missing or unknown, or of another shape; the first few are named with
            their files.
    """
    missing = [name for name in expected if name not in stored]
    unknown = [f"{name} ({stored[name].file.name})" for name in stored if name not in expected]
    shapes = {name: _stacked_shape(own) for name, own in expected.items()}
    misshapen = [
        f"{name} {list(entry.shape)} instead of {list(shapes[name])} ({entry.file.name})"
        for name, entry in stored.items()
        if name in shapes and shapes[name] != entry.shape
    ]
    counts = {"missing": missing, "unknown": unknown, "of the wrong shape": misshapen}
    if any(counts.values()):
        raise DataError(
            "tensors do not match the model: "
            + ", ".join(f"{len(names)} {what}" for what, names in counts.items()),
            where=where,
            seen="; ".join(f"{what}: {', '.join(n[:5])}" for what, n in counts.items() if n),
            fix="the weights belong to another model or layout than config.json says",
        )


def _stacked_shape(own: tuple[Tensor, ...]) -> tuple[int, ...]:
    first = tuple(own[0].shape)
    return first if len(own) == 1 else (sum(len(one) for one in own), *first[1:])


@torch.no_grad()
def fill(expected: Expected, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy tensors that were found to match into the model, cast to its type."""
    for name, tensor in tensors:
        own = expected[name]
        parts = (tensor,) if len(own) == 1 else tensor.split([len(one) for one in own])
        for mine, theirs in zip(own, parts, strict=True):
            mine.copy_(theirs)


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Models made in this block have parameters of `dtype`; tables kept in float32 stay so."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
