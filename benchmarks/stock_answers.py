"""Answers of an exported model by stock `transformers` alone, in a process of its own.

Reads JSON objects from stdin, one a line, and writes one to stdout for each:
``{"folder": ..., "asked": [{"messages": [...], "images": [path, ...], "max_new_tokens": n}, ...],
"tensors": path or null}`` -> ``{"transformers": version, "model": class, "answers": [{"input_ids": [...],
"answer": text, "new_tokens": n}, ...]}``. With `tensors`, pixels and logits of every prompt go to that safetensors file.

The package that exported the folder must not be needed, so the script ends with a check that it was
not imported.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor


def main() -> None:
    """Answer what stdin asks, greedily and one at a time."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for line in sys.stdin:
        print(json.dumps(answered(json.loads(line))))
    assert not any(name.split(".")[0] == "infimed" for name in sys.modules)


def answered(order: dict[str, Any]) -> dict[str, Any]:
    """One folder's answers."""
    model = AutoModelForImageTextToText.from_pretrained(order["folder"], dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(order["folder"])
    answers, tensors = [], {}
    for number, asked in enumerate(order["asked"]):
        text = processor.apply_chat_template(asked["messages"], add_generation_prompt=True)
        images = [Image.open(path) for path in asked["images"]]
        inputs = processor(text=text, images=images or None, return_tensors="pt")
        with torch.no_grad():
            if order.get("tensors"):
                tensors[f"{number}.logits"] = model(**inputs).logits.contiguous()
                if images:
                    tensors[f"{number}.pixels"] = inputs["pixel_values"].contiguous()
            made = model.generate(**inputs, max_new_tokens=asked["max_new_tokens"])
        new = made[0, inputs["input_ids"].shape[1] :]
        answers.append(
            {
                "input_ids": inputs["input_ids"][0].tolist(),
                "answer": processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
                "new_tokens": len(new),
            }
        )
    if order.get("tensors"):
        save_file(tensors, order["tensors"])
    return {
        "transformers": transformers.__version__,
        "model": type(model).__name__,
        "answers": answers,
    }


if __name__ == "__main__":
    main()
