"""Floating-point operations of training rows, counted from the model's structure.

What the mathematics asks for, not what a backend executes: no padding, no half of an attention square
that nobody may see, no recomputation, no blank image. Counted are matrix products, as torch's
FlopCounterMode counts them (tests hold both equal for every freezing pattern); norms, softmax and
activations are left out, under 2 % at the sizes that are trained. A reducer with weights is the one part that
is counted by running it, once a token count and on the meta device.

A product with a weight costs 2 operations a weight and token forward. Backward it costs 2 more where
something before it learns (the gradient is passed on) and 2 more where the weight itself learns. Attention
has no weights: its backward is twice its forward wherever a gradient passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from infimed.model.attention import Document
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.reducers import make_reducer
from infimed.training.rows import Row


@dataclass(frozen=True)
class Cost:
    """Operations of some rows.

    Attributes:
        vision: tower, reducer and projector. language: language model and its head.
        cached: what the tower would cost for images whose features are kept; not part of the others.
    """

    vision: float = 0.0
    language: float = 0.0
    cached: float = 0.0

    @property
    def total(self) -> float:
        """What is computed."""
        return self.vision + self.language

    def fields(self) -> dict[str, float]:
        """As a metrics line has them."""
        return {
            "flops": self.total,
            "vision_flops": self.vision,
            "language_flops": self.language,
            "cached_flops": self.cached,
        }

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.vision + other.vision,
            self.language + other.language,
            self.cached + other.cached,
        )


@dataclass(frozen=True)
class Weights:
    """Weights of matrix products: all of them, those that learn, those of the first product."""

    all: int
    learning: int
    first: int = 0

    def operations(self, tokens: float, passes_on: bool, into_first: bool) -> float:
        """Operations for `tokens` tokens, forward and backward.

        Args:
            passes_on: a gradient arrives and is passed on to what comes before.
            into_first: it is passed on through the first product as well.
        """
        passed = (self.all if into_first else self.all - self.first) if passes_on else 0
        return 2.0 * tokens * (self.all + passed + self.learning)


def weights_of(module: nn.Module, kind: type[nn.Linear | nn.Conv2d] = nn.Linear) -> Weights:
    """Weights of the linear layers of a module, or of its convolution."""
    made = [m.weight for m in module.modules() if isinstance(m, kind)]
    learning = sum(weight.numel() for weight in made if weight.requires_grad)
    return Weights(sum(weight.numel() for weight in made), learning, made[0].numel() if made else 0)


def attended(documents: Sequence[Document]) -> int:
    """Pairs of tokens of which one may see the other, itself included."""
    return sum(
        d.trunk * (d.trunk + 1) // 2 + sum(b * (b + 1) // 2 + b * d.trunk for b in d.branches)
        for d in documents
    )


class Flops:
    """Operations of rows for a model as it is frozen and for the grid that it has now.

    Args:
        image_size: side of the images, pixels.
        questions: the words of the questions are predicted too. isolated: documents do not see one another.
    """

    def __init__(
        self,
        model: InfiMedForConditionalGeneration,
        image_size: int,
        *,
        questions: bool = False,
        isolated: bool = True,
    ) -> None:
        text, vision = model.config.text_config, model.config.vision_config
        tower, language = model.model.vision_tower, model.model.language_model
        projector = model.model.multi_modal_projector
        self.questions, self.isolated = questions, isolated
        self.language, self.head = weights_of(language), weights_of(model.lm_head)
        self.stem, self.blocks = weights_of(tower, nn.Conv2d), weights_of(tower)
        self.projector = weights_of(projector)
        self.reducer = _shadow(model)
        self.vision_learns = _learns(tower)
        self.before_projector = self.vision_learns or _learns(self.reducer)
        self.images_learn = self.before_projector or _learns(projector)
        self.words_learn = _learns(language)
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.attention = 4 * text.num_hidden_layers * text.num_attention_heads * head_dim
        self.tower_attention = 4 * vision.num_hidden_layers * vision.hidden_size
        self.patches = (image_size // vision.patch_size) ** 2
        self.class_tokens = int(model.config.vision_feature_select_strategy == "default")
        self.grid = model.config.visual_tokens or self.patches
        self._width = int(vision.hidden_size)
        self._reducing: dict[int, float] = {}

    def row(self, row: Row) -> Cost:
        """Operations of one row, forward and backward."""
        tokens, documents = row.layout.tokens, row.layout.documents
        return self.cost(
            tokens=tokens,
            pairs=attended(documents if self.isolated else (Document(tokens),)),
            predicted=row.target_tokens + (row.question_tokens if self.questions else 0),
            images=row.images,
            visual_tokens=sum(row.visual_tokens or ()) or row.images * self.grid,
            cached=row.pooled is not None,
            reducing=sum(map(self.reducing, row.visual_tokens)) if row.visual_tokens else None,
        )

    def cost(
        self,
        *,
        tokens: float,
        pairs: float,
        predicted: float,
        images: float,
        visual_tokens: float,
        cached: bool = False,
        reducing: float | None = None,
    ) -> Cost:
        """Operations of a row of such counts, forward and backward.

        Args:
            tokens: of the row. pairs: of tokens that see each other. predicted: targets of the head.
            visual_tokens: of all images, reduced. cached: features are read, not computed.
            reducing: operations of the reducer where images differ in tokens; all have the grid's otherwise.
        """
        backward = self.words_learn or (self.images_learn and images > 0)
        language = (
            self.language.operations(tokens, backward, True)
            + self.head.operations(predicted, backward, True)
            + self.attention * pairs * (3.0 if backward else 1.0)
        )
        # Nothing before the projector's first product learns with a frozen tower and no reducer's weights.
        vision = self.projector.operations(visual_tokens, self.images_learn, self.before_projector)
        vision += images * self.reducing(self.grid) if reducing is None else reducing
        tower = images * self.image()
        if cached:
            return Cost(vision, language, tower)
        return Cost(tower + vision, language)

    def image(self) -> float:
        """One image in the tower; no gradient is passed on to its pixels, no class token passes the convolution."""
        tokens = self.patches + self.class_tokens
        attention = self.tower_attention * tokens**2 * (3.0 if self.vision_learns else 1.0)
        blocks = self.blocks.operations(tokens, self.vision_learns, True)
        return self.stem.operations(self.patches, False, False) + blocks + attention

    def reducing(self, visual_tokens: int) -> float:
        """One image in the reducer, from the tower's patches to so many tokens."""
        if visual_tokens not in self._reducing:
            features = torch.empty(
                1, self.patches, self._width, device="meta", requires_grad=self.vision_learns
            )
            with (
                torch.enable_grad(),
                sdpa_kernel(SDPBackend.MATH),  # the fused kernels of a CPU are not counted
                FlopCounterMode(display=False) as counter,
            ):
                reduced = self.reducer(features, math.isqrt(visual_tokens))
                if reduced.requires_grad:
                    reduced.sum().backward()
            self._reducing[visual_tokens] = float(counter.get_total_flops())
        return self._reducing[visual_tokens]


def _shadow(model: InfiMedForConditionalGeneration) -> nn.Module:
    """The model's reducer on the meta device, frozen as it is."""
    with torch.device("meta"):
        made = make_reducer(model.config)
    for own, real in zip(
        made.parameters(), model.model.multi_modal_reducer.parameters(), strict=True
    ):
        own.requires_grad_(real.requires_grad)
    return made


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
