"""Low-rank adapters (LoRA, Hu et al. 2021) as tensors: in a checkpoint, and merged into the weights.

An adapted linear layer computes ``W x + scale * B A x``. Merged, its weight is ``W + scale * B A`` and the
model is again the one it was before, key by key. Training adds and trains adapters (`training.lora`);
here is what reading a checkpoint needs, without peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from infimed.core.errors import DataError
from infimed.core.files import write_failed
from infimed.model.weight_files import read_header, real_file

ADAPTERS: Final = "adapters.safetensors"
"""The adapters in a checkpoint of a stage that is not finished; ``model.safetensors`` is then without them."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
_BASE, _NAMED = ".base_layer.", ".default."


@dataclass(frozen=True)
class Adapters:
    """Adapters of a model.

    Attributes:
        tensors: ``<layer>.lora_A.weight`` [rank, in] and ``<layer>.lora_B.weight`` [out, rank].
        scale: alpha / rank.
    """

    tensors: Mapping[str, Tensor]
    scale: float

    def merged_into(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights with every adapter added to ``<layer>.weight``, in fp32; the same keys.

        Raises:
            DataError: an adapter belongs to no weight, or does not fit it.
        """
        merged = dict(weights)
        for name, down in self.tensors.items():
            if not name.endswith(DOWN):
                continue
            layer = name.removesuffix(DOWN)
            up, weight = self.tensors.get(layer + UP), merged.get(f"{layer}.weight")
            if up is None or weight is None or weight.shape != (up.shape[0], down.shape[1]):
                raise DataError("this adapter fits no weight of the model", where=layer)
            product = up.float() @ down.float()
            merged[f"{layer}.weight"] = (weight.float() + self.scale * product).to(weight.dtype)
        return merged


def split_adapters(
    weights: Mapping[str, Tensor], scale: float
) -> tuple[dict[str, Tensor], Adapters]:
    """A model's tensors, some under peft's names -> the same without adapters, and the adapters."""
    base: dict[str, Tensor] = {}
    adapters: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if is_adapter(name):
            adapters[plain_name(name)] = tensor
        else:
            base[plain_name(name)] = tensor
    return base, Adapters(adapters, scale)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def plain_name(name: str) -> str:
    """A parameter's name without what peft adds to it."""
    return name.replace(_NAMED, ".", 1) if is_adapter(name) else name.replace(_BASE, ".", 1)


def write_adapters(folder: Path, adapters: Adapters) -> None:
    """Write `ADAPTERS` into a checkpoint folder."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in adapters.tensors.items()}
    try:
        save_file(
            tensors, folder / ADAPTERS, metadata={"format": "pt", "scale": repr(adapters.scale)}
        )
    except SafetensorError as error:
        raise write_failed(folder / ADAPTERS, str(error)) from error


def read_adapters(folder: Path) -> Adapters | None:
    """The adapters of a checkpoint; None where it has none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / ADAPTERS
    if not path.is_file():
        return None
    read_header(real_file(folder, ADAPTERS))
    try:
        with safe_open(path, "pt") as file:
            return Adapters(
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                float(file.metadata()["scale"]),
            )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"is not a valid file of adapters ({error})",
            where=str(path),
            fix="remove this checkpoint; the one before is then used",
        ) from error
