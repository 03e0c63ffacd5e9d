"""Report and review page in a real browser: they render, fit a phone, and data never runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from infimed.curation import ledger as tables
from infimed.curation.label_export import export_labels
from infimed.curation.label_files import read_label_files
from infimed.curation.report import write_curation_report
from infimed.data.shards import open_shards
from tests.browser import needs_browser, probe
from tests.curation.ledger_world import RECORDS, make_ledger

pytestmark = needs_browser

REPORT_PROBE = """<!DOCTYPE html><title>waiting</title><iframe src="report.html" width="{width}" height="900"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const images = [...page.images];
  document.body.textContent = JSON.stringify({{
    title: page.title,
    images: images.length,
    loaded: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    strips: page.querySelectorAll(".strip svg").length,
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
    payload: [...page.querySelectorAll(".said")].filter((e) => e.textContent.includes("<script>")).length,
    scripts: page.scripts.length,
  }});
}};
</script>"""

REVIEW_PROBE = """<!DOCTYPE html><title>waiting</title><iframe src="review.html" width="{width}" height="900"></iframe>
<script>
onload = async () => {{
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  const blobs = [];
  view.URL.createObjectURL = (blob) => {{ blobs.push(blob); return "#"; }};
  const press = (key) => page.body.dispatchEvent(new view.KeyboardEvent("keydown", {{ key, bubbles: true }}));
  page.getElementById("json").click();
  const refused = page.getElementById("message").textContent;
  page.getElementById("rater").value = "anna";
  for (const key of ["2", "1", "0", "u", "2"]) press(key);
  const second = page.getElementById("place").textContent;
  press("0"); press("ArrowUp"); press("1"); press("ArrowRight"); press("2");
  page.getElementById("json").click();
  page.getElementById("csv").click();
  const items = JSON.parse(page.getElementById("data").textContent).items;
  const hostile = items.findIndex((item) => item.texts.some((t) => t.text.includes("<script>")));
  press("ArrowLeft"); press("ArrowLeft");
  for (let i = 0; i < hostile; i++) press("ArrowRight");
  document.body.textContent = JSON.stringify({{
    title: page.title, refused, second, json: await blobs[0].text(), csv: await blobs[1].text(),
    hostile: page.getElementById("texts").textContent.includes("<script>"),
    scripts: page.scripts.length, injected: page.querySelectorAll("#texts img, #texts script").length,
    images: [...page.images].every((image) => image.complete && image.naturalWidth > 0),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledger(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_loads_its_pictures_fits_and_runs_nothing(
    world: tuple[Path, Path], tmp_path: Path, width: int
) -> None:
    write_curation_report(world[0], open_shards(world[1]), tmp_path / "report.html")
    seen = probe(tmp_path, REPORT_PROBE, width)
    assert seen["title"] == "ledger · InfiMed curation report"
    assert seen["images"] > 20 and seen["loaded"] == seen["images"]
    assert seen["strips"] >= 8 and seen["overflow"] <= 0
    assert seen["payload"] >= 1 and seen["scripts"] == 0


def test_the_review_page_turns_key_strokes_into_files_that_import(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    export_labels(world[0], open_shards(world[1]), tmp_path / "labels", RECORDS)
    seen = probe(tmp_path / "labels", REVIEW_PROBE, 390)
    assert seen["title"] == f"InfiMed review · {RECORDS} records"
    assert "name" in seen["refused"] and seen["second"] == f"Record 2 of {RECORDS}"
    assert seen["hostile"] and seen["scripts"] == 2 and seen["injected"] == 0
    assert seen["images"] and seen["overflow"] <= 0
    verdicts = tables.read_ledger(world[0], tables.VERDICTS).to_pylist()
    rows = {line["record_id"]: line["row"] for line in verdicts}
    read = []
    for kind in ("json", "csv"):
        (tmp_path / f"anna.{kind}").write_text(seen[kind], encoding="utf-8")
        read.append(read_label_files([tmp_path / f"anna.{kind}"], rows))
        assert not read[-1].malformed
    assert read[0].rows == read[1].rows
    levels = [row["level"] for row in read[0].rows]
    assert levels == [2, 1, 0, None, 2, 1, 2]
    assert {row["rater"] for row in read[0].rows} == {"anna"}
