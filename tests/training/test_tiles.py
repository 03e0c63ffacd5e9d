"""Training on tiled images: rows are what was planned, and resume and switches stay exact."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from infimed.core.files import sha256_file
from infimed.core.recipe import LearningRate, Stage, Train
from infimed.data.importing import import_data
from infimed.data.record import ImageRef, Message, Record
from infimed.data.shards import ShardSet, open_shards
from infimed.model.attention import PACKED
from infimed.model.loading import load_checkpoint
from infimed.model.tiling import cut, together
from infimed.training.rows import PixelCache, RowBuilder, augmented, augmented_views
from tests.training.test_loop import Killed, die_at, without_times
from tests.training.toy import low_and_high, toy_trainer

SIZES = {"small": (80, 80), "large": (140, 132), "wide": (280, 60), "tall": (66, 200)}
VIEWS = {"small": 1, "large": 5, "wide": 5, "tall": 4}
TILES = 4


def record(name: str, *images: str, turns: int = 1) -> Record:
    """So many exchanges; an image is shown with each of the first."""
    messages: list[Message] = []
    for turn in range(turns):
        shown = range(len(images)) if turns == 1 else (turn,) * (turn < len(images))
        messages += [
            Message("user", (*shown, f"Is it left, {turn}?")),
            Message("assistant", (f"no {turn}.",)),
        ]
    refs = tuple(ImageRef(f"{image}.png") for image in images)
    return Record(id=name, images=refs, messages=tuple(messages), task="dialogue", group=name)


@pytest.fixture
def mixed(tmp_path: Path) -> ShardSet:
    """Images of every shape, alone, in pairs, in dialogues, shared by records, and none."""
    source = tmp_path / "mixed"
    source.mkdir()
    random = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = random.integers(0, 255, (height, width, 3)).astype(np.uint8)
        cv2.imwrite(str(source / f"{name}.png"), pixels)
    records = [
        *(record(name, name) for name in SIZES),
        record("again", "large"),
        record("pair", "tall", "small"),
        record("dialogue", "wide", "small", "large", turns=6),
        record("text"),
    ]
    (source / "records.jsonl").write_text("".join(r.to_json() + "\n" for r in records))
    import_data(source, tmp_path / "tiled", reader="records", workers=1)
    return open_shards(tmp_path / "tiled")


def tiled_stage(**changes) -> Stage:
    rate = LearningRate(vision=1e-3, projector=1e-3, language=1e-3)
    values = {"image_size": 64, "visual_tokens": 36, "tiles": TILES, "row_tokens": 700}
    return Stage(name="sft", learning_rate=rate, **{**values, **changes})


@pytest.mark.parametrize(
    ("policy", "tokens"), [("drop", 700), ("split", 500), ("shrink", 500), ("drop", 500)]
)
def test_every_row_has_the_tokens_views_and_targets_of_its_plan(
    mixed, make_model, processor, tmp_path, policy, tokens
):
    stage = tiled_stage(over_long=policy, row_tokens=tokens, max_images=14)
    trainer = toy_trainer(
        mixed, make_model(), processor, tmp_path / "plan", tmp_path / "run", stages=[stage]
    )
    plan = trainer.jobs[0].plan
    treated = {"drop": plan.over_long, "split": plan.split, "shrink": plan.shrunk}[policy]
    assert bool(len(treated)) == (tokens == 500)
    builder = RowBuilder(mixed, processor.with_grid(64, 36, TILES), PixelCache(mixed), seed=1)
    trainer.model.set_attention(PACKED)
    trainer.model.set_grid(36, 64)
    most = 0
    for number, row_plan in enumerate(plan.rows):
        row = builder.build(row_plan, number)
        assert row.layout.tokens == row_plan.tokens <= tokens
        assert row.images == row_plan.images <= 14
        assert row.target_tokens == row_plan.target_tokens
        shown = [d.visual_tokens or 36 for d in row_plan.documents for _ in range(d.images)]
        assert int((row.input_ids == 3).sum()) == sum(shown)
        hidden = trainer.model.forward_row(
            row.input_ids, row.layout, pixels=row.pixels, visual_tokens=row.visual_tokens
        )
        assert hidden.shape == (row.layout.tokens, 32)
        most = max(most, row.images)
    assert most > 5


def test_the_plan_counts_the_views_that_sizes_give(mixed, make_model, processor, tmp_path):
    stage = tiled_stage(epochs=1, share_images=False)
    trainer = toy_trainer(
        mixed, make_model(), processor, tmp_path / "plan", tmp_path / "run", stages=[stage]
    )
    views = {mixed.record(d.records[0]).id: d.images for d in iter(trainer.jobs[0].plan.documents)}
    assert views == {
        **VIEWS, "again": VIEWS["large"], "pair": VIEWS["tall"] + 1, "text": 0,
        "dialogue": VIEWS["wide"] + 1 + VIEWS["large"],
    }  # fmt: skip


def test_all_views_of_an_image_are_augmented_alike(mixed):
    """Cutting after augmenting: the tiles together are the augmented sheet, moved as the whole is."""
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    grid = (2, 4)
    views = cut(image, 32, grid)
    found = augmented_views(views, grid, 0.8, seed=5)
    whole = augmented(views[0], 0.8, np.random.default_rng(5))
    assert np.array_equal(found[0], whole)
    sheet = augmented(together(views[1:], grid), 0.8, np.random.default_rng(5))
    assert np.array_equal(together(found[1:], grid), sheet)
    flat = np.full((32, 32, 3), 100, np.uint8)
    flat_views = augmented_views(np.stack([flat] * 9), grid, 0.8, seed=5)
    assert len({int(view[16, 16, 0]) for view in flat_views}) == 1, "one contrast for all views"


def switching() -> list[Stage]:
    """First squares only, then the same squares with tiles."""
    stage = low_and_high(row_tokens=150)[0].model_copy(update={"epochs": 1})
    return [stage, stage.model_copy(update={"name": "sft", "tiles": TILES})]


def test_a_killed_run_goes_on_to_the_same_bits_across_the_switch_to_tiles(make_trainer):
    train = Train(precision="fp32", checkpoint_seconds=1e-9, keep_checkpoints=99)
    whole = make_trainer("whole", train=train, stages=switching())
    assert whole.jobs[1].plan.images == 5 * whole.jobs[0].plan.images > 0
    final = whole.run()
    assert [load_checkpoint(path)[1].tiles for path in _ends(whole)] == [0, TILES]
    assert whole.jobs[1].steps > 2
    first = make_trainer("killed", train=train, stages=switching())
    die_at(first, whole.jobs[0].steps + 2)
    with pytest.raises(Killed):
        first.run()
    second = make_trainer("killed", train=train, stages=switching())
    ended = second.run()
    assert sha256_file(ended / "model.safetensors") == sha256_file(final / "model.safetensors")
    assert without_times(second.folder) == without_times(whole.folder)


def _ends(trainer) -> list[Path]:
    """The checkpoints with which the stages end."""
    steps = np.cumsum([job.steps for job in trainer.jobs])
    return [trainer.checkpoints / f"step-{step}" for step in steps]


def test_the_blind_twin_of_a_tiled_stage_sees_no_view(make_trainer):
    trainer = make_trainer("blind", blind=True, stages=switching())
    assert [job.plan.images for job in trainer.jobs] == [0, 0]
    trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
