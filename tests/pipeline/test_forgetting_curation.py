"""Forgetting reaches everything a curation folder can hold: the search finds the patient before, and nothing after.

The folder is filled by the commands' own functions. Each safeguard is then switched off in turn, and the same
search must find the patient: a test that cannot fail proves nothing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infimed.core.files import read_json, write_json
from infimed.curation import curate, default_rubric, forgetting, ledger, read_summary, score_pass
from infimed.curation.deciding import decide_ledger
from infimed.curation.decision import read_decision
from infimed.curation.findings import QUALITY
from infimed.curation.grounding_table import GROUNDING_FILE, SCHEMA, read_grounding, summarise
from infimed.curation.judge import Band, plan, run_judge
from infimed.curation.judge_rubric import JudgeRubric
from infimed.curation.judge_tables import read_judgements
from infimed.curation.label_export import export_labels
from infimed.curation.labels import read_labels, store_labels
from infimed.curation.leakage import RULE, compare_sets, read_leakage, with_leaks
from infimed.curation.origin import note_shards, read_rubric
from infimed.data.importing import import_data
from infimed.data.shards import open_shards
from infimed.inference.responses import read_responses
from infimed.inference.stubs import Scripted
from infimed.pipeline.forgetting import forget, survey
from tests.curation.judged_world import elsewhere
from tests.pipeline.test_forgetting import GONE, clinic, make_run

PATIENT = "patient-0"


def answer(request: object) -> str:
    """A judge that quotes the question of whoever it judges."""
    text = str(request)
    case = text.split("of the lung of case ")[1][:1]
    levels = {name: {"level": 2, "evidence": f"the lung of case {case}"} for name in QUALITY}
    levels["accuracy"]["level"] = 0 if case == "0" else 1
    return json.dumps(levels)


def fill(run: Path, root: Path) -> None:
    """Everything that commands leave in a curation folder, about all patients."""
    folder = run / "ledger.parquet"
    shards = open_shards(run / "shards")
    other = [{**json.loads(line), "id": f"b{number}", "group": f"bench-{number}"}
             for number, line in enumerate((root / "in" / "metadata.jsonl").read_text().splitlines())]  # fmt: skip
    shutil.copytree(root / "in", root / "bench")
    (root / "bench" / "metadata.jsonl").write_text("\n".join(map(json.dumps, other)))
    import_data(root / "bench", root / "bench-shards")
    bench = open_shards(root / "bench-shards")
    curate(shards, folder)
    found = compare_sets(shards, bench, folder)
    assert {leak.record_id for leak in found.leaks} >= set(GONE)
    curate(shards, folder, rubric=with_leaks(default_rubric(), found).with_settings({RULE: "note"}))
    compare_sets(shards, bench, run / "leakage")
    note_shards(folder, shards)

    rubric = JudgeRubric.load()
    planned = plan(folder, shards, rubric, band=Band(0, 1))
    run_judge(folder, shards, Scripted("scripted", answer), planned, rubric)
    # A run that was killed: an answer without a judgement.
    with (folder / "judge.responses.jsonl").open("a") as handle:
        handle.write(json.dumps({"key": "k", "id": "0", "status": "ok", "new_tokens": 1,
                                 "text": "lung of case 0"}) + "\n")  # fmt: skip
    rows = [
        {"row": row, "record_id": shards.record(row).id, "status": "ok", "target_tokens": 1, "loss": 1.0,
         "gap_without": 0.1, "gap_swapped": 0.2 if row else -1.0}
        for row in range(len(shards))
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, folder / GROUNDING_FILE)
    made = summarise(table)
    write_json(
        folder / "grounding.json",
        {"key": {"data": shards.data_hash}, **{n: getattr(made, n) for n in made.__slots__}},
    )

    export_labels(folder, shards, folder / "labels", 18)
    store_labels(
        folder,
        [
            {"row": row, "record_id": shards.record(row).id, "rater": "anna", "dimension": "accuracy",
             "level": 0 if row == 0 else 2, "comment": f"of {shards.record(row).id}"}
            for row in range(len(shards))
        ],
    )  # fmt: skip
    write_json(folder / "agreement.json", {"raters": ["anna"]})
    decide_ledger(folder, elsewhere(), target_precision=0.01)
    assert read_decision(folder) is not None
    # Commands that were killed; the one above would have cleared up after itself.
    for parts in ("grounding.parts", score_pass.PARTS, ledger.PARTS):
        (folder / parts).mkdir()
        pq.write_table(table, folder / parts / "000000.parquet")
    pq.write_table(table, folder / "findings.new")
    stage = folder.parent / f".{folder.name}.redecided"
    stage.mkdir()
    pq.write_table(table, stage / "findings.parquet")


def places(run: Path, marks: set[str]) -> set[str]:
    """Files that hold one of the marks, whatever their form; parts of unfinished work by their folder."""
    found = set()
    for file in sorted(run.rglob("*")):
        if not file.is_file():
            continue
        data = file.read_bytes()
        text = data.decode("utf-8", "replace")
        if data[:4] == b"PAR1":
            table = pq.read_table(file, partitioning=None)
            text += str(table.to_pylist()) + str(table.schema.metadata)
        if any(mark in text for mark in marks) or any(mark in file.name for mark in marks):
            inside = file.relative_to(run)
            odd = file.parent.name.endswith((".parts", ".redecided"))
            found.add(file.parent.name if odd else inside.name)
    return found


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """(run folder full of everything, marks of the patient)."""
    root = tmp_path_factory.mktemp("origin")
    run = make_run(root)
    fill(run, root)
    shards = open_shards(run / "shards")
    (target,) = survey(PATIENT, [], [run]).targets
    marks = {
        *GONE,
        PATIENT,
        "of case 0",
        *target.found.images,
        *(i[:24] for i in target.found.images),
    }
    assert all(shards.record(row).group == PATIENT for row in target.found.rows)
    return run, marks


@pytest.fixture
def run(origin: tuple[Path, set[str]], tmp_path: Path) -> Path:
    shutil.copytree(origin[0], tmp_path / "run")
    return tmp_path / "run"


EVERYWHERE = {
    "signals.parquet", "findings.parquet", "verdicts.parquet", "cost.parquet", "scores.parquet",
    "judgements.parquet", "judge_cost.parquet", "judge.responses.jsonl", "grounding.parquet",
    "labels.parquet", "label_sample.parquet", "leakage.parquet", "leakage.html", "curation.json",
    "review.html", "items.csv", "items.jsonl", "findings.new", ".ledger.parquet.redecided",
    "grounding.parts", "scores.parts", "curation.parts",
}  # fmt: skip


def test_the_patient_is_everywhere_before_and_nowhere_after(
    run: Path, origin: tuple[Path, set[str]]
) -> None:
    marks = origin[1]
    assert places(run, marks) >= EVERYWHERE
    forget(survey(PATIENT, [], [run]))
    assert places(run, marks) == set()
    folder, shards = run / "ledger.parquet", open_shards(run / "shards")
    ids = [record.id for record in shards]
    for name in (
        "signals",
        "verdicts",
        "scores",
        "judgements",
        "judge_cost",
        "grounding",
        "labels",
    ):
        rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
        assert [ids[line["row"]] for line in rows] == [line["record_id"] for line in rows]
        assert len({line["row"] for line in rows}) == 15, name
    for where in (folder, run / "leakage"):
        leaks = read_leakage(where)
        assert {leak.record_id for leak in leaks.leaks} <= set(
            ids
        ) and leaks.data_hash == shards.data_hash
        assert (
            read_json(where / "leakage.json")["data records"]
            == len({k.row for k in leaks.leaks})
            > 0
        )


def test_what_is_left_still_works_together(run: Path) -> None:
    forget(survey(PATIENT, [], [run]))
    folder, shards = run / "ledger.parquet", open_shards(run / "shards")
    summary = read_summary(folder)
    assert read_rubric(folder, summary).identity == summary.rubric, (
        "the leak rule names its smaller table"
    )
    judge = read_json(folder / "judge.json")
    assert judge["data"] == shards.data_hash and judge["selected"] == 15
    assert judge["levels"]["accuracy"] == {"0": 0, "1": 15, "2": 0, "U": 0}
    answers = read_responses(folder / "judge.responses.jsonl")[0]
    judged = {line["request"]: str(line["row"]) for line in read_judgements(folder).to_pylist()}
    assert {key: one.id for key, one in answers.items()} == judged
    asked: list[object] = []

    def asking(request: object) -> str:
        asked.append(request)
        return answer(request)

    rubric = JudgeRubric.load()
    planned = plan(folder, shards, rubric, band=Band(0, 1))
    run_judge(folder, shards, Scripted("scripted", asking), planned, rubric)
    assert not asked, "the answers about the others are still known"
    grounding = read_json(folder / "grounding.json")
    assert grounding["records"] == 15 and grounding["own_wins"] == 1.0
    assert grounding["key"]["data"] == shards.data_hash
    assert summarise(read_grounding(folder)).records == 15
    assert {line["comment"] for line in read_labels(folder).to_pylist()} == {
        f"of {record.id}" for record in shards
    }
    decision = read_decision(folder)
    assert decision is not None and sum(one.records for one in decision.strata) == 15
    again = decide_ledger(folder, elsewhere(), target_precision=0.01)
    assert sum(one.records for one in again.strata) == 15
    measured = read_json(folder / "measured.json")
    assert measured["data"] == shards.data_hash and measured["records"] == 15
    # Another limit is decided from the signals that are left.
    made = curate(
        shards, folder, rubric=default_rubric().with_settings({"readability.markup": "note"})
    )
    assert made.measured == 15 and made.data_hash == shards.data_hash
    assert pq.read_table(folder / "signals.parquet").num_rows == 15


def test_forgetting_a_second_patient_finds_the_renumbered_rows(
    run: Path, origin: tuple[Path, set[str]]
) -> None:
    forget(survey(PATIENT, [], [run]))
    forget(survey("patient-3", [], [run]))
    assert places(run, {"r3-0", "r3-1", "r3-2", "patient-3", "of case 3"}) == set()
    assert places(run, origin[1]) == set()
    assert len(read_judgements(run / "ledger.parquet")) == 12
    (target,) = survey("patient-2", [], [run]).targets
    assert len(target.plans) == 2 and target.answers and target.checkpoints
    forget(survey("patient-2", [], [run]))
    assert places(run, {"r2-0", "r2-1", "r2-2", "patient-2", "of case 2"}) == set()
    shards = open_shards(run / "shards")
    planned = pq.read_table(run / "plan" / "second.parquet")["record"].to_pylist()
    assert [shards.record(row).id for row in planned] == ["r4-0", "r4-1", "r4-2"]


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        ("forget_judgements", {"judge.responses.jsonl"}),
        ("_unfinished", {"findings.new", ".ledger.parquet.redecided"}),
        ("_summary", {"curation.json"}),
        ("exported", {"review.html", "items.csv", "items.jsonl"}),
        ("renumber", {"scores.parquet", "labels.parquet", "leakage.parquet", "grounding.parquet"}),
    ],
)
def test_each_safeguard_switched_off_is_noticed(
    run: Path,
    origin: tuple[Path, set[str]],
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    where: set[str],
) -> None:
    def nothing(*_: object) -> tuple[()]:
        return ()

    monkeypatch.setattr(forgetting, broken, nothing)
    if broken == "exported":
        monkeypatch.setattr("infimed.pipeline.forgetting.exported", nothing)
    forget(survey(PATIENT, [], [run]))
    assert where <= places(run, origin[1])


def test_rows_of_other_data_are_no_error_and_a_named_record_goes(tmp_path: Path) -> None:
    """A table that an older data set left behind: its row numbers mean something else."""
    run = make_run(tmp_path)
    left = pa.table({"row": pa.array([5, 900], pa.int64()), "record_id": ["r0-1", "x"]})
    pq.write_table(left, run / "ledger.parquet" / "older.parquet")
    forget(survey(PATIENT, [], [run]))
    assert pq.read_table(run / "ledger.parquet" / "older.parquet").num_rows == 0


def test_a_leakage_table_of_other_shards_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    import_data(clinic(tmp_path / "x"), tmp_path / "x-shards")
    other = open_shards(tmp_path / "x-shards")
    bench = open_shards(run / "shards")
    import_data(tmp_path / "x", tmp_path / "y-shards", records_per_shard=4)
    assert other.data_hash != open_shards(tmp_path / "y-shards").data_hash
    compare_sets(open_shards(tmp_path / "y-shards"), bench, run / "leakage")
    before = (run / "leakage" / "leakage.parquet").read_bytes()
    forget(survey(PATIENT, [], [run]))
    assert (run / "leakage" / "leakage.parquet").read_bytes() == before
