"""The model card: filled from the run folder alone, readable by the Hub, without a word of the data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from infimed.core.files import read_json, write_json
from infimed.core.recipe import load_recipe
from infimed.curation.engine import read_summary
from infimed.data.shards import open_shards
from infimed.model.loading import save_checkpoint
from infimed.pipeline.card import UNKNOWN, StudyFinding, bases_of, cell, front_matter, model_card
from tests.conftest import tiny_model, tiny_processor
from tests.pipeline.fake_run import PAYLOAD, fake_recipe, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("card") / "demo", patients=24, size=64, steps=12)
    save_checkpoint(folder / "checkpoints" / "step-90", tiny_model(), tiny_processor(), about={})
    return folder


@pytest.fixture(scope="module")
def card(run: Path) -> str:
    return model_card(run, run / "checkpoints" / "step-90")


def part(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_front_matter_is_what_the_hub_reads(card):
    assert card.startswith("---\n")
    values = yaml.safe_load(card.split("---\n")[1])
    assert values["pipeline_tag"] == "image-text-to-text"
    assert values["library_name"] == "transformers"
    assert values["license"] == "apache-2.0"


def test_licence_of_weights_from_other_people_s_data_is_left_to_people():
    recipe = load_recipe("mini", ["data.root=somewhere"])
    values = yaml.safe_load(front_matter(recipe, bases_of(recipe)))
    assert values["license"] == "other"
    assert "facebook/dinov2-small" in values["base_model"]


def test_every_part_is_told(run, card):
    counts = read_json(run / "shards" / "manifest.json")["counts"]
    assert f"{counts['records']:,} records" in part(card, "Training data")
    assert "Apache-2.0" in part(card, "Training data")
    curation = read_summary(run / "ledger.parquet")
    assert f"{curation.kept:,} of {curation.records:,} records" in part(card, "Curation")
    for stage in fake_recipe().stages:
        assert f"| {stage.name} |" in part(card, "Training")
    assert "torch" in part(card, "Training")
    results = part(card, "Results")
    for control in ("image-zeroed", "trained-blind", "majority", "low-grid"):
        assert f"| {control}: " in results
    assert "95 % interval" in results
    assert "not a medical device" in card


def test_no_record_is_in_the_card(run, card):
    for record in open_shards(run / "shards"):
        assert record.id not in card
        assert record.group not in card or len(record.group) < 8
        assert record.response not in card or len(record.response) < 20
    assert PAYLOAD not in card
    assert str(run) not in card


def test_what_is_missing_is_called_not_recorded(run):
    card = model_card(None, run / "checkpoints" / "step-90")
    for title in ("Training data", "Curation", "Training", "Results", "Leakage", "Licences"):
        assert UNKNOWN in part(card, title), title


@pytest.mark.parametrize(
    ("lost", "title"),
    [
        ("shards", "Training data"),
        ("ledger.parquet", "Curation"),
        ("metrics.jsonl", "Training"),
        ("environment.json", "Training"),
        ("evaluation", "Results"),
    ],
)
def test_lost_part_costs_only_its_own_section(run, lost, title, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(lost))
    card = model_card(copy, copy / "checkpoints" / "step-90")
    assert UNKNOWN in part(card, title)
    others = {"Training data", "Curation", "Results"} - {title}
    assert all(len(part(card, other)) > 100 for other in others)


def test_leakage_counts_are_of_these_data(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "leakage").mkdir()
    found = {"against": "bench", "against_hash": "x", "image": 3, "unreadable_images": 0}
    own = open_shards(copy / "shards").data_hash
    write_json(copy / "leakage" / "leakage.json", {**found, "data": own})
    checkpoint = copy / "checkpoints" / "step-90"
    assert "Against bench: image 3" in part(model_card(copy, checkpoint), "Leakage")
    write_json(copy / "leakage" / "leakage.json", {**found, "data": "other"})
    assert UNKNOWN in part(model_card(copy, checkpoint), "Leakage")


def test_names_cannot_become_markup():
    assert cell("a|b\n# c [d](e) `f`") == "a\\|b \\# c \\[d\\](e) \\`f\\`"


FINDING = StudyFinding(
    study="packing", title="Packing", preset="nano", claim="Packing is harmless.", verdict="not shown",
    sentence="They differ by +1.0 points [-4.0, +6.0]: too *wide* to say.", questions=426, groups=92,
    seeds=3, p=0.6512, commits=("abc",),
)  # fmt: skip


def test_studies_are_quoted_with_verdict_interval_and_seeds(run):
    checkpoint = run / "checkpoints" / "step-90"
    told = part(model_card(run, checkpoint, [FINDING]), "What studies say of the methods")
    assert "| Packing is harmless. | nano | not shown | They differ by +1.0 points" in told
    assert (
        "too \\*wide\\* to say. 426 questions of 92 groups, 3 seeds, Holm p 0.651; commit abc |"
        in told
    )
    assert UNKNOWN not in told


def test_without_a_table_no_study_is_quoted(run):
    checkpoint = run / "checkpoints" / "step-90"
    for given in (None, []):
        told = part(model_card(run, checkpoint, given), "What studies say of the methods")
        assert told.strip().startswith(UNKNOWN) and "--studies" in told
        assert ("holds none" in told) == (given is not None)
