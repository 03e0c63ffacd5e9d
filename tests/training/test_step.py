"""One optimizer step of packed rows against the slow, obvious way: every record alone, in stock attention."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from infimed.model.processing import IGNORE
from infimed.training.flops import Flops
from infimed.training.rows import PixelCache, RowBuilder
from tests.training.toy import low_and_high


def begun(make_trainer, **stage):
    """A trainer at the beginning of its first stage, and the rows of its first step."""
    stages = low_and_high(augment=0.0, rows_per_step=4, **stage)
    trainer = make_trainer("step", stages=stages)
    job = trainer.jobs[0]
    trainer._begin(job)
    grid = trainer.processor.with_grid(
        job.stage.image_size, job.stage.visual_tokens, job.stage.tiles
    )
    builder = RowBuilder(trainer.shards, grid, PixelCache(trainer.shards), seed=1)
    rows = [builder.build(plan, number) for number, plan in enumerate(job.plan.rows[:4])]
    assert len(rows) == 4
    return trainer, builder, rows


def gradients_of_step(trainer, rows):
    """Loss that the step reports, and the gradients with which it would update."""
    found = {}

    def keep(*_):
        found.update(
            {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
        )

    trainer.train = trainer.train.model_copy(update={"clip": 1e9})
    trainer._optimizer.step = keep
    measured = trainer._step(rows, 1.0, Flops(trainer.model, trainer.jobs[0].stage.image_size))
    return measured["loss"], found


def compared(model, found):
    checked = 0
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-4)
            checked += 1
    assert checked > 10


WEIGHT = {"token": lambda n: 1.0, "document": lambda n: 1 / n, "sqrt": lambda n: n**-0.5}


@pytest.mark.parametrize(
    ("weighting", "tiles"), [("token", 0), ("document", 0), ("sqrt", 0), ("token", 4)]
)
def test_step_over_rows_equals_every_record_alone(make_trainer, weighting, tiles):
    trainer, builder, rows = begun(make_trainer, weighting=weighting, tiles=tiles)
    assert sum(row.images for row in rows) % (1 + tiles) == 0, "16 of 40 pixels: all have tiles"
    loss, found = gradients_of_step(trainer, rows)
    model = trainer.model
    model.zero_grad()
    model.set_attention("sdpa")
    total, whole, seen = torch.zeros(()), 0.0, []
    for number, plan in enumerate(trainer.jobs[0].plan.rows[:4]):
        for place in (place for document in plan.documents for place in document.records):
            record = trainer.shards.record(place)
            order = builder.option_order(record, number)
            turns = builder.processor.conversation(record, option_order=order, answer=True)
            encoded = builder.processor.encode(turns, [image.size for image in record.images])
            squares = [
                view
                for image in record.images
                for view in builder.processor.views(trainer.shards.pixels(image), image.size)
            ]
            features = model.image_features(builder.processor.pixels(squares)) if squares else None
            hidden = model.model.language_model(
                inputs_embeds=model.embed(torch.tensor([encoded.input_ids]), features),
                use_cache=False,
            ).last_hidden_state[0]
            targets = torch.tensor(encoded.targets)
            answered = int((targets != IGNORE).sum())
            weight = WEIGHT[weighting](answered)
            summed = cross_entropy(
                model.lm_head(hidden), targets, ignore_index=IGNORE, reduction="sum"
            )
            total, whole = total + weight * summed, whole + weight * answered
            seen.append(record.id)
    (total / whole).backward()
    assert sorted(seen) == sorted(name for row in rows for name in row.record_ids)
    assert loss == pytest.approx(float((total / whole).detach()), abs=1e-5)
    compared(model, found)


def test_without_isolation_a_row_is_one_long_document(make_trainer):
    trainer, _, rows = begun(make_trainer, isolation="row")
    loss, found = gradients_of_step(trainer, rows)
    isolated, _ = gradients_of_step(begun(make_trainer)[0], rows)
    assert abs(loss - isolated) > 1e-4, "nothing could be seen of another document"
    model = trainer.model
    model.zero_grad()
    model.set_attention("sdpa")
    total = torch.zeros(())
    for row in rows:
        features = None if row.pixels is None else model.image_features(row.pixels)
        hidden = model.model.language_model(
            inputs_embeds=model.embed(row.input_ids[None], features), use_cache=False
        ).last_hidden_state[0]
        total = total + cross_entropy(
            model.lm_head(hidden), row.targets, ignore_index=IGNORE, reduction="sum"
        )
    mean = total / sum(row.target_tokens for row in rows)
    mean.backward()
    assert loss == pytest.approx(float(mean.detach()), abs=1e-5)
    compared(model, found)


def test_a_document_never_learns_the_first_word_of_the_next(make_trainer):
    """Targets are shifted inside each document: the last token of one predicts nothing."""
    _, _, rows = begun(make_trainer)
    boundaries = 0
    for row in rows:
        end = 0
        for document in row.layout.documents:
            at = end + document.trunk
            for length in document.branches or (0,):
                at += length
                assert int(row.targets[at - 1]) == IGNORE
                boundaries += 1
            end += document.length
        learned = [at for at in range(len(row.targets) - 1) if row.targets[at] != IGNORE]
        assert learned
        assert all(row.targets[at] == row.input_ids[at + 1] for at in learned)
    assert boundaries > 8
