"""Keys, host names and addresses: who may ask at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from pathlib import Path

import httpx
import pytest

from infimed.core.errors import UsageError
from infimed.serving.front import Turnstile
from infimed.serving.keys import Keys, check_bind, read_keys
from infimed.serving.settings import Settings, read_settings
from infimed.serving.starting import Bind, listen
from tests.serving.world import body, code_of, post, running, service_of, tiny_local

KEY = "a-long-enough-key-1"
OTHER = "a-long-enough-key-2"


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "keys").write_text(f"# two of them\n{KEY}\n\n{OTHER}\n")
    return read_keys(tmp_path / "keys")


def test_without_a_key_nothing_but_health_and_readiness_is_told(keys):
    with running(service_of(tiny_local()), keys) as url:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/", "/v1/chat/completions"):
            answer = httpx.get(url + path, trust_env=False)
            assert (answer.status_code, code_of(answer)) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in (
            "Bearer",
            f"Bearer {KEY}x",
            f"Basic {KEY}",
            KEY,
            f"Bearer {KEY[:-1]}",
        ):
            assert post(url, body("a"), headers={"Authorization": wrong}).status_code == 401
        for right in (f"Bearer {KEY}", f"bearer {OTHER}"):
            assert post(url, body("a"), headers={"Authorization": right}).status_code == 200
        for path in ("/health", "/ready"):
            assert httpx.get(url + path, trust_env=False).status_code == 200


def test_clients_are_known_by_a_hash_of_their_key(keys):
    assert keys.client(f"Bearer {KEY}") == hashlib.sha256(KEY.encode()).hexdigest()[:8]
    assert keys.client(f"Bearer {KEY}") != keys.client(f"Bearer {OTHER}")
    assert keys.client(None) is None and keys.client("Bearer \udcff") is None
    assert KEY not in repr(keys) and "hashes" not in repr(keys)


def test_every_key_is_compared_whichever_matches(keys, monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(1) or real(a, b))
    for given in (KEY, OTHER, "wrong"):
        compared.clear()
        keys.client(f"Bearer {given}")
        assert len(compared) == 2


@pytest.mark.parametrize(
    "text", ["", "# only\n", "short\n", f"{KEY}\nhas a space in it all\n", "ä" * 20]
)
def test_a_key_file_that_is_none_is_refused_without_showing_it(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError) as refused:
        read_keys(tmp_path / "keys")
    assert KEY not in str(refused.value)
    with pytest.raises(UsageError):
        read_keys(tmp_path / "missing")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org", ""])
def test_another_bind_than_loopback_needs_a_key(host, keys):
    with pytest.raises(UsageError, match="needs an API key"):
        check_bind(host, Keys())
    check_bind(host, keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(host):
    check_bind(host, Keys())


def test_a_taken_port_is_a_message():
    with listen(Bind(port=0)) as first, pytest.raises(UsageError, match="cannot listen"):
        first.listen()
        listen(Bind(port=first.getsockname()[1]))


def test_a_page_of_another_site_cannot_ask_a_local_server():
    with running(service_of(tiny_local()), hosts=Bind().answered) as url:
        for host in ("evil.org", "evil.org:8000", "127.0.0.1.evil.org", "", "[::2]:1"):
            answer = post(url, body("a"), headers={"Host": host})
            assert (answer.status_code, code_of(answer)) == (403, "host_not_allowed")
        for host in ("localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
            assert post(url, body("a"), headers={"Host": host}).status_code == 200
        cross = httpx.options(f"{url}/v1/chat/completions", headers={"Origin": "http://evil.org", "Access-Control-Request-Method": "POST"}, trust_env=False)  # fmt: skip
        assert "access-control-allow-origin" not in cross.headers


def test_names_are_local_ones_on_loopback_and_all_elsewhere(keys):
    assert "localhost" in Bind().answered and Bind(hosts=("A.org",)).answered[-1] == "a.org"
    assert Bind("0.0.0.0", keys=keys).answered == ()
    assert Bind("0.0.0.0", keys=keys, hosts=("a.org",)).answered == ("a.org",)


def test_settings_are_read_and_mistakes_are_named(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("limits:\n  images: 2\nimage_hosts: [images.example.org]\n")
    made = read_settings(file)
    assert (made.limits.images, made.image_hosts) == (2, ("images.example.org",))
    assert read_settings(None) == Settings()
    for text, said in (
        ("limits:\n  imagse: 2\n", "did you mean: images"),
        ("limts: {}\n", "did you mean: limits"),
        ("limits:\n  images: many\n", "limits.images"),
        ("limits:\n  images: -1\n", "limits.images"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_settings(file)


def test_few_requests_begin_in_one_turn_of_the_loop():
    async def work() -> list[int]:
        turnstile, turn, begun = Turnstile(8), 0, []

        async def request() -> None:
            await turnstile.enter()
            begun.append(turn)

        waiting = [asyncio.create_task(request()) for _ in range(100)]
        while not all(task.done() for task in waiting):
            await asyncio.sleep(0)
            turn += 1
        return begun

    begun = Counter(asyncio.run(work()))
    assert sum(begun.values()) == 100 and max(begun.values()) == 8
