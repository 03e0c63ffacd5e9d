"""The naive baseline: one image and one question a sequence, padded, stock Hugging Face LLaVA.

What a careful person writes first, kept as a baseline and tuned in good faith: autocast, a fused
optimizer, sdpa attention, sequences padded to the longest of the batch (not to a fixed length), batches of
similar length, the frozen tower without gradients. Every question brings its image again, every
padded token is computed, logits are computed at every position: as the stock loop does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import IGNORE, Encoded
from infimed.training.device import autocast


def stock(model: InfiMedForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The stock class on the same weights, at the full grid."""
    config = model.config
    plain = LlavaForConditionalGeneration(
        config.__class__(**{**config.to_dict(), "visual_tokens": None})
    )
    plain.load_state_dict(model.state_dict())
    plain.config.text_config._attn_implementation = "sdpa"
    plain.model.language_model.config._attn_implementation = "sdpa"
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_("vision_tower" not in name)
    return plain


def padded(samples: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, attention_mask, labels), each int64 [n, longest], padded on the right."""
    longest = max(len(sample.input_ids) for sample in samples)
    ids = torch.full((len(samples), longest), pad)
    mask = torch.zeros(len(samples), longest, dtype=torch.int64)
    labels = torch.full((len(samples), longest), IGNORE)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        ids[row, :length] = torch.tensor(sample.input_ids)
        mask[row, :length] = 1
        # Labels are shifted inside the stock model, so ours are shifted back.
        labels[row, 1:length] = torch.tensor(sample.targets[: length - 1])
    return ids, mask, labels


def by_length(samples: Sequence[Encoded], size: int) -> Iterator[list[int]]:
    """Numbers of samples in batches of similar length."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].input_ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def naive_step(
    model: LlavaForConditionalGeneration,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Encoded],
    pixels: Tensor,
    precision: str,
    *,
    batch: int,
    pad: int,
    clip: float = 1.0,
) -> float:
    """One optimizer step; the mean loss of its target tokens.

    Args:
        pixels: [n, 3, S, S], one image a sample. batch: samples that are forwarded together.
    """
    total = sum(sum(t != IGNORE for t in sample.targets) for sample in samples)
    loss_sum = 0.0
    for chosen in by_length(samples, batch):
        batched = padded([samples[i] for i in chosen], pad)
        ids, mask, labels = (tensor.to(model.device) for tensor in batched)
        targets = int((labels != IGNORE).sum())
        with autocast(model.device, precision):
            out = model(
                input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels[chosen],
                use_cache=False,
            )  # fmt: skip
        loss = out.loss * (targets / total)
        loss.backward()
        loss_sum += float(loss.detach())
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss_sum
