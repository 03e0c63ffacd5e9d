"""The audit file: everything that is asked is in it, no text can be found in it, and no line is missed unnoticed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infimed.cli.audit import app
from infimed.core.errors import DataError, UsageError
from infimed.core.files import sha256_bytes
from infimed.serving.audit import (  # fmt: skip
    BEGIN,
    Audit,
    Hasher,
    read_audit_key,
    requests_with,
    verified,
)
from infimed.serving.service import Service
from tests.data.samples import encoded, noise
from tests.serving.attacks.common import CANARY
from tests.serving.world import (
    LONG,
    body,
    code_of,
    data_url,
    image_part,
    post,
    running,
    service_of,
    settings_of,
    tiny_local,
    until,
)

LOCAL = tiny_local()
KEY = b"k" * 64
HASHER = Hasher(KEY)


def audited(path: Path, **settings: Any) -> Service:
    service = service_of(LOCAL, settings_of(**settings))
    service.answerer.audit = Audit(path, KEY, keys=False)
    return service


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A file of four requests."""
    path = tmp_path / "audit.jsonl"
    with running(audited(path)) as url:
        for number in range(4):
            assert post(url, body(f"{CANARY} {number}", image_part(data_url(encoded(noise(24, 40, number)))))).status_code == 200  # fmt: skip
    return path


def test_a_question_and_its_end_are_written_as_hashes(tmp_path):
    path, png = tmp_path / "audit.jsonl", encoded(noise(24, 40, 1))
    with running(audited(path)) as url:
        said = post(url, body(f"{CANARY} lung?", image_part(data_url(png))))
        streamed = post(url, body("left mass?", stream=True))
    asked, ended, second, last = read(path)
    assert (asked["event"], ended["event"]) == ("asked", "ended")
    assert asked["request"] == ended["request"] == said.headers["x-request-id"]
    assert asked["model"] == LOCAL.fingerprint and asked["number"] == 0
    assert asked["images"] == [HASHER.image(sha256_bytes(png))]
    value = said.json()["choices"][0]
    assert ended["answer"] == HASHER.answer(value["message"]["content"])
    assert ended["outcome"] == value["finish_reason"]
    assert second["request"] == last["request"] == streamed.headers["x-request-id"]
    assert asked["client"] == second["client"] == HASHER.of("client", b"127.0.0.1")[:16]
    assert asked["prompt"] != second["prompt"]
    assert CANARY not in path.read_text() and "127.0.0.1" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_texts_cannot_be_found_by_trying_without_the_key(filled):
    """Plain hashes of short texts could be: here no unkeyed hash of anything is there."""
    import hashlib

    text = filled.read_text()
    for number in range(4):
        for guess in (f"{CANARY} {number}".encode(), encoded(noise(24, 40, number))):
            assert hashlib.sha256(guess).hexdigest() not in text
    assert not requests_with(filled, Hasher(b"x" * 64), [], ["yes"])


def test_refused_cancelled_and_broken_answers_end_too(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    service = audited(path)
    engine = service.answerer
    with running(service) as url:
        assert code_of(post(url, body("yes " * 3000))) == "prompt_too_long"
        with monkeypatch.context() as broken:
            broken.setattr("infimed.serving.engine.choose_next", lambda *_: 1 / 0)
            assert post(url, body("a")).status_code == 500
        import httpx

        with httpx.Client(trust_env=False) as client, client.stream("POST", f"{url}/v1/chat/completions", json=body("a", stream=True, max_tokens=400, response_format=LONG)) as stream:  # fmt: skip
            next(stream.iter_lines())
        until(lambda: engine.running == 0 and service.gate.requests == 0)
    outcomes = [entry["outcome"] for entry in read(path) if entry["event"] == "ended"]
    assert outcomes[:2] == ["prompt_too_long", "internal"]
    assert outcomes[2] in ("left", "stop")  # a fast machine may have written all of it before
    assert len(read(path)) == 6 and "answer" not in read(path)[1]


def test_a_server_goes_on_where_it_stopped(filled):
    before = verified(filled, HASHER)
    with running(audited(filled)) as url:
        post(url, body("a"))
    after = verified(filled, HASHER, before.chain)
    assert (before.entries, after.entries) == (8, 10)


def changed(lines: list[bytes], how: str) -> Sequence[bytes]:
    if how == "changed":
        return [*lines[:2], lines[2].replace(b'"event":"asked"', b'"event":"asket"'), *lines[3:]]
    if how == "left out":
        return [*lines[:3], *lines[4:]]
    if how == "first left out":
        return lines[1:]
    if how == "moved":
        return [lines[0], lines[2], lines[1], *lines[3:]]
    if how == "doubled":
        return [*lines, lines[-1]]
    if how == "respelled":
        return [lines[0].replace(b":", b": ", 1), *lines[1:]]
    if how == "doubled name":
        return [b'{"event":"x",' + lines[0][1:], *lines[1:]]
    if how == "halved":
        return [*lines[:-1], lines[-1][:40]]
    return [*lines[:4], b"[]\n", *lines[4:]]


@pytest.mark.parametrize("how", ["changed", "left out", "first left out", "moved", "doubled", "respelled", "doubled name", "halved", "foreign"])  # fmt: skip
def test_what_was_done_to_a_file_shows(filled, how):
    lines = filled.read_bytes().splitlines(keepends=True)
    filled.write_bytes(b"".join(changed(lines, how)))
    with pytest.raises(DataError):
        verified(filled, HASHER)
    with pytest.raises(DataError):  # and no server goes on with it
        Audit(filled, KEY)


def test_lines_cut_off_the_end_show_against_a_chain_that_was_noted(filled):
    whole = verified(filled, HASHER)
    lines = filled.read_bytes().splitlines(keepends=True)
    filled.write_bytes(b"".join(lines[:-2]))
    assert verified(filled, HASHER).entries == 6  # alone it cannot show
    with pytest.raises(DataError, match="cut off"):
        verified(filled, HASHER, whole.chain)


def test_another_key_finds_nothing_whole(filled):
    with pytest.raises(DataError):
        verified(filled, Hasher(b"x" * 64))


def test_an_empty_file_is_whole(tmp_path):
    (tmp_path / "a").touch()
    assert verified(tmp_path / "a", HASHER).chain == BEGIN


def test_two_servers_never_write_one_file(tmp_path):
    first = Audit(tmp_path / "a", KEY)
    with pytest.raises(UsageError, match="another server"):
        Audit(tmp_path / "a", KEY)
    first.close()
    Audit(tmp_path / "a", KEY).close()


def test_nothing_is_asked_that_cannot_be_written_down(tmp_path, monkeypatch):
    path = tmp_path / "audit.jsonl"
    service = audited(path)
    real, full = os.write, [True]

    def write(file: int, data: bytes) -> int:
        if full[0] and file == service.answerer.audit._file:
            return real(file, data[:10])  # the disk is full
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    with running(service) as url:
        refused = post(url, body("a"))
        assert (refused.status_code, code_of(refused)) == (503, "audit_failed")
        assert service.answerer.counts.steps == 0 and path.read_bytes() == b""
        full[0] = False
        assert post(url, body("a")).status_code == 200
        asked = service.answerer.audit.asked
        monkeypatch.setattr(service.answerer.audit, "asked", lambda *a: (asked(*a), full.__setitem__(0, True)))  # fmt: skip
        unsaid = post(url, body("a"))  # its end cannot be written: it is not sent
        assert (unsaid.status_code, code_of(unsaid)) == (503, "audit_failed")
        full[0] = False
    assert verified(path, HASHER).entries == 3


def test_other_work_of_the_engine_is_noted(tmp_path):
    import asyncio

    service = audited(tmp_path / "a")

    async def work() -> int:
        await service.answerer.start()
        made = await service.answerer.work(lambda local: 7, "someone")
        await service.answerer.close()
        return made

    assert asyncio.run(work()) == 7
    (entry,) = read(tmp_path / "a")
    assert entry["event"] == "worked" and "someone" not in str(entry)


def test_a_clients_key_has_its_name(tmp_path):
    audit = Audit(tmp_path / "a", KEY, keys=True)
    audit.worked("0a1b2c3d", "m")
    audit.close()
    assert read(tmp_path / "a")[0]["client"] == "0a1b2c3d"


@pytest.mark.parametrize("text", ["", "short", "a b " * 20, "ä" * 40])
def test_a_key_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "key").write_text(text)
    with pytest.raises(UsageError):
        read_audit_key(tmp_path / "key")
    with pytest.raises(UsageError):
        read_audit_key(tmp_path / "missing")


def test_the_command_verifies_and_finds(filled, tmp_path):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    (tmp_path / "image.png").write_bytes(encoded(noise(24, 40, 2)))
    key = ["--key-file", str(tmp_path / "key")]
    runner = CliRunner()
    said = runner.invoke(app, ["verify", str(filled), *key])
    assert said.exit_code == 0 and "8 entries, whole" in said.output
    found = runner.invoke(app, ["find", str(filled), *key, "--image", str(tmp_path / "image.png")])
    assert [json.loads(line)["number"] for line in found.output.splitlines()] == [4]
    assert isinstance(runner.invoke(app, ["find", str(filled), *key]).exception, UsageError)
    missing = runner.invoke(app, ["find", str(filled), *key, "--image", str(tmp_path / "no")])
    assert isinstance(missing.exception, DataError)
    filled.write_bytes(filled.read_bytes()[:-100])
    assert isinstance(runner.invoke(app, ["verify", str(filled), *key]).exception, DataError)
