"""Every task on 402 generated rows in its real layout: the prompt, and what the models of a test score.

What a score must be, by kind:

- oracle (says the gold answer; for a choice, its letter): 1, the best, in every metric. Two have a
  penalty for short texts even then: CIDEr, at most 10, and METEOR, at most 1.
  Where the score needs a judge, a stub reads: a gold answer is perfect, else what stands there counts.
- empty (says nothing): 0, the worst, and unparsed.
- random (a fair letter; yes or no; else a fair draw from the task's gold texts): within four standard
  errors of its expectation, which is the mean over samples and texts of what each text would score.
- constant (always A; always yes; else the first gold text): the share of samples with that answer. A
  metric of words or of refusals gives other answers credit too, so there the share is the least.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from statistics import mean, pvariance

import pytest

from infimed.data.record import Message, Record
from infimed.data.shards import open_shards
from infimed.evaluation.asked import collect
from infimed.evaluation.assess import Assessment, assess, combine_of
from infimed.evaluation.extract import polarity
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.metrics.words import exact_match
from infimed.evaluation.places import DataPlaces
from infimed.evaluation.prompts import with_suffix
from infimed.evaluation.sample import Sample, make_request, make_samples
from infimed.evaluation.sources import build
from infimed.evaluation.spec import TaskSpec, load_task, task_names
from infimed.inference.requests import Response
from infimed.inference.stubs import Scripted, constant, oracle, random_answers
from tests.conftest import tiny_processor
from tests.evaluation.fakes import FakeShards
from tests.evaluation.judging.stubs import verdicts_of
from tests.evaluation.rows import FOLDER, records_of, rows_of, write_layout

PROMPTS = Path(__file__).parent / "prompts"
LAYOUTS = [(name, n) for name in task_names() for n in range(len(load_task(name).layouts))]
EXACT = ("accuracy", "exact_match")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A function from a task's name (and layout) to its samples, each built once."""

    @cache
    def samples(name: str, layout: int = 0) -> list[Sample]:
        spec = load_task(name)
        if not spec.layouts:
            return make_samples(collect_all(records_of(name), spec), spec)
        folder = write_layout(name, layout, tmp_path_factory.mktemp(f"{name}-{layout}"))
        places = DataPlaces(named={name: folder})
        built = build(spec, places, tmp_path_factory.mktemp("cache"))
        assert built.left_out == 0, (built.shards / "problems.jsonl").read_text()
        return make_samples(collect_all(list(open_shards(built.shards)), spec), spec)

    return samples


def collect_all(records: list[Record], spec: TaskSpec) -> list[Record]:
    return collect(records, [spec])[spec.name].asked  # type: ignore[arg-type]


def told(sample: Sample) -> str:
    """The gold answer as a model would write it."""
    return sample.gold_letter or sample.gold


def answers(samples: list[Sample], spec: TaskSpec, model: Scripted) -> Assessment:
    """What a model's answers are worth, asked through the harness."""
    requests = [make_request(sample, spec, model, FakeShards()) for sample in samples]
    return judged(samples, spec, list(model.respond(requests)))


def judged(samples: list[Sample], spec: TaskSpec, responses: list[Response]) -> Assessment:
    """What responses are worth, read by a stub judge where the score needs one."""
    return assess(samples, spec, responses, verdicts_of(samples, spec, responses))


def values(found: Assessment) -> list[float]:
    """The score of every answer; 0 where it weighs nothing."""
    return [value or 0.0 for value in found.scores()]


def pool(sample: Sample, samples: list[Sample]) -> tuple[str, ...]:
    """What the random model draws from for a sample."""
    if sample.order:
        return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(sample.order)])
    if sample.kind == "closed" and any(other.yes_no for other in samples):
        return ("yes", "no")
    return tuple(dict.fromkeys(other.gold for other in samples if not other.order))


def test_three_rows_are_committed_for_every_task() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(task_names())
    for name in task_names():
        content = rows_of(name)
        assert len(content.get("layouts", ())) <= max(1, len(load_task(name).layouts))


@pytest.mark.parametrize("name", task_names())
def test_the_prompts_are_the_golden_ones(name: str, made) -> None:  # type: ignore[no-untyped-def]
    spec, processor = load_task(name), tiny_processor()
    parts = []
    for sample in made(name)[:3]:
        turns = processor.conversation(sample.record, option_order=sample.order or None)
        turns = with_suffix(turns, "none" if sample.kind == "choice" else spec.prompt)
        parts.append(f"=== {sample.kind}, gold: {told(sample)}\n{shown(turns)}")
    text = "\n".join(parts) + "\n"
    file = PROMPTS / f"{name}.txt"
    if os.environ.get("INFIMED_WRITE_PROMPTS"):
        file.write_text(text, encoding="utf-8")
    assert file.exists(), "run with INFIMED_WRITE_PROMPTS=1, read the file, commit it"
    assert text == file.read_text(encoding="utf-8")


def shown(turns: tuple[Message, ...]) -> str:
    """Turns as text, images as marks."""
    lines = []
    for turn in turns:
        parts = [part if isinstance(part, str) else f"[image {part}]" for part in turn.content]
        lines.append(f"{turn.role}: {''.join(parts)}")
    return "\n".join(lines)


@pytest.mark.parametrize("name", task_names())
def test_the_oracle_scores_best(name: str, made) -> None:  # type: ignore[no-untyped-def]
    spec, samples = load_task(name), made(name)
    assert len(samples) >= 400
    found = answers(samples, spec, oracle({sample.id: told(sample) for sample in samples}))
    assert values(found) == pytest.approx([1.0] * len(samples))
    for metric, rows in found.measures.items():
        if metric in ("cider", "meteor"):
            assert 0 < combine_of(metric)(rows.sum(0)) <= METRICS[metric].best
        elif metric in METRICS:  # apart from the score itself and the column of MedEvalKit
            assert combine_of(metric)(rows.sum(0)) == pytest.approx(METRICS[metric].best)


@pytest.mark.parametrize("name", task_names())
def test_an_empty_answer_is_unparsed_and_scores_worst(name: str, made) -> None:  # type: ignore[no-untyped-def]
    found = answers(made(name), load_task(name), constant(""))
    assert values(found) == [0.0] * len(found.answers)
    assert all(answer.parsed is None for answer in found.answers)


@pytest.mark.parametrize("name", task_names())
def test_a_random_answer_scores_at_chance(name: str, made) -> None:  # type: ignore[no-untyped-def]
    spec, samples = load_task(name), made(name)
    worth: dict[tuple[object, ...], list[float]] = {}
    for sample in samples:
        key = (sample.kind, sample.gold, sample.options)
        if key not in worth:
            texts = pool(sample, samples)
            worth[key] = values(
                judged([sample] * len(texts), spec, [Response(sample.id, text) for text in texts])
            )
    each = [worth[sample.kind, sample.gold, sample.options] for sample in samples]
    expected = mean(mean(values) for values in each)
    error = (sum(pvariance(values) for values in each) ** 0.5) / len(samples)
    draws = {kind: pool(one, samples) for kind, one in {s.kind: s for s in samples}.items()}
    kinds = {sample.id: sample.kind for sample in samples}
    models = {kind: random_answers(seed=1, words=words) for kind, words in draws.items()}
    model = Scripted("random", lambda request: models[kinds[request.id]].answer(request))
    got = mean(values(answers(samples, spec, model)))
    assert got == pytest.approx(expected, abs=4 * error + 1e-9)


@pytest.mark.parametrize("name", task_names())
def test_a_constant_answer_scores_its_share(name: str, made) -> None:  # type: ignore[no-untyped-def]
    spec, samples = load_task(name), made(name)
    for kind in {sample.kind for sample in samples}:
        own = [sample for sample in samples if sample.kind == kind]
        text = pool(own[0], own)[0]
        share = mean(
            sample.gold_letter == text if sample.order else says(sample, text) for sample in own
        )
        got = mean(values(answers(own, spec, constant(text))))
        if spec.metrics_of(kind)[0] in EXACT:
            assert got == pytest.approx(share)
        else:
            assert share - 1e-9 <= got <= 1.0


def says(sample: Sample, text: str) -> float:
    """Whether a sample's gold answer is this text; yes and no in any language."""
    return float(polarity(sample.gold) == text) if sample.yes_no else exact_match(text, sample.gold)


@pytest.mark.parametrize(("name", "layout"), [pair for pair in LAYOUTS if pair[1] > 0])
def test_every_layout_holds_the_same_questions(name: str, layout: int, made) -> None:  # type: ignore[no-untyped-def]
    first, other = made(name), made(name, layout)
    assert [content(sample.record) for sample in other] == [content(s.record) for s in first]


def content(record: Record) -> tuple[object, ...]:
    return record.question, record.choices, record.answer, record.task, len(record.images)
