"""A few questions of a task as text, to be read before a model is asked."""

from __future__ import annotations

from infimed.evaluation.asked import collect
from infimed.evaluation.prompts import with_suffix
from infimed.evaluation.sample import Sample, Shards, limited, make_samples
from infimed.evaluation.spec import TaskSpec
from infimed.inference.stubs import plain_conversation


def preview(spec: TaskSpec, shards: Shards, count: int) -> str:
    """`count` questions of a task, drawn as ``--limit`` draws them, with their gold answers."""
    records = collect(shards, [spec])[spec.name].asked
    samples = make_samples(limited(records, spec.name, count), spec)
    head = f"{spec.name}: {len(records):,} questions"
    return "\n\n".join([head, *(_shown(sample, spec) for sample in samples)])


def _shown(sample: Sample, spec: TaskSpec) -> str:
    turns = plain_conversation(sample.record, sample.order or None)
    turns = with_suffix(turns, "none" if sample.kind == "choice" else spec.prompt)
    lines = [f"--- {sample.id} ({sample.kind}, group {sample.group})"]
    for turn in turns:
        parts = [part if isinstance(part, str) else f"[image {part}]" for part in turn.content]
        lines.append(f"{turn.role}: {''.join(parts)}")
    answer = f"{sample.gold_letter}. {sample.gold}" if sample.order else sample.gold
    return "\n".join([*lines, f"gold: {answer}"])
