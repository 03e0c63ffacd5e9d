"""The loop: a killed run continues to the same bits; nothing is updated on a bad step."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from infimed.core.errors import EXIT_NON_FINITE, EXIT_SIGTERM, NonFiniteError
from infimed.core.files import sha256_file
from infimed.core.recipe import LearningRate, Train
from infimed.core.run import MetricsLog
from infimed.model.loading import checkpoint_folders, load_checkpoint
from infimed.training.loop import Interrupted, StageJob, Trainer
from infimed.training.meter import TIMED
from infimed.training.optimizer import freeze, module_of, optimizer_tensors


def without_times(folder):
    return [
        {k: v for k, v in row.items() if k not in TIMED}
        for row in MetricsLog(folder / "metrics.jsonl").read()
    ]


class Killed(Exception):
    """Stands in for SIGKILL: nothing of the step in hand survives."""


def die_at(trainer, step):
    """Raise in the middle of optimizer step `step`, after its backward pass began."""
    real = trainer._step

    def dying(rows, share, flops):
        if trainer.position.step + 1 == step:
            trainer.model.forward_row(
                rows[0].input_ids, rows[0].layout, pixels=rows[0].pixels, pooled=rows[0].pooled
            ).sum().backward()
            raise Killed
        return real(rows, share, flops)

    trainer._step = dying


@pytest.fixture
def whole(make_trainer):
    trainer = make_trainer(
        "whole", train=Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99)
    )
    return trainer, trainer.run()


def test_there_are_steps_on_both_sides_of_the_switch(whole):
    trainer, _ = whole
    assert [job.steps > 2 for job in trainer.jobs] == [True, True]


KILLS = ("first", "mid-epoch", "epoch end", "mid-epoch 2", "the switch", "after it", "last")


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("every", [1e-9, 1e9])
def test_killed_run_continues_to_the_same_bits(whole, make_trainer, kill, every):
    trainer, final = whole
    low = trainer.jobs[0].steps
    assert low == 6, "two epochs of three steps each"
    step = {
        "first": 1,
        "mid-epoch": 2,
        "epoch end": 4,
        "mid-epoch 2": 5,
        "the switch": low,
        "after it": low + 1,
        "last": trainer.position.step,
    }[kill]
    train = Train(precision="fp32", checkpoint_seconds=every, keep_checkpoints=99)
    first = make_trainer("killed", train=train)
    die_at(first, step)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("killed", train=train)
    ended = second.run()
    assert sha256_file(ended / "model.safetensors") == sha256_file(final / "model.safetensors")
    assert without_times(second.folder) == without_times(trainer.folder)


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw8bit"])
def test_small_optimizers_continue_to_the_same_bits(make_trainer, optimizer, monkeypatch):
    monkeypatch.setattr("infimed.training.adam8bit.SMALL", 256)  # else all of a tiny model is small
    train = Train(
        precision="fp32", optimizer=optimizer, checkpoint_seconds=1e-9, keep_checkpoints=99
    )
    whole = make_trainer("whole", train=train)
    final = whole.run()
    first = make_trainer("killed", train=train)
    die_at(first, 3)
    with pytest.raises(Killed):
        first.run()
    held = optimizer_tensors(first.model, first._optimizer)
    assert (torch.uint8 in {tensor.dtype for tensor in held.values()}) == (optimizer == "adamw8bit")
    ended = make_trainer("killed", train=train).run()
    assert sha256_file(ended / "model.safetensors") == sha256_file(final / "model.safetensors")


def test_optimizer_moments_and_position_survive_a_checkpoint(make_trainer):
    train = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99)
    first = make_trainer("a", train=train)
    die_at(first, 3)
    with pytest.raises(Killed):
        first.run()
    saved = optimizer_tensors(first.model, first._optimizer)
    again = make_trainer("a", train=train)
    again._resume()
    assert again.position == first.position
    again._begin(again.jobs[again.position.stage])
    restored = optimizer_tensors(again.model, again._optimizer)
    assert restored.keys() == saved.keys()
    assert any(name.endswith("|exp_avg_sq") for name in saved)
    assert all(torch.equal(saved[name], restored[name]) for name in saved)


def test_damaged_newest_checkpoint_is_passed_over(make_trainer, whole, capsys):
    trainer, final = whole
    weights = final / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    again = make_trainer("whole", train=trainer.train)
    ended = again.run()
    assert "damaged" in capsys.readouterr().err
    assert without_times(again.folder)[-1]["step"] == trainer.position.step
    assert load_checkpoint(ended)


def test_finished_training_does_nothing_when_run_again(make_trainer, whole):
    trainer, final = whole
    before = (trainer.folder / "metrics.jsonl").read_text()
    assert make_trainer("whole", train=trainer.train).run() == final
    assert (trainer.folder / "metrics.jsonl").read_text() == before


def test_sigterm_saves_at_the_step_boundary_and_has_its_exit_code(make_trainer, whole):
    trainer = make_trainer("term")
    real = trainer._step

    def signalled(rows, share, flops):
        if trainer.position.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(rows, share, flops)

    trainer._step = signalled
    with pytest.raises(Interrupted) as caught:
        trainer.run()
    assert caught.value.exit_code == EXIT_SIGTERM
    assert checkpoint_folders(trainer.checkpoints)[0].name == "step-2"
    ended = make_trainer("term").run()
    assert sha256_file(ended / "model.safetensors") == sha256_file(whole[1] / "model.safetensors")


def test_non_finite_loss_stops_before_the_update_and_names_records(make_trainer):
    trainer = make_trainer("nan")
    with torch.no_grad():
        trainer.model.model.multi_modal_projector.linear_2.bias[0] = float("nan")
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if "language_model" in n}
    with pytest.raises(NonFiniteError, match="nothing was updated") as caught:
        trainer.run()
    assert caught.value.exit_code == EXIT_NON_FINITE
    assert "records " in str(caught.value)
    for name, parameter in trainer.model.named_parameters():
        if name in before:
            assert torch.equal(before[name], parameter)


def test_blind_twin_never_gets_a_pixel(make_trainer):
    trainer = make_trainer("blind", blind=True)
    seen = []
    real = trainer._step

    def watching(rows, share, flops):
        seen.extend(row.pixels for row in rows)
        return real(rows, share, flops)

    trainer._step = watching
    trainer.run()
    assert seen
    assert all(pixels is None for pixels in seen)


@pytest.mark.parametrize("learns", ["vision", "projector", "language"])
def test_stage_table_decides_what_learns(make_model, learns):
    model = make_model()
    freeze(model, LearningRate(**{learns: 1e-3}))
    trained = {module_of(n) for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {learns}


def test_low_to_high_switch_changes_no_tensor_by_itself(make_trainer):
    trainer = make_trainer("switch")
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    for job in trainer.jobs:
        trainer.model.set_grid(job.stage.visual_tokens, job.stage.image_size)
    after = trainer.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert isinstance(trainer, Trainer)


def rows_of(trainer, count=3):
    """The first rows of the trainer's first stage, model ready for them."""
    from infimed.model.attention import PACKED
    from infimed.training.rows import PixelCache, RowBuilder

    stage = trainer.jobs[0].stage
    trainer.model.set_attention(PACKED)
    trainer.model.set_grid(stage.visual_tokens, stage.image_size)
    processor = trainer.processor.with_grid(stage.image_size, stage.visual_tokens)
    builder = RowBuilder(trainer.shards, processor, PixelCache(trainer.shards), seed=1)
    return [builder.build(plan, i) for i, plan in enumerate(trainer.jobs[0].plan.rows[:count])]


def test_question_targets_are_the_words_before_answers_inside_one_branch(make_trainer):
    trainer = make_trainer("words")
    for row in rows_of(trainer):
        ends, at = set(), 0
        for document in row.layout.documents:
            lengths = (document.trunk, *document.branches)
            ends |= {at + sum(lengths[: n + 1]) - 1 for n in range(len(lengths))}
            at += sum(lengths)
        for place in range(len(row.input_ids)):
            wanted = int(row.questions[place])
            if wanted == -100:
                continue
            assert row.targets[place] == -100 and place not in ends
            assert wanted == int(row.input_ids[place + 1]) != trainer.processor.image_token_id
        text = trainer.processor.decode([int(i) for i in row.questions if i != -100])
        assert "effusion" in text and "Nothing seen" not in text


def test_question_weight_adds_the_mean_loss_of_the_questions(make_trainer):
    trainer = make_trainer("weighted")
    stage = trainer.jobs[0].stage.model_copy(update={"question_weight": 0.5})
    trainer.jobs = [StageJob(stage, trainer.jobs[0].plan)]
    trainer.train = trainer.train.model_copy(update={"precision": "fp32", "clip": 1e9})
    rows = rows_of(trainer)
    flops = trainer._begin(trainer.jobs[0])
    expected = torch.zeros(())
    for share, name in ((1.0, "targets"), (0.5, "questions")):
        losses = []
        for row in rows:
            hidden = trainer.model.forward_row(row.input_ids, row.layout, pixels=row.pixels)
            wanted = getattr(row, name)
            logits = trainer.model.lm_head(hidden[wanted != -100])
            losses.append(
                torch.nn.functional.cross_entropy(logits, wanted[wanted != -100], reduction="none")
            )
        expected = expected + share * torch.cat(losses).mean()
    learning = [p for group in trainer._optimizer.param_groups for p in group["params"]]
    norm = torch.stack([g.norm() for g in torch.autograd.grad(expected, learning)]).norm()
    measured = trainer._step(rows, 1.0, flops)
    assert measured["loss"] + 0.5 * measured["question_loss"] == pytest.approx(
        float(expected.detach())
    )
    assert measured["gradient_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_rows_without_images_pass_through_a_stage_of_the_projector_alone(make_trainer):
    changes = {"learning_rate": LearningRate(projector=1e-3), "mixture": {"text": 1.0}}
    stage = make_trainer("any").jobs[0].stage.model_copy(update=changes)
    trainer = make_trainer("text", stages=[stage])
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.run()
    assert all(torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


def test_killed_run_with_a_reducer_that_learns_continues_to_the_same_bits(make_trainer):
    whole = make_trainer("whole", "resampler").run()
    train = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99)
    first = make_trainer("killed", "resampler", train=train)
    die_at(first, 5)
    with pytest.raises(Killed):
        first.run()
    again = make_trainer("killed", "resampler", train=train).run()
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
