"""One packed row forward: its share of the step's loss.

`RowLoss` is the module that FSDP shards and whose forward trains; a single process calls the same. With
several ranks every rank must touch the same modules in the same order, else the others wait for ever:
so a row without images still runs the tower on a blank image, a row without targets still
runs the head, and a rank that has no row left in a step runs an idle one. None of this adds to the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infimed.model.attention import Document, PackedLayout
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import IGNORE
from infimed.training.loss import Weighting, sample_numbers, target_losses, target_weights
from infimed.training.rows import Row


@dataclass(frozen=True)
class RowWeights:
    """What the loss of a row needs besides the row.

    Attributes:
        sample: int64 [n], the sample of every target token. weights: fp32 [n], its weight.
    """

    sample: Tensor
    weights: Tensor

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(self.weights.double().sum())


def row_weights(row: Row, weighting: Weighting) -> RowWeights:
    """Samples and weights of a row's target tokens, on the CPU."""
    sample = sample_numbers(row.layout)[(row.targets != IGNORE).cpu()]
    return RowWeights(sample, target_weights(sample, weighting))


class RowLoss(nn.Module):
    """A model with its loss.

    Args:
        question_weight: weight of the mean loss over the words of the questions.
        isolated: False lets the documents of a row see one another, as recipes that do not separate
            them do; for studies.
        image_size: side of the blank image that stands in on ranks without one, or None in a world of one.
        cached: images come as features, so that no rank runs the tower.
    """

    def __init__(
        self,
        model: InfiMedForConditionalGeneration,
        *,
        question_weight: float = 0.0,
        isolated: bool = True,
        image_size: int | None = None,
        cached: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.question_weight = question_weight
        self.isolated = isolated
        self.image_size = image_size
        self.cached = cached

    def forward(
        self, row: Row, weights: Tensor, total: float, asked: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Share of the step's loss, with a gradient; every target's loss; summed loss of the questions.

        Args:
            weights: fp32 [n] of the row's target tokens. total: their sum over the step.
            asked: tokens of questions in the step; used with a question weight only.
        """
        model = self.model
        layout = row.layout if self.isolated else PackedLayout((Document(row.layout.tokens),))
        blank = self._blank(row)
        hidden = model.forward_row(
            row.input_ids,
            layout,
            pixels=row.pixels,
            visual_tokens=row.visual_tokens,
            pooled=row.pooled,
        )
        losses = target_losses(model.lm_head, hidden, row.targets)
        loss = (losses * weights).sum() / total
        questions = torch.zeros((), device=hidden.device)
        if self.question_weight:
            words = target_losses(model.lm_head, hidden, row.questions).sum()
            questions = words.detach()
            loss = loss + self.question_weight * (words / asked)
        if self.image_size is not None and not len(losses):
            loss = loss + 0.0 * model.lm_head(hidden[:1]).float().sum()
        if blank is not None:
            loss = loss + 0.0 * blank
        return loss, losses.detach(), questions

    def _blank(self, row: Row) -> Tensor | None:
        """Sum of the features of a blank image, where another rank may have an image and this row has none.

        It comes before the language model, where other ranks run the tower.
        """
        if self.image_size is None or row.images:
            return None
        if self.cached:
            width = self.model.config.vision_config.hidden_size
            pooled = torch.zeros(1, 1, width, device=row.input_ids.device)
            return self.model.project(self.model.reduce(pooled, side=1)).float().sum()
        side = self.image_size
        blank = torch.zeros(1, 3, side, side, device=row.input_ids.device)
        return self.model.image_features(blank).float().sum()


def non_finite_samples(row: Row, weights: RowWeights, losses: Tensor) -> list[str]:
    """Ids of the records of a row whose own loss is NaN or infinite."""
    bad = weights.sample[~torch.isfinite(losses).cpu()].unique()
    return [row.record_ids[number] for number in bad.tolist()]
