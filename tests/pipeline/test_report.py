"""The report: complete, self-contained, escaped, and never a reason for a run to fail."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.pipeline.report import plain, render_report, shareable_recipe, write_report
from tests.html_page import Page
from tests.pipeline.fake_run import PAYLOAD, fake_recipe, make_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "demo", patients=24, size=64, steps=12)


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    return write_report(finished).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in page.tags if tag == "a"}
    assert targets <= set(ids)


def test_nothing_is_fetched_and_no_script_can_run(page: Page, html: str) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "foreignobject"}
    assert all(
        a["src"].startswith("data:image/jpeg;base64,") for tag, a in page.tags if tag == "img"
    )
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(a["href"].startswith("#") for tag, a in page.tags if "href" in a)
    policy = next(
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not re.search(r"url\((?!#)|@import", html)


def test_markup_in_a_record_and_in_an_answer_is_shown_as_text(html: str, page: Page) -> None:
    assert "<script" not in html.lower()
    assert PAYLOAD.split(">")[0] in page.text


def test_characters_that_turn_or_control_text_are_made_visible(page: Page) -> None:
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", page.text)
    assert plain("a\u202eb\x07c\ud800") == "a\ufffdb\ufffdc\ufffd"


def test_plain_keeps_line_breaks_and_cuts_long_text() -> None:
    assert plain("one\r\ntwo") == "one\ntwo"
    assert plain("x" * 900) == "x" * 699 + "…"


def test_the_headline_states_the_scores_of_the_scoreboard(finished: Path, page: Page) -> None:
    task = next(
        t
        for t in read_json(finished / "evaluation" / "scores.json")["tasks"]
        if t["task"] == "phantom_closed"
    )
    cell = next(
        c
        for c in task["cells"]
        if (c["row"], c["column"], c["metric"]) == ("model", "overall", "score")
    )
    e = cell["estimate"]
    assert (
        f"On {e['n']:,} held-out closed questions about {e['groups']} patients the model answers"
        in page.text
    )
    assert (
        f"{100 * e['mean']:.1f} % correctly (95 % interval {100 * e['low']:.1f} to {100 * e['high']:.1f})"
        in page.text
    )


def test_every_row_of_the_scoreboard_is_in_the_page(page: Page) -> None:
    for name in (
        "image-zeroed",
        "trained-blind",
        "low-grid",
        "majority",
        "majority by type",
        "question-only linear",
    ):
        assert name in page.text


def test_every_step_has_its_numbers(page: Page) -> None:
    for words in (
        "Not imported",
        "the file is missing",
        "duplication.exact",
        "same text and pixels as record",
    ):
        assert words in page.text
    for stage in fake_recipe().stages:
        assert page.text.count(stage.name) >= 2
    assert "times as many samples per second" in page.text
    assert "0123456789abcdef" in page.text


def test_right_and_wrong_answers_are_balanced_and_named_in_words(page: Page) -> None:
    assert page.text.count("✓ right") == 10
    assert page.text.count("✗ wrong") == 10


def test_every_picture_has_a_text_alternative(page: Page) -> None:
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert all(
        a.get("aria-label") for tag, a in page.tags if a.get("role") == "img" and tag != "img"
    )


def test_no_path_and_no_host_of_the_machine_is_told(finished: Path, html: str) -> None:
    assert str(finished.parent) not in html
    recipe = fake_recipe(
        "data.root=/secret/place/set", "data.splits=null", "model.weights=/secret/place/weights"
    )
    text = shareable_recipe(recipe)
    assert "secret" not in text
    assert yaml.safe_load(text)["data"]["root"] == ".../set"


def test_the_same_run_gives_the_same_page(finished: Path, html: str) -> None:
    assert render_report(finished) == html


def test_the_page_stays_small(finished: Path) -> None:
    assert (finished / "report.html").stat().st_size < 4_000_000


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        ("evaluation", "The model has not been evaluated yet"),
        ("ledger.parquet", "Curation has not finished in this run."),
        ("metrics.jsonl", "No stage has been trained yet."),
        ("shards", "This part could not be read: no finished shards here."),
        ("environment.json", "Doing it again"),
    ],
)
def test_a_missing_part_becomes_a_sentence(run: Path, gone: str, sentence: str) -> None:
    target = run / gone
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    page = Page(render_report(run))
    assert page.open == []
    assert sentence in page.text


@pytest.mark.parametrize(
    "damaged",
    [
        "evaluation/scores.json",
        "evaluation/samples.jsonl",
        "ledger.parquet/findings.parquet",
        "ledger.parquet/curation.json",
        "metrics.jsonl",
        "STATUS.json",
        "shards/manifest.json",
        "checkpoints/step-*/manifest.json",
    ],
)
def test_a_damaged_part_becomes_a_sentence(run: Path, damaged: str) -> None:
    (file,) = run.glob(damaged)
    file.write_text('{"loss": [}\n')
    page = Page(render_report(run))
    assert page.open == []
    assert re.search("could not be read|No stage|holds no step", page.text)


def test_an_image_that_cannot_be_decoded_leaves_a_gap_with_its_reason(run: Path) -> None:
    tar = next((run / "shards").glob("images-*.tar"))
    data = bytearray(tar.read_bytes())
    data[600:] = bytes(len(data) - 600)
    tar.write_bytes(bytes(data))
    assert "image not shown:" in Page(render_report(run)).text


def test_numbers_that_are_not_finite_do_not_stop_the_curves(run: Path) -> None:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[3]["gradient_norm"] = float("nan")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Gradient norm" in Page(render_report(run)).text


def test_without_curation_and_evaluation_the_report_says_so(tmp_path: Path) -> None:
    recipe = fake_recipe("curation.enabled=false", "evaluation.tasks=[]")
    page = Page(
        render_report(make_run(tmp_path / "bare", patients=8, size=64, steps=2, recipe=recipe))
    )
    assert "Curation is switched off in this recipe" in page.text
    assert "names no evaluation task" in page.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)


def test_writing_again_replaces_the_report_whole(run: Path) -> None:
    (run / "report.html").write_text("old")
    write_report(run)
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert not list(run.glob(".report.html*"))


def test_an_unknown_task_in_old_scores_is_still_shown(run: Path) -> None:
    file = run / "evaluation" / "scores.json"
    scores = read_json(file)
    scores["tasks"][0]["task"] = "gone"
    write_json(file, scores)
    assert "Phantom clinic, yes/no questions" in Page(render_report(run)).text
