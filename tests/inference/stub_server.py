"""An OpenAI-compatible server on the loopback that does what a script says, good or evil."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = "hang"
CLOSE = "close"
"""Hold the call, or close the connection without a word."""


@dataclass
class Reply:
    """What the server sends back to one call."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Script = Callable[[dict[str, Any], int], Reply | str]
"""(body of the call, how many equal calls came before) -> Reply, HANG or CLOSE."""


def said(text: str | None, *, finish: str = "stop", prompt: int = 10, new: int = 3) -> Reply:
    """A well-formed chat completion."""
    message = {"role": "assistant", "content": text}
    value = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": new},
    }
    return Reply(json.dumps(value).encode())


def failed(status: int, message: str = "no", code: str = "", **headers: str) -> Reply:
    """An error as such servers word it."""
    error = {"error": {"message": message, "code": code}}
    return Reply(json.dumps(error).encode(), status, headers)


def text_of(call: dict[str, Any]) -> str:
    """All text of a call's turns."""
    texts = []
    for turn in call["messages"]:
        if isinstance(turn["content"], str):
            texts.append(turn["content"])
        else:
            texts.extend(part["text"] for part in turn["content"] if part["type"] == "text")
    return "".join(texts)


@dataclass
class Stub:
    """A running server: its URL, and every call it got (body, headers)."""

    url: str
    calls: list[tuple[dict[str, Any], dict[str, str]]] = field(default_factory=list)


@contextmanager
def serving(script: Script, models: tuple[str, ...] = ("stub",)) -> Iterator[Stub]:
    """Serve `script` until the block ends; hanging calls are released then."""
    release = threading.Event()
    lock = threading.Lock()
    seen: Counter[bytes] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def do_GET(self) -> None:
            listed = {"data": [{"id": name} for name in models]}
            self._send(Reply(json.dumps(listed).encode()))

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            call = json.loads(raw)
            with lock:
                before = seen[raw]
                seen[raw] += 1
                stub.calls.append((call, {k.lower(): v for k, v in self.headers.items()}))
            reply = script(call, before)
            if isinstance(reply, str):
                if reply == HANG:
                    release.wait()
                self.close_connection = True
                return
            self._send(reply)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    stub = Stub(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join()
