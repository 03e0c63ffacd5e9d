"""The addresses of the server, and their description as OpenAPI.

`/openapi.json` describes the API, and FastAPI's own viewers are off because they load scripts from elsewhere.
The page for people, where it is wanted, is `web`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from infimed import __version__
from infimed.serving.applications import routes as applications
from infimed.serving.description import (
    COMPLETION,
    FORM,
    UPLOADED,
    chat_schema,
    describe,
    json_answer,
    json_body,
)
from infimed.serving.evidence import routes as evidence
from infimed.serving.front import Front, refused
from infimed.serving.keys import Keys
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service

NO_TELEMETRY: Final[Any] = dict.fromkeys(
    ("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False
)
"""FastAPI can record exceptions with their texts and send them away; a variable of the environment is enough.
Versions that cannot do that yet take the argument and do nothing with it."""


def make_app(
    service: Service, keys: Keys = Keys(), hosts: Sequence[str] = (), page: bool = False
) -> Front:
    """The server as an ASGI application.

    Args:
        hosts: names in ``Host`` that it answers to; none for all. page: whether it has the page at ``/page/``.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.decoders.start()
        if service.answerer.audit is not None:
            service.answerer.audit.tell()
        watching = asyncio.create_task(service.meters.watch_loop())
        try:
            await service.answerer.start()
            yield
        finally:
            watching.cancel()
            service.gate.draining = True
            await service.answerer.close()
            await service.decoders.close()
            if service.answerer.audit is not None:
                service.answerer.audit.close()

    inner = FastAPI(
        title="InfiMed",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
    )
    _add_refusals(inner)
    _add_routes(inner, service)
    evidence.add_routes(inner, service)
    applications.add_routes(inner, service)
    idle = service.settings.times.idle_stream
    if not page:
        return Front(inner, keys, service.meters, hosts, idle)
    from infimed.serving.web.door import is_page
    from infimed.serving.web.mounting import mount

    return Front(mount(inner, service, keys), keys, service.meters, hosts, idle, is_page)


def _add_refusals(inner: FastAPI) -> None:
    @inner.exception_handler(Refusal)
    async def refuse(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        http.scope["state"]["code"] = error.code
        return refused(error, http.scope["state"]["request_id"])

    @inner.exception_handler(HTTPException)
    async def other(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        made = await refuse(http, Refusal(codes.get(error.status_code, "invalid_value")))
        made.headers.update(error.headers or {})  # which methods an address takes
        return made

    @inner.exception_handler(Exception)
    async def defect(http: HttpRequest, error: Exception) -> Response:
        return refused(Refusal("internal"), http.scope["state"]["request_id"])


def _add_routes(inner: FastAPI, service: Service) -> None:
    schema, components = chat_schema()
    describe(inner, components)
    completed = json_answer(
        COMPLETION, "The answer; as events where `stream` is true.", streams=True
    )

    @inner.post("/v1/chat/completions", openapi_extra=json_body(schema), responses=completed, response_model=None)  # fmt: skip
    async def chat(http: HttpRequest) -> Response:
        """An answer to a conversation, with images as data: URLs or as uploads."""
        return await service.chat(http)

    form, uploaded = json_body(FORM, "multipart/form-data"), json_answer(UPLOADED, "It is kept.")

    @inner.post("/v1/infimed/files", openapi_extra=form, responses=uploaded, response_model=None)
    async def upload(http: HttpRequest) -> Response:
        """Send an image once and show it in several requests by its id; it is kept in memory for a while."""
        return await service.upload(http)

    @inner.delete("/v1/infimed/files/{name}")
    async def forget(http: HttpRequest, name: str) -> dict[str, Any]:
        """Forget an upload now."""
        service.uploads.drop(http.scope["state"]["client"], name)
        return {"id": name, "object": "file", "deleted": True}

    @inner.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": service.models()}

    @inner.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model by its name."""
        for entry in service.models():
            if entry["id"] == name:
                return entry
        raise Refusal("model_not_found", param="model")

    @inner.get("/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @inner.get("/ready", response_model=None, responses={503: {"description": "Not now."}})
    async def ready() -> Response:
        """The model answers; 503 while it does not, or while the server stops."""
        if service.gate.draining:
            return JSONResponse({"status": "draining"}, status_code=503)
        there = await service.answerer.ready()
        return JSONResponse(
            {"status": "ready" if there else "not ready"}, status_code=200 if there else 503
        )

    shown: dict[int | str, dict[str, Any]] = {
        200: {"description": "The page.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @inner.get("/metrics", response_model=None, response_class=PlainTextResponse, responses=shown)  # fmt: skip
    async def metrics() -> Response:
        """Counts, times and levels for Prometheus."""
        page, kind = service.meters.page()
        return Response(page, headers={"Content-Type": kind})
