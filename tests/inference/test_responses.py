"""The response store: nothing asked twice, torn lines cut, the same bytes after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.inference.requests import Picture, Request, Response
from infimed.inference.responses import ResponseStore, ask, read_responses
from infimed.inference.stubs import Scripted, blind, constant, oracle, random_answers


def requests(count: int = 10) -> list[Request]:
    return [Request(f"q{i}", (Message("user", (f"question {i}?",)),)) for i in range(count)]


class Counting:
    """A scripted model that remembers what it was asked and may die on the way."""

    def __init__(self, die_after: int | None = None, batch_size: int = 4) -> None:
        self.inner = Scripted("counting", lambda r: f"answer to {r.id} – é", batch_size)
        self.fingerprint = self.inner.fingerprint
        self.conversation = self.inner.conversation
        self.batches = self.inner.batches
        self.asked: list[str] = []
        self.die_after = die_after

    def respond(self, batch: Sequence[Request]) -> Iterator[Response]:
        for response in self.inner.respond(batch):
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            self.asked.append(response.id)
            yield response


def test_a_second_run_asks_nothing_and_returns_the_same(tmp_path: Path) -> None:
    first = ask(Counting(), requests(), tmp_path / "r.jsonl")
    model = Counting()
    assert ask(model, requests(), tmp_path / "r.jsonl") == first
    assert model.asked == []


@pytest.mark.parametrize("die_after", [0, 3, 5, 9])
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, die_after: int
) -> None:
    ask(Counting(), requests(), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        ask(Counting(die_after), requests(), tmp_path / "cut.jsonl")
    ask(Counting(), requests(), tmp_path / "cut.jsonl")
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("kept", [0, 1, 57, 200, 401, 640])
def test_a_file_torn_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path, kept: int) -> None:
    ask(Counting(), requests(), tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "torn.jsonl").write_bytes(whole[:kept])
    ask(Counting(), requests(), tmp_path / "torn.jsonl")
    assert (tmp_path / "torn.jsonl").read_bytes() == whole


def test_a_batch_with_one_missing_answer_is_asked_whole(tmp_path: Path) -> None:
    ask(Counting(), requests(), tmp_path / "r.jsonl")
    lines = (tmp_path / "r.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(lines[:6]))
    model = Counting()
    ask(model, requests(), tmp_path / "r.jsonl")
    assert model.asked == [f"q{i}" for i in range(4, 10)]


def test_a_damaged_line_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    ask(Counting(), requests(), path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{not json}\n", b'{"key": 1}\n', *lines[2:]]))
    assert len(ask(Counting(), requests(), path)) == 10
    assert read_responses(path)[1] == 2


def test_failed_answers_are_kept_and_asked_again(tmp_path: Path) -> None:
    class Failing(Counting):
        def respond(self, batch: Sequence[Request]) -> Iterator[Response]:
            for request in batch:
                yield Response(request.id, "", "error", error="image unreadable")

    failed = ask(Failing(), requests(2), tmp_path / "r.jsonl")
    assert {r.status for r in failed.values()} == {"error"}
    assert {r.status for r in ask(Counting(), requests(2), tmp_path / "r.jsonl").values()} == {"ok"}


def test_fewer_answers_than_requests_are_counted_as_errors(tmp_path: Path) -> None:
    class Lazy(Counting):
        def respond(self, batch: Sequence[Request]) -> Iterator[Response]:
            yield from list(super().respond(batch))[:-1]

    responses = ask(Lazy(), requests(8), tmp_path / "r.jsonl")
    assert sorted(r.id for r in responses.values() if r.status == "error") == ["q3", "q7"]


def test_an_answer_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    class Strange(Counting):
        def respond(self, batch: Sequence[Request]) -> Iterator[Response]:
            yield Response("other", "text")

    with pytest.raises(DataError, match="not in the batch"):
        ask(Strange(), requests(2), tmp_path / "r.jsonl")


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    twice = [replace(requests(1)[0], id=name) for name in ("a", "b")]
    model = Counting()
    assert len(ask(model, twice, tmp_path / "r.jsonl")) == 1
    assert model.asked == ["a"]


def test_two_requests_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same id"):
        ask(Counting(), requests(1) * 2, tmp_path / "r.jsonl")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with ResponseStore(tmp_path / "r.jsonl"), pytest.raises(DataError, match="another process"):
        ResponseStore(tmp_path / "r.jsonl")


def test_a_full_disk_leaves_whole_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.jsonl"
    with ResponseStore(path) as store:
        store.add([("k1", Response("a", "first"))])
        before = path.read_bytes()

        class Full:
            def write(self, data: bytes) -> int:
                path.open("ab").write(bytes(data[:5]))
                raise OSError(28, "No space left on device")

            def truncate(self, size: int) -> None:
                with path.open("r+b") as handle:
                    handle.truncate(size)

            def close(self) -> None:
                pass

        real = store._handle
        monkeypatch.setattr(store, "_handle", Full())
        with pytest.raises(DataError, match="disk is full"):
            store.add([("k2", Response("b", "second"))])
        real.close()
    assert path.read_bytes() == before


def test_the_key_covers_model_turns_images_and_settings() -> None:
    def picture(name: str) -> Picture:
        return Picture(name, lambda: (_ for _ in ()).throw(AssertionError("not loaded")))

    base = Request("id", (Message("user", (0, "what?")),), (picture("a"),), 8)
    keys = {
        base.key("m"),
        base.key("other model"),
        replace(base, messages=(Message("user", (0, "why?")),)).key("m"),
        replace(base, pictures=(picture("b"),)).key("m"),
        replace(base, max_new_tokens=9).key("m"),
    }
    assert len(keys) == 5
    assert replace(base, id="another").key("m") == base.key("m")


def test_stored_lines_hold_no_times(tmp_path: Path) -> None:
    ask(constant("no"), requests(1), tmp_path / "r.jsonl")
    assert set(json.loads((tmp_path / "r.jsonl").read_text())) == {
        "key",
        "id",
        "status",
        "new_tokens",
        "text",
    }


def test_the_stub_models_do_as_they_are_named() -> None:
    asked = [replace(r, choices=("CT", "MRI")) for r in requests(40)]
    assert [r.text for r in oracle({f"q{i}": str(i) for i in range(40)}).respond(asked)] == [
        str(i) for i in range(40)
    ]
    assert {r.text for r in random_answers().respond(asked)} == {"A", "B"}
    assert {
        r.text for r in blind().respond([asked[0], replace(asked[0], id="z", pictures=())])
    } <= {"A", "B"}
