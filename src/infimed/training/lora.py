"""Low-rank adapters for a stage, through peft.

The language model's linear layers keep their weights and learn ``scale * B A`` beside them; projector and
tower learn or stay frozen as the stage's table says. Adapters exist while their stage is trained: its
checkpoints hold them beside the weights, so that a killed run goes on to the same bits, and the checkpoint
at its end holds the merged weights alone, with which the next stage begins.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from infimed.core.errors import DataError, RecipeError, missing_extra, nearest_name
from infimed.core.recipe import Lora
from infimed.model.adapters import ADAPTERS, is_adapter, plain_name, read_adapters
from infimed.model.loading import hub_key
from infimed.model.modeling import InfiMedForConditionalGeneration


def check_adapters(model: InfiMedForConditionalGeneration, lora: Lora) -> list[str]:
    """Names of the linear layers that get adapters; asked of every stage before the first is trained.

    Raises:
        UsageError: peft is not installed. RecipeError: a target is no linear layer.
    """
    if find_spec("peft") is None:
        raise missing_extra("lora", "peft")
    names = linear_layers(model.model.language_model)
    for target in lora.targets:
        if target not in names:
            raise RecipeError(
                "no linear layer of the language model has this name",
                where="stages.lora.targets",
                seen=target,
                accepted=names,
                nearest=nearest_name(target, names),
            )
    return lora.targets or names


def add_adapters(model: InfiMedForConditionalGeneration, lora: Lora, seed: int) -> None:
    """Put adapters beside linear layers of the language model, in place; they begin as zero.

    Args:
        seed: the same seed draws the same adapters, whatever was drawn before.

    Raises:
        UsageError, RecipeError: as `check_adapters`.
    """
    targets = check_adapters(model, lora)
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model.model.language_model)
    for layer in model.model.language_model.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False  # autocast decides, as for every other layer


def linear_layers(module: nn.Module) -> list[str]:
    """Last names of the linear layers below `module`, in order of appearance."""
    found = (name for name, one in module.named_modules() if isinstance(one, nn.Linear))
    return list(dict.fromkeys(name.rpartition(".")[2] for name in found))


def resume_adapters(
    model: InfiMedForConditionalGeneration, lora: Lora | None, folder: Path
) -> None:
    """Fill the adapters from a checkpoint in the middle of a stage.

    Raises:
        DataError: the checkpoint has other adapters than the stage, or none, or should have none.
    """
    stored = read_adapters(folder)
    vision = model.config.vision_config.model_type
    own = {
        hub_key(plain_name(name), vision): parameter
        for name, parameter in model.named_parameters()
        if is_adapter(name)
    }
    given = {} if stored is None else stored.tensors
    same_scale = stored is None or lora is None or stored.scale == lora.scale
    if not same_scale or {k: p.shape for k, p in own.items()} != {
        k: tensor.shape for k, tensor in given.items()
    }:
        raise DataError(
            "the checkpoint's adapters are not those of the recipe's stage",
            where=str(folder / ADAPTERS),
            seen=f"{len(given)} tensors" + ("" if stored is None else f", scale {stored.scale}"),
            accepted=f"{len(own)} tensors" + ("" if lora is None else f", scale {lora.scale}"),
            fix="go on with the stage's lora as it was when the run began",
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])
