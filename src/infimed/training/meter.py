"""What a step cost: tokens, samples, images and floating-point operations per second, and memory."""

from __future__ import annotations

import resource
from collections.abc import Sequence

from infimed.model.attention import PackedLayout
from infimed.model.modeling import InfiMedForConditionalGeneration, count_parameters
from infimed.training.rows import Row


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_gib() -> float:
    """Resident memory now, GiB."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize() / 2**30


class Flops:
    """Floating-point operations of training rows, counted from the model's structure.

    A linear layer costs 2 per weight and token forward; backward costs twice that for a module that
    learns, once for one that only passes gradients on, nothing for a frozen tower. Attention
    is counted per document, not per row.
    """

    def __init__(self, model: InfiMedForConditionalGeneration) -> None:
        config = model.config
        text, vision = config.text_config, config.vision_config
        embedding = text.vocab_size * text.hidden_size
        self.language = count_parameters(model.model.language_model) - embedding
        self.head = embedding
        self.vision = count_parameters(model.model.vision_tower)
        self.projector = count_parameters(model.model.multi_modal_projector)
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.attention = 4 * text.num_hidden_layers * text.num_attention_heads * head_dim
        self.vision_attention = 4 * vision.num_hidden_layers * vision.hidden_size
        self.patch = vision.patch_size
        self.vision_learns = any(p.requires_grad for p in model.model.vision_tower.parameters())
        self.language_learns = any(p.requires_grad for p in model.model.language_model.parameters())

    def row(self, row: Row) -> float:
        """Operations of one row, forward and backward."""
        patches = 0 if row.pixels is None else (row.pixels.shape[-1] // self.patch) ** 2
        images = 0 if row.pixels is None else row.pixels.shape[0]
        return self.of(row.layout, row.target_tokens, images, patches)

    def of(self, layout: PackedLayout, target_tokens: int, images: int, patches: int) -> float:
        """Operations of a row of these documents with so many images of so many patches each."""
        pairs = sum(
            d.trunk * (d.trunk + 1) / 2 + sum(b * (b + 1) / 2 + b * d.trunk for b in d.branches)
            for d in layout.documents
        )
        weight_passes = 3.0 if self.language_learns else 2.0
        total = weight_passes * 2 * self.language * layout.tokens + 3 * self.attention * pairs
        total += weight_passes * 2 * self.head * target_tokens
        forward = 2 * self.vision * patches + self.vision_attention * patches**2
        total += images * forward * (3.0 if self.vision_learns else 1.0)
        return total + 3 * 2 * self.projector * images * patches

    def again(self, layout: PackedLayout) -> float:
        """Operations of computing the language model's blocks a second time (checkpointing)."""
        return 2.0 * self.language * layout.tokens


def step_counts(rows: Sequence[Row]) -> dict[str, int]:
    """Counts of the rows of one optimizer step."""
    return {
        "tokens": sum(row.layout.tokens for row in rows),
        "target_tokens": sum(row.target_tokens for row in rows),
        "samples": sum(len(row.record_ids) for row in rows),
        "documents": sum(len(row.layout.documents) for row in rows),
        "images": sum(row.images for row in rows),
    }
