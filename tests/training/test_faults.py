"""Bad input and failing disks in the middle of training: named, never silent, never a hang."""

from __future__ import annotations

import os
import resource
import signal

import pytest
import torch

from infimed.core.errors import EXIT_DATA, EXIT_NON_FINITE, DataError, NonFiniteError
from infimed.core.recipe import Train
from infimed.core.run import MetricsLog
from infimed.data.shards import open_shards
from infimed.model.loading import checkpoint_folders
from infimed.training.loop import StageJob
from infimed.training.rows import PixelCache, RowBuilder
from tests.training.test_loop import Killed, die_at, without_times
from tests.training.test_ranks import steps, train
from tests.training.toy import low_and_high

LENIENT = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99, bad_images=0.5)


def damage(shards, number: int) -> str:
    """Overwrite the middle of an image in its tar; its hash."""
    row = shards.images.slice(number, 1).to_pylist()[0]
    file = shards.path / row["tar"]
    data = bytearray(file.read_bytes())
    middle = row["offset"] + row["size"] // 2
    data[middle : middle + 4] = b"\xff\x00\xff\x00"
    file.write_bytes(bytes(data))
    return str(row["sha256"])


def shown_by(shards, sha256: str) -> set[str]:
    return {r.id for r in shards if any(image.sha256 == sha256 for image in r.images)}


def test_damaged_image_is_left_out_of_its_rows_and_noted(make_trainer, shards):
    bad = damage(shards, 2)
    trainer = make_trainer("bad", train=LENIENT)
    trainer.run()
    noted = MetricsLog(trainer.folder / "quarantine.jsonl").read()
    assert {name for line in noted for name in line["records"]} == shown_by(shards, bad)
    assert all("does not match its hash" in line["what"] for line in noted)
    metrics = MetricsLog(trainer.folder / "metrics.jsonl").read()
    assert sum(row.get("left_out", 0) for row in metrics) == len(noted) > 0
    planned = sum(job.plan.records for job in trainer.jobs)
    assert sum(row["samples"] for row in metrics) == planned - sum(
        len(line["records"]) for line in noted
    )


def test_rest_of_a_row_is_built_as_if_nothing_had_failed(make_trainer, shards):
    trainer = make_trainer("rest", stages=low_and_high(row_tokens=600)[:1])
    plan = trainer.jobs[0].plan
    processor = trainer.processor.with_grid(16, 4)
    whole = RowBuilder(shards, processor, PixelCache(shards), seed=1, augment=0.5)
    rows = [whole.build(row, n) for n, row in enumerate(plan.rows)]
    bad = shown_by(shards, damage(shards, 0))
    again = open_shards(shards.path)
    broken = RowBuilder(again, processor, PixelCache(again), seed=1, augment=0.5)
    lost = 0
    for number, before in enumerate(rows):
        after = broken.build(plan.rows[number], number)
        pairs = zip(before.layout.documents, plan.rows[number].documents, strict=True)
        kept = [not bad & {shards.record(r).id for r in planned.records} for _, planned in pairs]
        lengths = torch.tensor(before.layout.doc_lengths)
        tokens = torch.repeat_interleave(torch.tensor(kept), lengths)
        assert torch.equal(after.input_ids, before.input_ids[tokens])
        assert torch.equal(after.targets, before.targets[tokens])
        images = [k for k, d in zip(kept, before.layout.documents, strict=True) if d.branches]
        assert torch.equal(after.pixels, before.pixels[torch.tensor(images)])
        lost += len(after.left_out)
    assert lost


def test_run_with_a_damaged_image_resumes_to_the_same_bits(make_trainer, shards):
    damage(shards, 1)
    whole = make_trainer("whole", train=LENIENT)
    final = whole.run()
    first = make_trainer("killed", train=LENIENT)
    die_at(first, whole.jobs[0].steps + 1)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("killed", train=LENIENT)
    ended = second.run()
    assert (ended / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()
    assert without_times(second.folder) == without_times(whole.folder)
    names = [folder / "quarantine.jsonl" for folder in (whole.folder, second.folder)]
    assert names[0].read_text() == names[1].read_text()


def test_run_stops_past_the_budget(make_trainer, shards):
    for number in (0, 1):
        damage(shards, number)
    with pytest.raises(DataError, match=r"more than the 1 that are allowed") as caught:
        make_trainer("budget").run()
    assert caught.value.exit_code == EXIT_DATA and "quarantine.jsonl" in str(caught.value)


def test_step_of_which_nothing_is_left_is_passed_over(make_trainer, shards):
    """With one row a step, a row may hold nothing but what failed."""
    trainer = make_trainer("nothing", train=LENIENT)
    plan = trainer.jobs[0].plan
    with_images = next(n for n, row in enumerate(plan.rows) if all(d.images for d in row.documents))
    for number in range(shards.images.num_rows):
        damage(shards, number)
    trainer._begin(trainer.jobs[0])
    processor = trainer.processor.with_grid(16, 4)
    builder = RowBuilder(shards, processor, PixelCache(shards), seed=1)
    row = builder.build(plan.rows[with_images], with_images)
    assert row.left_out and not row.record_ids
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    assert "loss" not in trainer._step([row], 1.0, trainer._begin(trainer.jobs[0]))
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


def test_records_without_answers_are_an_error_and_not_a_division_by_zero(make_trainer):
    trainer = make_trainer("empty")
    flops = trainer._begin(trainer.jobs[0])
    from infimed.training.rows import idle_row

    with pytest.raises(DataError, match="no target tokens"):
        trainer._step([idle_row(1)], 1.0, flops)


@pytest.mark.parametrize("how", ["vanished", "truncated"])
def test_lost_shard_stops_the_run_and_is_named(make_trainer, shards, how):
    trainer = make_trainer("shard", train=LENIENT)
    tar = next(shards.path.glob("images-*.tar"))
    if how == "vanished":
        tar.unlink()
    else:
        os.truncate(tar, 600)
    with pytest.raises(DataError, match=tar.name) as caught:
        trainer.run()
    assert caught.value.exit_code == EXIT_DATA


def test_nan_pixel_stops_before_the_update_and_names_only_its_record(make_trainer):
    trainer = make_trainer("nan", stages=low_and_high(row_tokens=600)[:1])
    job = trainer.jobs[0]
    flops = trainer._begin(job)
    processor = trainer.processor.with_grid(job.stage.image_size, job.stage.visual_tokens)
    builder = RowBuilder(trainer.shards, processor, PixelCache(trainer.shards), seed=1)
    row = next(
        built
        for built in (builder.build(plan, n) for n, plan in enumerate(job.plan.rows))
        if built.pixels is not None and len(built.pixels) > 1
    )
    row.pixels[0, 0, 0, 0] = float("nan")
    first = next(d for d in row.layout.documents if d.branches)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    with pytest.raises(NonFiniteError) as caught:
        trainer._step([row], 1.0, flops)
    assert caught.value.exit_code == EXIT_NON_FINITE
    named = str(caught.value).partition("records ")[2].partition(":")[0].split(", ")
    at = row.layout.documents.index(first)
    begin = sum(max(1, len(d.branches)) for d in row.layout.documents[:at])
    assert named == list(row.record_ids[begin : begin + len(first.branches)])
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


def test_full_disk_is_said_and_the_last_checkpoint_is_gone_on_from(make_trainer):
    """A limit on file size fails as a full disk does, also in the libraries that write tensors."""
    every = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99)
    whole = make_trainer("whole", train=every)
    final = whole.run()
    trainer = make_trainer("full", train=every)
    real, before = trainer._save, signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save():
        if trainer.position.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        real()

    trainer._save = save
    try:
        with pytest.raises(DataError, match="the disk is full"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    kept = sorted(path.name for path in trainer.checkpoints.iterdir())
    assert kept == ["step-1", "step-2"]
    ended = make_trainer("full", train=every).run()
    assert (ended / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()


def test_another_plan_of_an_unfinished_stage_is_refused(make_trainer):
    first = make_trainer("plan", train=LENIENT)
    die_at(first, 2)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("plan", train=LENIENT)
    job = second.jobs[0]
    second.jobs = [StageJob(job.stage, job.plan.first(len(job.plan.rows) - 1)), second.jobs[1]]
    with pytest.raises(DataError, match="planned otherwise") as caught:
        second.run()
    assert job.hash in str(caught.value)


def test_damaged_image_on_one_of_two_ranks(shards, tmp_path):
    damage(shards, 2)
    settings = {"train": {"bad_images": 0.5}}
    train(shards, tmp_path / "one", 1, **settings)
    train(shards, tmp_path / "two", 2, **settings)
    lists = [(tmp_path / name / "quarantine.jsonl").read_text() for name in ("one", "two")]
    assert lists[0] == lists[1] != ""
    losses = [[row["loss"] for row in steps(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_lost_shard_ends_both_ranks_at_once(shards, tmp_path):
    for tar in shards.path.glob("images-*.tar"):
        tar.write_bytes(b"\0" * tar.stat().st_size)
    codes = train(shards, tmp_path / "two", 2, fails=True, train={"bad_images": 0.0})
    assert codes == [EXIT_DATA, EXIT_DATA]
    assert not checkpoint_folders(tmp_path / "two" / "checkpoints")
