"""Bodies and connections: huge, deep, packed, slow, cut, and no HTTP at all."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time

import httpx
import numpy as np
import pytest

from tests.data.samples import encoded
from tests.serving.attacks.common import HEAD, connection, refused, show
from tests.serving.world import body, image_part, png_url, post, until


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        (b"[" * 100_000, ("too_deep", "too_complex")),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, ("too_deep",)),
        (b"[" + b"1," * 500_000 + b"1]", ("too_complex",)),
        (b'{"model": "' + b"a" * (2**21 + 10) + b'"}', ("body_too_large",)),
        (b"\xff" * 100, ("invalid_json",)),
        (b"", ("invalid_json",)),
        (
            b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
            ("invalid_text",),
        ),
    ],
)
def test_hostile_bodies(url, raw, codes):
    refused(post(url, raw), *codes)


@pytest.mark.parametrize("name", ["tools", "<script>alert(1)</script>", "a" * 10_000, "\u202e", "__proto__"])  # fmt: skip
def test_unknown_fields_are_refused_and_strange_names_not_quoted(url, name):
    for value in (body("a", **{name: 1}), body({"type": "text", "text": "a", name: 1})):
        answer = post(url, value)
        refused(answer, "unknown_field")
        assert (
            name in answer.text if name in ("tools", "__proto__") else name[:15] not in answer.text
        )


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""]
)
def test_a_form_of_another_site_is_not_taken(url, kind):
    refused(post(url, body("a"), headers={"Content-Type": kind}), "media_type")


def test_a_packed_body_is_not_unpacked(url):
    bomb = gzip.compress(json.dumps(body("a" * 10**6)).encode())
    refused(post(url, bomb, headers={"Content-Encoding": "gzip"}), "media_type")


def test_a_body_that_drips_is_refused(url):
    with connection(url) as slow:
        slow.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        assert b"408" in slow.recv(4000).split(b"\r\n")[0]


def test_headers_that_drip_end_the_connection(url):
    with connection(url) as slow, contextlib.suppress(ConnectionError):
        slow.sendall(HEAD)
        assert slow.recv(4000) == b""


@pytest.mark.parametrize(("length", "status"), [("99999999999999", b"413"), ("9" * 40, b"400")])
def test_an_announced_giant_is_refused_unread(url, length, status):
    with connection(url) as giant:
        giant.sendall(HEAD + f"Content-Length: {length}\r\n\r\n".encode())
        assert status in giant.recv(4000).split(b"\r\n")[0]


def test_lengths_that_contradict_are_refused(url):
    with connection(url) as odd:
        odd.sendall(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}")
        assert odd.recv(4000).startswith(b"HTTP/1.1 400")


def test_an_upload_that_drips_is_refused(url):
    head = HEAD.replace(b"/chat/completions", b"/infimed/files").replace(b"application/json", b"multipart/form-data; boundary=b")  # fmt: skip
    with connection(url) as slow:
        slow.sendall(head + b"Content-Length: 1000\r\n\r\n--b\r\n")
        assert b"408" in slow.recv(4000).split(b"\r\n")[0]


def test_an_unannounced_giant_is_refused_on_the_way(url):
    with connection(url) as giant:
        giant.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(3 * 2**21 // 2**16):
                giant.sendall(b"10000\r\n" + b"a" * 2**16 + b"\r\n")
        assert b"413" in giant.recv(4000).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "raw",
    [b"GET\r\n\r\n", b"\x16\x03\x01" * 50, b"A" * 100_000, HEAD + b"Content-Length: -1\r\n\r\n"],
)
def test_what_is_no_http(url, raw):
    with connection(url) as odd, contextlib.suppress(ConnectionError):
        odd.sendall(raw)
        answer = odd.recv(4000)
        assert not answer or answer.startswith(b"HTTP/1.1 4")


def test_clients_that_leave_in_the_middle_of_everything(url, service):
    value = json.dumps(body("a", image_part(png_url(5)), max_tokens=200, stream=True)).encode()
    head = HEAD + f"Content-Length: {len(value)}\r\n\r\n".encode()
    for sent in (head[:40], head, head + value[:100], head + value):
        for _ in range(3):
            with connection(url) as leaving:
                leaving.sendall(sent)
    until(lambda: service.gate.requests == 0 and service.answerer.running == 0)
    assert service.gate.bytes == 0


def test_health_answers_while_images_are_decoded(url):
    """Decoding is in other processes, so the loop is free."""
    heavy = encoded(np.zeros((6000, 6000), np.uint8), compress_level=1)
    worst = []
    threads = [threading.Thread(target=show, args=(url, heavy)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        began = time.perf_counter()
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
        worst.append(time.perf_counter() - began)
    assert worst
