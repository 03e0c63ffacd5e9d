"""A tiny model behind a real server on the loopback, and the images that are sent to it."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import torch

from infimed.inference.local import LocalModel
from infimed.inference.requests import Picture
from infimed.model.processing import Processor
from infimed.serving.app import make_app
from infimed.serving.keys import Keys
from infimed.serving.media import Decoders, Shown, Source
from infimed.serving.patience import server
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service
from infimed.serving.settings import Settings, checked
from infimed.serving.starting import around
from tests.conftest import tiny_model, tiny_tokenizer_json
from tests.data.samples import encoded, noise

SIDE = 32
LONG = {
    "type": "json_schema",
    "json_schema": {"name": "long", "schema": {"type": "string", "minLength": 240}},
}
"""An answer that cannot end soon."""


def tiny_local() -> LocalModel:
    """A model of 2 x 2 visual tokens whose logits are spread, so that rounding cannot flip an argmax."""
    model = tiny_model()
    model.set_grid(4, SIDE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    processor = Processor(tiny_tokenizer_json(), image_size=SIDE, visual_tokens=4)
    return LocalModel(model, processor, "tiny")


def settings_of(**parts: Any) -> Settings:
    """The defaults with one decoder, and what is given."""
    return checked({"decoder": {"workers": 1}, **parts}, "test")


class InlineDecoders(Decoders):
    """Decodes in this process, for tests that are not about decoding."""

    async def start(self) -> None:
        """Nothing to start."""

    async def decode(self, source: Source, pixels_left: int) -> Shown:
        """As a decoder does it."""
        from infimed.data.limits import ImageError
        from infimed.serving.decoder import decoded

        order = {**self.order(source, pixels_left), "volume_bytes": 2**26}
        try:
            return self._shown(source, *decoded(order, source.data))
        except ImageError as error:
            raise Refusal(f"image_{error.code}", param=source.place) from None


def service_of(
    local: LocalModel | None = None, settings: Settings | None = None, *, processes: bool = False
) -> Service:
    """A tiny model's server; images are decoded in this process unless `processes`."""
    chosen = settings or settings_of()
    service = around(local or tiny_local(), "tiny", chosen)
    if not processes:
        service.decoders = InlineDecoders(chosen, service.decoders.wanted)
    return service


@contextmanager
def running(
    service: Service, keys: Keys = Keys(), hosts: Sequence[str] = (), page: bool = False
) -> Iterator[str]:
    """The server on a free port of the loopback, as its base URL."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    made = server(
        make_app(service, keys, hosts, page),
        host="127.0.0.1",
        port=port,
        header_seconds=service.settings.times.header,
        drain_seconds=5,
        drain=lambda: setattr(service.gate, "draining", True),
        idle=lambda: service.gate.requests == 0,
    )
    thread = threading.Thread(target=lambda: asyncio.run(made.serve([listening])), daemon=True)
    thread.start()
    until(lambda: made.started or not thread.is_alive())
    assert made.started, "the server did not start"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        made.should_exit = True
        thread.join(30)
        listening.close()


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait for something that another thread does; an error after a long time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def data_url(data: bytes, kind: str = "image/png") -> str:
    """Bytes as a data: URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_url(seed: int = 0, height: int = 24, width: int = 40) -> str:
    """A random PNG."""
    return data_url(encoded(noise(height, width, seed)))


def picture(seed: int = 0, height: int = 24, width: int = 40) -> Picture:
    """The same image for offline use."""
    pixels = noise(height, width, seed)
    return Picture(f"offline-{seed}", lambda: pixels, (width, height))


def image_part(url: str, **more: Any) -> dict[str, Any]:
    """A content part with an image."""
    return {"type": "image_url", "image_url": {"url": url, **more}}


def user(*parts: str | dict[str, Any]) -> dict[str, Any]:
    """A user's turn of texts and image parts."""
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def body(*parts: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request of one turn."""
    value = {"model": "tiny", "messages": [user(*parts)], "max_tokens": 6}
    return {**value, **more}


def post(url: str, value: Any, **more: Any) -> httpx.Response:
    """Ask a running server."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    address = f"{url}/v1/chat/completions"
    return httpx.post(
        address, content=content, headers=headers, timeout=60, trust_env=False, **more
    )


def code_of(answer: httpx.Response) -> str:
    """The code of a refusal, whose shape is checked."""
    value = answer.json()
    assert set(value) == {"error", "request_id"}, value
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert value["request_id"] == answer.headers["x-request-id"]
    return str(value["error"]["code"])


def views_of(pixels: np.ndarray) -> Shown:
    """A decoded image, without a decoder."""
    from infimed.model.tiling import NO_TILES, cut

    size = (pixels.shape[1], pixels.shape[0])
    return Shown(str(hash(pixels.tobytes())), size, "PNG", cut(pixels, SIDE, NO_TILES))
