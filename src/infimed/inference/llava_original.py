"""A folder in the layout of LLaVA's own code (``llava_qwen2``: HuatuoGPT-Vision) as a stock LLaVA.

transformers does not open this layout, and its authors' code is never run. The architecture is stock:
a CLIP or SigLIP tower, a two-layer MLP and a language model, so the tensors are read into
`LlavaForConditionalGeneration` under their other names. Every tensor must match, none is left over.
`infimed import` makes a checkpoint of ours of the same layout; here the model stays what it was, with its
own image geometry and prompt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
)
from transformers.initialization import no_init_weights

from infimed.core.errors import DataError
from infimed.model.import_layouts import KNOWN_TOWERS, leave_out, only, text_config
from infimed.model.parts import tied_head
from infimed.model.tensor_names import (
    HEAD,
    LANGUAGE,
    LINEAR_1,
    LINEAR_2,
    VISION,
    check_match,
    fill,
    first_prefix,
    made_in,
    renamed,
)
from infimed.model.weight_files import read_config, read_tensors, stored_tensors

IMAGE: Final = "<image>"
TOWERS: Final = {"clip_vision_model": "default", "siglip_vision_model": "full"}
"""Towers by model_type, and which of their features the projector sees ("default": all but the first)."""
CLIP_336: Final = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
"""The tower of LLaVA 1.5, where a checkpoint only names it (shapes are checked against its tensors)."""
_KNOWN: Final = {
    **KNOWN_TOWERS,
    "clip-vit-large-patch14-336": CLIP_336,
    "clip_vit_large_patch14_336": CLIP_336,
}
_OUTER: Final = "model.vision_tower.vision_tower."
_TABLES: Final = ("position_ids", "rotary_emb.inv_freq")


@dataclass(frozen=True)
class Original:
    """A checkpoint of this layout, opened.

    Attributes:
        model: a stock LLaVA. tokenizer, image_processor: the checkpoint's own; the tokenizer knows
            the placeholder `IMAGE`.
        background: colour with which an image is padded to a square first, or None.
    """

    model: LlavaForConditionalGeneration
    tokenizer: Any
    image_processor: Any
    background: tuple[int, int, int] | None

    def processor(self, chat_template: str) -> Any:
        """The stock LLaVA processor around them."""
        from transformers import LlavaProcessor

        config = self.model.config
        return LlavaProcessor(
            image_processor=self.image_processor,
            tokenizer=self.tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            num_additional_image_tokens=int(config.vision_feature_select_strategy == "default"),
            image_token=IMAGE,
            chat_template=chat_template,
        )


def open_original(folder: Path, values: dict[str, Any], dtype: torch.dtype) -> Original:
    """Read a folder whose config.json is `values`.

    Raises:
        DataError: a detail that stock LLaVA does not have, a tower that is not described, a tensor that
            does not match, or no free row for the placeholder.
    """
    where = str(folder / "config.json")
    only(values, "mm_projector_type", "mlp2x_gelu", where)
    only(values, "mm_vision_select_feature", "patch", where)
    aspect = values.get("image_aspect_ratio") or "crop"
    if aspect not in ("pad", "crop"):
        raise DataError(
            "tiles of images are not read from this layout",
            where=where,
            seen=f"image_aspect_ratio {aspect}",
            accepted="pad, or none",
            fix=f"infimed import {folder} --out DIR, and evaluate DIR (images squashed to a square)",
        )
    place = _tower_folder(folder, str(values["mm_vision_tower"]))
    tower = _tower(place, str(values["mm_vision_tower"]), where)
    text = text_config(values, where)
    stored = {n: e for n, e in stored_tensors(folder).items() if not n.endswith(_TABLES)}
    inner = first_prefix(stored, (f"{_OUTER}vision_model.", _OUTER))
    if inner is None:
        raise DataError(
            "holds no vision tower",
            where=str(folder),
            fix=f"infimed import {folder} --vision DIR --out DIR, and evaluate what it makes",
        )
    stored, _ = leave_out(stored, {f"{inner}head.": "the tower's pooling head"})
    if text.tie_word_embeddings:
        text.tie_word_embeddings, stored = tied_head(
            stored, f"{HEAD}weight", "model.embed_tokens.weight"
        )
    tokenizer, image_token_id = _tokenizer(folder, text)
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token_id,
        projector_hidden_act="gelu",
        vision_feature_layer=int(values.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy=TOWERS[tower.model_type],
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with made_in(dtype), no_init_weights():
        model = LlavaForConditionalGeneration(config)
    names = {
        VISION: inner,
        LINEAR_1: "model.mm_projector.0.",
        LINEAR_2: "model.mm_projector.2.",
        LANGUAGE: "model.",
        HEAD: HEAD,
    }
    expected = renamed(model, _flat(model, names))
    check_match(expected, stored, str(folder))
    fill(expected, read_tensors(stored))
    model.tie_weights()
    processor = _image_processor(place, tower)
    red, green, blue = (int(255 * mean) for mean in processor.image_mean)
    background = (red, green, blue) if aspect == "pad" else None
    return Original(model.eval(), tokenizer, processor, background)


def _flat(model: nn.Module, names: dict[str, str]) -> dict[str, str]:
    """The same prefixes where transformers keeps a tower's tensors one level deeper."""
    deeper = f"{VISION}vision_model."
    if any(name.startswith(deeper) for name in model.state_dict()):
        return {deeper if own == VISION else own: other for own, other in names.items()}
    return names


def _tower_folder(folder: Path, name: str) -> Path | None:
    """Where the checkpoint keeps its tower's configuration; only below its own folder."""
    inside = PurePosixPath(name)
    tried: Iterable[Path] = ()
    if not inside.is_absolute() and ".." not in inside.parts:
        tried = (folder / inside, folder / "vit" / inside.name)
    return next((place for place in tried if (place / "config.json").is_file()), None)


def _tower(place: Path | None, name: str, where: str) -> PretrainedConfig:
    if place is None:
        values = dict(_KNOWN.get(PurePosixPath(name).name, {}))
        if not values:
            raise DataError(
                "names a vision tower that is not described in the checkpoint",
                where=where,
                seen=name,
                accepted=_KNOWN,
                fix="put the tower's config.json and preprocessor_config.json there",
            )
    else:
        values = read_config(place)
        where = str(place / "config.json")
        if isinstance(values.get("vision_config"), dict):  # a whole CLIP or SigLIP
            kind = f"{values.get('model_type')}_vision_model"
            values = {**values["vision_config"], "model_type": kind}
    kind = values.pop("model_type", None)
    if kind not in TOWERS:
        raise DataError(
            "this vision tower is not supported", where=where, seen=str(kind), accepted=TOWERS
        )
    if kind == "siglip_vision_model":
        values["vision_use_head"] = False
    return CONFIG_MAPPING[kind](**values)


def _tokenizer(folder: Path, text: PretrainedConfig) -> tuple[Any, int]:
    """The tokenizer with the placeholder in a row of the table that no token uses, and its id."""
    from transformers import AutoTokenizer

    rows = int(text.vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=text, local_files_only=True)
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE], special_tokens=True)
    index = int(tokenizer.convert_tokens_to_ids(IMAGE))
    if index >= rows:
        raise DataError(
            f"has no free row for the placeholder {IMAGE}",
            where=str(folder / "tokenizer.json"),
            seen=f"{index} tokens, {rows} rows",
        )
    return tokenizer, index


def _image_processor(place: Path | None, tower: PretrainedConfig) -> Any:
    """The tower's own image processor, else the stock one at the tower's image size."""
    import transformers
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    if place is not None and (place / "preprocessor_config.json").is_file():
        return AutoImageProcessor.from_pretrained(place, local_files_only=True, backend="pil")
    side = {"height": int(tower.image_size), "width": int(tower.image_size)}
    clip = tower.model_type == "clip_vision_model"
    family = "CLIPImageProcessor" if clip else "SiglipImageProcessor"
    made = getattr(transformers, f"{family}Pil", None) or getattr(transformers, family)
    return made(size={"shortest_edge": side["height"]}, crop_size=side) if clip else made(size=side)
