"""Work for the engine between two steps: in turns, bounded, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import torch

from infimed.inference.endpoint_settings import Endpoint
from infimed.inference.local import LocalModel
from infimed.serving.backend import Backend
from infimed.serving.engine import Engine
from infimed.serving.refusals import Refusal
from tests.serving.test_engine import ask, done, finish, offline, put
from tests.serving.world import settings_of, tiny_local, until


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return tiny_local()


@pytest.fixture
def engine(local: LocalModel) -> Engine:
    return Engine(local, settings_of())


def in_turns(engine: Engine, work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine while this thread, not the engine's, takes turns until it ends."""

    async def both() -> Any:
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.sleep(0)
            with torch.no_grad():
                engine._turn()
        return await task

    return asyncio.run(both())


def test_it_is_done_with_the_model_and_its_result_comes_back(local, engine):
    assert in_turns(engine, engine.work(lambda given: (given is local, 7), "a")) == (True, 7)
    assert not engine.waiting


def test_one_unit_runs_between_two_steps_round_robin_over_clients(engine):
    put(engine, ask(0, most=30))
    order: list[tuple[str, int]] = []

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for client in "aaab":
                note = lambda _, name=client: order.append((name, engine.counts.steps))  # noqa: E731
                group.create_task(engine.work(note, client))

    in_turns(engine, all_of_them())
    assert [client for client, _ in order] == ["a", "b", "a", "a"] or [
        client for client, _ in order
    ] == ["a", "a", "b", "a"], "the first may have run before the last had come"
    steps = [step for _, step in order]
    assert steps == sorted(set(steps)), "a step between any two"


def test_answers_go_on_and_are_those_without_it(local, engine):
    asked = [ask(index, most=20) for index in range(3)]
    heard = [put(engine, each)[1] for each in asked]

    def fails(_: LocalModel) -> None:
        raise ZeroDivisionError("mine alone")

    async def several() -> list[object]:
        work = [engine.work(fails, "a") if n % 2 else engine.work(lambda _: 1, "b") for n in range(6)]  # fmt: skip
        return list(await asyncio.gather(*work, return_exceptions=True))

    found = in_turns(engine, several())
    assert [type(each) for each in found] == [int, ZeroDivisionError] * 3
    finish(engine)
    for each, events in zip(asked, heard, strict=True):
        said = done(events)
        assert (said.text, said.finish) == offline(local, each.request)
    assert not engine.counts.failures


def test_memory_that_runs_out_is_a_refusal_of_that_work(engine):
    def hungry(_: LocalModel) -> None:
        raise MemoryError

    with pytest.raises(Refusal) as refused:
        in_turns(engine, engine.work(hungry, "a"))
    assert refused.value.code == "out_of_memory"


def test_work_that_nobody_waits_for_is_not_done(engine):
    did: list[int] = []

    async def gone() -> None:
        task = asyncio.ensure_future(engine.work(lambda _: did.append(1), "a"))
        await asyncio.sleep(0)
        assert engine.waiting == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(gone())
    engine._turn()
    assert not did and not engine.waiting


def test_who_waits_too_long_is_told_so(local):
    now = [0.0]
    engine = Engine(local, settings_of(times={"queue": 5}), clock=lambda: now[0])

    async def late() -> None:
        task = asyncio.ensure_future(engine.work(lambda _: 1, "a"))
        await asyncio.sleep(0)
        now[0] = 6
        engine._turn()
        await task

    with pytest.raises(Refusal) as refused:
        asyncio.run(late())
    assert refused.value.code == "queue_timeout" and refused.value.retry_after


def test_the_queue_is_bounded_with_that_of_questions(local):
    engine = Engine(local, settings_of(limits={"requests": 2}))
    put(engine, ask(0))

    async def two_more() -> None:
        task = asyncio.ensure_future(engine.work(lambda _: 1, "a"))
        await asyncio.sleep(0)
        try:
            await engine.work(lambda _: 1, "a")
        finally:
            task.cancel()

    with pytest.raises(Refusal) as refused:
        asyncio.run(two_more())
    assert refused.value.code == "overloaded"
    with pytest.raises(Refusal, match="overloaded"):
        put(engine, ask(1))


def test_the_thread_does_it_and_fails_what_is_left_when_it_ends(local):
    engine = Engine(local, settings_of())
    engine.begin()
    held, let = threading.Event(), threading.Event()

    def hold(_: LocalModel) -> str:
        held.set()
        let.wait(30)
        return threading.current_thread().name

    async def ends() -> tuple[object, object]:
        first = asyncio.ensure_future(engine.work(hold, "a"))
        await asyncio.to_thread(held.wait, 30)
        second = asyncio.ensure_future(engine.work(lambda _: 1, "a"))
        await asyncio.sleep(0)
        engine._closing = True
        let.set()
        await asyncio.to_thread(engine.end)
        found = await asyncio.gather(first, second, return_exceptions=True)
        return found[0], found[1]

    name, left = asyncio.run(ends())
    assert name == "engine"
    assert isinstance(left, Refusal) and left.code == "draining"


def test_a_loop_that_is_gone_harms_nobody(local):
    engine = Engine(local, settings_of())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asyncio.wait_for(_begun(engine), 5))
    loop.close()
    engine.begin()
    until(lambda: not engine.waiting)
    assert engine._thread.is_alive()
    engine.end()


async def _begun(engine: Engine) -> None:
    from infimed.serving.work import Unit

    loop = asyncio.get_running_loop()
    unit = Unit(lambda _: 1, loop, loop.create_future(), float("inf"))
    engine._works.put("a", unit)


def test_before_another_server_there_is_no_model_to_work_with():
    backend = Backend(Endpoint("http://127.0.0.1:9/v1", "m", ""), settings_of())
    with pytest.raises(Refusal) as refused:
        asyncio.run(backend.work(lambda _: 1, "a"))
    assert refused.value.code == "unsupported"
