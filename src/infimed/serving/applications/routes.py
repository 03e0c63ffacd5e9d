"""The applications' addresses: ``POST /v1/infimed/NAME``, whole or as server-sent events.

A stream is ``data: {"type": "delta", "text", "part"}``, one ``data: {"type": "result", ...}`` and ``data: [DONE]``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from infimed.serving.applications.applications import BODIES, Result, Update
from infimed.serving.applications.presets import PRESETS
from infimed.serving.applications.requests import ApplicationRequest
from infimed.serving.description import json_answer
from infimed.serving.evidence.routes import described
from infimed.serving.protocol import parsed
from infimed.serving.refusals import Refusal
from infimed.serving.service import Held, Service, unless_gone
from infimed.serving.shapes import event, failure


async def answered(service: Service, name: str, http: HttpRequest) -> Response:
    """One request.

    Raises:
        Refusal: at any point before the answer began.
    """
    noted: dict[str, Any] = http.scope["state"]
    with ExitStack() as held:
        place = held.enter_context(service.gate.admit(noted["client"]))
        asked: ApplicationRequest = await service.body(http, place, partial(parsed, BODIES[name]))
        updates = service.applications.run(name, asked, noted)
        if not asked.stream:
            async with aclosing(updates):
                return JSONResponse(await unless_gone(http, _whole(updates)))
        try:
            first = await unless_gone(http, anext(updates))
        except BaseException:
            await updates.aclose()
            raise
        return Held(_events(first, updates, noted), updates, held.pop_all())


async def _whole(updates: AsyncGenerator[Update, None]) -> dict[str, Any]:
    async for update in updates:
        if isinstance(update, Result):
            return update.value
    raise Refusal("internal")


async def _events(
    first: Update, updates: AsyncGenerator[Update, None], noted: dict[str, Any]
) -> AsyncIterator[bytes]:
    yield _event(first)
    if isinstance(first, Result):
        yield b"data: [DONE]\n\n"
        return
    try:
        async for update in updates:
            yield _event(update)
    except Refusal as refusal:
        noted["code"] = refusal.code
        yield failure(refusal, noted["request_id"])
        return
    yield b"data: [DONE]\n\n"


def _event(update: Update) -> bytes:
    if isinstance(update, Result):
        return event({"type": "result", **update.value})
    return event({"type": "delta", "text": update.text, "part": update.part})


def add_routes(inner: FastAPI, service: Service) -> None:
    """Add the addresses."""

    def add(name: str) -> None:
        async def application(http: HttpRequest) -> Response:
            return await answered(service, name, http)

        application.__doc__ = PRESETS[name].does.capitalize() + "."
        inner.post(
            f"/v1/infimed/{name}",
            openapi_extra=described(BODIES[name]),
            responses=json_answer(
                {"type": "object"}, "The result; as events where `stream` is true.", streams=True
            ),
            response_model=None,
            operation_id=name,
        )(application)

    for name in BODIES:
        add(name)
