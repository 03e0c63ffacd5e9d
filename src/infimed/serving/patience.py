"""How long uvicorn waits for a request's headers, and how it stops.

uvicorn has a time limit between requests and none within the headers of one, so a client that sends a byte a
minute would keep its connection for ever (slowloris).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's HTTP/1.1 that gives a request's headers so many seconds, and what a client still sends after
    its request was answered no more."""

    class PatientProtocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm()
            elif self._timer is None:
                self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _arm(self) -> None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return PatientProtocol


ACCEPTED_TOGETHER: Final = 8
"""Connections that are taken in one turn of the event loop. asyncio takes as many as its backlog, and hundreds
of them take a second, in which nobody gets an answer."""
WAITING_CONNECTIONS: Final = 2048
"""Connections that the kernel holds until they are taken."""


class DrainingServer(uvicorn.Server):
    """Refuses new requests from the first signal on, lets running answers end, then stops.

    It goes on listening as long as answers run, so that whoever shares out requests reads 503 from `/ready`, and nobody
    takes it for dead. uvicorn alone would close the door at once.

    Args:
        drain: told at the first signal. idle: whether no request is being answered.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], object], idle: Callable[[], bool]) -> None:  # fmt: skip
        super().__init__(config)
        self._drain, self._idle = drain, idle
        self._signal: tuple[int, FrameType | None] | None = None
        self._until = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; the kernel's queue is longer than what is taken from it at a time."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(WAITING_CONNECTIONS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal; the second one does not wait."""
        self._drain()
        if self._signal is None:
            self._signal = (sig, frame)
            self._until = time.monotonic() + float(self.config.timeout_graceful_shutdown or 0)
            return
        self.force_exit = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop."""
        over = self._idle() or time.monotonic() > self._until
        if self._signal is not None and over and not self.should_exit:
            self.config.timeout_graceful_shutdown = 1  # who still runs has had its time
            super().handle_exit(*self._signal)
        return await super().on_tick(counter)


def server(app: Any, *, host: str, port: int, header_seconds: float, drain_seconds: float, drain: Callable[[], object], idle: Callable[[], bool]) -> DrainingServer:  # fmt: skip
    """A server that is ready to `run`."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=patient_protocol(header_seconds),
        ws="none",
        log_config=None,
        access_log=False,
        backlog=ACCEPTED_TOGETHER,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    return DrainingServer(config, drain, idle)
