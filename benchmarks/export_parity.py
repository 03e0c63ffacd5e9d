"""Does an exported model answer as it did here? 50 test questions of a run, twice.

The run's model is exported. A second process, with stock `transformers` and without this package,
answers 50 questions about test images greedily from PNG files; the answers are compared with
those of `LocalModel`. Once the PNG files have the grid's size, as this package resizes them, so the
pixels are equal to the bit; once they have their own size, and the stock processor's bicubic filter
stands in for the area filter.

    python benchmarks/export_parity.py runs/nano [--questions 50] [--out result.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from infimed.core.files import write_json
from infimed.core.seeds import stream
from infimed.data.imaging import squash
from infimed.data.record import Message, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture, Request
from infimed.pipeline.exporting import export

MAX_NEW_TOKENS = 96


def test_questions(shards: ShardSet, count: int) -> list[Record]:
    """Test records with images that ask one thing, drawn by a fixed seed."""
    columns = shards.index(["split", "task", "image_sha256"]).to_pylist()
    numbers = [
        number
        for number, row in enumerate(columns)
        if row["split"] == "test"
        and row["image_sha256"]
        and row["task"] not in ("dialogue", "text")
    ]
    drawn = stream(1, "export parity").permutation(numbers)[:count]
    return list(shards.select(sorted(int(number) for number in drawn)))


def content(turn: Message) -> list[dict[str, str]]:
    """A turn as the stock chat template takes it."""
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in turn.content
    ]


def stock_answers(order: dict[str, Any]) -> list[str]:
    """Answers of the other process."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("stock_answers.py")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
    )
    return [answer["answer"] for answer in json.loads(done.stdout)["answers"]]


def main() -> None:
    """Print equal answers of all, both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--out", type=Path, help="JSON with the numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shards = open_shards(options.run / "shards")
    local = LocalModel.open(options.run)
    side = local.processor.image_size
    asked, own_size, grid_size = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for record in test_questions(shards, options.questions):
            turns = local.conversation(record, range(len(record.choices)))
            planes = [shards.pixels(image) for image in record.images]
            pictures = tuple(
                Picture(f"{record.id}-{at}", lambda pixels=pixels: pixels)
                for at, pixels in enumerate(planes)
            )
            asked.append(Request(record.id, turns, pictures, MAX_NEW_TOKENS))
            for order, resize in ((own_size, False), (grid_size, True)):
                files = []
                for at, pixels in enumerate(planes):
                    file = folder / f"{len(order)}-{at}-{resize}.png"
                    Image.fromarray(squash(pixels, side) if resize else pixels).save(file)
                    files.append(str(file))
                messages = [{"role": turn.role, "content": content(turn)} for turn in turns]
                order.append(
                    {"messages": messages, "images": files, "max_new_tokens": MAX_NEW_TOKENS}
                )
        ours = {answer.id: answer.text for batch in local.batches(asked)
                for answer in local.respond([asked[index] for index in batch])}  # fmt: skip
        written = export(options.run, folder / "export")
        result: dict[str, Any] = {
            "run": options.run.name,
            "model_type": written.model_type,
            "checkpoint": local.checkpoint,
            "questions": len(asked),
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        }
        for name, order in (("equal, PNG of the grid's size", grid_size),
                            ("equal, PNG of its own size", own_size)):  # fmt: skip
            stock = stock_answers({"folder": str(folder / "export"), "asked": order})
            result[name] = sum(
                ours[request.id] == answer for request, answer in zip(asked, stock, strict=True)
            )
    for name, value in result.items():
        print(f"{name}: {value}")
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
