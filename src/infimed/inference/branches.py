"""Many questions about the same images in one pass: a shared trunk with a branch per question.

A trunk is the token prefix up to the last image; it is computed once and kept in the key-value
cache. The questions about it are branches: each sees the trunk and itself, at the positions it would
have alone. The result equals asking each question by itself (exactly in theory, to rounding in
practice), while an image is encoded, computed and kept in memory once however many questions ask
about it.

Rows of any lengths, with images or without, go together: a pass is one packed row of documents, as in
training (`model.attention`), and every token after that belongs to its row of the cache (`cache`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infimed.inference.cache import CACHED, TRUNK, KeyValues, Pass, branch_bias, grid_of
from infimed.model.attention import Document, PackedLayout
from infimed.model.modeling import LeakingCallError

TOKENS_PER_PASS = 4096
"""Tokens computed together; more gains nothing on a CPU and costs memory."""


@dataclass
class Row:
    """One trunk and the branches that grow from it.

    Attributes:
        trunk: token ids up to and including the last image; may be empty.
        branches: token ids of each question after the trunk, at least one token each.
        features: [images * visual_tokens, d] in the order of the trunk's placeholders, or None.
    """

    trunk: Sequence[int]
    branches: Sequence[Sequence[int]]
    features: Tensor | None = None

    @property
    def ids(self) -> list[int]:
        """All its tokens."""
        return [*self.trunk, *(token for branch in self.branches for token in branch)]

    @property
    def owners(self) -> list[int]:
        """Who owns the slot of each token."""
        owned = (number for number, branch in enumerate(self.branches) for _ in branch)
        return [*[TRUNK] * len(self.trunk), *owned]

    @property
    def documents(self) -> tuple[Document, ...]:
        """As packed attention sees it; without a trunk the branches have nothing in common."""
        lengths = tuple(len(branch) for branch in self.branches)
        if self.trunk:
            return (Document(len(self.trunk), lengths),)
        return tuple(Document(length) for length in lengths)

    def ends(self) -> Iterator[int]:
        """Where each branch ends among the row's tokens."""
        end = len(self.trunk)
        for branch in self.branches:
            end += len(branch)
            yield end


def new_cache(model: Any, rows: int) -> KeyValues:
    """An empty cache for a model's language part."""
    weight = model.get_input_embeddings().weight
    return KeyValues(model.config.text_config, rows, weight.device, weight.dtype)


def _passes(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Consecutive rows of at most `TOKENS_PER_PASS` tokens, or a single one."""
    numbers: list[int] = []
    tokens = 0
    for number, row in enumerate(rows):
        length = len(row.ids)
        if numbers and tokens + length > TOKENS_PER_PASS:
            yield numbers
            numbers, tokens = [], 0
        numbers.append(number)
        tokens += length
    if numbers:
        yield numbers


def _hidden(model: Any, embedded: Tensor, positions: Tensor, step: Pass) -> Tensor:
    """Final hidden states [tokens, d] of packed embeddings [1, tokens, d].

    Raises:
        LeakingCallError: another attention would not know of the cache, and say nothing.
    """
    if model.model.language_model.config._attn_implementation != CACHED:
        raise LeakingCallError(f"call set_attention({CACHED!r}) before a model answers")
    hidden = model.model.language_model(
        inputs_embeds=embedded, position_ids=positions, use_cache=False, step=step
    ).last_hidden_state[0]
    assert isinstance(hidden, Tensor)
    return hidden


def fill(model: Any, rows: Sequence[Row], cache: KeyValues | None = None) -> list[Tensor]:
    """Compute trunks and branches; the cache, which must be empty, keeps them for `extend`.

    Args:
        model: an `InfiMedForConditionalGeneration` with the attention `cache.CACHED`.

    Returns:
        by row, hidden states [tokens of the row, d].
    """
    if not all(row.branches and all(row.branches) for row in rows):
        raise ValueError("a row needs branches of at least one token")
    if cache is not None:
        cache.reserve(max(len(row.ids) for row in rows))
    device = model.get_input_embeddings().weight.device
    found: list[Tensor] = []
    for numbers in _passes(rows):
        taken = [rows[number] for number in numbers]
        layout = PackedLayout(tuple(document for row in taken for document in row.documents))
        where = None
        if cache is not None:
            lines = [number for number in numbers for _ in rows[number].ids]
            slots = cache.claim(lines, [owner for row in taken for owner in row.owners])
            where = torch.tensor([lines, slots], device=device)
        features = [row.features for row in taken if row.features is not None]
        ids = torch.tensor([[token for row in taken for token in row.ids]], device=device)
        embedded = model.embed(ids, torch.cat(features) if features else None)
        dtype = embedded.dtype
        biases = [branch_bias(document, dtype) for document in layout.documents]
        step = Pass(cache, where, layout, biases)
        hidden = _hidden(model, embedded, layout.position_ids().to(device), step)
        found.extend(hidden.split([len(row.ids) for row in taken]))
    return found


def extend(
    model: Any,
    cache: KeyValues,
    embedded: Tensor,
    rows: Sequence[int],
    owners: Sequence[int],
    positions: Sequence[int],
) -> Tensor:
    """Feed tokens that go on where the cache ends; returns their hidden states [tokens, d].

    Args:
        embedded: [1, tokens, d]. rows, owners, positions: of each token; tokens of a branch in order.
    """
    slots = cache.claim(rows, owners)
    where = torch.tensor([rows, slots], device=cache.device)
    step = Pass(cache, where, grid=grid_of(cache, rows, slots))
    return _hidden(model, embedded, torch.tensor([positions], device=cache.device), step)
