"""Token-correct loss.

The loss of an optimizer step is the sum of fp32 cross-entropy over all its target tokens divided by
their number over the *whole* step. Dividing row by row would weigh a short answer in an empty row
more than one in a full row. Logits are computed at target positions only, in chunks, so a large
vocabulary never dominates memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from infimed.model.processing import IGNORE

CHUNK = 1024
"""Target positions per chunk of logits."""


def _chunk_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def target_loss(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    """Sum of cross-entropy over target positions, fp32 scalar.

    Args:
        head: maps hidden states to logits.
        hidden: [T, d] final hidden states. targets: int64 [T] with -100 where nothing is predicted.
    """
    keep = targets != IGNORE
    chosen, wanted = hidden[keep], targets[keep]
    if len(wanted) <= CHUNK:
        return _chunk_loss(head, chosen, wanted)
    total = torch.zeros((), device=hidden.device)
    for start in range(0, len(wanted), CHUNK):
        part = slice(start, start + CHUNK)
        total = total + checkpoint(
            _chunk_loss, head, chosen[part], wanted[part], use_reentrant=False
        )
    return total
