"""Less memory at the price of some work: blocks computed again backward, a frozen tower in bf16.

Neither changes a result: a block computed again gives the same bits, and autocast would round a frozen tower's
matrices to bf16 at every call anyway.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from infimed.core.recipe import Train
from infimed.model.modeling import InfiMedForConditionalGeneration


def blocks(module: nn.Module) -> list[GradientCheckpointingLayer]:
    """The transformer blocks of a tower or a language model."""
    return [one for one in module.modules() if isinstance(one, GradientCheckpointingLayer)]


def learns(module: nn.Module) -> bool:
    """Whether any parameter of a module asks for a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def save_memory(model: InfiMedForConditionalGeneration, train: Train) -> None:
    """Apply what the recipe asks for to a model whose modules are frozen as the stage says."""
    tower = model.model.vision_tower
    on = train.activation_checkpointing
    checkpoint_blocks(model.model.language_model, on)  # gradients pass it even where it is frozen
    checkpoint_blocks(tower, on and learns(tower))
    if train.frozen_dtype == "bf16" and not learns(tower):
        round_matrices(tower)


def checkpoint_blocks(module: nn.Module, on: bool) -> None:
    """Keep only the input of every block, and compute the block again in the backward pass."""
    for block in blocks(module):
        block.gradient_checkpointing = on
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)


def round_matrices(tower: nn.Module) -> None:
    """Keep the weights of linear and convolution layers in bf16.

    Norms, biases and positions stay in fp32: they act on the fp32 sum of the blocks. Once rounded, the
    tower's checkpoints hold what training saw.
    """
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.weight.data = module.weight.data.to(torch.bfloat16)
