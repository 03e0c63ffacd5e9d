"""A pretrained vision tower or language model in a folder, as the Hub lays it out.

A SigLIP repository holds the whole two-tower model; only the vision tower's tensors are read, its
pooling head and the text tower never enter memory. A tied output layer may be stored or left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PretrainedConfig

from infimed.core.errors import DataError, nearest_name
from infimed.model.configuration import InfiMedConfig
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import Preset, sub_config
from infimed.model.tensor_names import (
    HEAD,
    LANGUAGE,
    VISION,
    Expected,
    by_published_names,
    check_match,
    fill,
    first_prefix,
    renamed,
    skeleton,
)
from infimed.model.weight_files import (
    StoredTensor,
    read_config,
    read_tensors,
    stored_tensors,
)

TOWERS: Final = ("siglip_vision_model", "dinov2")
"""Vision towers that are supported, by their model_type."""
LANGUAGES: Final = ("qwen3", "qwen2", "llama", "mistral", "smollm3")
"""Language models that are supported; others may spell their sizes in ways that no check looks at."""
SIZES: Final = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "image_size",
    "patch_size",
)
"""What must agree between a preset and the folders it starts from."""
MAX_LAYERS: Final = 1000
BUFFERS: Final = ("position_ids", "rotary_emb.inv_freq")
"""Tables that older versions of transformers stored; they are computed now."""


@dataclass(frozen=True)
class Part:
    """A pretrained part that was looked at but not read.

    Attributes:
        config: its transformers configuration.
        stored: tensors that are to be read.
        expected: the model's tensors of this part under their stored names.
    """

    folder: Path
    config: PretrainedConfig
    stored: Mapping[str, StoredTensor]
    expected: Callable[[InfiMedForConditionalGeneration], Expected]

    @property
    def parameters(self) -> int:
        """Numbers that are to be read."""
        return sum(math.prod(entry.shape) for entry in self.stored.values())

    def check(self, config: InfiMedConfig) -> None:
        """Refuse a part that does not match the model of a configuration. Raises DataError."""
        where = str(self.folder)
        model = skeleton(config, where)
        check_match(self.expected(model), self.stored, where)

    def load(self, model: InfiMedForConditionalGeneration) -> None:
        """Fill the model's tensors of this part."""
        fill(self.expected(model), read_tensors(self.stored))


def config_of(values: Mapping[str, Any], where: str) -> PretrainedConfig:
    """A transformers configuration.

    Raises:
        DataError: the model_type is missing or unknown, or a value is not valid.
    """
    kind = str(values.get("model_type"))
    if kind not in (*TOWERS, *LANGUAGES):
        raise DataError(
            "this language model is not supported",
            where=where,
            seen=kind,
            accepted=LANGUAGES,
            nearest=nearest_name(kind, LANGUAGES),
        )
    layers = values.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MAX_LAYERS:  # transformers makes a list of them
        raise DataError(
            "promises more layers than any model has",
            where=where,
            seen=layers,
            accepted=f"at most {MAX_LAYERS}",
        )
    try:
        return sub_config(dict(values))
    except Exception as error:  # transformers and its validators raise classes of their own
        raise DataError(
            f"is no configuration that transformers knows ({error!r})", where=where
        ) from error


def tower_config(values: Mapping[str, Any], where: str) -> PretrainedConfig:
    """The configuration of a vision tower, its pooling head left out.

    Raises:
        DataError: a tower that is not supported.
    """
    kind = values.get("model_type")
    if kind not in TOWERS:
        raise DataError(
            "this vision tower is not supported",
            where=where,
            seen=str(kind),
            accepted=TOWERS,
            nearest=nearest_name(str(kind), TOWERS),
        )
    head = {"vision_use_head": False} if kind == "siglip_vision_model" else {}
    return config_of({**values, **head}, where)


def wanted(
    stored: Mapping[str, StoredTensor], keep: Callable[[str], bool]
) -> dict[str, StoredTensor]:
    """Stored tensors, by published names, but buffers and what is not to be kept."""
    kept = {n: entry for n, entry in stored.items() if not n.endswith(BUFFERS) and keep(n)}
    return by_published_names(kept)


def vision_part(folder: Path) -> Part:
    """The vision tower of a folder: a whole ``siglip``, a ``siglip_vision_model`` or a ``dinov2``.

    Raises:
        DataError: not supported, or the folder is not safe to read.
    """
    values = read_config(folder)
    where = str(folder / "config.json")
    if values.get("model_type") == "siglip":
        inner = values.get("vision_config")
        values = {"model_type": "siglip_vision_model", **(inner if isinstance(inner, dict) else {})}
    config = tower_config(values, where)
    stored = stored_tensors(folder)
    prefix = first_prefix(stored, ("vision_model.",)) or ""
    head = f"{prefix}head."
    kept = wanted(stored, lambda name: name.startswith(prefix) and not name.startswith(head))
    return Part(folder, config, kept, lambda model: renamed(model, {VISION: prefix}))


def language_part(folder: Path) -> Part:
    """The language model of a folder.

    Raises:
        DataError: not supported, or the folder is not safe to read.
    """
    values = read_config(folder)
    config = config_of(values, str(folder / "config.json"))
    stored = wanted(stored_tensors(folder), lambda name: True)
    prefix = first_prefix(stored, ("model.",)) or ""
    if config.tie_word_embeddings:
        table = f"{prefix}embed_tokens.weight"
        config.tie_word_embeddings, stored = tied_head(stored, f"{HEAD}weight", table)
    names = {LANGUAGE: prefix, HEAD: HEAD}
    return Part(folder, config, stored, lambda model: renamed(model, names))


def tied_head(
    stored: Mapping[str, StoredTensor], head: str, table: str
) -> tuple[bool, dict[str, StoredTensor]]:
    """Whether an output layer that should be tied to the embedding is so in the files, and what is
    left to read. A stored copy is left out; another output layer than the embedding unties them.
    """
    if head not in stored or table not in stored:
        return True, {name: entry for name, entry in stored.items() if name != head}
    pair = dict(read_tensors({name: stored[name] for name in (head, table)}))
    if torch.equal(pair[head], pair[table]):
        return True, {name: entry for name, entry in stored.items() if name != head}
    return False, dict(stored)


def check_sizes(chosen: Preset, vision: Part, language: Part) -> None:
    """Refuse parts of other sizes than the preset's: a recipe names the model that is trained.

    Raises:
        DataError: a size differs; all are named.
    """
    for part, promised in ((vision, chosen.vision), (language, chosen.text)):
        differ = [
            f"{key} {getattr(part.config, key, None)} instead of {promised[key]}"
            for key in SIZES
            if key in promised and getattr(part.config, key, None) != promised[key]
        ]
        if differ or part.config.model_type != promised["model_type"]:
            raise DataError(
                f"holds another model than the preset {chosen.name} starts from",
                where=str(part.folder),
                seen=", ".join([part.config.model_type, *differ]),
                accepted=promised["model_type"],
            )
