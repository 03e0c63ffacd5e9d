"""Whether evidence maps point at what an answer rests on, and what a search for the nearest images costs.

    python benchmarks/evidence.py runs/nano --patients 120 --json evidence.json
    python benchmarks/evidence.py runs/nano --patients 60 --untrained
    python benchmarks/evidence.py --search 1000000 --width 384

Phantom patients of a clinic that no recipe trains on; every question about a finding that is there, with the answer
that says so, through the same code and engine as `/v1/infimed/evidence`. By arm (method and what hides):

    pointing     share of maps whose hottest cell overlaps a box of the finding, with an interval over patients
    chance       the share of all cells that do: a map that points anywhere
    another's    the same with the map of another patient's same finding: what knowing where such findings
                 usually are is worth
    inside       mean heat inside the boxes minus mean heat outside
    by drop      pointing by how much the answer depends on the image, from which `evidence_map.LEAST` was chosen

`--untrained` asks a model of the same shape with random weights: it must be at chance. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from infimed.core.console import err, out, progress, table
from infimed.core.run import environment
from infimed.core.statistics import clustered_bootstrap, paired_clustered_bootstrap
from infimed.data.phantom import generate_patient
from infimed.data.record import Message
from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture, Request
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.serving.engine import Engine
from infimed.serving.evidence.evidence_map import EvidenceMap
from infimed.serving.evidence.hiding import cells
from infimed.serving.evidence.nearest import nearest_rows
from infimed.serving.evidence.requests import EvidenceRequest
from infimed.serving.media import Shown
from infimed.serving.service import Service
from infimed.serving.settings import Settings
from infimed.serving.starting import around

SEED = 90_210
"""Of the clinic; no recipe has it."""
ARMS = (("occlusion", "mean"), ("occlusion", "grey"), ("occlusion", "blur"), ("gradient", "mean"))
DROPS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, float("inf"))
Boxes = list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Case:
    """A question about a finding that is there. `boxes` in fractions of the image."""

    patient: str
    finding: str
    small: bool
    pixels: np.ndarray
    question: str
    answer: str
    boxes: Boxes


@dataclass
class Looked:
    """What one map is worth; `values` are kept for another patient's question."""

    case: Case
    right: bool
    values: np.ndarray
    heat: np.ndarray
    most: float
    total: float
    seconds: float

    @property
    def depends_by(self) -> float:
        """Nats."""
        return max(self.most, abs(self.total))


def cases(patients: int) -> Iterator[Case]:
    """Questions of presence whose answer is yes; it says on which side ("On the left, so yes.")."""
    for index in range(patients):
        patient = generate_patient(SEED, index, split="test")
        for record in patient.records:
            if (
                record.facts.get("question_type") != "presence"
                or not record.facts["finding_present"]
            ):
                continue
            (image,) = (i for i in patient.images if i.locator == record.images[0].locator)
            found = next(
                f for f in image.truth.findings if _name(image, f.key) == record.facts["finding"]
            )
            pixels = (
                image.pixels
                if image.pixels.ndim == 3
                else np.repeat(image.pixels[:, :, None], 3, 2)
            )
            yield Case(
                patient.patient_id, found.key, bool(record.facts["small"]), pixels,
                record.question, record.response, [e.box for e in found.ellipses],
            )  # fmt: skip


def _name(image: Any, key: str) -> str:
    return next(str(kind.name) for kind in image.truth.kind.findings if kind.key == key)


def overlapping(boxes: Boxes, grid: int) -> np.ndarray:
    """Which cells [grid, grid] a box overlaps."""
    hit = [
        any(c.x0 < x1 and x0 < c.x1 and c.y0 < y1 and y0 < c.y1 for x0, y0, x1, y1 in boxes)
        for c in cells(grid)
    ]
    return np.array(hit).reshape(grid, grid)


def look(service: Service, local: LocalModel, case: Case, method: str, fill: str, grid: int) -> tuple[EvidenceMap, float]:  # fmt: skip
    """The map of a case, and the seconds it took."""
    size = (case.pixels.shape[1], case.pixels.shape[0])
    image = Shown("phantom", size, "PNG", local.processor.views(case.pixels, size))
    asked = EvidenceRequest.model_validate(
        {
            "model": "m", "image": {"url": "data:"}, "question": case.question, "answer": case.answer,
            "method": method, "fill": fill, "grid": grid,
        }
    )  # fmt: skip
    began = time.perf_counter()
    found = asyncio.run(service.evidence.look_at(image, asked, "benchmark"))
    return found, time.perf_counter() - began


def pointing(looked: list[Looked], grid: int) -> dict[str, Any]:
    """All figures of one arm."""
    groups = [each.case.patient for each in looked]
    hits, chance, inside, others = [], [], [], []
    for at, each in enumerate(looked):
        over = overlapping(each.case.boxes, grid)
        hits.append(float(over.flat[int(each.values.argmax())]))
        chance.append(float(over.mean()))
        inside.append(float(each.heat[over].mean() - each.heat[~over].mean()))
        other = next(
            (o for o in (*looked[at + 1 :], *looked[:at])
             if o.case.finding == each.case.finding and o.case.patient != each.case.patient),
            None,
        )  # fmt: skip
        others.append(chance[-1] if other is None else float(over.flat[int(other.values.argmax())]))
    share = clustered_bootstrap(hits, groups)
    gain = paired_clustered_bootstrap(hits, chance, groups)
    beyond = paired_clustered_bootstrap(hits, others, groups)
    warmer = clustered_bootstrap(inside, groups)
    return {
        "n": len(looked),
        "patients": share.groups,
        "pointing": _triple(share),
        "chance": float(np.mean(chance)),
        "gain_over_chance": _triple(gain),
        "another_patients_map": float(np.mean(others)),
        "gain_over_another_patients_map": _triple(beyond),
        "inside_minus_outside": _triple(warmer),
        "seconds_a_map": float(np.median([each.seconds for each in looked])),
        "hardly_depends": float(np.mean([not each.heat.any() for each in looked])),
        "by_drop": [
            {
                "from": low,
                "to": None if np.isinf(high) else high,
                "n": len(chosen),
                "pointing": float(np.mean([hits[at] for at in chosen])) if chosen else None,
                "chance": float(np.mean([chance[at] for at in chosen])) if chosen else None,
            }
            for low, high in itertools.pairwise(DROPS)
            for chosen in [[at for at, each in enumerate(looked) if low <= each.depends_by < high]]
        ],
    }


def _triple(estimate: Any) -> list[float | None]:
    return [estimate.mean, estimate.low, estimate.high]


def says_so(local: LocalModel, case: Case) -> bool:
    """Whether the true answer is likelier to the model than the other side and than none."""
    size = (case.pixels.shape[1], case.pixels.shape[0])
    turned = {"left": "right", "right": "left"}
    mirrored = re.sub("left|right", lambda side: turned[side[0]], case.answer)
    request = Request(
        "q",
        (Message("user", (0, case.question)),),
        (Picture("phantom", lambda: case.pixels, size),),
        choices=(case.answer, mirrored, "Not seen, so no."),
    )
    true, *others = local.score_choices([request])[0].options
    return all(true.logprob > other.logprob for other in others)


def maps(run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All arms."""
    local = LocalModel.open(run)
    if args.untrained:
        torch.manual_seed(1)
        model = InfiMedForConditionalGeneration(local.model.config).float()
        model.set_grid(local.processor.visual_tokens, local.processor.image_size)
        local = LocalModel(model, local.processor, "untrained")
    asked = list(cases(args.patients))
    right = [says_so(local, case) for case in asked]
    err.print(f"{len(asked)} findings that are there; the model says so of {sum(right)}")
    service = around(local, "m", Settings())
    assert isinstance(service.answerer, Engine)
    service.answerer.begin()
    found: dict[str, Any] = {}
    for method, fill in ARMS:
        looked = []
        with progress(f"{method}, {fill}", len(asked), 0, "maps") as advance:
            for case, own in zip(asked, right, strict=True):
                made, seconds = look(service, local, case, method, fill, args.grid)
                looked.append(
                    Looked(case, own, made.values, made.heat, made.most, made.total, seconds)
                )
                advance(1)
        parts = {
            "all": looked,
            "large, said so": [each for each in looked if each.right and not each.case.small],
            "large, not said so": [each for each in looked if not each.right and not each.case.small],
            "small": [each for each in looked if each.case.small],
        }  # fmt: skip
        found[f"{method} {fill}"] = {
            name: pointing(part, args.grid) for name, part in parts.items() if len(part) > 1
        }
    service.answerer.end()
    return {"grid": args.grid, "findings": len(asked), "said_so": sum(right), "arms": found}


def search(count: int, width: int) -> dict[str, Any]:
    """Seconds of an exact search over so many features, from disk and from memory."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        made = open_memmap(file, "w+", np.float16, (count, width))
        for start in range(0, count, 65536):
            part = made[start : start + 65536]
            part[:] = rng.normal(size=part.shape).astype(np.float16) / width**0.5
        made.flush()
        del made
        with open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        features = np.load(file, mmap_mode="r")
        query = rng.normal(size=width).astype(np.float32)
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            nearest_rows(features, query, 5)
            seconds.append(time.perf_counter() - began)
    million = 1e6 / count
    return {
        "images": count,
        "width": width,
        "bytes": count * width * 2,
        "seconds_a_million_from_disk": seconds[0] * million,
        "seconds_a_million_from_memory": min(seconds[1:]) * million,
        "threads": torch.get_num_threads(),
        "most_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def shown(found: dict[str, Any]) -> None:
    """The arms as a table."""
    rows = [
        (
            arm,
            part,
            str(own["n"]),
            _text(own["pointing"]),
            f"{own['chance']:.3f}",
            f"{own['another_patients_map']:.3f}",
            _text(own["inside_minus_outside"]),
            f"{own['hardly_depends']:.2f}",
            f"{own['seconds_a_map']:.2f}",
        )
        for arm, parts in found["arms"].items()
        for part, own in parts.items()
    ]
    heads = ("arm", "findings", "n", "pointing", "chance", "another's", "inside", "no map", "s")
    out.print(table("evidence maps", heads, rows))


def _text(triple: list[float | None]) -> str:
    mean, low, high = triple
    limits = "" if low is None or high is None else f" {low:.3f}..{high:.3f}"
    return "none" if mean is None else f"{mean:.3f}{limits}"


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--search", type=int, metavar="IMAGES")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {"environment": environment()}
    if args.search:
        found["search"] = search(args.search, args.width)
        out.print(json.dumps(found["search"], indent=2))
    if args.run is not None:
        found["maps"] = maps(args.run, args)
        shown(found["maps"])
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
