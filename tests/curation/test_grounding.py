"""The grounding gap equals asking the plain model one record and one view at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError
from infimed.curation import curate
from infimed.curation import grounding as grounding_module
from infimed.curation.grounding import measure_grounding
from infimed.curation.grounding_pass import unillustrated
from infimed.curation.grounding_sets import ImageSet, arranged, foreign_keys, image_key, image_sets
from infimed.curation.grounding_table import GROUNDING_FILE, read_grounding
from infimed.data.record import Message, Record
from infimed.inference.answer_loss import Continuation, LossRow, answer_losses
from infimed.inference.cache import CACHED
from infimed.inference.local import LocalModel
from tests.curation.clinic import Memory, picture


@pytest.fixture
def local(make_model: Any, processor: Any) -> Iterator[LocalModel]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small passes: threads would only wait for one another
    model = make_model()
    with torch.no_grad():  # far enough from a flat distribution for images to matter
        for parameter in model.parameters():
            parameter.mul_(3.0)
    yield LocalModel(model, processor, "tiny")
    torch.set_num_threads(threads)


def ward(patients: int = 5) -> Memory:
    """Patients with an image and some questions each, and the odd cases; two shapes of images."""
    memory = Memory()
    heights = (64, 64, 34, 34, 64)
    refs = [memory.image(picture(n, 64)[: heights[n]]) for n in range(patients)]
    for patient, ref in enumerate(refs):
        common = {"group": f"p{patient}", "facts": {"modality": "CT" if patient % 2 else "MR"}}
        memory.ask((ref,), "Is there a mass?", "yes" if patient % 2 else "no", **common)
        memory.ask((ref,), "Which side?", "left side of the image", "open", **common)
    memory.ask((refs[0], refs[1]), "Which is larger?", "the left", "open", group="p0")
    memory.ask((), "Is it?", "yes", "text")
    return memory


@torch.no_grad()
def plain_loss(
    local: LocalModel, messages: tuple[Message, ...], images: list[np.ndarray], targets: int
) -> float:
    """Mean loss of the last so many targets, from one forward pass of the whole sequence."""
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    encoded = local.processor.encode(messages, sizes)
    views = [
        view
        for image, size in zip(images, sizes, strict=True)
        for view in local.processor.views(image, size)
    ]
    pixels = local.processor.pixels(views) if views else None
    local.model.set_attention("sdpa")
    logits = local.model(
        input_ids=torch.tensor([encoded.input_ids]), pixel_values=pixels, use_cache=False
    ).logits[0]
    local.model.set_attention(CACHED)
    wanted = torch.tensor(encoded.targets)
    places = (wanted != -100).nonzero().flatten()[-targets:]
    return float(torch.nn.functional.cross_entropy(logits[places].float(), wanted[places]))


def pixels_of(memory: Memory, key: tuple[str, ...]) -> list[np.ndarray]:
    return [memory.images[sha] for sha in key]


def test_losses_of_shared_rows_equal_the_plain_model_one_by_one(local: LocalModel) -> None:
    memory = ward(2)
    records = [r for r in memory.records if len(r.images) == 1]
    rows: dict[Any, list[Any]] = {}
    for record in records:
        encoded = local.processor.encode(local.processor.conversation(record, answer=True))
        ids, targets, trunk = encoded.input_ids, encoded.targets, encoded.trunk
        part = Continuation(tuple(ids[trunk:]), tuple(targets[trunk:]))
        rows.setdefault((image_key(record), tuple(ids[:trunk])), []).append((record, part))
    made = []
    for key, trunk in rows:
        pixels = local.processor.pixels(pixels_of(memory, key))
        with torch.no_grad():
            features = local.model.image_features(pixels, local.processor.visual_tokens)
        parts = tuple(part for _, part in rows[key, trunk])
        made.append(LossRow(trunk, parts, torch.cat(list(features))))
    found = answer_losses(local, made)
    for losses, (key, trunk) in zip(found, rows, strict=True):
        for loss, (record, part) in zip(losses, rows[key, trunk], strict=True):
            count = sum(target != -100 for target in part.targets)
            messages = local.processor.conversation(record, answer=True)
            slow = plain_loss(local, messages, pixels_of(memory, key), count)
            assert loss == pytest.approx(slow, abs=2e-5)


def test_an_answer_without_targets_is_refused(local: LocalModel) -> None:
    with pytest.raises(ValueError, match="target"):
        answer_losses(local, [LossRow((), (Continuation((5, 6), (-100, -100)),))])


@pytest.mark.parametrize("tiles", [0, 4])
def test_every_gap_equals_the_plain_model_asked_view_by_view(
    local: LocalModel, tmp_path: Path, tiles: int
) -> None:
    local = LocalModel(local.model, local.processor.with_grid(32, 16, tiles), "tiny")
    memory = ward()
    curate(memory, tmp_path)
    measure_grounding(tmp_path, memory, local, swaps=2, seed=3)
    order = arranged(image_sets(list(enumerate(memory.records))), 3)
    foreign = foreign_keys(order, 2)
    rows = read_grounding(tmp_path).to_pylist()
    assert [row["row"] for row in rows] == list(range(len(memory)))
    for row, record in zip(rows, memory.records, strict=True):
        key = image_key(record)
        if not key:
            assert (row["status"], row["loss"]) == ("no image", None)
            continue
        count = row["target_tokens"]
        messages = local.processor.conversation(record, answer=True)
        own = plain_loss(local, messages, pixels_of(memory, key), count)
        without = plain_loss(local, unillustrated(messages), [], count)
        assert row["loss"] == pytest.approx(own, abs=3e-5)
        assert row["gap_without"] == pytest.approx(without - own, abs=5e-5)
        others = [plain_loss(local, messages, pixels_of(memory, k), count) for k in foreign[key]]
        assert row["swaps"] == len(others)
        if others:
            assert row["gap_swapped"] == pytest.approx(np.mean(others) - own, abs=5e-5)
        else:
            assert row["gap_swapped"] is None and row["status"] == "ok, no foreign image"


def test_a_model_that_does_not_see_has_no_gap_to_foreign_images(
    local: LocalModel, tmp_path: Path
) -> None:
    memory = ward()
    curate(memory, tmp_path)
    with torch.no_grad():
        for parameter in local.model.model.multi_modal_projector.parameters():
            parameter.zero_()
    found = measure_grounding(tmp_path, memory, local)
    assert found.mean_gap_swapped == pytest.approx(0, abs=1e-6)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    local: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding_module, "SETS_PER_CHUNK", 2)
    memory = ward()
    for name in ("whole", "cut"):
        curate(memory, tmp_path / name)
    measure_grounding(tmp_path / "whole", memory, local)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_grounding(tmp_path / "cut", memory, local, on_progress=die)
    left = sorted((tmp_path / "cut" / "grounding.parts").glob("*.parquet"))
    assert len(left) == 1
    stamp = left[0].stat().st_mtime_ns
    seen: list[int] = []

    def note(count: int) -> None:
        seen.append(count)
        if len(seen) == 1:
            assert left[0].stat().st_mtime_ns == stamp

    measure_grounding(tmp_path / "cut", memory, local, on_progress=note)
    files = [tmp_path / name / GROUNDING_FILE for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "cut" / "grounding.parts").exists()


def test_chunks_of_another_setting_are_not_taken_over(local: LocalModel, tmp_path: Path) -> None:
    memory = ward()
    curate(memory, tmp_path)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_grounding(tmp_path, memory, local, on_progress=die)
    measure_grounding(tmp_path, memory, local, swaps=2)
    assert max(read_grounding(tmp_path)["swaps"].to_pylist()) == 2


def test_unreadable_images_are_a_status_and_never_swapped_in(
    local: LocalModel, tmp_path: Path
) -> None:
    memory = ward()
    broken = memory.records[0].images[0].sha256
    memory.fail[broken] = "the image data ends too early"
    curate(memory, tmp_path)
    found = measure_grounding(tmp_path, memory, local, swaps=4)
    rows = read_grounding(tmp_path).to_pylist()
    bad = [row for row in rows if broken in image_key(memory.records[row["row"]])]
    assert all("ends too early" in row["status"] and row["loss"] is None for row in bad)
    assert sum(found.statuses.values()) == len(memory)
    same = [row for row in rows if row["status"] == "ok" and row["swaps"]]
    assert same and max(row["swaps"] for row in same) <= 3


def test_a_record_without_an_answer_or_longer_than_the_model_has_a_status(
    local: LocalModel, tmp_path: Path
) -> None:
    memory = ward(3)
    ref = memory.records[0].images[0]
    memory.records.append(Record("mute", (ref,), (Message("user", (0, "Is it?")),), "dialogue"))
    memory.ask((ref,), "why " * 600, "because")
    curate(memory, tmp_path)
    measure_grounding(tmp_path, memory, local)
    statuses = read_grounding(tmp_path)["status"].to_pylist()
    assert statuses[-2:] == ["no answer after the last image", "too long for the model"]


def test_a_dialogue_is_weighed_from_its_last_image_on(local: LocalModel, tmp_path: Path) -> None:
    memory = ward(3)
    first, second = memory.records[0].images[0], memory.records[2].images[0]
    turns = (
        Message("user", (0, "What is it?")),
        Message("assistant", ("a mass",)),
        Message("user", ("And here? ", 1)),
        Message("assistant", ("no mass",)),
    )
    memory.records.append(Record("talk", (first, second), turns, "dialogue", group="p9"))
    curate(memory, tmp_path)
    measure_grounding(tmp_path, memory, local)
    row = read_grounding(tmp_path).to_pylist()[-1]
    assert row["target_tokens"] == len(local.processor.text_ids("no mass")) + 1
    slow = plain_loss(local, unillustrated(turns), [], row["target_tokens"])
    assert row["loss_without"] == pytest.approx(slow, abs=3e-5)


def _set(name: str, modality: str, group: str, number: int = 1) -> ImageSet:
    key = tuple(f"{name}{i}" for i in range(number))
    return ImageSet(key, (0,), modality, frozenset({group}))


def test_foreign_images_are_of_another_patient_as_many_and_of_the_same_modality() -> None:
    sets = [_set(f"i{i}", "ct" if i % 2 else "mr", f"p{i // 4}") for i in range(24)]
    sets += [_set("pair", "ct", "p1", 2), _set("other", "mr", "p2", 2), _set("us", "us", "p3")]
    by_key = {each.key: each for each in sets}
    foreign = foreign_keys(arranged(sets, 0), 3)
    for key, others in foreign.items():
        own = by_key[key]
        for other in (by_key[k] for k in others):
            assert not own.groups & other.groups
            assert len(own.key) == len(other.key)
            assert own.modality == other.modality or own.modality == "us" or len(own.key) == 2
        assert len(others) == (1 if len(key) == 2 else 3)


def test_images_of_one_patient_alone_have_no_foreign_ones() -> None:
    sets = [_set(f"i{i}", "ct", "p") for i in range(3)]
    assert set(foreign_keys(arranged(sets, 0), 2).values()) == {()}


def test_a_limit_measures_a_part(local: LocalModel, tmp_path: Path) -> None:
    memory = ward()
    curate(memory, tmp_path)
    assert measure_grounding(tmp_path, memory, local, limit=4).records == 4


def test_a_ledger_without_grounding_or_a_damaged_one_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no grounding gap"):
        read_grounding(tmp_path)
    (tmp_path / GROUNDING_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_grounding(tmp_path)


def test_the_command_prints_what_it_found(
    local: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ward()
    curate(memory, tmp_path)
    monkeypatch.setattr("infimed.data.shards.open_shards", lambda path: memory)
    monkeypatch.setattr(LocalModel, "open", staticmethod(lambda path: local))
    done = CliRunner().invoke(app, ["grounding", str(tmp_path), "--shards", "s", "--model", "m"])
    assert done.exit_code == 0, done.output
    assert "easier with their own images" in done.output
    assert len(pq.read_table(tmp_path / GROUNDING_FILE)) == len(memory)
