"""Several ranks train what one process trains, and any number of them goes on where another stopped."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infimed.core.run import MetricsLog
from infimed.model.loading import checkpoint_folders

TOY = Path(__file__).with_name("toy.py")
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def train(shards, folder: Path, ranks: int, **settings) -> list[int]:
    """Exit codes of the ranks."""
    folder.mkdir(exist_ok=True)
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(TOY), str(shards.path), str(folder), json.dumps(settings)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        ended = [process.communicate(timeout=120)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    if not settings.keys() & {"kill_at", "fails"}:
        assert codes == [0] * ranks, "\n".join(ended)
    return codes


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folders(folder / "checkpoints")[0] / "model.safetensors")


def steps(folder: Path) -> list[dict]:
    return MetricsLog(folder / "metrics.jsonl").read()


def assert_same_training(one: Path, other: Path) -> None:
    ours, theirs = steps(one), steps(other)
    assert [s["records"] for s in ours] == [s["records"] for s in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["source_loss"] == pytest.approx(b["source_loss"], abs=1e-5)
        counted = ("tokens", "target_tokens", "samples", "images", "vision_flops", "language_flops")
        assert {k: a[k] for k in counted} == {k: b[k] for k in counted}
    for name, tensor in weights(one).items():
        torch.testing.assert_close(tensor, weights(other)[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("weighting", ["token", "document", "sqrt"])
def test_two_ranks_train_what_one_does(shards, tmp_path, weighting):
    stage = {"weighting": weighting, "rows_per_step": 3}
    train(shards, tmp_path / "one", 1, stage=stage)
    train(shards, tmp_path / "two", 2, stage=stage)
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_killed_runs_go_on_with_other_numbers_of_ranks(shards, tmp_path):
    """1 rank, then 2, then 1: the same samples in the same steps, the same losses, moments carried over."""
    save_all = {"train": {"checkpoint_seconds": 1e-9, "keep_checkpoints": 99}}
    train(shards, tmp_path / "whole", 1)
    count = len(steps(tmp_path / "whole"))
    assert count > 4
    split = tmp_path / "split"
    assert train(shards, split, 1, kill_at=2, **save_all) == [9]
    killed = train(shards, split, 2, kill_at=count - 1, **save_all)
    assert all(killed)
    newest = checkpoint_folders(split / "checkpoints")[0]
    assert newest.name == f"step-{count - 2}"
    assert len(list((newest / "training_state").glob("*.safetensors"))) == 2
    train(shards, split, 1, **save_all)
    assert_same_training(tmp_path / "whole", split)


def test_checkpoint_of_two_ranks_holds_whole_tensors(shards, tmp_path):
    train(shards, tmp_path / "two", 2)
    train(shards, tmp_path / "one", 1)
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_adafactor_and_blocks_computed_again_train_the_same_on_two_ranks_and_resume(
    shards, tmp_path
):
    small = {"optimizer": "adafactor", "activation_checkpointing": True, "checkpoint_seconds": 1e-9}
    train(shards, tmp_path / "one", 1, train=small)
    train(shards, tmp_path / "two", 2, train=small, kill_at=4)
    train(shards, tmp_path / "two", 1, train=small)
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_a_frozen_tower_in_bf16_is_sharded_too(shards, tmp_path):
    settings = {
        "stage": {"learning_rate": {"projector": 1e-3, "language": 1e-3}},
        "train": {"frozen_dtype": "bf16", "precision": "bf16"},
    }
    train(shards, tmp_path / "two", 2, **settings)
    assert steps(tmp_path / "two")[-1]["loss"] < steps(tmp_path / "two")[0]["loss"]


@pytest.mark.parametrize("cached", [False, True])
def test_two_ranks_train_a_reducer_as_one_does(shards, tmp_path, cached):
    settings = {"reducer": "resampler", "train": {"feature_cache": cached}}
    settings["stage"] = {
        "learning_rate": {"projector": 1e-3, "language": 1e-3},
        "augment": 0.0,
        "rows_per_step": 3,
    }
    train(shards, tmp_path / "one", 1, **settings)
    train(shards, tmp_path / "two", 2, **settings)
    assert_same_training(tmp_path / "one", tmp_path / "two")
