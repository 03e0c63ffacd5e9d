"""Labels: a stratified blinded sample, files checked row by row, agreement that is counted right."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.label import app
from infimed.core.errors import DataError
from infimed.core.escaping import plain_text, script_safe, spreadsheet_text
from infimed.curation import ledger as tables
from infimed.curation.label_agreement import ALL, label_report
from infimed.curation.label_export import export_labels
from infimed.curation.label_files import read_label_files
from infimed.curation.labels import (
    QUALITY,
    draw_sample,
    judge_levels,
    read_labels,
    rules_levels,
    store_labels,
)
from infimed.data.shards import ShardSet, open_shards
from tests.curation.ledger_world import PAYLOAD, RECORDS, make_ledger

runner = CliRunner()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_ledger(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def shards(world: tuple[Path, Path]) -> ShardSet:
    return open_shards(world[1])


@pytest.fixture
def copy(world: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(world[0], tmp_path / "ledger")
    return tmp_path / "ledger"


@pytest.fixture
def rows(world: tuple[Path, Path]) -> dict[str, int]:
    verdicts = tables.read_ledger(world[0], tables.VERDICTS).to_pylist()
    return {line["record_id"]: line["row"] for line in verdicts}


def test_a_sample_has_every_part_and_no_record_twice(world: tuple[Path, Path]) -> None:
    drawn = draw_sample(world[0], 20)
    assert len(drawn) == 20 == len({one.row for one in drawn})
    pools = {one.pool for one in drawn}
    assert {"dropped", "borderline", "kept"} <= pools
    kept = {v["row"]: v["keep"] for v in tables.read_ledger(world[0], tables.VERDICTS).to_pylist()}
    assert all(not kept[one.row] for one in drawn if one.pool == "dropped")
    assert all(kept[one.row] for one in drawn if one.pool in ("kept", "noted"))
    dropped = {one.row for one in drawn if one.pool == "dropped"}
    findings = tables.read_ledger(world[0], tables.FINDINGS).to_pylist()
    assert len({f["dimension"] for f in findings if f["row"] in dropped}) >= 3


def test_a_sample_is_the_same_for_a_seed_and_another_for_another(world: tuple[Path, Path]) -> None:
    assert draw_sample(world[0], 12, 1) == draw_sample(world[0], 12, 1)
    assert draw_sample(world[0], 12, 1) != draw_sample(world[0], 12, 2)


def test_a_sample_larger_than_the_data_takes_everything(world: tuple[Path, Path]) -> None:
    assert len(draw_sample(world[0], 500)) == RECORDS


def test_records_that_name_a_person_are_not_given_out(copy: Path) -> None:
    findings = tables.read_ledger(copy, tables.FINDINGS).to_pylist()
    findings += [
        {"row": row, "record_id": f"questions-{row}", "rule": "privacy.identifier", "version": 1,
         "dimension": "privacy", "severity": "drop", "where": "id", "evidence": "name", "value": 1.0,
         "threshold": None, "start": 0, "end": 4}
        for row in range(0, RECORDS, 2)
    ]  # fmt: skip
    findings.sort(key=lambda line: line["row"])
    pq.write_table(tables.table(tables.FINDINGS, findings), copy / "findings.parquet")
    assert {one.row % 2 for one in draw_sample(copy, RECORDS)} == {1}


def test_reviewers_files_hold_no_verdict_and_no_finding(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    export_labels(copy, shards, tmp_path / "out", 30)
    for name in ("review.html", "items.csv", "items.jsonl"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8").lower()
        text = re.sub(
            r"<style>.*?</style>|placeholder: .name or code.|placeholder=",
            "",
            text,
            flags=re.DOTALL,
        )
        for word in ("dropped", "verdict", "borderline", "blurred", "placeholder", "min_sharpness"):
            assert word not in text, (name, word)
    sample = pq.read_table(copy / "label_sample.parquet")
    assert sample.num_rows == 30 and "pool" in sample.column_names


def test_nothing_from_records_can_run_in_the_page_or_a_spreadsheet(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    export_labels(copy, shards, tmp_path / "out", RECORDS)
    html = (tmp_path / "out" / "review.html").read_text(encoding="utf-8")
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert "<img" not in html and "onerror=" not in html.replace("\\u003cimg src=x onerror=", "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy.group(1).startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy.group(1)
    assert "innerHTML" not in html and "eval(" not in html
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    texts = [t["text"] for item in json.loads(data.group(1))["items"] for t in item["texts"]]
    assert any(PAYLOAD in text for text in texts)
    with (tmp_path / "out" / "items.csv").open(encoding="utf-8", newline="") as handle:
        cells = [cell for line in csv.reader(handle) for cell in line]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_the_same_sample_is_written_as_the_same_bytes(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        export_labels(copy, shards, tmp_path / name, 10)
    for file in ("review.html", "items.csv", "items.jsonl"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_export_never_overwrites_what_is_there(
    copy: Path, shards: ShardSet, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="something already"):
        export_labels(copy, shards, tmp_path / "out", 10)


@pytest.mark.parametrize("text", ["=1+1", "'quoted", "plain", "-", "@x", "", "a=b"])
def test_spreadsheet_cells_are_inverted(text: str) -> None:
    assert plain_text(spreadsheet_text(text)) == text
    assert spreadsheet_text(text)[:1] not in ("=", "+", "-", "@")


def test_json_in_a_page_cannot_end_its_element() -> None:
    hostile = {"a": "</script><!--\u2028&amp;"}
    assert not set("<>&\u2028") & set(script_safe(hostile))
    assert json.loads(script_safe(hostile)) == hostile


def save(path: Path, rater: str, labels: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"format": "infimed-labels-1", "rater": rater, "labels": labels}))
    return path


def test_json_jsonl_and_csv_say_the_same(tmp_path: Path, rows: dict[str, int]) -> None:
    label = {"record_id": "questions-1", "completeness": "2", "accuracy": "U", "comment": "well"}
    one = read_label_files([save(tmp_path / "a.json", "anna", [label])], rows)
    (tmp_path / "a.jsonl").write_text(json.dumps({**label, "rater": "anna", "completeness": 2}))
    two = read_label_files([tmp_path / "a.jsonl"], rows)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["record_id", "rater", *QUALITY, "comment", "text"])
    writer.writerow(["questions-1", "anna", "2.0", "u", "", "", "", "well", "whatever\nthere is"])
    (tmp_path / "a.csv").write_text("\ufeff" + text.getvalue())
    three = read_label_files([tmp_path / "a.csv"], rows)
    assert one.rows == two.rows == three.rows
    assert [(r["dimension"], r["level"]) for r in one.rows] == [
        ("completeness", 2),
        ("accuracy", None),
    ]
    assert not one.malformed + two.malformed + three.malformed


@pytest.mark.parametrize(
    ("label", "what"),
    [
        ({"record_id": "nobody", "accuracy": 1}, "no such record"),
        ({"accuracy": 1}, "no such record"),
        ({"record_id": "questions-1", "accuracy": 3}, "accuracy is '3'"),
        ({"record_id": "questions-1", "accuracy": "bad"}, "accuracy is 'bad'"),
        ({"record_id": "questions-1", "accuracy": True}, "accuracy is 'True'"),
        ({"record_id": "questions-1", "accuracy": [1]}, "accuracy is"),
        ({"record_id": "questions-1", "accuracy": 1, "rater": "  "}, "no rater"),
        ({"record_id": "questions-1", "accuracy": 1, "rater": 7}, "no rater"),
        ({"record_id": "questions-1", "accuracy": 1, "rater": "a\x1bb"}, "no rater"),
        ("text", "not a JSON object"),
    ],
)
def test_a_malformed_label_is_named_with_its_place(
    tmp_path: Path, rows: dict[str, int], label: Any, what: str
) -> None:
    good = {"record_id": "questions-2", "accuracy": 0}
    read = read_label_files([save(tmp_path / "a.json", "anna", [good, label])], rows)
    assert [r["record_id"] for r in read.rows] == ["questions-2"]
    (problem,) = read.malformed
    assert problem.where == "a.json, label 2" and what in problem.what


def test_malformed_csv_rows_are_named_by_line(tmp_path: Path, rows: dict[str, int]) -> None:
    file = tmp_path / "a.csv"
    file.write_text(
        "record_id,rater,accuracy\nquestions-1,anna,1\nquestions-2,anna,9\n\nquestions-3,anna,1,1,1\n"
        "questions-4,anna,\n"
    )
    read = read_label_files([file], rows)
    assert [p.where for p in read.malformed] == ["a.csv:3", "a.csv:5"]
    assert (len(read.rows), read.unlabelled) == (1, 1)


def test_the_same_label_twice_counts_once_and_a_contradiction_is_malformed(
    tmp_path: Path, rows: dict[str, int]
) -> None:
    first = save(tmp_path / "a.json", "anna", [{"record_id": "questions-1", "accuracy": 1}])
    other = save(tmp_path / "b.json", "anna", [{"record_id": "questions-1", "accuracy": 2}])
    assert len(read_label_files([first, first], rows).rows) == 1
    read = read_label_files([first, other], rows)
    assert len(read.rows) == 1 and "same rater" in read.malformed[0].what


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", b"[1, 2]", "not a file of labels"),
        ("a.json", b"{broken", "not a file of labels"),
        ("a.json", b'{"labels": 3}', "not a file of labels"),
        ("a.csv", b"id,rater\n1,2\n", "no column 'record_id'"),
        ("a.csv", b"record_id,rater\n1,2\n", "of any dimension"),
        ("a.csv", b"", "no column"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, rows: dict[str, int], name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=what):
        read_label_files([tmp_path / name], rows)


def test_a_missing_file_is_refused(tmp_path: Path, rows: dict[str, int]) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_label_files([tmp_path / "none.json"], rows)


def labelled(row: int, rater: str, dimension: str, level: int | None) -> dict[str, Any]:
    return {
        "row": row, "record_id": f"questions-{row}", "rater": rater, "dimension": dimension,
        "level": level, "comment": "",
    }  # fmt: skip


def test_stored_labels_round_trip_and_newer_ones_replace(copy: Path) -> None:
    assert read_labels(copy).num_rows == 0
    first = [labelled(1, "anna", "accuracy", 2), labelled(1, "ben", "accuracy", None)]
    assert store_labels(copy, first) == (2, 0)
    assert read_labels(copy).to_pylist() == first
    assert store_labels(copy, [labelled(1, "anna", "accuracy", 0)]) == (0, 1)
    assert read_labels(copy).to_pylist()[0]["level"] == 0


def test_rules_speak_in_levels(world: tuple[Path, Path]) -> None:
    levels = rules_levels(world[0], [0, 33, 35])
    assert set(levels[0].values()) == {2}
    assert levels[33]["completeness"] == 0 and levels[33]["accuracy"] == 2
    assert levels[35]["relevance"] == 1


@pytest.mark.parametrize("layout", ["wide", "tall"])
def test_a_judges_levels_are_read_in_both_layouts(copy: Path, layout: str) -> None:
    wide = {"row": [3], "record_id": ["questions-3"], "accuracy": ["1"], "relevance": ["U"]}
    tall = {
        "record_id": ["questions-3"] * 2,
        "dimension": ["accuracy", "relevance"],
        "level": [1, None],
    }
    pq.write_table(pa.table(wide if layout == "wide" else tall), copy / "judgements.parquet")
    found = judge_levels(copy, {"questions-3": 3, "questions-4": 4})
    assert (found[3]["accuracy"], found[3]["relevance"]) == (1, None)
    assert 4 not in found


def test_without_a_judge_there_are_no_levels(copy: Path) -> None:
    assert judge_levels(copy, {"questions-3": 3}) == {}


def test_agreement_counts_people_rules_judge_and_unknowns(copy: Path) -> None:
    rows = [0, 5, 28, 29, 31, 33]
    truth = rules_levels(copy, rows)
    made = []
    for row in rows:
        for dimension in QUALITY:
            made.append(labelled(row, "anna", dimension, truth[row][dimension]))
            unsure = row == 0 and dimension == "accuracy"
            made.append(labelled(row, "ben", dimension, None if unsure else truth[row][dimension]))
    store_labels(copy, made)
    judged = {"row": rows, "record_id": [f"questions-{r}" for r in rows]}
    judged |= {d: [str(2 - truth[r][d]) for r in rows] for d in QUALITY}  # type: ignore[dict-item]
    pq.write_table(pa.table(judged), copy / "judgements.parquet")
    report = label_report(copy)
    found = {d.dimension: d for d in report.dimensions}
    assert report.raters == ("anna", "ben") and report.records == 6
    readable = found["readability"]
    assert readable.ceiling == 1 and readable.alpha.mean == 1
    machines = {m.name: m.kappa for m in readable.machines}
    assert machines["rules"] == 1 and machines["judge"] is not None and machines["judge"] < 0
    assert found["accuracy"].unknown == pytest.approx(1 / 12)
    assert found["accuracy"].pairs[0].kappa.n == 5
    assert (
        found["accuracy"].ceiling is None
    )  # everybody says 2: agreement beyond chance is undefined
    assert found[ALL].pairs[0].kappa.n == 29
    assert (report.dropped.records, report.dropped.defective) == (4, 4)
    assert (report.kept.records, report.kept.defective) == (2, 0)


def test_the_commands_go_from_export_to_agreement(
    world: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    done = runner.invoke(
        app, ["export", str(copy), "--shards", str(world[1]), "--n", "8", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    with (out / "items.csv").open(encoding="utf-8", newline="") as handle:
        lines = list(csv.DictReader(handle))
    files = []
    for rater in ("anna", "ben"):
        file = out / f"{rater}.csv"
        with file.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, lines[0].keys())
            writer.writeheader()
            for number, line in enumerate(lines):
                writer.writerow({**line, "rater": rater, "accuracy": number % 3, "relevance": "U"})
        files.append(str(file))
    done = runner.invoke(app, ["import", *files, "--ledger", str(copy)])
    assert done.exit_code == 0, done.output
    assert "32 labels read" in done.output and "1.00" in done.output
    assert (copy / "agreement.json").is_file()
    assert "Krippendorff" in runner.invoke(app, ["agreement", str(copy)]).output


def test_malformed_rows_stop_an_import_unless_told_otherwise(copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("record_id,rater,accuracy\nquestions-1,anna,1\nquestions-2,anna,9\n")
    done = runner.invoke(app, ["import", str(file), "--ledger", str(copy)])
    assert isinstance(done.exception, DataError) and "a.csv:3" in str(done.exception)
    assert read_labels(copy).num_rows == 0
    done = runner.invoke(app, ["import", str(file), "--ledger", str(copy), "--skip-malformed"])
    assert done.exit_code == 0, done.output
    assert read_labels(copy).num_rows == 1


def test_agreement_without_labels_says_how_to_get_some(copy: Path) -> None:
    done = runner.invoke(app, ["agreement", str(copy)])
    assert isinstance(done.exception, DataError) and "label export" in str(done.exception)
