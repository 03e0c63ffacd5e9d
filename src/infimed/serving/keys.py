"""API keys: read once, compared in constant time, shown nowhere.

A key is known by the first 8 hex digits of its SHA-256; that is what logs call a client.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infimed.core.errors import UsageError

SHORTEST_KEY: Final = 16


@dataclass(frozen=True)
class Keys:
    """The SHA-256 of every key that is accepted; none means that no key is asked for."""

    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    def client(self, authorization: str | None) -> str | None:
        """The name of the client behind an ``Authorization`` header, or None for a wrong or missing key.

        Every key is compared, whichever matches, in time that does not depend on the key.
        """
        scheme, _, given = (authorization or "").partition(" ")
        asked = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for known in self.hashes:
            if hmac.compare_digest(asked, known):
                found = known.hex()[:8]
        return found if scheme.lower() == "bearer" else None


def read_keys(path: Path) -> Keys:
    """The keys in a file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        UsageError: the file cannot be read, holds no key, or one that is short or no single word.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the key file cannot be read", where=str(path)) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise UsageError(
            "the key file holds no key", where=str(path), fix="openssl rand -hex 32 > FILE"
        )
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST_KEY or len(key.split()) != 1:
            raise UsageError(
                f"key {number} is too short or no single word",
                where=str(path),
                accepted=f"at least {SHORTEST_KEY} characters",
                fix="openssl rand -hex 32 > FILE",
            )
    return Keys(tuple(hashlib.sha256(key.encode()).digest() for key in keys))


def is_loopback_host(host: str) -> bool:
    """Whether an address to bind to can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(host: str, keys: Keys) -> None:
    """Refuse an address that others can reach without a key.

    Raises:
        UsageError: the bind is not loopback and there is no key.
    """
    if not keys.hashes and not is_loopback_host(host):
        raise UsageError(
            "an address that other machines can reach needs an API key",
            where="--host",
            seen=host,
            accepted="127.0.0.1, or a key file",
            fix="(umask 077; openssl rand -hex 32 > keys.txt), then add --api-key-file keys.txt",
        )
