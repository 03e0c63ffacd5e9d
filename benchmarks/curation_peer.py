"""data-juicer on the same records, where it is installed (never by this project).

In a virtual environment of its own: ``pip install py-data-juicer==1.6.1 aiohttp`` and, because it
would otherwise download packages while it runs, ``ray av torch torchvision imagededup``. Its
perceptual-hash operator imports a neural network that downloads weights; without a network, remove the
imports of ``CNN`` from ``imagededup/methods/__init__.py`` and of ``CustomModel`` from
``imagededup/utils/__init__.py``: the hashes do not use them.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

OPERATORS = """
  - image_shape_filter: {min_width: 64, min_height: 64}
  - image_aspect_ratio_filter: {min_ratio: 0.25, max_ratio: 4.0}
  - image_size_filter: {min_size: "1 KB", max_size: "20 MB"}
  - text_length_filter: {min_len: 1, max_len: 100000}
  - words_num_filter: {min_num: 1, max_num: 100000}
  - special_characters_filter: {max_ratio: 0.9}
  - word_repetition_filter: {rep_len: 3, max_ratio: 0.95}
  - image_deduplicator: {method: phash}
"""
"""Sizes, lengths, repetition, and equal perceptual hashes: what both tools have."""

MATCHING = (
    "readability.small_image", "readability.elongated_image", "completeness.unreadable_image",
    "completeness.short_response", "completeness.short_question", "readability.character_noise",
    "readability.repetition", "duplication.exact", "duplication.near_image",
)  # fmt: skip
"""Our rules like these operators. Equal hashes only propose there: pixels must confirm."""


@dataclass(frozen=True, slots=True)
class PeerRun:
    """One run of the peer.

    Attributes:
        operators_s: seconds of the operators alone. command_s, cpu_s: wall and processor seconds of
            the whole command. kept: records that all filters left; survivors: those that the duplicate
            operator left too. sizes: (width, height) of the survivors.
    """

    operators_s: float
    command_s: float
    cpu_s: float
    kept: int
    survivors: int
    sizes: list[tuple[int, int]]


def write_input(source: Path, folder: Path) -> Path:
    """The records as data-juicer reads them; images are the files the shards were made from."""
    lines = []
    with (source / "records.jsonl").open(encoding="utf-8") as handle:
        for line in handle:
            record = json.loads(line)
            parts = [part for turn in record["messages"] for part in turn["content"]]
            text = "".join(p["text"] if p["type"] == "text" else "<__dj__image> " for p in parts)
            images = [str((source / image["locator"]).absolute()) for image in record["images"]]
            lines.append(json.dumps({"id": record["id"], "text": text, "images": images}))
    path = folder / "peer.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_peer(python: Path, data: Path, folder: Path, processes: int) -> PeerRun:
    """One run of `dj-process` beside the given interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "out.jsonl"
    config = folder / "peer.yaml"
    config.write_text(
        f"project_name: benchmark\ndataset_path: {data}\nexport_path: {out}\nnp: {processes}\n"
        f"use_cache: false\nopen_tracer: false\nimage_special_token: '<__dj__image>'\nprocess:{OPERATORS}",
        encoding="utf-8",
    )
    began, used = time.perf_counter(), _children_s()
    done = subprocess.run(
        [str(python.with_name("dj-process")), "--config", str(config)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    command_s, cpu_s = time.perf_counter() - began, _children_s() - used
    spent = re.findall(r"OP \[\w+\] Done in ([\d.]+)s", done.stdout + done.stderr)
    if len(spent) != OPERATORS.count("- "):
        raise RuntimeError(f"expected one time an operator, found {len(spent)}")
    left = [int(n) for n in re.findall(r"Left (\d+) samples", done.stdout + done.stderr)]
    sizes = []
    with next(folder.glob("out_stats.jsonl")).open(encoding="utf-8") as stats:
        for line in stats:
            found = json.loads(line)["__dj__stats__"]
            sizes.append((int(found["image_width"][0]), int(found["image_height"][0])))
    return PeerRun(sum(map(float, spent)), command_s, cpu_s, left[-2], left[-1], sizes)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
