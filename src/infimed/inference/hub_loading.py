"""Opens a folder of another project's model for `HubModel`. The CUDA branch has not run on a GPU yet.

Invariants: no code of the folder is run, nothing is fetched, every parameter comes from the files. Images
go through processors that compute with Pillow on every machine, whatever else is installed, so that
answers do not depend on it; videos are never shown, so nothing for videos is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)

# Not from transformers itself: in 5.16.1 that name stands for torchvision being absent.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from infimed.core.errors import DataError, MemoryBudgetError
from infimed.core.files import sha256_json
from infimed.inference.hub_folder import HubFolder, digest, look
from infimed.inference.hub_model import HubModel
from infimed.inference.hub_prompts import PLAIN_TEMPLATE, HubPrompts
from infimed.inference.prompting import INSTRUCTED, PromptRecipe

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
NEEDED: Final = ("tokenizer", "image_processor")


def open_hub(
    folder: Path,
    *,
    recipe: PromptRecipe = INSTRUCTED,
    template: str = "",
    dtype: Dtype = "float32",
    device: str = "cpu",
    batch_size: int = 32,
    cache: Path | None = None,
) -> HubModel:
    """The model in a folder.

    Args:
        recipe: the sentences it is asked with. template: chat template (Jinja) instead of its own.
        cache: see `hub_folder.digest`.

    Raises:
        DataError: see `hub_folder.look`; or a tensor, tokenizer or processor is missing or does not fit.
        MemoryBudgetError: the weights do not fit in memory.
    """
    found = look(folder)
    number_type = DTYPES[dtype]
    try:
        if found.kind == "llava":
            model, prompts = _llava(found, template, number_type)
        else:
            model, prompts = _stock(found, template, number_type)
        model = model.to(device).eval()
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MemoryBudgetError(
            "the weights do not fit in memory",
            where=str(folder),
            fix="use --dtype bfloat16 where the device computes it, or serve the model and give its URL",
        ) from error
    fingerprint = sha256_json(
        {"files": digest(found, cache), "prompts": prompts.identity, "dtype": dtype}
    )
    return HubModel(model, prompts, recipe, fingerprint, batch_size)


def _stock(
    found: HubFolder, template: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, HubPrompts]:
    """A model that transformers opens, with its processor or tokenizer."""
    folder = found.folder
    if found.model_type not in CONFIG_MAPPING:  # registers our own type
        import infimed.model.auto  # noqa: F401
    where = str(folder / "config.json")
    try:
        config = CONFIG_MAPPING[found.model_type].from_dict(found.values)
    except Exception as error:  # transformers and its validators raise classes of their own
        raise DataError(f"is no configuration of a model ({error!r})", where=where) from error
    tokenizer = _tokenizer(folder)
    if found.kind == "images":
        processor = _processor(folder, config, tokenizer)
        own = template or _template(processor) or _template(tokenizer)
        if not own:
            raise DataError(
                "has no chat template, so nobody knows how it is shown an image",
                where=str(folder),
                accepted="chat_template.jinja, or chat_template in tokenizer_config.json",
            )
        prompts = HubPrompts(tokenizer, own, processor)
    else:
        prompts = HubPrompts(tokenizer, template or _template(tokenizer) or PLAIN_TEMPLATE)
    auto = AutoModelForImageTextToText if found.kind == "images" else AutoModelForCausalLM
    return _weights(auto, folder, config, dtype), prompts


def _weights(auto: Any, folder: Path, config: Any, dtype: torch.dtype) -> torch.nn.Module:
    try:
        model, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(f"transformers cannot open it ({said})", where=str(folder)) from error
    wrong = {
        "missing": sorted(map(str, report.get("missing_keys", ()))),
        "of another shape": sorted(
            str(one[0] if isinstance(one, tuple) else one)
            for one in report.get("mismatched_keys", ())
        ),
    }
    if any(wrong.values()):
        raise DataError(
            "not every parameter is in the files, so parts of the model would be random",
            where=str(folder),
            seen="; ".join(
                f"{len(names)} {what}: {', '.join(names[:5])}"
                for what, names in wrong.items()
                if names
            ),
            fix="the weights belong to another model than config.json says",
        )
    opened: torch.nn.Module = model
    return opened


def _template(holder: Any) -> str:
    """The chat template that a tokenizer or processor was stored with; of several, the default one."""
    stored = getattr(holder, "chat_template", None)
    return str((stored.get("default") if isinstance(stored, dict) else stored) or "")


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the tokenizer's own library raises
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(f"has no tokenizer that can be read ({said})", where=str(folder)) from error


def _processor(folder: Path, config: Any, tokenizer: Any) -> Any:
    """The processor of text and images, with an image processor that computes with Pillow.

    transformers' own loader would load one for videos too, which not every installation can.
    """
    stock = PROCESSOR_MAPPING.get(type(config), None)
    if stock is None:
        raise DataError(
            "transformers has no processor of text and images for this architecture",
            where=str(folder / "config.json"),
            seen=config.model_type,
        )

    class Still(stock):  # type: ignore[misc,valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if "video" not in name]

    Still.__name__ = stock.__name__
    more = set(Still.get_attributes()) - set(NEEDED)
    if more:
        raise DataError(
            "this architecture needs more than text and images",
            where=str(folder / "config.json"),
            seen=", ".join(sorted(more)),
        )
    try:
        images = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
        values, _ = Still.get_processor_dict(folder, local_files_only=True)
        return Still.from_args_and_dict([], values, image_processor=images, tokenizer=tokenizer)
    except Exception as error:
        said = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(
            f"has no image processor that can be read ({said})",
            where=str(folder),
            accepted="preprocessor_config.json or processor_config.json",
        ) from error


def _llava(
    found: HubFolder, template: str, dtype: torch.dtype
) -> tuple[torch.nn.Module, HubPrompts]:
    """A model in the layout of LLaVA's own code."""
    from infimed.inference.llava_original import IMAGE, open_original

    opened = open_original(found.folder, found.values, dtype)
    tokenizer = opened.tokenizer
    own = template or _template(tokenizer) or PLAIN_TEMPLATE
    return opened.model, HubPrompts(
        tokenizer, own, opened.processor(own), placeholder=IMAGE, background=opened.background
    )
