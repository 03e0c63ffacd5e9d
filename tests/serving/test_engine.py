"""The engine's answers are the offline ones, whoever joins and leaves beside them."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from infimed.data.record import Message
from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture, Request, Sampling
from infimed.serving.asking import Ask, Done, Event, Failed, First, Piece
from infimed.serving.engine import Engine, Job
from infimed.serving.refusals import Refusal
from tests.data.samples import noise
from tests.serving.world import settings_of, tiny_local, until, views_of

WORDS = ["yes", "no", "left", "right", "lung", "mass", "image", "small", "of", "the"]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return tiny_local()


@pytest.fixture
def engine(local: LocalModel) -> Engine:
    return Engine(local, settings_of())


def ask(
    index: int, pixels: Sequence[np.ndarray] = (), most: int = 12, client: str = "a", **more: object
) -> Ask:
    rng = np.random.default_rng(index)
    text = " ".join(rng.choice(WORDS, size=int(rng.integers(2, 9))))
    shown = [views_of(each) for each in pixels]
    pictures = tuple(
        Picture(image.sha256, lambda own=each: own, image.size)
        for image, each in zip(shown, pixels, strict=True)
    )
    content = (*range(len(pixels)), f"{index} {text}?")
    request = Request(f"r{next(NUMBERS)}", (Message("user", content),), pictures, most)
    return Ask(request, client, {image.sha256: image for image in shown}, **more)  # type: ignore[arg-type]


def put(engine: Engine, asked: Ask) -> tuple[Job, list[Event]]:
    events: list[Event] = []
    job = engine.prepared(asked, events.append)
    engine.submit(job)
    return job, events


def finish(engine: Engine) -> None:
    with torch.no_grad():
        while engine.waiting or engine.running:
            engine._turn()


def turns(engine: Engine, count: int) -> None:
    with torch.no_grad():
        for _ in range(count):
            engine._turn()


def done(events: Sequence[Event]) -> Done:
    last = events[-1]
    assert isinstance(last, Done), last
    return last


def offline(local: LocalModel, request: Request) -> tuple[str, str]:
    (response,) = local.respond([request])
    return response.text, "stop" if response.status == "ok" else "length"


def mixed() -> list[Ask]:
    a, b, c = noise(24, 40, 1), noise(50, 20, 2), noise(32, 32, 3)
    return [
        *(ask(i, [a]) for i in range(4)),
        *(ask(i, [b], most=5) for i in range(4, 6)),
        *(ask(i, [a, c], most=20) for i in range(6, 8)),
        *(ask(i, most=9) for i in range(8, 11)),
    ]


def test_answers_equal_those_of_the_offline_model(local, engine):
    asked = mixed()
    heard = [put(engine, each)[1] for each in asked]
    finish(engine)
    for each, events in zip(asked, heard, strict=True):
        said = done(events)
        assert (said.text, said.finish) == offline(local, each.request)
    assert len({done(events).text for events in heard}) > len(asked) // 2


@pytest.mark.parametrize("pause", [1, 2, 5])
def test_who_joins_later_changes_nothing(local, engine, pause):
    asked, heard = mixed(), []
    for each in asked:
        heard.append(put(engine, each)[1])
        turns(engine, pause)
    finish(engine)
    assert engine.counts.most_together > 1
    for each, events in zip(asked, heard, strict=True):
        assert (done(events).text, done(events).finish) == offline(local, each.request)


def test_who_leaves_changes_nothing_and_is_answered_no_more(local, engine):
    asked = mixed()
    jobs = [put(engine, each) for each in asked]
    turns(engine, 3)
    for job, _ in jobs[::2]:
        engine.cancel(job)
    before = [len(events) for _, events in jobs[::2]]
    finish(engine)
    for (_, events), count in zip(jobs[::2], before, strict=True):
        ended = isinstance(events[count - 1], Done)
        assert events[count:] == ([] if ended else [Failed("cancelled")])
    for each, (_, events) in list(zip(asked, jobs, strict=True))[1::2]:
        assert done(events).text == offline(local, each.request)[0]
    assert engine.cache_bytes == 0


def test_sampled_answers_equal_the_offline_ones(local, engine):
    asked = [
        replace(each, request=replace(each.request, sampling=Sampling(1.0, 0.9, seed=at)))
        for at, each in enumerate(mixed())
    ]
    heard = [put(engine, each)[1] for each in asked]
    finish(engine)
    for each, events in zip(asked, heard, strict=True):
        assert done(events).text == offline(local, each.request)[0]


def test_pieces_together_are_the_answer(engine):
    _, events = put(engine, ask(3, [noise()], most=24, stream=True))
    finish(engine)
    pieces = [event.text for event in events if isinstance(event, Piece)]
    assert len(pieces) > 1 and "".join(pieces) == done(events).text


def test_the_first_token_comes_with_its_probability(local, engine):
    asked = ask(3, [noise()], top=3)
    _, events = put(engine, asked)
    finish(engine)
    first = events[0]
    assert isinstance(first, First) and len(first.top) == 3
    assert first.chosen.text == first.top[0].text  # greedy
    encoded = local.processor.encode(asked.request.messages, generation=True)
    pixels = local.processor.pixels([asked.request.pictures[0].load()])
    local.model.set_attention("sdpa")
    with torch.no_grad():
        logits = local.model(
            input_ids=torch.tensor([encoded.input_ids]), pixel_values=pixels, use_cache=False
        ).logits[0, -1]
    local.model.set_attention("infimed_cached")
    logits[local.processor.image_token_id] = -torch.inf
    expected = logits.log_softmax(-1).topk(3).values.tolist()
    assert [score.logprob for score in first.top] == pytest.approx(expected, abs=2e-4)


def test_one_token_answers_and_immediate_ends_tell_their_first_token(engine):
    heard = [put(engine, ask(i, most=1))[1] for i in range(5)]
    _, stopped = put(engine, replace(ask(9), request=replace(ask(9).request, stop=("e", " ", "a"))))
    finish(engine)
    for events in (*heard, stopped):
        assert sum(isinstance(event, First) for event in events) == 1


def test_a_conversation_goes_on_from_its_keys_and_values(local, engine):
    first = ask(1, [noise(24, 40, 5)])
    _, events = put(engine, first)
    finish(engine)
    more = (Message("assistant", (done(events).text,)), Message("user", ("and left?",)))
    second = replace(
        first, request=replace(first.request, id="again", messages=(*first.request.messages, *more))
    )
    before = engine.counts.prompt_tokens
    _, events = put(engine, second)
    finish(engine)
    said = done(events)
    assert said.text == offline(local, second.request)[0]
    assert said.reused_tokens >= len(engine.prepared(first, print).ids) - 6
    assert engine.counts.prompt_tokens - before == said.prompt_tokens - said.reused_tokens


def test_another_question_about_the_image_reuses_it_and_another_image_does_not(local, engine):
    a, b = noise(24, 40, 5), noise(24, 40, 6)
    for pixels, reused in ((a, False), (a, True), (b, False), (a, True)):
        asked = ask(int(pixels[0, 0, 0]), [pixels])
        _, events = put(engine, asked)
        finish(engine)
        assert done(events).text == offline(local, asked.request)[0]
        assert (done(events).reused_tokens > 9) == reused


def test_no_client_reuses_what_another_said(engine):
    for client, expected in (("a", 0), ("b", 0), ("a", 1), ("b", 1)):
        _, events = put(engine, ask(4, [noise()], client=client))
        finish(engine)
        assert (done(events).reused_tokens > 0) == bool(expected)


def test_an_image_is_encoded_once(engine):
    for number in range(4):
        put(engine, ask(number, [noise(24, 40, number % 2)], client=str(number)))
        finish(engine)
    assert (engine.features.misses, engine.features.hits) == (2, 2)


def test_what_is_kept_is_bounded(local):
    small = settings_of(engine={"feature_bytes": 1024, "prefix_bytes": 60_000})
    engine = Engine(local, small)
    for number in range(12):
        put(engine, ask(number, [noise(24, 40, number)]))
        finish(engine)
        assert engine.features.bytes <= 1024 and engine.prefixes.bytes <= 60_000
    assert engine.prefixes.bytes > 0 and engine.features.bytes > 0


def test_clients_take_turns(local):
    engine = Engine(local, settings_of(engine={"running": 1}))
    order: list[str] = []
    for client in ("a", "a", "a", "b", "c"):
        asked = ask(1, client=client, most=2)

        def emit(event: Event, client: str = client) -> None:
            if isinstance(event, First):
                order.append(client)

        engine.submit(engine.prepared(asked, emit))
    finish(engine)
    assert order == ["a", "b", "c", "a", "a"]


def test_rows_and_memory_are_bounded(local):
    engine = Engine(local, settings_of(engine={"running": 3}))
    heard = [put(engine, ask(number))[1] for number in range(9)]
    finish(engine)
    assert engine.counts.most_together == 3
    assert all(isinstance(events[-1], Done) for events in heard)


def test_memory_is_bounded_also_where_questions_share_their_image(local):
    """The questions of one image write in one row, which is as wide as all their answers."""
    schema = {"type": "string", "minLength": 240}
    limit = 2**20
    engine = Engine(local, settings_of(engine={"cache_bytes": limit, "prefix_bytes": 0}))
    heard = [
        put(engine, ask(number, [noise(24, 40, image)], most=300, schema=schema))[1]
        for image, questions in enumerate((8, 3))
        for number in range(questions)
    ]
    largest, together = 0, 0
    while engine.waiting or engine.running:
        turns(engine, 1)
        largest, together = max(largest, engine.cache_bytes), max(together, engine.running)
    assert together > 4 and all(isinstance(events[-1], Done) for events in heard)
    assert largest <= 1.25 * limit + 2**14  # slots grow by a quarter, and to a multiple of 16


def test_a_request_that_waits_too_long_is_told_so(local):
    now = [0.0]
    engine = Engine(local, settings_of(engine={"running": 1}), clock=lambda: now[0])
    _, running = put(engine, ask(1))
    _, waiting = put(engine, ask(2))
    turns(engine, 1)
    now[0] = 61.0
    turns(engine, 1)
    assert waiting == [Failed("queue_timeout")] and not isinstance(running[-1], Failed)
    now[0] = 302.0
    turns(engine, 1)
    assert running[-1] == Failed("generation_timeout")


def test_a_prompt_that_is_too_long_is_refused_before_it_waits(engine):
    asked = ask(1)
    long = replace(
        asked, request=replace(asked.request, messages=(Message("user", ("yes " * 500,)),))
    )
    with pytest.raises(Refusal) as refused:
        engine.prepared(long, print)
    assert refused.value.code == "prompt_too_long" and engine.waiting == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError("patient Jane Roe"), "internal"), (MemoryError(), "out_of_memory")],
)
def test_a_step_that_fails_costs_its_answers_and_not_the_engine(local, monkeypatch, error, code):
    engine = Engine(local, settings_of())
    engine.begin()
    try:
        with monkeypatch.context() as broken:

            def fail(*_: object) -> None:
                raise error

            broken.setattr("infimed.serving.engine.choose_next", fail)
            _, events = put(engine, ask(1))
            until(lambda: events)
            assert events == [Failed(code)]
        _, events = put(engine, ask(1))
        until(lambda: events and isinstance(events[-1], Done))
    finally:
        engine.end()
    assert engine.counts.failures == 1


def test_closing_fails_what_is_left(local):
    engine = Engine(local, settings_of())
    _, events = put(engine, ask(1))
    engine.begin()
    engine.end()
    assert events[-1] == Failed("draining") or isinstance(events[-1], Done)
    with pytest.raises(Refusal, match="draining"):
        put(engine, ask(2))


def test_a_tiny_temperature_with_a_schema_costs_nobody_an_answer(local, engine):
    asked = ask(1, schema={"type": "boolean"})
    tiny = replace(asked, request=replace(asked.request, sampling=Sampling(temperature=1e-310)))
    other = ask(2)
    heard = [put(engine, each)[1] for each in (tiny, other)]
    finish(engine)
    assert done(heard[0]).text in ("true", "false")
    assert done(heard[1]).text == offline(local, other.request)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of a thread")
def test_the_engine_gives_way_to_the_event_loop(engine):
    engine.begin()
    try:
        until(lambda: os.getpriority(os.PRIO_PROCESS, engine._thread.native_id) > 0)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == os.nice(0)
    finally:
        engine.end()
