"""Parts joined while they come: the bytes of joining them afterwards, and nothing of a run that ends early."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from infimed.curation import ledger
from infimed.curation.joining import Joining

NAMES = (ledger.COST, ledger.SIGNALS)


def _part(chunk: int) -> dict[str, object]:
    rows = range(3 * chunk, 3 * chunk + 3)
    cost = [{"row": r, "record_id": f"r{r}", "decode_ms": 0.5 * r} for r in rows]
    signals = [
        {"row": r, "record_id": f"r{r}", "images": [{"width": r}], "claims": []} for r in rows
    ]
    return {
        ledger.COST: ledger.table(ledger.COST, cost),
        ledger.SIGNALS: ledger.table(ledger.SIGNALS, signals),
    }


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 3, 1]])
def test_joined_as_they_come_equals_joined_afterwards(
    tmp_path: Path, order: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "CHUNKS_PER_ROW_GROUP", 2)
    parts = ledger.Parts(tmp_path, {})
    with Joining(parts, NAMES, len(order)) as joining:
        for chunk in order:
            parts.write(chunk, _part(chunk))  # type: ignore[arg-type]
            joining.look()
        joined = joining.finish()
    for name in NAMES:
        after = tmp_path / f"{name}.after"
        ledger.write_table(after, name, (parts.read(name, c) for c in range(len(order))))
        assert joined[name].read_bytes() == after.read_bytes()


def test_a_run_that_ends_early_leaves_no_table(tmp_path: Path) -> None:
    parts = ledger.Parts(tmp_path, {})
    with pytest.raises(KeyboardInterrupt), Joining(parts, NAMES, 3) as joining:
        parts.write(0, _part(0))  # type: ignore[arg-type]
        joining.look()
        raise KeyboardInterrupt
    assert sorted(f.name for f in parts.folder.iterdir()) == [
        "cost-000000.parquet", "key.json", "signals-000000.parquet",
    ]  # fmt: skip


def test_left_without_finishing_it_ends_its_threads_and_leaves_no_table(tmp_path: Path) -> None:
    parts = ledger.Parts(tmp_path, {})
    with Joining(parts, NAMES, 3) as joining:
        parts.write(0, _part(0))  # type: ignore[arg-type]
        joining.look()
        assert {t.name for t in threading.enumerate()} >= {f"joining {name}" for name in NAMES}
    assert not any(t.name.startswith("joining") for t in threading.enumerate())
    assert not [f for f in parts.folder.iterdir() if "joined" in f.name]


def test_a_chunk_that_never_came_is_an_error_and_no_wait_for_ever(tmp_path: Path) -> None:
    parts = ledger.Parts(tmp_path, {})
    with pytest.raises(OSError), Joining(parts, NAMES, 2) as joining:
        parts.write(0, _part(0))  # type: ignore[arg-type]
        joining.finish()
