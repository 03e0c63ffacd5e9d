"""Token-correct loss.

The loss of an optimizer step is the sum of fp32 cross-entropy over its target tokens, each times its
weight, divided by the sum of those weights over the *whole* step: every row, every rank. Dividing row by
row would weigh a short answer in an empty row more than one in a full row. Logits are computed at
target positions only, in chunks, so a large vocabulary never dominates memory.

What a token weighs (`weighting`): ``token`` 1, so long answers count most; ``document`` one over the
target tokens of its sample, so every sample counts the same; ``sqrt`` one over their square root, between
the two (InternVL 2.5).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from infimed.model.attention import PackedLayout
from infimed.model.processing import IGNORE

CHUNK = 1024
"""Target positions per chunk of logits."""

Weighting = Literal["token", "document", "sqrt"]


def _chunk_losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


def target_losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy at every target position, fp32 [n], in row order.

    Args:
        head: maps hidden states to logits.
        hidden: [T, d] final hidden states. targets: int64 [T] with -100 where nothing is predicted.
    """
    keep = targets != IGNORE
    chosen, wanted = hidden[keep], targets[keep]
    if len(wanted) <= CHUNK:
        return _chunk_losses(head, chosen, wanted)
    parts = [
        checkpoint(
            _chunk_losses,
            head,
            chosen[start : start + CHUNK],
            wanted[start : start + CHUNK],
            use_reentrant=False,
        )
        for start in range(0, len(wanted), CHUNK)
    ]
    return torch.cat(parts)


def sample_numbers(layout: PackedLayout) -> Tensor:
    """int64 [T]: number of the sample in its row that each token belongs to.

    Every branch is a sample; a trunk belongs to its first branch.
    """
    lengths: list[int] = []
    for document in layout.documents:
        first, *others = document.branches or (0,)
        lengths += [document.trunk + first, *others]
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def target_weights(sample: Tensor, weighting: Weighting) -> Tensor:
    """fp32 [n]: the weight of every target token, given the sample each belongs to (int64 [n])."""
    if weighting == "token" or not len(sample):
        return torch.ones(len(sample))
    tokens = torch.bincount(sample)[sample].float()
    return 1 / tokens if weighting == "document" else tokens.rsqrt()
