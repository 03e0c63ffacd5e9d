"""The attacked server: a tiny model with its real decoders and small limits, and what an attack may get back."""

from __future__ import annotations

import socket

import httpx

from tests.serving.world import body, code_of, data_url, image_part, post, tiny_local

LOCAL = tiny_local()
CANARY = "JANEROE19560401"
"""A patient's name that must be found nowhere."""


def refused(answer: httpx.Response, *codes: str) -> None:
    found = code_of(answer)
    assert 400 <= answer.status_code < 500, answer.text
    assert found in codes if codes else found.startswith("image_"), found
    for leak in ("Traceback", "Error(", "0x", "/site-packages", "PIL", "pydicom", CANARY):
        assert leak not in answer.text


def show(url: str, data: bytes, kind: str = "image/png") -> httpx.Response:
    return post(url, body("a", image_part(data_url(data, kind))))


def connection(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)))
    made.settimeout(20)
    return made


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
