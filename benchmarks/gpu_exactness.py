"""Is packed attention exact on this device? Every backend that is present, against fp64 and against alone.

Three things, each in the precision named:

    attention   output and gradients of a backend against the dense mask in fp64
    packed      loss and gradients of a small model on a packed row against every question on its own
    leak        how far the other documents' hidden states move when one document's words are exchanged

Errors are relative to the largest value (attention, leak) or the norm of all gradients (packed).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infimed.model.attention import (
    PACKED,
    Backend,
    Document,
    PackedLayout,
    attend_by_document,
    attend_reference,
)
from infimed.model.attention_cuda import attend_varlen
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import build_config, preset
from infimed.model.processing import IGNORE
from infimed.training.device import autocast
from infimed.training.loss import target_losses

FP32, BF16 = torch.float32, torch.bfloat16
TOLERANCE = {FP32: 1e-5, BF16: 2e-2}
"""Largest relative error; bf16 rounds by 0.4 % at every operation."""
NAMES = {FP32: "fp32", BF16: "bf16"}
IMAGE, SIDE, GRID = 3, 48, 36
"""Image token, side of the images in pixels and visual tokens of the small model."""
ROW = PackedLayout(
    (Document(40, (18, 7, 22)), Document(25), Document(38, (9,)), Document(1), Document(0, (12, 5)))
)
IMAGES = (1, 0, 1, 0, 0)
"""Images of each document."""


def present(device: torch.device) -> list[tuple[str, Backend, torch.dtype]]:
    """Backends of a device with what they compute in."""
    if device.type == "cuda":
        return [("dense mask", attend_reference, FP32), ("varlen_attn", attend_varlen, BF16)]
    return [
        ("dense mask", attend_reference, FP32),
        ("loop over documents", attend_by_document, FP32),
        ("loop over documents", attend_by_document, BF16),
    ]


def attention_error(
    backend: Backend, dtype: torch.dtype, device: torch.device, groups: int
) -> float:
    """Largest relative error of output and gradients; 8 heads of 64 that share `groups` keys."""
    torch.manual_seed(0)
    shapes = [(1, heads, ROW.tokens, 64) for heads in (8, groups, groups)]
    drawn = [torch.randn(shape, device=device).to(dtype) for shape in shapes]
    weight = torch.randn(1, 8, ROW.tokens, 64, device=device)

    def results(attend: Backend, precision: torch.dtype) -> list[Tensor]:
        given = [tensor.detach().to(precision).requires_grad_() for tensor in drawn]
        out = attend(*given, ROW, 0.125)
        return [out.detach(), *torch.autograd.grad((out * weight.to(precision)).sum(), given)]

    pairs = zip(results(backend, dtype), results(attend_reference, torch.float64), strict=True)
    return max(float((ours - exact).abs().max() / exact.abs().max()) for ours, exact in pairs)


def small_model(device: torch.device) -> InfiMedForConditionalGeneration:
    """`nano` with random weights, packed."""
    torch.manual_seed(0)
    model = InfiMedForConditionalGeneration(build_config(preset("nano"), image_token_id=IMAGE))
    model.set_grid(GRID, SIDE)
    model.set_attention(PACKED)
    return model.float().to(device).train()


def row_tensors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, targets, pixels) of `ROW`."""
    torch.manual_seed(1)
    ids = torch.randint(4, 2000, (ROW.tokens,))
    start = 0
    for document, images in zip(ROW.documents, IMAGES, strict=True):
        ids[start : start + images * GRID] = IMAGE
        start += document.length
    targets = torch.randint(4, 2000, (ROW.tokens,))
    targets[torch.rand(ROW.tokens) < 0.4] = IGNORE
    pixels = torch.randn(sum(IMAGES), 3, SIDE, SIDE)
    return ids.to(device), targets.to(device), pixels.to(device)


def packed_loss(model: InfiMedForConditionalGeneration, device: torch.device) -> Tensor:
    """Summed loss of the row."""
    ids, targets, pixels = row_tensors(device)
    return target_losses(model.lm_head, model.forward_row(ids, ROW, pixels=pixels), targets).sum()


def separate_loss(model: InfiMedForConditionalGeneration, device: torch.device) -> Tensor:
    """The same from one forward a question, its trunk before it."""
    ids, targets, pixels = row_tensors(device)
    total = torch.zeros((), device=device)
    start = shown = 0
    for document, images in zip(ROW.documents, IMAGES, strict=True):
        trunk = torch.arange(start, start + document.trunk, device=device)
        at = start + document.trunk
        for number, branch in enumerate(document.branches or (0,)):
            own = torch.cat([trunk, torch.arange(at, at + branch, device=device)])
            wanted = targets[own]
            if number:
                wanted[: document.trunk] = IGNORE  # a trunk's own targets count once
            alone = PackedLayout((Document(len(own)),))
            seen = pixels[shown : shown + images] if images else None
            hidden = model.forward_row(ids[own], alone, pixels=seen)
            total = total + target_losses(model.lm_head, hidden, wanted).sum()
            at += branch
        shown += images
        start += document.length
    return total


def packed_error(dtype: torch.dtype, device: torch.device) -> float:
    """Norm of the difference of all gradients over their norm, or that of the losses if larger."""
    model = small_model(device)
    found = []
    for loss_of in (packed_loss, separate_loss):
        model.zero_grad(set_to_none=True)
        with autocast(device, NAMES[dtype]):
            loss = loss_of(model, device)
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), torch.cat(gradients)))
    (packed, ours), (separate, theirs) = found
    losses = float((packed - separate).abs() / separate.abs())
    return max(losses, float((ours - theirs).norm() / theirs.norm()))


def leak(dtype: torch.dtype, device: torch.device) -> float:
    """Relative change of all other documents when the second document gets other words."""
    model = small_model(device)
    ids, _, pixels = row_tensors(device)
    begin = ROW.documents[0].length
    end = begin + ROW.documents[1].length
    hidden = []
    with torch.no_grad(), autocast(device, NAMES[dtype]):
        for shift in (0, 1):
            ids[begin:end] += shift
            made = model.forward_row(ids, ROW, pixels=pixels).float()
            hidden.append(torch.cat([made[:begin], made[end:]]))
    return float((hidden[0] - hidden[1]).abs().max() / hidden[0].abs().max())


def exactness(device: torch.device) -> list[dict[str, Any]]:
    """All checks of a device: what, in which precision, error, tolerance and whether it passed."""
    found = []
    for name, backend, dtype in present(device):
        for groups in (8, 2):
            error = attention_error(backend, dtype, device, groups)
            found.append((f"attention: {name}, {groups} groups of keys", dtype, error))
    for dtype in (FP32, BF16):
        found.append(("packed = separate", dtype, packed_error(dtype, device)))
        found.append(("leak", dtype, leak(dtype, device)))
    return [
        {
            "check": check,
            "precision": NAMES[dtype],
            "error": error,
            "tolerance": TOLERANCE[dtype],
            "passed": error <= TOLERANCE[dtype],
        }
        for check, dtype, error in found
    ]
