"""Ask a judge about stored answers, within a budget; scoring reads what it said afterwards, offline.

The judge is one more cached model (`infimed.inference.requests.Model`): a local checkpoint or an
endpoint. Kill it anywhere and run it again; nothing that was answered is asked twice, also not where
two ways of answering gave the same answer. A judge that fails is counted per item and never ends the run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infimed.core.errors import UsageError
from infimed.core.files import atomic_open, read_json, write_json
from infimed.evaluation.asked import collect, manifest_path
from infimed.evaluation.judging.budget import Budget, answered, ask_within
from infimed.evaluation.judging.items import Item
from infimed.evaluation.judging.prompts import JudgePrompt
from infimed.evaluation.judging.verdicts import (
    FAILED,
    Verdicts,
    open_judge,
    questions,
    replies_path,
    settings_path,
    transcript_path,
)
from infimed.evaluation.sample import Sample, Shards
from infimed.evaluation.spec import TaskSpec, load_task
from infimed.evaluation.stored import answers_of, asked_samples, read_manifest
from infimed.inference.replies import text_tokens
from infimed.inference.requests import Model, Response
from infimed.inference.responses import read_responses


@dataclass(frozen=True, slots=True)
class JudgedLabel:
    """What judging one label of one task came to.

    Attributes:
        verdicts: verdict ("failed" among them) -> count. failures: commonest reasons -> count.
        calls: requests sent in this run. left: not sent, because the budget was spent.
        prompt_tokens, new_tokens: of this run's calls, where the judge counts them.
    """

    task: str
    label: str
    items: int
    verdicts: Mapping[str, int]
    failures: Mapping[str, int]
    calls: int
    left: int
    prompt_tokens: int
    new_tokens: int
    cost: float = 0.0


def asked_labels(out: Path, task: str, *, controls: bool = False) -> list[str]:
    """Ways of answering that were asked a task, by their files.

    Args:
        controls: with those that asked other questions in the task's place; no judge reads these.
    """
    found = manifest_path(out, task, "*")
    return sorted(
        path.name.removesuffix(".run.json")
        for path in found.parent.glob(found.name)
        if controls or not read_json(path).get("control")
    )


def judge_answers(
    model: Model,
    name: str,
    shards: Shards,
    tasks: Sequence[str],
    out: Path,
    *,
    labels: Sequence[str] | None = None,
    prompt: JudgePrompt,
    budget: Budget | None = None,
    dry_run: bool = False,
) -> list[JudgedLabel]:
    """Have `model` judge the stored answers to `tasks`; tasks that no judge reads are passed over.

    Args:
        name: of the judge, for tables. labels: ways of answering, where a task was asked in them; default: all.
        budget: of this run, over all tasks and labels together.
        dry_run: ask and write nothing; say how many calls there would be and how many tokens.

    Raises:
        UsageError: no task is read by a judge. DataError: a label was not asked, the task or the
            shards changed since, the store is in use, or the disk is full.
    """
    specs = [load_task(task) for task in tasks]
    read = [spec for spec in specs if spec.judged]
    if not read:
        raise UsageError(
            "a judge reads answers in words; none of these tasks asks for them",
            seen=", ".join(spec.name for spec in specs),
            fix="infimed eval --list",
        )
    records = collect(shards, read)
    found = []
    left = budget or Budget()
    there = {spec.name: asked_labels(out, spec.name) for spec in read}
    known = {label for own in there.values() for label in own}
    for label in labels or ():
        if label not in known:
            raise UsageError(
                "nobody was asked these tasks in this way", seen=label, accepted=sorted(known),
                fix="infimed eval RUN --tasks ...",
            )  # fmt: skip
    for spec in read:
        wanted = [label for label in there[spec.name] if labels is None or label in labels]
        if not wanted and labels is not None:
            continue  # asked, but not in these ways
        if not wanted:
            raise UsageError(
                "nobody was asked this task",
                where=f"{out / spec.name}",
                fix="infimed eval RUN --tasks",
            )
        if not dry_run:
            _note(out, spec, name, model, prompt, wanted)
        for label in wanted:
            manifest = read_manifest(out, spec, label)
            where = str(manifest_path(out, spec.name, label))
            samples = asked_samples(records[spec.name], spec, manifest, where)
            responses = answers_of(out, spec, label, manifest)
            work = _would_ask if dry_run else _judge_one
            one = work(model, spec, samples, responses, out, label, prompt, left)
            left = left if dry_run else _less(left, one)
            found.append(one)
    return found


def _note(
    out: Path, spec: TaskSpec, name: str, model: Model, prompt: JudgePrompt, labels: Sequence[str]
) -> None:
    """Write down who judges; labels judged by the same judge and prompt before stay."""
    path = settings_path(out, spec.name)
    value = {
        "judge": name,
        "fingerprint": model.fingerprint,
        "prompt_sha256": prompt.sha256,
        "prompt": prompt.model_dump(mode="json"),
    }
    old = read_json(path) if path.is_file() else {}
    same = all(old.get(key) == value[key] for key in ("fingerprint", "prompt_sha256"))
    kept = [label for label in old.get("labels", ()) if same and label not in labels]
    wanted = {**value, "labels": sorted([*kept, *labels])}
    if old != wanted:
        write_json(path, wanted)


def _judge_one(
    model: Model,
    spec: TaskSpec,
    samples: Sequence[Sample],
    responses: Sequence[Response | None],
    out: Path,
    label: str,
    prompt: JudgePrompt,
    budget: Budget,
) -> JudgedLabel:
    asked = questions(samples, spec, responses, prompt)
    requests = [one.request for one in asked if one.request is not None]
    store = replies_path(out, spec.name)
    before = read_responses(store)[0]
    left = ask_within(model, requests, store, budget, title=f"judging {spec.name} ({label})")
    folder = open_judge(out, spec.name)
    assert folder is not None
    keys = dict.fromkeys(request.key(model.fingerprint) for request in requests)
    fresh = [
        folder.replies[key] for key in keys if key in folder.replies and not answered(before, key)
    ]
    verdicts = folder.verdicts(samples, spec, responses)
    _write_transcript(out, spec, label, samples, verdicts)
    spent = [sum(r.prompt_tokens for r in fresh), sum(r.new_tokens for r in fresh)]
    price = budget.price
    failures = Counter(
        f"{one.status}: {one.reason}".rstrip(": ")
        for of in verdicts.samples
        for one in of
        if one.counted == FAILED and one.status != "not asked"
    )
    return JudgedLabel(
        task=spec.name,
        label=label,
        items=len(asked),
        verdicts=dict(verdicts.counts),
        failures=dict(failures.most_common(5)),
        calls=len(keys) - left - sum(answered(before, key) for key in keys),
        left=left,
        prompt_tokens=spent[0],
        new_tokens=spent[1],
        cost=price.of(*spent) if price else 0.0,
    )


def _would_ask(
    model: Model,
    spec: TaskSpec,
    samples: Sequence[Sample],
    responses: Sequence[Response | None],
    out: Path,
    label: str,
    prompt: JudgePrompt,
    budget: Budget,
) -> JudgedLabel:
    """What judging would take at most; asks and writes nothing."""
    asked = questions(samples, spec, responses, prompt)
    stored = read_responses(replies_path(out, spec.name))[0]
    fresh = {
        key: one.request
        for one in asked
        if one.request is not None
        and not answered(stored, key := one.request.key(model.fingerprint))
    }
    words = sum(text_tokens(turn.text) for r in fresh.values() for turn in r.messages)
    written = sum(request.max_new_tokens for request in fresh.values())
    cost = budget.price.of(words, written) if budget.price else 0.0
    return JudgedLabel(spec.name, label, len(asked), {}, {}, len(fresh), 0, words, written, cost)


def _less(budget: Budget, done: JudgedLabel) -> Budget:
    calls = None if budget.calls is None else max(0, budget.calls - done.calls)
    cost = None if budget.cost is None else max(0.0, budget.cost - done.cost)
    return Budget(calls, cost, budget.price)


def _write_transcript(
    out: Path, spec: TaskSpec, label: str, samples: Sequence[Sample], verdicts: Verdicts
) -> None:
    """``LABEL.verdicts.jsonl``: a line per item, in the order of the samples."""
    with atomic_open(transcript_path(out, spec.name, label), "w") as handle:
        for sample, items in zip(samples, verdicts.samples, strict=True):
            for one in items:
                line = {
                    "id": sample.id,
                    **_said_of(one.item),
                    "verdict": one.verdict,
                    "status": one.status,
                    "reason": one.reason,
                }
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")


def _said_of(item: Item) -> dict[str, object]:
    made: dict[str, object] = {"aspect": item.aspect}
    if item.statement:
        made["statement"] = item.statement
    if item.aspect == "criterion":
        made |= {"points": item.points, "tags": list(item.tags)}
    return made
