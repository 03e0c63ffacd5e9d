"""Ask a model a task's questions and keep every answer; scoring is a separate, offline step.

Files per task and label: ``LABEL.run.json`` says what was asked (task hash, model fingerprint, every
request key), written before the first question; ``LABEL.responses.jsonl`` holds the answers and is
cache and resume at once. Kill it anywhere and run the same command again.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infimed.core.errors import DataError, UsageError
from infimed.core.files import canonical_json, read_json, write_json
from infimed.evaluation.asked import collect, manifest_path, responses_path
from infimed.evaluation.controlled import (
    CONTROLS,
    PRIOR,
    SCORED,
    Control,
    Said,
    Variant,
    variants,
)
from infimed.evaluation.sample import Sample, Shards, View, limited, make_request, make_samples
from infimed.evaluation.scoring import score
from infimed.evaluation.spec import TaskSpec, load_task
from infimed.inference.option_scoring import OptionScorer
from infimed.inference.requests import Model, Request
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
    control: Control | None = None,
    rotations: int | None = None,
    options_as: Said = "text",
) -> list[TaskResult]:
    """Ask `model` the questions of `tasks`; answers land in ``out/TASK/LABEL.responses.jsonl``.

    Args:
        label: names this way of asking ("model", "image-zeroed", "trained-blind", "low-grid").
        blank_images: show one mid-grey picture instead of every image (image-zeroed); a task without
            images is not asked again.
        no_images: show nothing at all, as a twin trained without images was taught.
        limit: ask a fixed, seeded sample of so many questions per task.
        control: put or show the questions in another way, see `controlled`; a task that has no
            question for it is passed over.
        rotations: of ``options-rotated``: orders per question, the plain one included; None for all.
        options_as: of ``option-scoring``: what is scored for an option of a choice question.

    Raises:
        UsageError: an unknown task, an unusable label, or a model that cannot score options.
        DataError: a task has no record in the shards, the store is in use, or the disk is full.
    """
    if blank_images and no_images:
        raise UsageError("blank_images and no_images exclude one another")
    if rotations is not None and rotations < 2:
        raise UsageError("rotating options takes at least two orders", seen=rotations)
    view: View = "blank" if blank_images else "none" if no_images else "images"
    if not LABEL.fullmatch(label):
        raise UsageError("a label is letters, digits, '.', '_' and '-'", seen=label)
    specs = [load_task(name) for name in tasks]
    answering = OptionScorer(model) if control == SCORED else model
    results = []
    for spec, samples in _asked(shards, specs, limit):
        if view == "blank" and not any(sample.record.images for sample in samples):
            continue
        if control is None:
            results.append(_evaluate_one(answering, shards, spec, samples, out, label, view, limit))
            continue
        planned = variants(control, samples, rotations=rotations, said=options_as)
        how = {"control": control, "rotations": rotations, "options_as": options_as}
        if planned:
            results.append(
                _evaluate_control(answering, shards, spec, planned, out, label, view, limit, how)
            )
    return results


def _asked(
    shards: Shards, specs: Sequence[TaskSpec], limit: int | None
) -> list[tuple[TaskSpec, list[Sample]]]:
    """The samples of every task, all of them found before any is asked."""
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
        (spec, make_samples(limited(records[spec.name].asked, spec.name, limit), spec))
        for spec in specs
    ]


def questions_of(
    shards: Shards,
    tasks: Sequence[str],
    controls: Sequence[str],
    *,
    limit: int | None = None,
    rotations: int | None = None,
) -> dict[str, int]:
    """How many questions the plain way ("model") and each control would ask, without asking any.

    Raises:
        DataError: a task has no record in the shards.
    """
    counts: dict[str, int] = dict.fromkeys(("model", *controls), 0)
    for _, samples in _asked(shards, [load_task(name) for name in tasks], limit):
        counts["model"] += len(samples)
        for name in controls:
            if name in CONTROLS:
                counts[name] += len(variants(name, samples, rotations=rotations))
            elif any(sample.record.images for sample in samples):
                counts[name] += len(samples)
    return counts


def _evaluate_one(
    model: Model,
    shards: Shards,
    spec: TaskSpec,
    samples: Sequence[Sample],
    out: Path,
    label: str,
    view: View,
    limit: int | None,
) -> TaskResult:
    requests = [make_request(sample, spec, model, shards, view) for sample in samples]
    items = [{"id": sample.id, "order": list(sample.order)} for sample in samples]
    dropped = sum(sample.images_dropped for sample in samples)
    return _ask(model, spec, requests, items, out, label, view, limit, dropped, {})


def _evaluate_control(
    model: Model,
    shards: Shards,
    spec: TaskSpec,
    planned: Sequence[Variant],
    out: Path,
    label: str,
    view: View,
    limit: int | None,
    how: dict[str, Any],
) -> TaskResult:
    if how["control"] == PRIOR and view == "images":
        view = "blank"
    requests, items = [], []
    for one in planned:
        request = make_request(one.sample, spec, model, shards, view)
        if one.choices:
            request = replace(request, choices=one.choices, scored=True)
        requests.append(request)
        item: dict[str, Any] = {"id": one.sample.id, "order": list(one.sample.order)}
        if one.images_of:
            item["images_of"] = one.images_of
        items.append(item)
    dropped = sum(one.sample.images_dropped for one in planned)
    return _ask(model, spec, requests, items, out, label, view, limit, dropped, how)


def _ask(
    model: Model,
    spec: TaskSpec,
    requests: Sequence[Request],
    items: Sequence[dict[str, Any]],
    out: Path,
    label: str,
    view: View,
    limit: int | None,
    dropped: int,
    how: dict[str, Any],
) -> TaskResult:
    """Write what is asked, then ask what is not stored yet."""
    keys = [request.key(model.fingerprint) for request in requests]
    manifest = {
        "task": spec.name,
        "asked_sha256": spec.asked_sha256,
        "label": label,
        "model": model.fingerprint,
        "view": view,
        **how,
        "limit": limit,
        "generation": {"max_new_tokens": spec.max_new_tokens, "sampling": "greedy"},
        "images_dropped": dropped,
        "requests": [
            {"id": item["id"], "key": key, **item} for item, key in zip(items, keys, strict=True)
        ],
    }
    path = manifest_path(out, spec.name, label)
    if not path.exists() or read_json(path) != manifest:
        write_json(path, manifest)
    store = responses_path(out, spec.name, label)
    answers = ask(model, requests, store, title=f"{spec.name} ({label})")
    statuses = Counter(answers[key].outcome for key in keys)
    return TaskResult(
        spec.name, label, len(requests), statuses["error"], statuses["truncated"], store
    )
