"""Images from elsewhere: only https, only named hosts, only public addresses, one resolution, no redirect."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from infimed.serving.refusals import Refusal
from infimed.serving.remote import RemoteImages, is_public, target_of, verifying

HOSTS = ("images.example.org", "other.example.org:8443")
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 50


def code(work: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as error:
        asyncio.run(work)  # type: ignore[arg-type]
    return error.value.code


def answering(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives other addresses at its second call: a name that is rebound."""
    calls: list[str] = []

    async def resolver(host: str, port: int) -> Sequence[str]:
        calls.append(host)
        return addresses if len(calls) == 1 else ("127.0.0.1",)

    resolver.calls = calls  # type: ignore[attr-defined]
    return resolver


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.org/a.png",
        "https://evil.example.org/a.png",
        "https://images.example.org.evil.org/",
        "https://images.example.org@evil.org/",
        "https://evil.org\\@images.example.org/",
        "https://images.example.org:8443/",
        "https://other.example.org/",
        "https://images.example.org:x/",
        "https://[::1]/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://169.254.169.254/latest",
        "https://images.example.org/\r\nX: y",
        "https://images.example.org/ a",
        "https://ımages.example.org/",
        "https://images.example.org./",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://images.example.org/",
        "https://images.example.org/" + "a" * 3000,
    ],
)
def test_only_plain_https_to_named_hosts(url):
    with pytest.raises(Refusal) as error:
        target_of(url, HOSTS, "p")
    assert error.value.code == "image_host" and url not in error.value.message


def test_named_hosts_are_reached_at_their_port():
    assert target_of("https://IMAGES.example.org/a?b=c#d", HOSTS, "p").path == "/a?b=c"
    assert target_of("https://other.example.org:8443", HOSTS, "p").port == 8443


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address):
    assert not is_public(ipaddress.ip_address(address))
    images = RemoteImages(HOSTS, 1000, resolver=answering("93.184.215.14", address))
    assert code(images.fetch("https://images.example.org/a.png", "p")) == "image_host"


def test_public_addresses_are_public():
    assert all(is_public(ipaddress.ip_address(a)) for a in ("93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8"))  # fmt: skip


@asynccontextmanager
async def stub(answer: bytes, hang: bool = False):  # type: ignore[no-untyped-def]
    """A server on the loopback that says these bytes; yields its port and what it was asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        if hang:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


async def fetched(answer: bytes, *, hang: bool = False, most: int = 1000, seconds: float = 5.0):  # type: ignore[no-untyped-def]
    """What is fetched from a stub that is taken for a public server."""
    async with stub(answer, hang) as (port, asked):
        resolver = answering("127.0.0.1")
        images = RemoteImages(
            (f"stub.example.org:{port}",), most, resolver, lambda _: True, lambda: None, seconds
        )
        body = await images.fetch(f"https://stub.example.org:{port}/a.png?b", "p")
        return body, asked, resolver.calls  # type: ignore[attr-defined]


def http(body: bytes, head: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {head}", *more, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def test_an_image_is_fetched_with_one_resolution_and_no_credentials():
    body, asked, calls = asyncio.run(fetched(http(PNG)))
    assert body == PNG and calls == ["stub.example.org"]
    head = asked[0].decode().lower()
    assert head.startswith("get /a.png?b http/1.1") and "host: stub.example.org" in head
    assert "cookie" not in head and "authorization" not in head


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http(b"", "302 Found", "Location: http://127.0.0.1/"), "image_fetch"),
        (http(b"", "301 Moved", "Location: https://images.example.org/"), "image_fetch"),
        (http(PNG, "404 Not Found"), "image_fetch"),
        (http(PNG, "206 Partial Content"), "image_fetch"),
        (http(b"x" * 2000), "image_bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "image_bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", "image_fetch"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 500_000, "image_fetch"),
        (b"no http at all\r\n\r\n", "image_fetch"),
        (b"", "image_fetch"),
    ],
)
def test_whatever_else_a_server_says_is_refused(answer, expected):
    assert code(fetched(answer)) == expected


def test_a_server_that_hangs_is_left():
    assert code(fetched(b"HTTP/1.1 200 OK\r\n", hang=True, seconds=0.3)) == "image_fetch"


def test_names_and_certificates_are_verified():
    context = verifying()
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED


def test_a_certificate_that_nobody_signed_is_refused():
    """The stub speaks no TLS at all, so the handshake fails."""

    async def work() -> None:
        async with stub(http(PNG)) as (port, _):
            hosts = (f"stub.example.org:{port}",)
            images = RemoteImages(hosts, 1000, answering("127.0.0.1"), lambda _: True, seconds=0.5)
            await images.fetch(f"https://stub.example.org:{port}/", "p")

    assert code(work()) == "image_fetch"
