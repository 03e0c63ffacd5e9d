"""Trackers show what `metrics.jsonl` holds, each step once, and only those that were asked for."""

from __future__ import annotations

import socket
import sys
import types
from collections import Counter

import pytest

from infimed.core.errors import DataError, UsageError
from infimed.core.recipe import Train
from infimed.core.run import MetricsLog
from infimed.training.trackers import numbers_of, open_trackers
from tests.training.test_loop import Killed, die_at
from tests.training.toy import low_and_high

REMOTE = ("wandb", "trackio")


class FakeRun:
    def __init__(self, settings):
        self.settings, self.logged, self.finished = settings, [], False

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished = True


@pytest.fixture
def fakes(monkeypatch):
    """The runs that stand-ins for wandb and trackio were asked to begin."""
    begun = []

    def init(**settings):
        begun.append(FakeRun(settings))
        return begun[-1]

    for name in REMOTE:
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))
    return begun


def settings(every: float, *names: str) -> Train:
    return Train(precision="fp32", checkpoint_seconds=every, trackers=list(names))


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def killed_and_resumed(make_trainer, train):
    """A run that dies in its fourth step, long after its only checkpoint, and is done again."""
    stages = low_and_high()[:1]
    first = make_trainer("run", train=train, stages=stages)
    die_at(first, 4)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("run", train=train, stages=stages)
    second.run()
    return second


@pytest.mark.parametrize("every", [1e-9, 1e9])
def test_events_of_a_resumed_run_hold_every_step_once(make_trainer, every):
    pytest.importorskip("tensorboard")
    trainer = killed_and_resumed(make_trainer, settings(every, "tensorboard"))
    lines = MetricsLog(trainer.folder / "metrics.jsonl").read()
    for name, nested in (("loss", None), ("learning_rate", "projector"), ("source_loss", "toy")):
        shown = scalars(trainer.folder, name if nested is None else f"{name}/{nested}")
        wanted = [line[name] if nested is None else line[name][nested] for line in lines]
        assert [step for step, _ in shown] == [line["step"] for line in lines]
        assert [value for _, value in shown] == pytest.approx(wanted, rel=1e-6)
    names = [file.name for file in (trainer.folder / "tensorboard").iterdir()]
    assert len(names) == 2 and not any(socket.gethostname() in name for name in names)


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("every", [1e-9, 1e9])
def test_a_chosen_tracker_gets_every_step_once(make_trainer, fakes, name, every):
    trainer = killed_and_resumed(make_trainer, settings(every, name))
    lines = MetricsLog(trainer.folder / "metrics.jsonl").read()
    assert [run.settings["name"] for run in fakes] == ["run", "run"]
    assert all(run.settings["resume"] == "allow" and run.finished for run in fakes)
    logged = [entry for run in fakes for entry in run.logged]
    assert Counter(step for step, _ in logged) == Counter(line["step"] for line in lines)
    assert [numbers["loss"] for _, numbers in logged] == [line["loss"] for line in lines]
    assert not (trainer.folder / "tensorboard").exists()


@pytest.mark.parametrize("name", REMOTE)
def test_a_chosen_tracker_that_is_missing_names_its_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(UsageError, match=rf"infimed\[{name}\]"),
        open_trackers([name], tmp_path, "run", step=1, seen=0),
    ):
        pass


def test_missing_tensorboard_costs_a_hint_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with open_trackers(["tensorboard"], tmp_path, "run", step=1, seen=0) as trackers:
        assert trackers == []
    assert "infimed[tensorboard]" in capsys.readouterr().err


def test_a_full_disk_is_named(tmp_path):
    pytest.importorskip("tensorboard")
    with open_trackers(["tensorboard"], tmp_path, "run", step=1, seen=0) as (board,):
        board._writer.close()
        board._writer._writer = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(DataError, match="tensorboard"):
            board.log({"loss": 1.0}, 1)


def test_only_finite_numbers_of_a_line_are_shown():
    line = {"step": 3, "stage": "low", "loss": 1, "bad": float("nan"), "rate": {"vision": 0.5}}
    assert numbers_of(line) == {"loss": 1.0, "rate/vision": 0.5}
