"""The curation report: complete, self-contained, escaped, masked, the same every time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError
from infimed.curation import default_rubric, read_summary
from infimed.curation import ledger as tables
from infimed.curation.findings import Finding
from infimed.curation.hiding import hidden_image, masked, shown_evidence, shown_id
from infimed.curation.report import render_curation_report, write_curation_report
from infimed.curation.report_data import read_costs, read_generic, read_scores
from infimed.curation.report_examples import said
from infimed.curation.report_strata import read_strata
from infimed.data.record import question_record
from infimed.data.shards import ShardSet, open_shards
from tests.curation.ledger_world import PAYLOAD, RECORDS, limit_between, make_ledger
from tests.html_page import Page


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledger(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def shards(world: tuple[Path, Path]) -> ShardSet:
    return open_shards(world[1])


@pytest.fixture(scope="module")
def html(world: tuple[Path, Path], shards: ShardSet) -> str:
    return render_curation_report(world[0], shards)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def copy(world: tuple[Path, Path], tmp_path: Path) -> Path:
    """A ledger that a test may change."""
    return Path(shutil.copytree(world[0], tmp_path / "ledger"))


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(ids)


def test_nothing_is_fetched_and_no_script_can_run(page: Page, html: str) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "foreignobject"}
    images = [a for tag, a in page.tags if tag == "img"]
    assert images and all(a["src"].startswith("data:image/jpeg;base64,") for a in images)
    assert all(a.get("alt") for a in images)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    policy = next(
        a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not re.search(r"url\((?!#)|@import|https?://(?!example\.org)", html)


def test_markup_in_question_and_answer_is_shown_as_text(page: Page, html: str) -> None:
    assert "<script" not in html.lower()
    assert html.count("&lt;script&gt;") >= 1
    assert PAYLOAD.split(">")[0] in page.text


def test_the_headline_says_how_many_were_dropped_and_the_commonest_reasons(page: Page) -> None:
    assert f"Of {RECORDS} records 32 were kept and 8 dropped (20.0 %)" in page.text
    assert "readability.blurred_image" in page.text
    assert "Records dropped by dimension: readability 6" in page.text


def test_every_rule_that_spoke_has_its_counts_limits_and_an_example(
    page: Page, world: tuple[Path, Path]
) -> None:
    for rule in read_summary(world[0]).rules:
        assert f"rule-{rule.rule}" in {a.get("id") for _, a in page.tags}
        assert any(example in page.text for example in rule.examples)
    special = default_rubric().to_dict()["rules"]["readability.under_exposed"]["thresholds"][
        "max_dark"
    ]
    name, value = min(special["by_modality"].items())
    assert f"max_dark {special['value']:g} ({name} {value:g}" in page.text
    assert "caught by no other rule" in page.text


def test_the_words_a_rule_points_at_are_marked(html: str) -> None:
    assert "<mark>Fig. ??</mark>" in html
    assert "<mark>&lt;b&gt;</mark>" in html


def test_strata_cost_rubric_and_hashes_are_told(page: Page, world: tuple[Path, Path]) -> None:
    summary = read_summary(world[0])
    assert summary.data_hash in page.text and summary.rubric in page.text
    assert "source · XR · open" in page.text
    assert "Seconds of one core for 1,000 records" in page.text
    assert "infimed curate redecide" in page.text


def test_the_same_ledger_gives_the_same_page_and_a_seed_another_draw(
    world: tuple[Path, Path], shards: ShardSet, html: str
) -> None:
    assert render_curation_report(world[0], shards) == html
    assert render_curation_report(world[0], shards, seed=5) != html


def test_records_on_both_sides_of_a_limit_are_shown(page: Page) -> None:
    dropped, kept = page.text.split("Just dropped", 1)[1].split("Just kept", 1)
    limit = f"limit {limit_between(1, 2):g}"
    assert f"{limit}: beyond by" in dropped
    assert f"{limit}: inside by" in kept.split("Kept, drawn at random")[0]


def test_a_folder_without_a_finished_curation_is_refused(tmp_path: Path, shards: ShardSet) -> None:
    with pytest.raises(DataError, match="no finished curation"):
        write_curation_report(tmp_path, shards, tmp_path / "report.html")


def test_a_damaged_table_is_an_error_that_names_it(copy: Path, shards: ShardSet) -> None:
    (copy / "signals.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        render_curation_report(copy, shards)


def test_images_that_cannot_be_read_leave_a_gap_not_a_failed_page(
    copy: Path, world: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(world[1], tmp_path / "shards"))
    tar = next(broken.glob("images-*.tar"))
    data = bytearray(tar.read_bytes())
    data[600:] = bytes(len(data) - 600)
    tar.write_bytes(bytes(data))
    page = Page(render_curation_report(copy, open_shards(broken)))
    assert "image not shown:" in page.text and page.open == []


def test_leakage_and_scores_of_other_commands_are_shown_and_escaped(
    copy: Path, shards: ShardSet
) -> None:
    pq.write_table(
        pa.table({"record_id": ["a", PAYLOAD], "kind": ["image", "text"], "score": [0.98, 0.9]}),
        copy / "leakage.parquet",
    )
    pq.write_table(
        pa.table({"row": [0, 1, 2], "p_ok": [0.9, 0.2, None], "accuracy": [0.5, 1.0, 0.0]}),
        copy / "scores.parquet",
    )
    html = render_curation_report(copy, shards)
    page = Page(html)
    assert "2 matches with other data" in page.text and "0.98" in page.text
    assert "overall" in page.text and "2 scored, 1 unknown" in page.text
    assert "<script" not in html and page.open == []


def test_what_the_score_decided_is_shown_by_stratum(copy: Path, shards: ShardSet) -> None:
    from infimed.curation.deciding import decide_ledger
    from tests.curation.judged_world import elsewhere

    made = decide_ledger(copy, elsewhere(), target_precision=0.01)
    assert made.by_score
    page = Page(render_curation_report(copy, shards))
    assert page.open == []
    assert f"the score drops {made.by_score} records" in page.text
    assert "P(ok) by the evaluator lies under the threshold" in page.text
    for one in made.strata:
        assert one.name in page.text and f"{100 * one.retained:.1f} %" in page.text
    unreached = decide_ledger(copy, elsewhere(), target_precision=1.0)
    assert any(one.remark for one in unreached.strata)
    text = Page(render_curation_report(copy, shards)).text
    assert "Nothing is dropped by score: the target is out of reach" in text
    (copy / "decision.json").write_text("[]")
    assert "This part could not be read" in Page(render_curation_report(copy, shards)).text


def test_labels_and_the_judges_cost_are_told(copy: Path, shards: ShardSet) -> None:
    from infimed.curation.labels import store_labels

    store_labels(
        copy,
        [
            {"row": row, "record_id": f"questions-{row}", "rater": rater, "dimension": "readability",
             "level": 0 if row > 27 else 2, "comment": ""}
            for row in (0, 1, 28, 29) for rater in ("anna", "ben")
        ],
    )  # fmt: skip
    cost = {"row": [0, 1], "prompt_tokens": [400, 600], "price": [0.5, None]}
    pq.write_table(pa.table(cost), copy / "judge_cost.parquet")
    page = Page(render_curation_report(copy, shards))
    assert page.open == []
    assert "2 raters, 4 labelled records" in page.text
    assert "they call 2 defective (100.0 %" in page.text
    assert (
        "asked about 2 records; for 1,000 of them: prompt tokens 500,000, price 250." in page.text
    )


def test_damaged_optional_tables_become_a_sentence(copy: Path, shards: ShardSet) -> None:
    (copy / "leakage.parquet").write_bytes(b"nothing")
    (copy / "scores.parquet").write_bytes(b"nothing")
    (copy / "judge_cost.parquet").write_bytes(b"nothing")
    (copy / "labels.parquet").write_bytes(b"nothing")
    assert Page(render_curation_report(copy, shards)).text.count("This part could not be read") == 4


@pytest.mark.parametrize("layout", ["tall", "wide"])
def test_scores_are_read_in_both_layouts(copy: Path, layout: str) -> None:
    tall = {"dimension": ["accuracy", "accuracy"], "p_ok": [0.01, 0.99], "threshold": [0.4, 0.4]}
    wide = {"p_ok_accuracy": [0.01, 0.99], "row": [0, 1]}
    pq.write_table(pa.table(tall if layout == "tall" else wide), copy / "scores.parquet")
    (found,) = read_scores(copy)
    assert (found.dimension, found.n, found.counts[0], found.counts[-1]) == ("accuracy", 2, 1, 1)
    assert found.threshold == (0.4 if layout == "tall" else None)


def test_a_table_of_any_columns_is_cut_to_its_first_rows(tmp_path: Path) -> None:
    file = tmp_path / "any.parquet"
    pq.write_table(pa.table({"row": [0] * 500, "a": list(range(500)), "b": [[1, 2]] * 500}), file)
    found = read_generic(file, most=7)
    assert (found.total, len(found.rows), found.rows[0]) == (500, 7, ("0", "[1, 2]"))


def test_costs_equal_the_means_of_the_cost_table(world: tuple[Path, Path]) -> None:
    rows = tables.read_ledger(world[0], tables.COST).to_pylist()
    costs, whole = read_costs(world[0])
    expected = sum(row["decode_ms"] for row in rows) / len(rows)
    assert {c.name: c.per_thousand for c in costs}["decode"] == pytest.approx(expected)
    assert whole == pytest.approx(sum(c.per_thousand for c in costs))


def test_a_stratum_that_loses_more_than_the_rest_stands_apart(copy: Path) -> None:
    from infimed.curation.ledger_columns import read_decisions

    signals = tables.read_ledger(copy, tables.SIGNALS).to_pylist()
    verdicts = tables.read_ledger(copy, tables.VERDICTS).to_pylist()
    for line in signals:
        line["source"] = "b" if line["row"] < 20 else "a"
    for verdict in verdicts:
        verdict["keep"] = verdict["row"] >= 15
        verdict["reasons"] = [] if verdict["keep"] else ["some.rule"]
    pq.write_table(tables.table(tables.SIGNALS, signals), copy / "signals.parquet")
    pq.write_table(tables.table(tables.VERDICTS, verdicts), copy / "verdicts.parquet")
    strata, sources = read_strata(copy, read_decisions(copy, RECORDS))
    assert dict(sources) == {"a": 20, "b": 20}
    found = {s.name: s for s in strata if s.group == "source"}
    assert (found["b"].records, found["b"].kept, found["b"].apart) == (20, 5, "less")
    assert found["a"].apart == "more"
    assert sum(s.records for s in strata if s.group == "source") == RECORDS


def test_the_warning_names_a_part_that_loses_once_by_its_shortest_name() -> None:
    from infimed.curation.report_strata import STRATA, Stratum
    from infimed.curation.report_words import warnings
    from infimed.curation.summary import CurationSummary

    crossed = STRATA[0][0]
    strata = [
        Stratum(crossed, "a · CT · open", 200, 100, 0.43, 0.57, "less", 0.99),
        Stratum(crossed, "a · MR · open", 200, 198, 0.96, 1.0, "more", 0.8),
        Stratum("modality", "CT", 400, 220, 0.50, 0.60, "less", 0.99),
        Stratum("task", "open", 900, 880, 0.96, 0.985, "less", 0.99),  # one point is no story
        Stratum(
            "language", "zh", 12, 3, 0.09, 0.53, "less", 0.99
        ),  # twelve records are none either
    ]
    summary = CurationSummary(1000, 900, 100, 0, 10, {}, (), {}, 1.0, 1000, "hash", "rubric")
    (said_once,) = warnings(summary, (), strata)
    assert "Modality “CT” keeps 55.0 % of its 400 records, all others 99.0 %" in said_once


def test_a_duplicate_stands_beside_the_record_it_repeats(page: Page) -> None:
    assert "the record named: questions-2 right upper lobe" in page.text


def privacy(
    where: str, start: int = -1, end: int = -1, value: float | None = 1, rule: str = "identifier"
) -> Finding:
    return Finding(
        f"privacy.{rule}", 1, "privacy", "drop", where, "name, 10 characters, 1234",  # type: ignore[arg-type]
        value=value, start=start, end=end,
    )  # fmt: skip


TEXT = "Mr John Smith has a mass."


def test_the_one_place_that_names_a_person_becomes_blocks() -> None:
    assert masked(TEXT, "question", [privacy("question", 3, 13)]) == "Mr ▮▮▮▮▮▮▮▮▮▮ has a mass."
    assert masked(TEXT, "response", [privacy("question", 3, 13)]) == TEXT


@pytest.mark.parametrize(
    "finding",
    [
        privacy("response", 3, 13, value=2),  # the ledger holds the first of two places only
        privacy("response", 3, 13, value=None),
        privacy("question"),
        privacy("question", 3, 400),
    ],
)
def test_where_other_places_may_name_a_person_no_text_is_shown(finding: Finding) -> None:
    assert "mass" not in masked(TEXT, "question", [finding])


def test_an_image_is_hidden_for_unseen_text_and_shown_once_it_was_masked() -> None:
    assert hidden_image(0, [privacy("image 0", rule="burned_in_annotation")])
    assert not hidden_image(1, [privacy("image 0", rule="burned_in_annotation")])
    assert not hidden_image(0, [privacy("image 0", rule="masked_text")])
    assert masked(TEXT, "question", [privacy("image 0", value=None)]) == TEXT


def test_an_id_that_names_a_person_is_not_shown() -> None:
    assert "smith" not in shown_id("smith-1", [privacy("id", 0, 5)])
    assert shown_id("smith-1", [privacy("question", 0, 5)]) == "smith-1"


def test_no_other_rules_evidence_quotes_a_text_that_names_a_person() -> None:
    other = Finding("x.y", 1, "accuracy", "note", "record", "John Smith 17")
    image = Finding("x.z", 1, "readability", "drop", "image 0", "blurred")
    secret = privacy("question", 3, 13)
    assert shown_evidence(other, [other, secret]) == ""
    assert shown_evidence(other, [other]) == "John Smith 17"
    assert shown_evidence(image, [image, secret]) == "blurred"


def test_another_rules_mark_over_hidden_words_shows_blocks_only() -> None:
    record = question_record(
        id="a", question="Seen by John Smith?", answer="no", images=(), task="closed"
    )
    other = Finding("x.y", 1, "accuracy", "note", "question", "John Smith", start=8, end=18)
    texts, _ = said(record, [other, privacy("question", 8, 18)])
    assert "Smith" not in "".join(p.text for t in texts for p in t.pieces)


def test_the_page_shows_nothing_that_a_privacy_rule_points_at(copy: Path, shards: ShardSet) -> None:
    findings = tables.read_ledger(copy, tables.FINDINGS).to_pylist()
    verdicts = tables.read_ledger(copy, tables.VERDICTS).to_pylist()
    hidden = {
        "rule": "privacy.identifier",
        "version": 1,
        "dimension": "privacy",
        "severity": "drop",
    }
    for row in range(RECORDS):
        findings.append(
            {"row": row, "record_id": f"questions-{row}", **hidden, "where": "question",
             "evidence": "name, 4 characters", "value": 2.0, "threshold": None, "start": 0, "end": 4}
        )  # fmt: skip
    for verdict in verdicts:
        verdict["keep"], verdict["reasons"] = False, [*verdict["reasons"], "privacy.identifier"]
    findings.sort(key=lambda line: line["row"])
    pq.write_table(tables.table(tables.FINDINGS, findings), copy / "findings.parquet")
    pq.write_table(tables.table(tables.VERDICTS, verdicts), copy / "verdicts.parquet")
    text = Page(render_curation_report(copy, shards)).text
    for words in ("Where is lesion", "right upper lobe", "Is the lung clear", "Fig. ??"):
        assert words not in text.split("Measured values")[0]
    assert "(not shown: it may show who the patient is)" in text


def test_a_ledger_decided_with_a_rule_of_its_own_is_still_shown(
    copy: Path, shards: ShardSet
) -> None:
    from infimed.core.files import read_json, write_json

    stored = read_json(copy / "curation.json")
    stored["rubric"]["rules"]["relevance.benchmark_leak"] = {
        "version": 1, "dimension": "relevance", "severity": "drop", "thresholds": {"comparison": {"value": 1.0}},
    }  # fmt: skip
    stored["summary"]["rules"][0]["rule"] = "relevance.benchmark_leak"
    write_json(copy / "curation.json", stored)
    page = Page(render_curation_report(copy, shards))
    assert "a rule outside the standard catalogue" in page.text and page.open == []


def test_a_long_text_is_cut_around_the_first_mark() -> None:
    record = question_record(
        id="a", question="word " * 300 + "HERE" + " word" * 300, answer="no", images=(), task="open"
    )
    found = Finding("x.y", 1, "accuracy", "note", "question", "HERE", start=1500, end=1504)
    texts, marked = said(record, [found])
    assert marked == {0}
    pieces = texts[0].pieces
    assert [p.text for p in pieces if p.mark] == ["HERE"]
    assert pieces[0].text == "…" and pieces[-1].text == "…"
    assert sum(len(p.text) for p in pieces) < 450


def test_the_command_finds_the_shards_by_itself_and_names_the_page(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(world[0]), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output.replace("\n", "")
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_shards_of_another_data_set_are_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    other = make_other(tmp_path)
    done = CliRunner().invoke(app, ["report", str(world[0]), "--shards", str(other)])
    assert isinstance(done.exception, DataError)
    assert "not the ones this ledger was made from" in str(done.exception)


def make_other(folder: Path) -> Path:
    from infimed.data.importing import import_data

    (folder / "s").mkdir()
    (folder / "s" / "t.jsonl").write_text('{"question": "Is it?", "answer": "yes"}\n')
    import cv2

    from tests.curation.clinic import picture

    cv2.imwrite(str(folder / "s" / "i.png"), picture(3))
    (folder / "s" / "t.jsonl").write_text(
        '{"image": "i.png", "question": "Is it?", "answer": "yes"}\n'
    )
    import_data(folder / "s", folder / "other")
    return folder / "other"


def test_a_ledger_moved_without_its_shards_says_how_to_name_them(copy: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(copy)])
    assert isinstance(done.exception, DataError)
    assert "--shards" in str(done.exception)
