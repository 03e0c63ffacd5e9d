"""The optimizer with one learning rate per module, and the schedules.

The stage's table {vision, projector, language} decides what learns; 0 freezes a module and its
parameters then ask for no gradient. Weight decay acts on matrices only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from infimed.core.errors import RecipeError
from infimed.core.recipe import LearningRate, Stage, Train
from infimed.model.adapters import is_adapter
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.training.adafactor import Adafactor
from infimed.training.adam8bit import AdamW8bit

MODULES = ("vision", "projector", "language")


def module_of(name: str) -> str:
    """Which of vision, projector, language a parameter belongs to; a reducer learns as the projector does."""
    if name.startswith("model.vision_tower."):
        return "vision"
    if name.startswith(("model.multi_modal_projector.", "model.multi_modal_reducer.")):
        return "projector"
    return "language"


def parameters_by_module(model: InfiMedForConditionalGeneration) -> dict[str, int]:
    """Parameters of vision, projector and language, shared ones once."""
    counts = dict.fromkeys(MODULES, 0)
    for name, parameter in model.named_parameters():
        counts[module_of(name)] += parameter.numel()
    return counts


def never_trained(model: InfiMedForConditionalGeneration) -> set[str]:
    """Parameters that get no gradient by construction.

    Features are read before the tower's last normalisation, or, as imported checkpoints do, before its
    last layers; DINOv2's mask token is for its own pre-training. All are kept as loaded.
    """
    tower = "model.vision_tower."
    ends = ["post_layernorm.", "layernorm.", "embeddings.mask_token"]
    layers = model.config.vision_config.num_hidden_layers
    read = model.config.vision_feature_layer
    unused = range(read if read >= 0 else layers + 1 + read, layers)
    ends += (f"encoder.{word}.{n}." for n in unused for word in ("layer", "layers"))
    starts = tuple(tower + end for end in ends)
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def idle_note(model: InfiMedForConditionalGeneration) -> str:
    """One line for people: what of the tower is kept as loaded, whatever the stages say."""
    idle = never_trained(model)
    count = sum(p.numel() for name, p in model.named_parameters() if name in idle)
    plain = (name.removeprefix("model.").removesuffix(".weight") for name in sorted(idle))
    parts = list(dict.fromkeys(name.removesuffix(".bias") for name in plain))
    shown = ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
    return f"kept as loaded, no gradient reaches it: {shown} ({count:,} parameters)"


def freeze(model: InfiMedForConditionalGeneration, rates: LearningRate) -> None:
    """Ask for gradients exactly where the stage's table has a learning rate above 0.

    With adapters nothing else of the language model learns.
    """
    idle = never_trained(model)
    adapted = any(is_adapter(name) for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        module = module_of(name)
        held = adapted and module == "language" and not is_adapter(name)
        parameter.requires_grad_(getattr(rates, module) > 0 and name not in idle and not held)
        parameter.grad = None


def make_optimizer(
    model: InfiMedForConditionalGeneration, stage: Stage, train: Train
) -> torch.optim.Optimizer:
    """The recipe's optimizer with a group per module and decay; each group remembers its peak rate."""
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((module_of(name), parameter.ndim >= 2), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "module": module,
            "peak": getattr(stage.learning_rate, module),
            "lr": 0.0,
            "weight_decay": train.weight_decay if matrix else 0.0,
        }
        for (module, matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if train.optimizer == "adafactor":
        return Adafactor(settings)
    if train.optimizer == "adamw8bit":
        return AdamW8bit(settings, betas=train.betas)
    return torch.optim.AdamW(settings, betas=train.betas, eps=1e-8, fused=True)


def check_ranks(train: Train, ranks: int) -> None:
    """Refuse an optimizer that cannot train a model sharded over ranks.

    Raises:
        RecipeError: 8-bit moments with more than one rank.
    """
    if train.optimizer == "adamw8bit" and ranks > 1:
        raise RecipeError(
            f"8-bit moments are kept in blocks that {ranks} ranks would cut",
            where="train.optimizer",
            seen="adamw8bit",
            accepted="adamw, adafactor",
            fix="set train.optimizer=adafactor for little memory, or adamw: its moments are sharded",
        )


def factor(step: int, steps: int, stage: Stage, decay_from: int | None = None) -> float:
    """Learning rate at `step` (from 0) as a share of the peak.

    Args:
        decay_from: step at which another mixture begins, and with it the decay; the stage's share otherwise.
    """
    warmup = max(1, round(stage.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    if stage.schedule == "warmup-stable-decay":
        decay = max(1, round(stage.decay * steps) if decay_from is None else steps - decay_from)
        left = steps - step
        return min(1.0, left / decay)
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> dict[str, float]:
    """Set every group's learning rate to `share` of its peak; returns the rate per module."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
        rates[group["module"]] = group["lr"]
    return rates


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state under parameter names, for safetensors."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}|{key}"] = value.detach().contiguous()
    return tensors


def restore_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    stored: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    fill: Callable[[dict[str, Tensor]], None],
) -> None:
    """Inverse of `optimizer_tensors`; the optimizer must have been made for the same stage.

    Args:
        stored: shape and type of every stored tensor, by its name.
        fill: reads the tensors of these names into those given; sharded like their parameters where
            they have their shape, whole otherwise.
    """
    named = dict(_trained(model))
    tensors: dict[str, Tensor] = {}
    for key, (shape, dtype) in stored.items():
        parameter = named[key.partition("|")[0]]
        like_it = tuple(parameter.shape) == shape
        tensors[key] = (
            torch.empty_like(parameter.detach(), dtype=dtype)
            if like_it
            else torch.empty(shape, dtype=dtype, device=parameter.device)
        )
    fill(tensors)
    for key, value in tensors.items():
        name, _, field = key.partition("|")
        optimizer.state[named[name]][field] = value
