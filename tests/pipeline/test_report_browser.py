"""The report in a real browser: it renders, its pictures load, and markup in data stays text."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from infimed.pipeline.report import write_report
from tests.browser import browse, needs_browser, probe
from tests.pipeline.fake_run import make_run

pytestmark = needs_browser

PROBE = """<!DOCTYPE html><title>waiting</title><iframe src="report.html" width="{width}" height="900"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const boxes = [...page.querySelectorAll(".box, pre")];
  const images = [...page.images];
  document.body.textContent = JSON.stringify({{
    title: page.title,
    tables: page.querySelectorAll("table").length,
    images: images.length,
    loaded: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    curves: page.querySelectorAll("figure svg").length,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    payload: [...page.querySelectorAll(".said")].filter((e) => e.textContent.includes("<script>")).length,
    scripts: page.scripts.length,
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        make_run(tmp_path_factory.mktemp("run") / "demo", patients=24, size=64, steps=12)
    )


def test_the_page_has_its_title_and_tables_and_runs_no_script_from_data(
    report: Path, tmp_path: Path
) -> None:
    dom = browse(tmp_path, report, "--dump-dom")
    assert "<title>demo · InfiMed run report</title>" in dom
    assert dom.count("<table") >= 8
    assert "&lt;script&gt;document.title='owned'" in dom
    assert "<script" not in dom


@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_load_and_nothing_overflows(report: Path, tmp_path: Path, width: int) -> None:
    """Measured from a page around the report, because the report itself runs no script."""
    shutil.copy(report, tmp_path / "report.html")
    seen = probe(tmp_path, PROBE, width)
    assert seen["title"] == "demo · InfiMed run report"
    assert seen["images"] > 20 and seen["loaded"] == seen["images"]
    assert seen["curves"] == 4
    assert seen["overflow"] <= 0
    assert seen["payload"] >= 1 and seen["scripts"] == 0


def test_a_screenshot_is_not_blank(report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    browse(tmp_path, report, f"--screenshot={shot}", "--window-size=1280,2400")
    pixels = cv2.imread(str(shot))
    assert pixels is not None and pixels.shape[1] == 1280
    assert np.count_nonzero(pixels.std(axis=(1, 2)) > 1) > 1200
