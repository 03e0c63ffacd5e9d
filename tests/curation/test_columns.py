"""Data-set rules on columns and in batches find what they find over all records at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infimed.curation import curate, default_rubric, judging, ledger
from infimed.curation.columns import SignalStore, groups_of, read_columns
from infimed.curation.rules.dataset import Line
from tests.curation.clinic import Memory, picture

QUESTIONS = ["Is there an effusion?", "is there an effusion", "Is there a fracture?"]
CAPTIONS = [
    "Axial CT of the chest with a spiculated mass in the left upper lobe and a hilar node.",
    "Axial CT of the chest with a spiculated mass in the left upper lobe and a hilar nodes.",
    "Axial CT of the chest with a spiculated mass in the right upper lobe and a hilar node",
]


def crowd(seed: int, records: int = 90) -> Memory:
    """Records drawn from few images, questions and captions, so that many collide."""
    random = np.random.default_rng(seed)
    memory = Memory()
    refs = [memory.image(picture(i, 96), str(copy)) for i in range(4) for copy in range(2)]
    for _ in range(records):
        shown = tuple(refs[i] for i in random.choice(8, int(random.integers(1, 3)), replace=False))
        if random.random() < 0.4:
            memory.ask(shown, "Describe.", CAPTIONS[int(random.integers(3))], "caption")
        else:
            question = QUESTIONS[int(random.integers(3))]
            memory.ask(shown, question, ("yes", "no")[int(random.integers(2))])
    return memory


def all_lines(store: SignalStore, chunks: int) -> list[Line]:
    columns = judging._LINE_COLUMNS
    tables = (store.read(chunk, columns) for chunk in range(chunks))
    return [judging._line(value) for table in tables for value in table.to_pylist()]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_once", [4, 100_000])
def test_groups_in_batches_find_what_all_lines_at_once_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, at_once: int
) -> None:
    monkeypatch.setattr(judging, "LINES_AT_ONCE", at_once)
    monkeypatch.setattr(ledger, "CHUNK_ROWS", 16)
    memory = crowd(seed)
    curate(memory, tmp_path)
    chunks = -(-len(memory) // 16)
    parts = ledger.Parts(tmp_path / "scratch", {})
    store = SignalStore(parts, ledger.path_of(tmp_path, ledger.SIGNALS), 16)
    columns = read_columns(store, chunks)
    lines, lookup = all_lines(store, chunks), judging._Lookup(memory)
    examiner = judging.Examiner(memory, default_rubric(), store)
    alive = np.ones(len(memory), bool)
    for rule in default_rubric().dataset_rules:
        slow = sorted(rule.apply(lines, lookup, rule.limits()), key=lambda item: item[0])
        assert judging._apply(rule, columns, alive, examiner) == slow, rule.id
        lost = {row for row, finding in slow if finding.severity == "drop"}
        lines = [line for line in lines if line.row not in lost]
        alive[list(lost)] = False


def test_columns_say_what_the_records_say(tmp_path: Path) -> None:
    memory = crowd(7)
    curate(memory, tmp_path)
    store = SignalStore(
        ledger.Parts(tmp_path / "scratch", {}), ledger.path_of(tmp_path, ledger.SIGNALS), 512
    )
    columns = read_columns(store, 1)
    assert columns.images.tolist() == [len(r.images) for r in memory.records]
    assert [columns.tasks[t] for t in columns.task] == [r.task for r in memory.records]
    assert len(set(columns.ids.tolist())) == len(memory)
    for a in range(40):
        for b in range(a):
            one, other = memory.records[a], memory.records[b]
            same = [i.sha256 for i in one.images] == [i.sha256 for i in other.images]
            if same:
                assert columns.pixels[a] == columns.pixels[b]


def test_batches_hold_whole_groups_and_nothing_that_stands_alone() -> None:
    random = np.random.default_rng(3)
    keys = random.integers(0, 40, 200).astype(np.uint64)
    rows = np.flatnonzero(random.random(200) < 0.7)
    seen: list[int] = []
    for batch in groups_of(keys, rows, 10):
        assert (np.diff(batch) > 0).all()
        seen += batch.tolist()
        for key in set(keys[batch].tolist()):
            assert set(rows[keys[rows] == key].tolist()) <= set(batch.tolist())
    counts = {int(key): int((keys[rows] == key).sum()) for key in set(keys.tolist())}
    expected = [r for r in rows.tolist() if keys[r] != 0 and counts[int(keys[r])] >= 2]
    assert sorted(seen) == expected
    assert list(groups_of(keys, np.zeros(0, int), 10)) == []


def test_signals_are_read_by_chunk_from_any_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CHUNKS_PER_ROW_GROUP", 3)
    monkeypatch.setattr(ledger, "CHUNK_ROWS", 7)
    memory = crowd(1, 61)
    curate(memory, tmp_path)
    store = SignalStore(
        ledger.Parts(tmp_path / "scratch", {}), ledger.path_of(tmp_path, ledger.SIGNALS), 10
    )
    rows = [store.read(chunk, ["row"])["row"].to_pylist() for chunk in range(7)]
    assert [row for chunk in rows for row in chunk] == list(range(61))
    assert [len(chunk) for chunk in rows] == [10] * 6 + [1]
