"""One request that cannot be computed fails alone; the answers beside it are those of the offline model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from infimed.inference import decoding
from infimed.inference.cache import FREE
from infimed.inference.local import LocalModel
from infimed.inference.requests import Sampling
from infimed.serving import engine as engine_module
from infimed.serving import prompts
from infimed.serving.asking import Ask, Done, Failed, Piece
from infimed.serving.engine import Engine, code_of
from infimed.serving.isolation import halved
from infimed.serving.refusals import CODES
from tests.data.samples import noise
from tests.serving.test_engine import ask, done, finish, mixed, offline, put, turns
from tests.serving.world import settings_of, tiny_local


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return tiny_local()


@pytest.mark.parametrize("bad", [set(), {0}, {4}, {2, 3}, {0, 6}, set(range(7))])
def test_halves_are_tried_until_who_fails_is_alone(bad):
    told: list[tuple[str, int]] = []
    calls: list[int] = []

    def work(items: Sequence[int]) -> None:
        calls.append(len(items))
        if bad & set(items):
            raise ValueError(min(bad & set(items)))
        told.extend(("done", item) for item in items)

    halved(range(7), work, lambda item, error: told.append(("failed", item)))
    assert told == [("failed" if item in bad else "done", item) for item in range(7)]
    assert len(calls) <= (1 if not bad else 13)


def test_nothing_is_asked_of_nobody():
    halved([], lambda items: pytest.fail("asked"), lambda *_: pytest.fail("failed"))


def failing(real: Callable[..., Any], poisonous: Callable[..., bool], error: Exception) -> Callable[..., Any]:  # fmt: skip
    """A function that raises where its arguments are poisonous."""

    def made(*arguments: Any) -> Any:
        if poisonous(*arguments):
            raise error
        return real(*arguments)

    return made


def others_are_right(local: LocalModel, asked: Sequence[Ask], heard: Sequence[list[Any]], bad: int, code: str) -> None:  # fmt: skip
    for number, (each, events) in enumerate(zip(asked, heard, strict=True)):
        if number == bad:
            assert events[-1] == Failed(code)
            assert sum(isinstance(event, Failed | Done) for event in events) == 1
        else:
            assert (done(events).text, done(events).finish) == offline(local, each.request)


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("patient"), "internal"), (MemoryError(), "out_of_memory")])  # fmt: skip
@pytest.mark.parametrize("bad", [0, 5, 10])
@pytest.mark.parametrize("where", ["choose_next", "feed_newest"])
def test_a_shared_step_that_one_answer_breaks_is_computed_without_it(local, monkeypatch, where, bad, error, code):  # fmt: skip
    engine = Engine(local, settings_of(engine={"joining": 32}))
    asked = mixed()
    pairs = [put(engine, each) for each in asked]
    turns(engine, 2)
    poison = pairs[bad][0].answer
    assert poison is not None and poison.open

    def poisonous(model: Any, *rest: Any) -> bool:
        return any(poison is writer for part in rest if isinstance(part, list) for writer in part)

    real = getattr(engine_module, where)
    monkeypatch.setattr(engine_module, where, failing(real, poisonous, error))
    finish(engine)
    others_are_right(local, asked, [events for _, events in pairs], bad, code)
    assert engine.counts.failures == 1 and engine.cache_bytes == 0


def test_slots_of_a_step_that_failed_are_given_back(local, monkeypatch):
    """The step fails after its slots were claimed, and part of its keys written."""
    engine = Engine(local, settings_of())
    asked = [ask(number, [noise(24, 40, number)]) for number in range(4)]
    heard = [put(engine, each)[1] for each in asked]
    turns(engine, 2)
    layer = local.model.model.language_model.layers[1]
    real, failures = layer.forward, iter([True, True, False, True])

    def fail(*arguments: Any, **more: Any) -> Any:
        if next(failures, False):
            raise RuntimeError
        return real(*arguments, **more)

    monkeypatch.setattr(layer, "forward", fail)
    turns(engine, 1)
    cache = engine._batch.cache
    assert cache is not None
    for row, length in enumerate(cache.lengths):
        assert (cache.owner[row, length:] == FREE).all() and (cache.owner[row, :length] != FREE).all()  # fmt: skip
    finish(engine)
    # All four, two of them, one of them (it is done), one of them: who was alone then has failed.
    others_are_right(local, asked, heard, 1, "internal")


@pytest.mark.parametrize("bad", [0, 3])
def test_a_prompt_that_cannot_be_computed_costs_no_other(local, monkeypatch, bad):
    engine = Engine(local, settings_of())
    running = ask(50, [noise(24, 40, 9)], most=24)
    _, events = put(engine, running)
    turns(engine, 3)
    asked = [ask(number, [noise(24, 40, number)]) for number in range(4)]
    poison = asked[bad].request.pictures[0].sha256

    def poisonous(model: Any, processor: Any, views: Sequence[Any]) -> bool:
        return any(view is asked[bad].views(poison) for view in views)

    monkeypatch.setattr(prompts, "encode_views", failing(prompts.encode_views, poisonous, ValueError()))  # fmt: skip
    heard = [put(engine, each)[1] for each in asked]
    finish(engine)
    monkeypatch.undo()
    others_are_right(local, asked, heard, bad, "internal")
    assert done(events).text == offline(local, running.request)[0]


@pytest.mark.parametrize("what", ["choose", "put", "piece", "text"])
def test_what_fails_in_one_answer_fails_that_answer(local, monkeypatch, what):
    """Its sampling, its form or its text."""
    engine = Engine(local, settings_of())
    asked = [ask(number, [noise(24, 40, number)], most=24, stream=True) for number in range(3)]
    pairs = [put(engine, each) for each in asked]
    turns(engine, 2)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    answer = pairs[1][0].answer
    broken = type("Broken", (type(answer),), {what: property(fail) if what == "text" else fail})
    answer.__class__ = broken
    finish(engine)
    heard = [events for _, events in pairs]
    others_are_right(local, asked, heard, 1, "internal")
    pieces = [event.text for event in heard[0] if isinstance(event, Piece)]
    assert "".join(pieces) == done(heard[0]).text


def test_a_sampled_answer_draws_the_same_numbers_beside_one_that_fails(local, monkeypatch):
    engine = Engine(local, settings_of())
    asked = [
        replace(each, request=replace(each.request, sampling=Sampling(1.0, 0.9, seed=at)))
        for at, each in enumerate(mixed())
    ]
    pairs = [put(engine, each) for each in asked]
    turns(engine, 2)
    poison = pairs[3][0].answer

    def poisonous(model: Any, *rest: Any) -> bool:
        return any(poison is writer for part in rest if isinstance(part, list) for writer in part)

    monkeypatch.setattr(engine_module, "choose_next", failing(decoding.choose_next, poisonous, ValueError()))  # fmt: skip
    finish(engine)
    others_are_right(local, asked, [events for _, events in pairs], 3, "internal")


def test_a_conversation_that_cannot_be_kept_is_answered(local, monkeypatch):
    engine = Engine(local, settings_of())

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(engine.prefixes, "put", fail)
    asked = ask(1)
    _, events = put(engine, asked)
    finish(engine)
    assert done(events).text == offline(local, asked.request)[0]
    assert engine.counts.failures == 0 and engine.prefixes.bytes == 0


def test_where_the_cache_itself_breaks_all_fail_and_the_next_is_answered(local, monkeypatch):
    engine = Engine(local, settings_of())
    heard = [put(engine, ask(number, most=24))[1] for number in range(2)]
    turns(engine, 1)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("infimed.serving.batch.Batch.compact", fail)
        heard.append(put(engine, ask(3))[1])
        with torch.no_grad(), pytest.raises(MemoryError) as raised:
            engine._turn()
        engine._broken(raised.value)
    assert [events[-1] for events in heard] == [Failed("out_of_memory")] * 3
    asked = ask(4)
    _, events = put(engine, asked)
    finish(engine)
    assert done(events).text == offline(local, asked.request)[0]


def test_torchs_own_word_for_full_memory_is_known():
    said = (
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"
    )
    assert code_of(RuntimeError(said)) == code_of(MemoryError()) == "out_of_memory"
    assert code_of(RuntimeError("mat1 and mat2")) == "internal"
    assert {"internal", "out_of_memory"} <= set(CODES)
