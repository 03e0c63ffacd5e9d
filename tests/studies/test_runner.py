"""The runner with cells that take no time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.core.run import environment
from infimed.studies.cells import distinct, plan
from infimed.studies.results import result_rows
from infimed.studies.runner import known_times, parse_budget, run_cells
from tests.studies.fakes import AtOnce, FakeCells, by_weighting, tiny_study, write_cell

ACCURACY = by_weighting(token=0.6, document=0.8, sqrt=0.7)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


def cells(study=None):
    return distinct(plan([study or tiny_study()], "nano", "test"))


def run(out, do, **options):
    return run_cells(cells(), out, executor=AtOnce(), do=do, **options)


def test_all_cells_are_done_once(tmp_path):
    do = FakeCells(ACCURACY)
    first = run(tmp_path, do)
    again = run(tmp_path, do)
    assert (len(first.done), len(first.known)) == (9, 0)
    assert (len(again.done), len(again.known), len(do.calls)) == (0, 9, 9)


def test_a_killed_run_goes_on_to_the_same_table(tmp_path):
    planned = plan([tiny_study()], "nano", "test")
    run(tmp_path / "whole", FakeCells(ACCURACY))
    killed = FakeCells(ACCURACY, stop_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed)
    on = FakeCells(ACCURACY)
    outcome = run(tmp_path / "killed", on)
    assert (len(killed.calls), len(on.calls), len(outcome.known)) == (4, 5, 4)
    tables = [result_rows(tmp_path / n, [tiny_study()], planned) for n in ("whole", "killed")]
    assert tables[0] == tables[1] and len(tables[0]) == 9


def test_a_budget_starts_no_cell_that_does_not_fit(tmp_path):
    clock = Clock()
    do = FakeCells(ACCURACY, seconds=100.0, advance=clock.advance)
    outcome = run(tmp_path, do, budget=450.0, clock=clock)
    # 100 s each, once the first is measured: four end within 450 s.
    assert (len(outcome.done), len(outcome.not_run), clock.now) == (4, 5, 400.0)
    assert set(outcome.not_run) == {cell.key for cell in cells()} - set(outcome.done)


def test_a_budget_below_the_first_guess_starts_nothing(tmp_path):
    do = FakeCells(ACCURACY)
    outcome = run(tmp_path, do, budget=30.0)
    assert (len(do.calls), len(outcome.not_run)) == (0, 9)


def test_the_budget_goes_on_with_what_was_not_run(tmp_path):
    clock = Clock()
    run(tmp_path, FakeCells(ACCURACY, 100.0, clock.advance), budget=450.0, clock=clock)
    outcome = run(tmp_path, FakeCells(ACCURACY, 100.0))
    assert (len(outcome.known), len(outcome.done), outcome.not_run) == (4, 5, [])


def test_a_failing_cell_is_told_and_takes_no_other_with_it(tmp_path):
    good = FakeCells(ACCURACY)
    bad = cells()[1].key

    def do(cell, out, root):
        if cell.key == bad:
            raise DataError("a bad record", where="record 7")
        good(cell, out, root)

    outcome = run(tmp_path, do)
    assert len(outcome.done) == 8
    assert "a bad record" in outcome.failed[bad]


def test_times_of_interrupted_cells_and_of_other_machines_tell_nothing(tmp_path):
    first, second, third = cells()[0], cells()[3], cells()[6]
    here = environment()["cpu"]
    assert len({one.kind for one in (first, second, third)}) == 1
    write_cell(first, tmp_path, 0.5, seconds=200.0, cpu=here)
    write_cell(second, tmp_path, 0.5, seconds=3.0, resumed=True, cpu=here)
    write_cell(third, tmp_path, 0.5, seconds=900.0, cpu="a slower processor")
    assert known_times(cells(), tmp_path).of(second) == 200.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("45s", 45)]
)
def test_budgets_are_read(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "m", "1d", "90 m", "-5m"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(UsageError, match="not a length of time"):
        parse_budget(text)


ENDLESS = """
from pathlib import Path
import sys
from infimed.studies.cells import distinct, plan
from infimed.studies.runner import run_cells
from tests.studies.fakes import endless, tiny_study

if __name__ == "__main__":
    run_cells(distinct(plan([tiny_study()], "nano", "test")), Path(sys.argv[1]), do=endless)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cell_stops_when_its_runner_is_killed(tmp_path, number):
    root = Path(__file__).parents[2]
    script = tmp_path / "runs.py"
    script.write_text(ENDLESS)
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    runner = subprocess.Popen([sys.executable, str(script), str(out)], env=environment)
    try:
        waited_for(out / "running")
    finally:
        runner.send_signal(number)
        runner.wait(30)
    waited_for(out / "stopped")
    assert not list(out.glob("cells/*/result.json")) and (out / "stopped").exists()


def waited_for(file, seconds=120):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"no {file.name}"
        time.sleep(0.1)
