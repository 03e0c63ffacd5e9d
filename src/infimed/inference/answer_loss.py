"""The loss of given answers, many per image in one pass: how surprised a checkpoint is by a record.

An answer's loss is the mean over its target tokens (the closing one included) of the negative
log-probability in nats, as training computes it. Questions about the same images share their trunk
(see `branches`). Invariant: equals the loss of each record alone (tests compare them in fp32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infimed.inference.branches import Row, fill

if TYPE_CHECKING:
    from infimed.inference.local import LocalModel

IGNORE = -100
POSITIONS_PER_PASS = 512
"""Target positions whose logits are held at once; 100 MB at 49,152 words."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What follows a trunk.

    Attributes:
        ids: tokens, at least one. targets: the token to predict after each, or -100; same length.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class LossRow:
    """One trunk and the answers to weigh after it; `features` as in `branches.Row`."""

    trunk: tuple[int, ...]
    continuations: tuple[Continuation, ...]
    features: Tensor | None = None


@torch.no_grad()
def target_losses(model: Any, rows: Sequence[LossRow]) -> list[list[tuple[float, int]]]:
    """Summed loss in nats of every continuation of every row, and the number of its targets.

    Args:
        model: with the attention `cache.CACHED`. rows: of any lengths.

    Raises:
        ValueError: a continuation has no target.
    """
    grown = [Row(row.trunk, [part.ids for part in row.continuations], row.features) for row in rows]
    found: list[list[tuple[float, int]]] = []
    if not rows:
        return []
    states: list[Tensor] = []
    targets: list[int] = []
    for row, states_of_row in zip(rows, fill(model, grown), strict=True):
        at = len(row.trunk)
        counts = []
        for part in row.continuations:
            places = [at + offset for offset, target in enumerate(part.targets) if target != IGNORE]
            if not places:
                raise ValueError("every continuation needs at least one target")
            states.append(states_of_row[places])
            targets.extend(target for target in part.targets if target != IGNORE)
            counts.append((0.0, len(places)))
            at += len(part.ids)
        found.append(counts)
    losses = _cross_entropy(model, torch.cat(states), targets)
    at = 0
    for counts in found:
        for number, (_, count) in enumerate(counts):
            counts[number] = (sum(losses[at : at + count]), count)
            at += count
    return found


def _cross_entropy(model: Any, states: Tensor, targets: Sequence[int]) -> list[float]:
    """Loss in nats of each target after its state [targets, d]."""
    losses: list[float] = []
    for first in range(0, len(targets), POSITIONS_PER_PASS):
        last = first + POSITIONS_PER_PASS
        wanted = torch.tensor(targets[first:last], device=states.device)
        logits = model.lm_head(states[first:last]).float()
        losses += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
    return losses


def answer_losses(local: LocalModel, rows: Sequence[LossRow]) -> list[list[float]]:
    """Mean loss in nats per target token of every continuation of every row; see `target_losses`."""
    return [[total / count for total, count in row] for row in target_losses(local.model, rows)]
