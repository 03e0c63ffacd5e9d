"""Evaluation folders of stub models over synthetic benchmarks, for tests of score and compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infimed.evaluation.asked import collect
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.runner import evaluate
from infimed.evaluation.sample import limited, make_samples
from infimed.evaluation.scoring import score
from infimed.evaluation.sources import JoinedShards, gather
from infimed.evaluation.spec import load_task
from infimed.inference.requests import Model, Request
from infimed.inference.stubs import Scripted, oracle
from tests.evaluation.rows import write_layout

TASKS = ("slake_en", "pubmedqa", "medxpertqa_mm")
PAYLOAD = "<script>document.title='owned'</script><b>bold</b>"


def benchmarks(root: Path, copies: int = 4, tasks: Sequence[str] = TASKS) -> JoinedShards:
    """Synthetic benchmarks built below `root`."""
    for name in tasks:
        write_layout(name, 0, root / "benchmarks" / name, copies=copies)
    specs = [load_task(name) for name in tasks]
    places = DataPlaces.parse([str(root / "benchmarks")])
    return gather(specs, places, root / "cache")[0]


def right_answers(
    shards: JoinedShards, tasks: Sequence[str] = TASKS, limit: int | None = None
) -> dict[str, str]:
    """Request id -> what the oracle says."""
    found = {}
    for name in tasks:
        spec = load_task(name)
        records = limited(collect(shards, [spec])[name].asked, name, limit)
        found |= {s.id: s.gold_letter or s.gold for s in make_samples(records, spec)}
    return found


def mostly_right(shards: JoinedShards, wrong_every: int, text: str = PAYLOAD) -> Scripted:
    """Right, but says `text` to one question in `wrong_every`."""
    right = right_answers(shards)
    numbers = {id: number for number, id in enumerate(sorted(right))}

    def answer(request: Request) -> str:
        return text if numbers[request.id] % wrong_every == 0 else right[request.id]

    return Scripted(f"stub-mostly-right:{wrong_every}", answer)


def evaluated(
    model: Model,
    shards: JoinedShards,
    out: Path,
    tasks: Sequence[str] = TASKS,
    *,
    limit: int | None = None,
    zeroed: bool = False,
) -> Path:
    """Ask, with `zeroed` also without its images, and score; returns the folder."""
    evaluate(model, shards, tasks, out, label="model", limit=limit)
    if zeroed:
        evaluate(model, shards, tasks, out, label="image-zeroed", blank_images=True, limit=limit)
    score(out, shards, tasks, ["model", "image-zeroed"] if zeroed else ["model"])
    return out


def knows_all(shards: JoinedShards) -> Scripted:
    """The oracle of these benchmarks."""
    return oracle(right_answers(shards))
