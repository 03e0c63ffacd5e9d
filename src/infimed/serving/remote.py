"""Images from other servers: off, unless the operator names the hosts.

Only https, only hosts on the list, resolved once: every address of the answer must be public, and that very
address is dialled, so a name that changes its mind (DNS rebinding) gains nothing. No redirect is followed, no
credential sent, and bytes and seconds are capped while they arrive. What arrives is then an image like
any other: its type is that of its content.

The rules answer CVE-2025-6242 and CVE-2026-24779 of other servers; see docs/serving.md.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from infimed.serving.refusals import Refusal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

_PLAIN: Final = re.compile(r"https://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+")
URL_CHARACTERS: Final = 2048
CONNECT_SECONDS: Final = 5.0
TOTAL_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Target:
    """A checked URL."""

    host: str
    port: int
    path: str


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also when it is wrapped in IPv6."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return is_public(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64, RFC 6052
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and not address.is_multicast


def target_of(url: str, hosts: Sequence[str], place: str) -> Target:
    """Where a URL leads, if it may be fetched.

    Args:
        hosts: ``host`` (port 443) or ``host:port``, exact.

    Raises:
        Refusal: it is no plain https URL, or leads to another host.
    """
    refused = Refusal("image_host", param=place)
    if len(url) > URL_CHARACTERS or not _PLAIN.fullmatch(url):
        raise refused
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or 443
    except ValueError:
        raise refused from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise refused
    allowed = {name.lower() if ":" in name else f"{name.lower()}:443" for name in hosts}
    if f"{host}:{port}" not in allowed:
        raise refused
    path = parts.path or "/"
    return Target(host, port, f"{path}?{parts.query}" if parts.query else path)


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def verifying() -> ssl.SSLContext:
    """TLS that checks the certificate and the name."""
    return ssl.create_default_context()


@dataclass(frozen=True)
class RemoteImages:
    """Fetches images from the hosts of a list.

    Attributes:
        hosts: as in `target_of`; none means that nothing is fetched. most_bytes: of an image.
        resolver, admits, tls, seconds: how; tests put their own. Without `tls` nothing is encrypted.
    """

    hosts: Sequence[str]
    most_bytes: int
    resolver: Resolver = resolve
    admits: Callable[[Address], bool] = is_public
    tls: Callable[[], ssl.SSLContext | None] = verifying
    seconds: float = TOTAL_SECONDS

    async def fetch(self, url: str, place: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            Refusal: it may not be fetched, or cannot be.
        """
        target = target_of(url, self.hosts, place)
        try:
            async with asyncio.timeout(self.seconds):
                address = await self._address(target, place)
                return await self._get(target, address, place)
        except TimeoutError:
            raise Refusal("image_fetch", param=place, detail="it took too long") from None
        except (OSError, h11.ProtocolError, UnicodeError):
            raise Refusal("image_fetch", param=place) from None

    async def _address(self, target: Target, place: str) -> str:
        """The address that is dialled, of all that the host has."""
        found = await self.resolver(target.host, target.port)
        try:
            addresses = [ipaddress.ip_address(text) for text in found]
        except ValueError:
            raise Refusal("image_host", param=place) from None
        if not addresses or not all(self.admits(address) for address in addresses):
            raise Refusal("image_host", param=place)
        return str(addresses[0])

    async def _get(self, target: Target, address: str, place: str) -> bytes:
        tls = self.tls()
        secure: dict[str, Any] = {"ssl": tls, "server_hostname": target.host} if tls else {}
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address, target.port, **secure)
        try:
            connection = h11.Connection(h11.CLIENT)
            ask = h11.Request(
                method="GET",
                target=target.path,
                headers=[
                    ("Host", target.host if target.port == 443 else f"{target.host}:{target.port}"),
                    ("Accept", "*/*"),
                    ("Accept-Encoding", "identity"),
                    ("Connection", "close"),
                ],
            )
            writer.write(
                (connection.send(ask) or b"") + (connection.send(h11.EndOfMessage()) or b"")
            )
            await writer.drain()
            return await self._body(connection, reader, place)
        finally:
            writer.close()

    async def _body(
        self, connection: h11.Connection, reader: asyncio.StreamReader, place: str
    ) -> bytes:
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Response) and event.status_code != 200:
                raise Refusal("image_fetch", param=place, detail="no plain answer")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.most_bytes:
                    raise Refusal("image_bytes", param=place)
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif isinstance(event, h11.ConnectionClosed):
                raise Refusal("image_fetch", param=place)
