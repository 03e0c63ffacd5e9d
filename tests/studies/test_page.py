"""The page and its figures, from cells that take no time."""

from __future__ import annotations

from dataclasses import replace
from shutil import copytree
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infimed.core.errors import DataError
from infimed.studies.analysis import analyse, claim_probabilities, points
from infimed.studies.cells import distinct, plan
from infimed.studies.conducting import report
from infimed.studies.definition import load_study
from infimed.studies.figure import Point, intervals, nice_ticks
from infimed.studies.opening import open_test
from infimed.studies.page import CLAIMS, besides, figures, gapless, ledger_rows, render
from infimed.studies.results import SCHEMA, TABLE, read_findings, read_results
from infimed.studies.runner import run_cells
from tests.studies.fakes import AtOnce, FakeCells, by_weighting, tiny_study, write_cell

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies")
    study = tiny_study()
    planned = plan([study], "nano", "test")
    accuracy = by_weighting(token=0.7, document=0.55, sqrt=0.7)
    run_cells(distinct(planned), out, executor=AtOnce(), do=FakeCells(accuracy))
    return out, study, planned, analyse(study, "nano", planned, out)


def test_the_page_says_verdict_interval_n_seeds_and_commit(world):
    out, study, planned, found = world
    page = render([study], [found], planned, out)
    summary = page[: page.index("## <a")]
    assert "| **refuted** |" in summary and found.sentence in summary
    assert "n = 400 questions of 80 groups, 3 seeds" in summary and "commit abc" in summary
    assert "Claims that did not come out as claimed: tiny (nano: refuted)." in summary
    assert "What would refute it: It is not." in page


def test_the_page_is_the_same_for_the_same_cells(world):
    out, study, planned, found = world
    assert render([study], [found], planned, out) == render([study], [found], planned, out)


def test_a_study_that_did_not_run_says_so(world):
    out, study, planned, found = world
    page = render([study, load_study("seeing"), load_study("ledger")], [found], planned, out)
    part = page[page.index('id="seeing"') :]
    assert "Not run on `nano`." in part and "Nothing to tell yet." in part


def test_tables_of_the_page_have_as_many_cells_in_every_line(world):
    out, study, planned, found = world
    width = None
    for line in render([study], [found], planned, out).splitlines():
        if line.startswith("|"):
            assert width is None or line.count("|") == width, line
            width = line.count("|")
        else:
            width = None


def test_the_ledger_counts_points_above_guessing(world):
    *_, found = world
    rows = ledger_rows([found], ["tiny"])
    first = rows[0]
    assert first.seconds_a_point == pytest.approx(10 / (100 * (first.score - 0.5)))
    assert first.tflop == 3.0 and first.energy == "unavailable"


def test_figures_are_small_read_in_the_dark_and_in_print(world):
    *_, found = world
    svg = figures([found])["tiny-nano.svg"]
    root = ElementTree.fromstring(svg)
    assert len(svg.encode()) < 100_000
    assert "prefers-color-scheme: dark" in svg and "@media print" in svg
    assert len(root.findall(f"{SVG}circle")) == 3
    assert "arm a" in root.get("aria-label")
    texts = {text.text for text in root.findall(f"{SVG}text")}
    assert {"arm a", "arm b", "arm c", "Tiny"} <= texts


def test_the_figure_of_all_claims_shows_differences_around_zero_and_no_planted_check(world):
    *_, found = world
    planted = replace(
        found, study=found.study.model_copy(update={"title": "Known", "planted": True})
    )
    made = figures([found, planted])
    root = ElementTree.fromstring(made[CLAIMS])
    texts = [text.text for text in root.findall(f"{SVG}text")]
    effect = found.primary
    assert "Tiny (nano)" in texts and not any("Known" in text for text in texts)
    assert f"{100 * effect.mean:+.1f} [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]" in texts
    assert len(root.findall(f"{SVG}circle")) == 1
    assert len(root.findall(f"{SVG}line[@class='zero']")) == 1
    assert CLAIMS not in figures([replace(found, primary=None)])


def test_the_summary_says_where_there_is_no_gap_to_close(tmp_path):
    study = tiny_study()
    planned = plan([study], "nano", "test")
    same = FakeCells(by_weighting(token=0.6, document=0.6, sqrt=0.6))
    run_cells(distinct(planned), tmp_path, executor=AtOnce(), do=same)
    found = analyse(study, "nano", planned, tmp_path)
    assert gapless(found)
    page = render([study], [found], planned, tmp_path)
    assert "The gap that it could close is itself not shown." in page


def test_one_seed_has_no_interval_in_the_figure_of_claims_and_no_corrected_p(world):
    *_, found = world
    single = replace(found, primary=replace(found.primary, seeds=1))
    root = ElementTree.fromstring(figures([single])[CLAIMS])
    assert root.findall(f"{SVG}line[@class='bar']") == []
    assert "Tiny (nano), one seed" in [text.text for text in root.findall(f"{SVG}text")]
    assert claim_probabilities([single]) == {} and claim_probabilities([found])


def test_further_differences_stand_in_the_summary_where_they_hold_after_correction(tmp_path):
    study = tiny_study()
    planned = plan([study], "nano", "test")
    accuracy = by_weighting(token=0.5, document=0.8, sqrt=0.7)
    run_cells(distinct(planned), tmp_path, executor=AtOnce(), do=FakeCells(accuracy))
    found = analyse(study, "nano", planned, tmp_path)
    ((_, one),) = besides([found])
    assert (one.compared.arm, one.compared.against) == ("c", "a") and one.adjusted < 0.05
    summary = render([study], [found], planned, tmp_path).split("## <a")[0]
    assert f"| arm c minus arm a | yes/no | {points(one.effect)} | &lt; 0.001 | 400, 3 |" in summary
    weak = replace(found, differences=tuple(replace(d, adjusted=0.06) for d in found.differences))
    assert besides([weak]) == []
    page = render([study], [weak], planned, tmp_path)
    assert "What else holds" not in page
    assert f"(nano): arm c minus arm a, yes/no: {points(one.effect)}." in page


def test_a_study_names_its_machine_where_there_were_several(world, tmp_path):
    first, study, planned, found = world
    out = copytree(first, tmp_path / "out")
    assert "on a processor" not in section(render([study], [found], planned, out))
    write_cell(planned[0].cell, out, 0.5, cpu="another processor")
    again = analyse(study, "nano", planned, out)
    assert "on a processor and another processor" in section(render([study], [again], planned, out))


def test_one_disturbed_training_does_not_change_what_an_arm_took(world, tmp_path):
    first, study, planned, _ = world
    out = copytree(first, tmp_path / "out")
    write_cell(planned[0].cell, out, 0.5, seconds=1000.0)
    assert ledger_rows([analyse(study, "nano", planned, out)], ["tiny"])[0].seconds == 10


def section(page):
    return next(line for line in page.splitlines() if "seeds an arm" in line)


def test_a_figure_escapes_what_it_is_told():
    svg = intervals(
        '<b> & "x"', "%", [Point("<i>", 50.0, None, None), Point("b", 60.0, 55.0, 66.0)]
    )
    assert ElementTree.fromstring(svg) is not None and "<i>" not in svg


@pytest.mark.parametrize(
    ("low", "high"), [(48.2, 91.7), (-3.1, 0.2), (5, 5), (0.001, 0.0042), (0, 100)]
)
def test_ticks_hold_the_values_and_are_few(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 10
    assert ticks == sorted(ticks)


def test_report_writes_page_figures_and_table(tmp_path, monkeypatch):
    study = tiny_study()
    monkeypatch.setattr("infimed.studies.conducting.chosen_studies", lambda name: [study])
    out, page = tmp_path / "out", tmp_path / "docs" / "studies.md"
    with pytest.raises(DataError, match="no study ran here"):
        report(out, page)
    open_test(study, "nano", out)
    cells = distinct(plan([study], "nano", "test"))
    run_cells(
        cells, out, executor=AtOnce(), do=FakeCells(by_weighting(token=0.5, document=0.8, sqrt=0.7))
    )
    report(out, page)
    assert "](studies/tiny-nano.svg)" in page.read_text()
    assert (page.parent / "studies" / "tiny-nano.svg").is_file()
    lines = read_results(out / TABLE)
    assert len(lines) == 9 and {line["arm"] for line in lines} == {"a", "b", "c"}
    assert all(line["commit"] == "abc" and line["questions"] == 400 for line in lines)
    (finding,) = read_findings(out / TABLE)
    found = analyse(study, "nano", plan([study], "nano", "test"), out)
    assert finding.verdict == "supported" and finding.sentence in page.read_text()
    assert points(found.primary) in finding.sentence
    assert (finding.questions, finding.groups, finding.seeds) == (400, 80, 3)
    assert finding.p == found.primary.p and finding.commits == ("abc",)


@pytest.mark.parametrize("what", ["absent", "text", "a table", "no findings"])
def test_a_file_that_holds_no_findings_is_refused(tmp_path, what):
    file = tmp_path / "results.parquet"
    if what == "text":
        file.write_text("results")
    elif what == "a table":
        pq.write_table(pa.table({"a": [1]}), file)
    elif what == "no findings":
        pq.write_table(SCHEMA.empty_table(), file)
    with pytest.raises(DataError, match=r"no results of studies|not a results table"):
        read_findings(file)
