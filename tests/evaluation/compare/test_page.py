"""The page: self-contained, escaped, honest about what it leaves out, equal for equal folders."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from infimed.core.files import read_json, write_json
from infimed.evaluation.compare.browsing import Gallery, browser, chosen, images_of, items_of
from infimed.evaluation.compare.loading import ModelScores, read_model, read_models
from infimed.evaluation.compare.page import render, write_comparison
from infimed.evaluation.compare.published import reported
from infimed.evaluation.compare.table import compare
from infimed.inference.stubs import blind
from tests.evaluation.compare.folders import PAYLOAD, TASKS, benchmarks, evaluated, mostly_right
from tests.html_page import Page


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("page")
    shards = benchmarks(root, copies=6)
    return {
        "good": evaluated(mostly_right(shards, 4), shards, root / "good", zeroed=True),
        "blind": evaluated(blind(words=("yes", "no", "lung")), shards, root / "blind"),
    }


@pytest.fixture
def models(folders: dict[str, Path]) -> list[ModelScores]:
    return read_models([f"{name}={folder}" for name, folder in folders.items()])


def made(models: list[ModelScores], thumbnails: int | None = 50, samples: int = 600):
    found = compare(models, published=reported(TASKS))
    gallery = None if thumbnails is None else Gallery(images_of(models), thumbnails)
    titles = [(task.name, task.title) for task in found.tasks]
    return found, browser(models, titles, samples=samples, gallery=gallery)


@pytest.fixture
def html(models) -> str:
    return render(*made(models))


def data_of(html: str) -> dict:
    island = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert island is not None
    return json.loads(island.group(1))


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html: str) -> None:
    page = Page(html)
    assert page.open == []
    ids = Counter(a["id"] for _, a in page.tags if "id" in a)
    assert set(ids.values()) == {1}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(ids)


def test_nothing_is_fetched_and_one_script_may_run(html: str) -> None:
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed"}
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(
        a["content"] for _, a in page.tags if "Content-Security" in a.get("http-equiv", "")
    )
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_markup_in_an_answer_stays_text(html: str) -> None:
    assert PAYLOAD not in html and "<b>bold" not in html
    texts = [a["x"] for item in data_of(html)["items"] for a in item["a"]]
    assert PAYLOAD in texts


def test_hostile_names_and_notes_are_escaped(folders, tmp_path: Path) -> None:
    path = folders["blind"] / "scores.json"
    held = read_json(path)
    try:
        changed = json.loads(json.dumps(held))
        changed["tasks"][0]["notes"] = [PAYLOAD]
        changed["tasks"][0]["title"] = PAYLOAD
        estimate = changed["tasks"][0]["cells"][0]["estimate"]
        changed["tasks"][0]["seeing"] = [
            {
                "column": "overall", "score": estimate, "best": PAYLOAD, "best_score": estimate,
                "difference": estimate, "verdict": "no", "words": PAYLOAD, "compared": [PAYLOAD],
            }
        ]  # fmt: skip
        write_json(path, changed)
        models = [read_model(folders["blind"], PAYLOAD)]
        html = render(*made(models))
    finally:
        write_json(path, held)
    assert html.count("<script") == 2 and "<b>bold" not in html
    assert "owned" in Page(html).text


def test_every_score_and_its_interval_stand_in_the_table(html: str, models) -> None:
    text = Page(html).text
    for model in models:
        for task in model.tasks.values():
            e = task.scores.cell("model").estimate
            assert f"{100 * e.mean:.1f}" in text
            assert f"[{100 * e.low:.1f}, {100 * e.high:.1f}]" in text
    assert (
        "Reported elsewhere" in text
        and "Lingshu-7B" in text
        and "InfiMed-SFT-3B, model card" in text
    )
    assert "How to read this" in text and "image-zeroed" in text


def test_equal_folders_give_equal_bytes_and_no_path(models, html: str, folders) -> None:
    assert render(*made(models)) == html
    found, shown = made(models)
    out = folders["good"].parent / "comparison"
    for file in write_comparison(found, out, shown):
        assert str(folders["good"].parent) not in file.read_text("utf-8")


def test_disagreements_come_first_and_left_out_questions_are_counted(models) -> None:
    items = items_of(models, TASKS)
    every = sum(map(len, items.values()))
    ranks = [item.rank for item in chosen(items, every)]
    assert ranks == sorted(ranks) and len(ranks) == every and ranks[0] == 0
    found, shown = made(models, samples=7)
    assert (shown.shown, shown.total) == (7, every)
    assert f"7 of {every} questions" in Page(render(found, shown)).text
    assert {item.task for item in chosen(items, 6)} == set(TASKS)


def test_pictures_are_embedded_once_and_within_the_budget(models) -> None:
    _, shown = made(models)
    uses = [p["k"] for item in shown.data["items"] for p in item.get("im", ()) if "k" in p]
    assert len(set(uses)) == shown.pictures == len(shown.data["images"]) < len(uses)
    assert all(u.startswith("data:image/jpeg;base64,") for u in shown.data["images"].values())
    found, few = made(models, thumbnails=2)
    assert few.pictures == 2 and few.left_out == shown.pictures - 2
    assert f"{few.left_out} more of the questions shown are not" in Page(render(found, few)).text


def test_without_images_and_without_samples_nothing_of_them_is_there(models) -> None:
    found, shown = made(models, thumbnails=None)
    page = render(found, shown)
    assert "data:image" not in page.replace("img-src data:", "").replace(
        'startsWith("data:image', ""
    )
    assert data_of(page)["images"] == {}
    bare = render(found, None)
    assert "<script" not in bare and "script-src 'none'" in bare
    question = shown.data["items"][0]["q"]
    assert question in page and question not in bare


def test_missing_records_leave_gaps_with_their_reason(models, folders) -> None:
    files = [folder / "evaluation.json" for folder in folders.values()]
    held = [read_json(file) for file in files]
    try:
        for file, value in zip(files, held, strict=True):
            write_json(file, {**value, "shards": []})
        found, shown = made(models)
    finally:
        for file, value in zip(files, held, strict=True):
            write_json(file, value)
    assert shown.pictures == 0 and shown.problems
    assert "Pictures are missing in the single answers" in Page(render(found, shown)).text


def test_added_keys_are_drawn_and_said(folders, tmp_path: Path) -> None:
    path = folders["good"] / "scores.json"
    held = read_json(path)
    try:
        changed = json.loads(json.dumps(held))
        estimate = changed["tasks"][0]["cells"][0]["estimate"]
        changed["tasks"][0] |= {
            "calibration": {
                "row": "model", "source": "option scoring", "n": 9, "ece": 0.3, "aurc": 0.2,
                "bins": [{"confidence": 0.9, "accuracy": 0.6, "n": 9}],
            },
            "risk_coverage": [{"coverage": 0.5, "risk": 0.1}, {"coverage": 1, "risk": 0.4}],
            "seeing": [
                {
                    "column": "kind=open", "score": estimate, "best": "majority", "best_score": estimate,
                    "difference": estimate, "verdict": "no", "words": "not shown to see",
                    "compared": ["majority"],
                }
            ],
            "leakage": {
                "against": "train", "against_sha256": "ab", "training_records": 10, "questions": 900,
                "image": 5, "question": 0, "both": 2, "unreadable": 0,
            },
            "few": ["subset=x"],
        }  # fmt: skip
        write_json(path, changed)
        models = read_models([str(folders["good"])])
        text = Page(render(*made(models))).text
    finally:
        write_json(path, held)
    assert "Expected calibration error: good 30.0 points" in text
    assert "risk and coverage" in text
    assert "good : open: not shown to see" in text
    assert "7 of 900 questions were found in train" in text
    assert "too few questions or groups for a claim: subset=x" in text
