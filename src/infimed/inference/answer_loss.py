"""The loss of given answers, many per image in one pass: how surprised a checkpoint is by a record.

An answer's loss is the mean over its target tokens (the closing one included) of the negative
log-probability in nats, as training computes it. Questions about the same images share their trunk
(see `branches`). Invariant: equals the loss of each record alone (tests compare them in fp32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infimed.inference.branches import Row, branch_spans, grow
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
def answer_losses(local: LocalModel, rows: Sequence[LossRow]) -> list[list[float]]:
    """Mean loss in nats per target token of every continuation of every row.

    Args:
        rows: with trunks of one length; every continuation has at least one target.
    """
    grown = [
        Row(list(row.trunk), [list(part.ids) for part in row.continuations], row.features)
        for row in rows
    ]
    _, hidden = grow(local.model, grown)
    places: list[tuple[int, int]] = []
    targets: list[int] = []
    owners: list[tuple[int, int]] = []
    for at, (row, asked) in enumerate(zip(grown, rows, strict=True)):
        for number, ((start, _), part) in enumerate(
            zip(branch_spans(row), asked.continuations, strict=True)
        ):
            for offset, target in enumerate(part.targets):
                if target != IGNORE:
                    places.append((at, start + offset))
                    targets.append(target)
                    owners.append((at, number))
    sums = [[0.0] * len(row.continuations) for row in rows]
    counts = [[0] * len(row.continuations) for row in rows]
    for first in range(0, len(places), POSITIONS_PER_PASS):
        last = first + POSITIONS_PER_PASS
        where = torch.tensor(places[first:last], device=hidden.device)
        logits = local.model.lm_head(hidden[where[:, 0], where[:, 1]]).float()
        wanted = torch.tensor(targets[first:last], device=hidden.device)
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        for (at, number), loss in zip(owners[first:last], losses, strict=True):
            sums[at][number] += loss
            counts[at][number] += 1
    if not all(count for row in counts for count in row):
        raise ValueError("every continuation needs at least one target")
    return [
        [total / count for total, count in zip(row, many, strict=True)]
        for row, many in zip(sums, counts, strict=True)
    ]
