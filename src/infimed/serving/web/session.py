"""One event of an open page: whose it is, what it holds, and what is said when it fails.

Invariant: no text of an exception reaches the page or a log; the page gets a refusal's own sentence or a request id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeVar

from infimed.serving.applications.applications import BODIES
from infimed.serving.applications.updates import Update
from infimed.serving.logs import frames_of
from infimed.serving.protocol import parsed
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service
from infimed.serving.settings import Limits
from infimed.serving.web.holding import Holding, Kept

LOG: Final = logging.getLogger("infimed.serving")
Made = TypeVar("Made")


@dataclass
class Event:
    """See the module.

    Attributes:
        noted: as `Front` notes it for a request of a program.
    """

    service: Service
    client: str
    session: str
    kept: Kept
    noted: dict[str, Any] = field(default_factory=dict)

    async def updates(self, name: str, body: dict[str, Any]) -> AsyncGenerator[Update, None]:
        """An application at work, admitted as a request of a program is.

        Raises:
            Refusal: at any point.
        """
        with self.service.gate.admit(self.client):
            asked = await self.read(partial(parsed, BODIES[name]), body)
            async with aclosing(self.service.applications.run(name, asked, self.noted)) as updates:
                async for update in updates:
                    yield update

    async def read(self, parse: Callable[[bytes, Limits], Made], body: dict[str, Any]) -> Made:
        """A body, checked by the very code that checks a program's.

        Raises:
            Refusal: it is not accepted.
        """

        def made() -> Made:
            whole = {"model": self.service.name, **body}
            return parse(json.dumps(whole).encode(), self.service.settings.limits)

        return await asyncio.to_thread(made)

    def problem(self, error: Exception) -> str:
        """What the page says of an error."""
        code = error.code if isinstance(error, Refusal) else "internal"
        spent = round(1000 * (time.perf_counter() - self.noted["began"]), 1)
        extra: dict[str, Any] = {"request_id": self.noted["request_id"], "code": code, "milliseconds": spent}  # fmt: skip
        if not isinstance(error, Refusal):
            LOG.error("failed", extra={**extra, "frames": frames_of(error)})
            return f"Something went wrong here. Tell the operator: {self.noted['request_id']}."
        LOG.info("page", extra=extra)
        self.service.meters.refusals.labels(code).inc()
        said = error.message[:1].upper() + error.message[1:]
        again = ". Try again in a moment" if error.retry_after is not None else ""
        return f"{said}{again}."


@dataclass
class Sessions:
    """Finds the page behind an event of Gradio.

    Attributes:
        owns: whether a page is a client's, see `Door.owns`.
    """

    service: Service
    holding: Holding
    owns: Callable[[str, str], bool]

    def event(self, request: Any) -> Event:
        """The event of a ``gradio.Request``.

        Raises:
            Refusal: the page is another client's.
        """
        client = request.request.scope["state"]["client"]
        session = str(request.session_hash or "")
        if not session or not self.owns(client, session):
            raise Refusal("not_found")
        noted = {
            "request_id": f"req-{secrets.token_hex(12)}",
            "client": client,
            "began": time.perf_counter(),
        }
        return Event(self.service, client, session, self.holding.page(client, session), noted)
