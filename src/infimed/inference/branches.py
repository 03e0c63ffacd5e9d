"""Many questions about the same images in one pass: a shared trunk with a branch per question.

A trunk is the token prefix up to the last image; it is computed once and kept in the key-value
cache. The questions about it follow one another in the same row, and a mask lets each token see the
trunk and its own branch only, at the positions it would have alone. The result equals asking each
question by itself (exactly in theory, to rounding in practice), while an image is encoded, computed
and kept in memory once however many questions ask about it.

Rows of a batch have trunks of equal length. Every step of decoding feeds one token per open branch;
rows whose branches are all closed leave the batch once they are half of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TRUNK, PAD = -1, -2


@dataclass
class Row:
    """One trunk and the branches that grow from it.

    Attributes:
        trunk: token ids up to and including the last image; may be empty.
        branches: token ids of each question after the trunk, at least one token each.
        features: [images * visual_tokens, d] in the order of the trunk's placeholders, or None.
    """

    trunk: list[int]
    branches: list[list[int]]
    features: Tensor | None = None


@dataclass
class _Grown:
    """State of a batch: the cache and who owns each of its slots."""

    rows: list[Row]
    cache: Any
    owner: Tensor
    positions: list[list[int]]
    alive: list[int] = field(default_factory=list)


def allowed(query_owner: Tensor, key_owner: Tensor, new: int) -> Tensor:
    """The attention mask bool [B, 1, Q, K]: True where a query may look.

    Args:
        query_owner: int64 [B, Q]: the branch of each query, or PAD. key_owner: int64 [B, K]: the
            branch of each cache slot, TRUNK or PAD; its last `new` slots are the queries themselves.
    """
    queries, keys = query_owner.shape[1], key_owner.shape[1]
    same = query_owner[:, :, None] == key_owner[:, None, :]
    mask = same | (key_owner == TRUNK)[:, None, :]
    slots = torch.arange(keys, device=key_owner.device)
    own = torch.arange(queries, device=key_owner.device) + keys - new
    return (mask & (slots[None, :] <= own[:, None])).unsqueeze(1)


def _padded(lists: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    width = max(len(items) for items in lists)
    return torch.tensor(
        [[*items, *[fill] * (width - len(items))] for items in lists], device=device
    )


def _advance(model: Any, state: _Grown, ids: Tensor, owner: Tensor, positions: Tensor) -> Tensor:
    """Run new tokens [B, Q] through the language model; returns hidden states [B, Q, d]."""
    state.owner = torch.cat([state.owner, owner], dim=1)
    outputs = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(ids),
        attention_mask=allowed(owner, state.owner, ids.shape[1]),
        position_ids=positions,
        past_key_values=state.cache,
        use_cache=True,
    )
    hidden = outputs.last_hidden_state
    assert isinstance(hidden, Tensor)
    return hidden


def grow(model: Any, rows: Sequence[Row]) -> tuple[_Grown, Tensor]:
    """Compute trunks and branches.

    Args:
        model: an `InfiMedForConditionalGeneration` with SDPA attention.
        rows: trunks of equal length.

    Returns:
        the state to continue from, and hidden states [B, longest row of branches, d]; branch j of a
        row starts at the sum of the lengths of those before it.
    """
    from transformers import DynamicCache

    lengths = {len(row.trunk) for row in rows}
    if len(lengths) != 1 or not all(row.branches and all(row.branches) for row in rows):
        raise ValueError("rows need trunks of one length and branches of at least one token")
    trunk_length = lengths.pop()
    device = model.get_input_embeddings().weight.device
    cache = DynamicCache()
    owner = torch.full((len(rows), trunk_length), TRUNK, device=device)
    if trunk_length:
        features = [row.features for row in rows if row.features is not None]
        ids = torch.tensor([row.trunk for row in rows], device=device)
        # One pseudo-image per row: `embed` fills placeholders in order, whatever the image borders.
        joined = torch.cat(features).unsqueeze(0) if features else None
        positions = torch.arange(trunk_length, device=device).expand(len(rows), -1)
        model.model.language_model(
            inputs_embeds=model.embed(ids, joined),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
    state = _Grown(
        list(rows),
        cache,
        owner,
        [[trunk_length + len(branch) for branch in row.branches] for row in rows],
        list(range(len(rows))),
    )
    hidden = _advance(
        model,
        state,
        _padded([[t for branch in row.branches for t in branch] for row in rows], 0, device),
        _padded([[j for j, b in enumerate(row.branches) for _ in b] for row in rows], PAD, device),
        _padded(
            [[trunk_length + i for b in row.branches for i in range(len(b))] for row in rows],
            0,
            device,
        ),
    )
    return state, hidden


def branch_spans(row: Row) -> Iterator[tuple[int, int]]:
    """(start, end) of each branch in the hidden states of its row."""
    start = 0
    for branch in row.branches:
        yield start, start + len(branch)
        start += len(branch)


def next_tokens(model: Any, hidden: Tensor) -> list[int]:
    """The likeliest token after each hidden state [n, d]; never an image placeholder.

    A placeholder in an answer would stand for an image that is not there.
    """
    logits = model.lm_head(hidden).float()
    logits[:, model.config.image_token_id] = -torch.inf
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    return chosen


def _at(hidden: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
    """Hidden states [n, d] at (row, column) places of [B, T, d]."""
    where = torch.tensor(places, device=hidden.device)
    return hidden[where[:, 0], where[:, 1]]


@torch.no_grad()
def greedy(
    model: Any, rows: Sequence[Row], stop_ids: Sequence[int], max_new_tokens: int
) -> list[list[tuple[list[int], bool]]]:
    """Greedy answers of every branch of every row.

    Returns:
        per row and branch: (token ids without the stop token, whether it stopped by itself).
    """
    stop = set(stop_ids)
    state, hidden = grow(model, rows)
    written: list[list[list[int]]] = [[[] for _ in row.branches] for row in rows]
    stopped = [[False] * len(row.branches) for row in rows]
    open_branches = {(i, j) for i, row in enumerate(rows) for j in range(len(row.branches))}
    # (row in the hidden states, its column) and which (row, branch) each place belongs to
    places = [(i, end - 1) for i, row in enumerate(rows) for _, end in branch_spans(row)]
    owners = [(i, j) for i, row in enumerate(rows) for j in range(len(row.branches))]
    for step in range(max_new_tokens):
        for (i, j), token in zip(owners, next_tokens(model, _at(hidden, places)), strict=True):
            if token in stop:
                stopped[i][j] = True
                open_branches.discard((i, j))
            else:
                written[i][j].append(token)
        if not open_branches or step == max_new_tokens - 1:
            break
        _drop_finished(state, {i for i, _ in open_branches})
        hidden, places, owners = _step(model, state, written, open_branches)
    return [
        list(zip(texts, ends, strict=True)) for texts, ends in zip(written, stopped, strict=True)
    ]


def _drop_finished(state: _Grown, needed: set[int]) -> None:
    """Take rows without open branches out of the batch once they are half of it."""
    keep = [at for at, row in enumerate(state.alive) if row in needed]
    if 2 * len(keep) > len(state.alive):
        return
    index = torch.tensor(keep, device=state.owner.device)
    state.cache.batch_select_indices(index)
    state.owner = state.owner[index]
    state.alive = [state.alive[at] for at in keep]


def _step(
    model: Any, state: _Grown, written: list[list[list[int]]], open_branches: set[tuple[int, int]]
) -> tuple[Tensor, list[tuple[int, int]], list[tuple[int, int]]]:
    """Feed the newest token of every open branch."""
    device = state.owner.device
    active = [[j for j in range(len(written[i])) if (i, j) in open_branches] for i in state.alive]
    ids = [
        [written[i][j][-1] for j in branch] for i, branch in zip(state.alive, active, strict=True)
    ]
    positions = [
        [state.positions[i][j] + len(written[i][j]) - 1 for j in branch]
        for i, branch in zip(state.alive, active, strict=True)
    ]
    hidden = _advance(
        model,
        state,
        _padded(ids, 0, device),
        _padded(active, PAD, device),
        _padded(positions, 0, device),
    )
    places = [(at, column) for at, branch in enumerate(active) for column in range(len(branch))]
    owners = [(i, j) for i, branch in zip(state.alive, active, strict=True) for j in branch]
    return hidden, places, owners
