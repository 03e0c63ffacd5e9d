"""Parts of long records, and images with fewer tokens: rows are what was planned and train alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Message, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.processing import IGNORE, part_of
from infimed.training.rows import PixelCache, RowBuilder
from tests.training.toy import low_and_high, toy_trainer

QUESTIONS = ("Is it left?", "Any effusion?", "Is it large?", "Describe it again, in more words.")


def dialogue(number: int, turns: int, images: int) -> Record:
    """A system turn, then so many exchanges; the second image comes with the second question."""
    messages: list[Message] = [Message("system", ("Be brief.",))]
    for turn in range(turns):
        shown = (turn,) if turn < images else ()
        question = QUESTIONS[turn % len(QUESTIONS)]
        messages += [Message("user", (*shown, question)), Message("assistant", (f"no {turn}.",))]
    return Record(
        id=f"d{number}", images=tuple(ImageRef(f"{number}-{k}.png") for k in range(images)),
        messages=tuple(messages), task="dialogue", source="toy", group=f"p{number}",
    )  # fmt: skip


@pytest.fixture
def dialogues(tmp_path: Path) -> ShardSet:
    source = tmp_path / "dialogues"
    source.mkdir()
    random = np.random.default_rng(0)
    lines = []
    for number in range(8):
        record = dialogue(number, turns=1 + 3 * (number % 3), images=number % 3)
        for image in record.images:
            pixels = random.integers(0, 255, (40, 40, 3)).astype(np.uint8)
            cv2.imwrite(str(source / image.locator), pixels)
        lines.append(record.to_json() + "\n")
    (source / "records.jsonl").write_text("".join(lines))
    import_data(source, tmp_path / "long", reader="records", workers=1)
    return open_shards(tmp_path / "long")


def trainer_of(dialogues, make_model, processor, tmp_path, name="run", **stage):
    changes = {"row_tokens": 130, "over_long": "split", "augment": 0.5, **stage}
    stages = [low_and_high()[1].model_copy(update=changes)]
    return toy_trainer(
        dialogues, make_model(), processor, tmp_path / "plan", tmp_path / name, stages=stages
    )


@pytest.mark.parametrize("policy", ["split", "shrink"])
def test_every_row_has_the_tokens_images_and_targets_of_its_plan(
    dialogues, make_model, processor, tmp_path, policy
):
    tokens = {"split": 150, "shrink": 260}[policy]
    trainer = trainer_of(
        dialogues, make_model, processor.with_grid(64, 64), tmp_path,
        over_long=policy, row_tokens=tokens, image_size=64, visual_tokens=64,
    )  # fmt: skip
    job = trainer.jobs[0]
    treated = job.plan.split if policy == "split" else job.plan.shrunk
    assert len(treated) >= 2
    grid = processor.with_grid(64, 64)
    builder = RowBuilder(dialogues, grid, PixelCache(dialogues), seed=1)
    for number, plan in enumerate(job.plan.rows):
        row = builder.build(plan, number)
        assert row.layout.tokens == plan.tokens
        assert row.images == plan.images
        assert row.target_tokens == plan.target_tokens
        shown = [d.visual_tokens or 64 for d in plan.documents for _ in range(d.images)]
        assert (row.visual_tokens or (64,) * row.images) == tuple(shown)
        assert int((row.input_ids == 3).sum()) == sum(shown)


def test_parts_teach_every_answer_once(processor):
    record = dialogue(1, turns=4, images=2)
    messages = processor.conversation(record, answer=True)
    whole = [t for t in processor.encode(messages).targets if t != IGNORE]
    parts = [part_of(messages, a, b) for a, b in ((0, 5), (5, 7), (7, 9))]
    taught = [t for part in parts for t in processor.encode(part).targets if t != IGNORE]
    assert taught == whole
    assert [len(processor.encode(part).images) for part in parts] == [2, 2, 2]
    assert [part[0].role for part in parts] == ["system"] * 3


@pytest.mark.parametrize("counts", [(16, 4, 16), (4, 9, 4), (9,)])
def test_images_of_different_token_counts_equal_each_alone(make_model, processor, counts):
    model = make_model()
    model.set_grid(16, 32)
    model.set_attention(PACKED)
    pixels = torch.randn(len(counts), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    together = model.pooled_each(pixels, counts)
    alone = [model.pooled_features(p[None], n)[0] for p, n in zip(pixels, counts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))

    ids = [[5, *[3] * n, 6, 7] for n in counts]
    layout = PackedLayout(tuple(Document(len(part)) for part in ids))
    hidden = model.forward_row(
        torch.tensor([token for part in ids for token in part]),
        layout,
        pixels=pixels,
        visual_tokens=counts,
    )
    separate = []
    for part, image, tokens in zip(ids, pixels, counts, strict=True):
        model.set_grid(tokens, 32)
        one = PackedLayout((Document(len(part)),))
        separate.append(model.forward_row(torch.tensor(part), one, pixels=image[None]))
    torch.testing.assert_close(hidden, torch.cat(separate), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["split", "shrink"])
def test_training_on_parts_and_on_fewer_tokens_runs_to_the_end(
    dialogues, make_model, processor, tmp_path, policy
):
    trainer = trainer_of(
        dialogues, make_model, processor, tmp_path,
        over_long=policy, row_tokens={"split": 150, "shrink": 260}[policy],
        image_size=64, visual_tokens=64, rows_per_step=1,
    )  # fmt: skip
    assert len(trainer.jobs[0].plan.split) + len(trainer.jobs[0].plan.shrunk) >= 2
    trainer.run()
    assert trainer.position.step == trainer.jobs[0].steps > 2
