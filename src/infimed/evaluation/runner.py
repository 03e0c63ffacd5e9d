"""Ask a model a task's questions and keep every answer; scoring is a separate, offline step.

Files per task and label: ``LABEL.run.json`` says what was asked (task hash, model fingerprint, every
request key), written before the first question; ``LABEL.responses.jsonl`` holds the answers and is
cache and resume at once. Kill it anywhere and run the same command again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.core.errors import DataError, UsageError
from infimed.core.files import canonical_json, read_json, write_json
from infimed.data.record import Record
from infimed.evaluation.asked import collect, manifest_path, responses_path
from infimed.evaluation.sample import Shards, View, limited, make_request, make_samples
from infimed.evaluation.scoring import score
from infimed.evaluation.spec import TaskSpec, load_task
from infimed.inference.requests import Model
from infimed.inference.responses import ask

__all__ = ["TaskResult", "evaluate", "score"]

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What asking one task gave.

    Attributes:
        task, label: which. samples: questions of the task. errors: answers that failed.
        truncated: answers cut at the limit of tokens. responses: the file they are in.
    """

    task: str
    label: str
    samples: int
    errors: int
    truncated: int
    responses: Path


def evaluate(
    model: Model,
    shards: Shards,
    tasks: Sequence[str],
    out: Path,
    *,
    label: str,
    blank_images: bool = False,
    no_images: bool = False,
    limit: int | None = None,
) -> list[TaskResult]:
    """Ask `model` the questions of `tasks`; answers land in ``out/TASK/LABEL.responses.jsonl``.

    Args:
        label: names this way of asking ("model", "image-zeroed", "trained-blind", "low-grid").
        blank_images: show one mid-grey picture instead of every image (image-zeroed); a task without
            images is not asked again.
        no_images: show nothing at all, as a twin trained without images was taught.
        limit: ask a fixed, seeded sample of so many questions per task.

    Raises:
        UsageError: an unknown task or an unusable label. DataError: a task has no record in the
            shards, the store is in use, or the disk is full.
    """
    if blank_images and no_images:
        raise UsageError("blank_images and no_images exclude one another")
    view: View = "blank" if blank_images else "none" if no_images else "images"
    if not LABEL.fullmatch(label):
        raise UsageError("a label is letters, digits, '.', '_' and '-'", seen=label)
    specs = [load_task(name) for name in tasks]
    records = collect(shards, specs)
    for spec in specs:
        if not records[spec.name].asked:
            raise DataError(
                f"no record of split '{spec.split}' belongs to this task",
                where=f"task {spec.name}",
                accepted=canonical_json(spec.where),
                fix="leave the task out, or import data that has such records",
            )
    return [
        _evaluate_one(model, shards, spec, records[spec.name].asked, out, label, view, limit)
        for spec in specs
        if view != "blank" or any(record.images for record in records[spec.name].asked)
    ]


def _evaluate_one(
    model: Model,
    shards: Shards,
    spec: TaskSpec,
    records: Sequence[Record],
    out: Path,
    label: str,
    view: View,
    limit: int | None,
) -> TaskResult:
    samples = make_samples(limited(records, spec.name, limit), spec)
    requests = [make_request(sample, spec, model, shards, view) for sample in samples]
    keys = [request.key(model.fingerprint) for request in requests]
    manifest = {
        "task": spec.name,
        "asked_sha256": spec.asked_sha256,
        "label": label,
        "model": model.fingerprint,
        "view": view,
        "limit": limit,
        "generation": {"max_new_tokens": spec.max_new_tokens, "sampling": "greedy"},
        "images_dropped": sum(sample.images_dropped for sample in samples),
        "requests": [
            {"id": sample.id, "key": key, "order": list(sample.order)}
            for sample, key in zip(samples, keys, strict=True)
        ],
    }
    path = manifest_path(out, spec.name, label)
    if not path.exists() or read_json(path) != manifest:
        write_json(path, manifest)
    store = responses_path(out, spec.name, label)
    answers = ask(model, requests, store, title=f"{spec.name} ({label})")
    statuses = Counter(answers[key].outcome for key in keys)
    return TaskResult(
        spec.name, label, len(samples), statuses["error"], statuses["truncated"], store
    )
