"""The comparison in a real browser: it runs, filters, fits the screen, and reads without its script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infimed.evaluation.compare.browsing import Gallery, browser, images_of
from infimed.evaluation.compare.loading import read_models
from infimed.evaluation.compare.page import PAGE, write_comparison
from infimed.evaluation.compare.published import reported
from infimed.evaluation.compare.table import compare
from infimed.inference.stubs import constant
from tests.browser import browse, needs_browser, probe
from tests.evaluation.compare.folders import PAYLOAD, TASKS, benchmarks, evaluated, mostly_right

pytestmark = needs_browser

PROBE = """<!DOCTYPE html><title>waiting</title><iframe src="compare.html{hash}" width="{{width}}" height="900"></iframe>
<script>
onload = () => {{{{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll(".box")];
  const small = [...page.querySelectorAll("main *")].filter((e) => e.childElementCount === 0 && e.textContent.trim() && e.getClientRects().length && parseFloat(getComputedStyle(e).fontSize) < 11);
  document.body.textContent = JSON.stringify({{{{
    title: page.title,
    cards: page.querySelectorAll(".answer").length,
    count: page.getElementById("count").textContent,
    images: page.images.length,
    loaded: [...page.images].filter((image) => image.complete && image.naturalWidth > 0).length,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    scrolls: boxes.filter((box) => box.scrollWidth > box.clientWidth).every((box) => getComputedStyle(box).overflowX === "auto"),
    payload: [...page.querySelectorAll(".answer .said")].filter((e) => e.textContent.includes("<script>")).length,
    bold: page.querySelectorAll(".answer b").length,
    small: small.map((e) => e.tagName + " " + e.textContent.slice(0, 20)).slice(0, 5),
    chosen: [...page.querySelectorAll("#filters select")].map((select) => select.value),
  }}}});
}}}};
</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    shards = benchmarks(root, copies=6)
    a = evaluated(mostly_right(shards, 4), shards, root / "good")
    b = evaluated(constant("A"), shards, root / "constant")
    models = read_models([str(a), str(b)])
    found = compare(models, published=reported(TASKS))
    titles = [(task.name, task.title) for task in found.tasks]
    shown = browser(models, titles, gallery=Gallery(images_of(models), 100))
    write_comparison(found, root / "comparison", shown)
    return root / "comparison"


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_overflows_and_answers_are_shown(folder: Path, width: int) -> None:
    seen = probe(folder, PROBE.format(hash=""), width)
    assert seen["title"] == "good, constant · InfiMed comparison"
    assert seen["cards"] == 10 and re.match(r"1–10 of \d+$", seen["count"])
    assert seen["images"] > 0 and seen["loaded"] == seen["images"]
    assert seen["overflow"] <= 0 and seen["scrolls"]
    assert seen["bold"] == 0
    assert seen["small"] == []


def test_a_filter_in_the_address_is_applied(folder: Path) -> None:
    seen = probe(
        folder, PROBE.format(hash="#answers?task=pubmedqa&m0=right&m1=wrong&disagree=1"), 1440
    )
    assert seen["chosen"][0] == "pubmedqa" and seen["chosen"][-2:] == ["right", "wrong"]
    assert "that fit" in seen["count"]
    hostile = probe(folder, PROBE.format(hash="#answers?text=%3Cscript"), 1440)
    assert hostile["payload"] >= 1 and hostile["bold"] == 0
    assert hostile["title"] == "good, constant · InfiMed comparison"
    none = probe(folder, PROBE.format(hash="#answers?task=pubmedqa&text=nowhere-to-be-found"), 1440)
    assert none["cards"] == 0 and none["count"] == "No answer fits."


def test_an_unknown_filter_in_the_address_is_passed_over(folder: Path) -> None:
    seen = probe(folder, PROBE.format(hash="#answers?task=%3Cscript%3E&m0=x&page=-3"), 1440)
    assert seen["cards"] == 10 and set(seen["chosen"]) == {""}


def test_the_tables_read_without_the_script(folder: Path, tmp_path: Path) -> None:
    page = (folder / PAGE).read_text("utf-8")
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r"script-src '[^']*'", "script-src 'none'", page), "utf-8")
    dom = browse(tmp_path, bare, "--dump-dom")
    assert dom.count("<table") >= 6 and "Lingshu-7B" in dom
    assert '<div id="browser" hidden' in dom and 'class="answer"' not in dom
    assert PAYLOAD not in dom
