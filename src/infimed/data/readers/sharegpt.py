"""ShareGPT: ``[{"conversations": [{"from", "value"}], "images": [...], "system": ...}]``.

The form of LLaMA-Factory's multimodal data (https://github.com/hiyouga/LLaMA-Factory,
data/README.md): ``<image>`` in the text, the images' paths in ``images``. Records without images
are text records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from infimed.core.errors import DataError
from infimed.data.readers import llava
from infimed.data.readers.base import (
    Item,
    Options,
    ReadProblem,
    candidates,
    defaults,
    first_object,
    json_items,
    problem_of,
)

NAME = "sharegpt"
OPTIONS: Mapping[str, str] = llava.OPTIONS


def detect(path: Path) -> bool:
    """A JSON or JSONL file whose first object has ``conversations`` but no ``image``."""
    return any(_is_sharegpt(file) for file in candidates(path, (".json", ".jsonl")))


def read(path: Path, options: Options) -> Iterator[Item]:
    """Every element of every such file, in file order."""
    common = defaults(path, options)
    for file in candidates(path, (".json", ".jsonl")):
        if not path.is_file() and not _is_sharegpt(file):
            continue
        for position, item in enumerate(json_items(file)):
            if isinstance(item, ReadProblem):
                yield item
                continue
            where, value = item
            try:
                if not isinstance(value, dict):
                    raise DataError("not a JSON object")
                names = llava.named_images(value.get("images", value.get("image")))
                yield llava.make_record(value, names, f"{file.stem}-{position}", common, options)
            except DataError as error:
                yield problem_of(error, where)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                yield ReadProblem(where, f"not a ShareGPT record ({type(error).__name__})", "")


def _is_sharegpt(file: Path) -> bool:
    value = first_object(file)
    return "conversations" in value and "image" not in value
