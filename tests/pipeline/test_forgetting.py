"""Forgetting a patient: gone everywhere it is looked up, everything else byte for byte as before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.main import app
from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.curation import curate, kept_rows, ledger, read_summary, read_verdicts
from infimed.data import forgetting as data_forgetting
from infimed.data.forgetting import find_group, was_forgotten
from infimed.data.importing import import_data
from infimed.data.shards import ShardSet, open_shards
from infimed.pipeline.forgetting import forget, survey
from tests.data.samples import encoded, noise, write_lines

PATIENTS = 6


def clinic(root: Path) -> Path:
    """Six patients with two images and three records each; one image is shown by two patients."""
    lines = []
    root.mkdir(parents=True)
    for number in range(2 * PATIENTS + 1):
        (root / f"{number}.png").write_bytes(encoded(noise(80, 96, seed=number)))
    for patient in range(PATIENTS):
        for item, image in enumerate(
            (2 * patient, 2 * patient + 1, 2 * PATIENTS if patient < 2 else 2 * patient)
        ):
            lines.append(
                {
                    "file_name": f"{image}.png", "id": f"r{patient}-{item}", "group": f"patient-{patient}",
                    "question": f"Is finding {item} of the lung of case {patient} present?", "answer": "yes",
                    "split": "train" if patient % 2 == 0 else "test",
                }
            )  # fmt: skip
    write_lines(root / "metadata.jsonl", lines)
    return root


def make_run(tmp_path: Path) -> Path:
    """A run folder with shards in several files, a ledger, a plan, checkpoints and answers."""
    run = tmp_path / "run"
    import_data(clinic(tmp_path / "in"), run / "shards", records_per_shard=5)
    shards = open_shards(run / "shards")
    curate(shards, run / "ledger.parquet")
    write_json(run / "data.json", {"shards": shards.data_hash})
    (run / "recipe.yaml").write_text("stages: [{name: first}, {name: second}]\n")
    (run / "plan").mkdir()
    rows = [r for r in range(len(shards)) if shards.record(r).split == "train"]
    for name, order in (("first", rows[3:]), ("second", rows)):
        table = pa.table({"row": range(len(order)), "document": [0] * len(order), "record": order})
        pq.write_table(table, run / "plan" / f"{name}.parquet")
    lengths = pa.table({"id": shards.index(["id"])["id"]})
    pq.write_table(lengths, run / "plan" / "lengths-0.parquet")
    for step, stage, row in ((1, 0, 1), (2, 1, 0), (3, 1, 1), (4, 2, 0)):
        folder = run / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        write_json(
            folder / "manifest.json", {"position": {"stage": stage, "row": row, "step": step}}
        )
    answers = run / "evaluation"
    task = answers / "open"  # as infimed eval lays it out
    task.mkdir(parents=True)
    write_lines(answers / "samples.jsonl", [{"id": record.id, "text": "x"} for record in shards])
    write_json(
        task / "model.run.json", {"requests": [{"id": f"{record.id}#2"} for record in shards]}
    )
    write_lines(task / "model.responses.jsonl", [{"id": record.id} for record in shards])
    write_lines(task / "judge.replies.jsonl", [{"id": f"{r.id}#2#j0"} for r in shards])
    write_lines(task / "model.verdicts.jsonl", [{"id": record.id} for record in shards])
    turned = [{"id": f"{record.id}{of}@1"} for record in shards for of in ("", "#2")]
    write_json(task / "options-rotated.run.json", {"requests": turned})
    write_lines(task / "options-rotated.responses.jsonl", turned)
    places = [{"path": "../shards", "data_sha256": shards.data_hash}]
    write_json(answers / "evaluation.json", {"format": 1, "shards": places})
    donors = [record.id for record in shards]
    shown = [
        {"id": name, "images_of": donor, "key": f"key of {donor}"}
        for name, donor in zip(donors, donors[3:] + donors[:3], strict=True)
    ]
    write_json(task / "image-swapped.run.json", {"requests": shown})
    answers_to = [{"key": one["key"], "id": one["id"], "text": "x"} for one in shown]
    write_lines(task / "image-swapped.responses.jsonl", answers_to)
    write_json(task / "leakage.json", {"found": dict.fromkeys(donors, "image")})
    (run / "report.html").write_text("<p>patient-0</p>")
    return run


def contents(shards: ShardSet) -> dict[str, object]:
    """Everything of every record, image bytes included."""
    return {
        record.id: (
            record.to_json(),
            tuple(shards.image_bytes(ref.sha256) for ref in record.images),
        )
        for record in shards
    }


def tables(run: Path, without: tuple[str, ...] = ()) -> dict[str, list[dict[str, object]]]:
    """The ledger's rows by table, apart from row numbers, for records not named in `without`."""
    return {
        name: [
            {k: v for k, v in line.items() if k != "row"}
            for line in pq.read_table(ledger.path_of(run / "ledger.parquet", name)).to_pylist()
            if line["record_id"] not in without
        ]
        for name in (ledger.SIGNALS, ledger.FINDINGS, ledger.VERDICTS, ledger.COST)
    }


GONE = ("r0-0", "r0-1", "r0-2")


def check_all(run: Path, before: dict[str, object], ledger_before: dict[str, object]) -> None:
    """Everything a finished removal promises."""
    shards = open_shards(run / "shards", verify=True)
    after = contents(shards)
    assert after == {name: value for name, value in before.items() if name not in GONE}
    shown = {ref.sha256 for record in shards for ref in record.images}
    assert set(shards.images["sha256"].to_pylist()) == shown, "no image that nobody shows"
    assert shards.counts["records"] == len(after) == 15 and shards.counts["images"] == len(shown)
    assert tables(run) == ledger_before
    rows = read_verdicts(run / "ledger.parquet").to_pylist()
    assert [shards.record(line["row"]).id for line in rows] == [line["record_id"] for line in rows]
    summary = read_summary(run / "ledger.parquet")
    assert (summary.records, summary.data_hash) == (15, shards.data_hash)
    assert summary.kept == len(kept_rows(run / "ledger.parquet"))
    for name in ("first", "second"):
        plan = pq.read_table(run / "plan" / f"{name}.parquet")["record"].to_pylist()
        ids = [shards.record(row).id for row in plan]
        assert plan and not set(ids) & set(GONE)
        assert ids == [f"r{patient}-{item}" for patient in (2, 4) for item in range(3)]
    (place,) = read_json(run / "evaluation" / "evaluation.json")["shards"]
    assert place["data_sha256"] == shards.data_hash
    left = (run / "evaluation" / "open" / "image-swapped.responses.jsonl").read_text()
    assert left.count("\n") == 12, "answers about an image that is gone, under another's name"
    everything = b"".join(file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file())
    assert b"patient-0" not in everything and not any(name.encode() in everything for name in GONE)
    assert not list(run.glob(".shards*")) and not (run / "plan" / "lengths-0.parquet").exists()


def test_a_patient_is_gone_and_everything_else_is_byte_identical(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before, ledger_before = contents(open_shards(run / "shards")), tables(run, GONE)
    found = survey("patient-0", [], [run])
    assert [path.name for path in found.targets[0].checkpoints] == ["step-3", "step-4"]
    assert len(found.targets[0].found.images) == 2, "the shared image stays"
    forget(found)
    check_all(run, before, ledger_before)
    stone = was_forgotten(run / "shards", "patient-0")
    assert stone is not None and (stone["records"], stone["images"]) == (3, 2)
    assert was_forgotten(run / "shards", "patient-1") is None
    notes = read_json(run / "forgotten.json")
    assert notes[0]["checkpoints"] == ["checkpoints/step-3", "checkpoints/step-4"]
    assert survey("patient-0", [], [run]).already and not survey("patient-0", [], [run]).targets


def test_killed_at_any_rename_the_same_command_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file appears by one rename; killed before each of them in turn."""
    origin = make_run(tmp_path / "origin")
    before, ledger_before = contents(open_shards(origin / "shards")), tables(origin, GONE)
    rename = os.replace
    for stop in range(100):
        run = tmp_path / f"run-{stop}"
        shutil.copytree(origin, run)
        count = 0

        def killed(source: object, target: object, stop: int = stop) -> None:
            nonlocal count
            count += 1
            if count > stop:
                raise KeyboardInterrupt
            rename(source, target)  # type: ignore[arg-type]

        found = survey("patient-0", [], [run])
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            try:
                forget(found)
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            if (run / ".shards.forgetting.json").is_file():
                with pytest.raises(DataError, match="another removal"):
                    survey("patient-1", [], [run])
            forget(survey("patient-0", [], [run]))
        check_all(run, before, ledger_before)
        shutil.rmtree(run)
        if not interrupted:
            break
    assert stop > 8


def test_forgetting_two_patients_one_after_the_other(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    forget(survey("patient-0", [], [run]))
    forget(survey("patient-1", [run / "shards"], [run / "ledger.parquet"]))
    shards = open_shards(run / "shards", verify=True)
    assert len(shards) == 12 and len(shards.images) == 8, "the shared image went with the last"
    assert all(was_forgotten(run / "shards", f"patient-{n}") for n in (0, 1))
    assert len(read_verdicts(run / "ledger.parquet")) == 12


def test_curation_goes_on_from_the_renumbered_ledger(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    forget(survey("patient-0", [], [run]))
    shards = open_shards(run / "shards")
    again = curate(shards, run / "ledger.parquet")
    fresh = curate(shards, tmp_path / "fresh")
    assert again.data_hash == fresh.data_hash and again.records == fresh.records


def test_an_unknown_group_and_a_group_that_is_everything_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(DataError, match="no record is of this group"):
        survey("nobody", [], [run])
    with pytest.raises(DataError, match="no shards to look at"):
        survey("x", [], [tmp_path / "in"])
    shards = open_shards(run / "shards")
    only = find_group(shards, "patient-0")
    with pytest.raises(DataError, match="nothing would be left"):
        data_forgetting.build(
            run / "shards", "patient-0", only.__class__(tuple(range(18)), (), (), "", 18)
        )


def test_row_map_equals_a_slow_renumbering(tmp_path: Path) -> None:
    shards = open_shards(make_run(tmp_path) / "shards")
    found = find_group(shards, "patient-2")
    slow, new = [], 0
    for row in range(len(shards)):
        if shards.record(row).group == "patient-2":
            slow.append(-1)
        else:
            slow.append(new)
            new += 1
    assert np.array_equal(found.row_map(), slow)


def test_the_command_shows_first_and_does_it_with_consent(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    args = ["data", "forget", "--group", "patient-0", "--runs", str(run)]
    before = (run / "shards" / "manifest.json").read_bytes()
    shown = CliRunner().invoke(app, args)
    assert (
        shown.exit_code == 0 and "nothing was changed" in shown.output and "step-3" in shown.output
    )
    assert (run / "shards" / "manifest.json").read_bytes() == before
    assert CliRunner().invoke(app, [*args, "--yes"]).exit_code == 0
    assert len(open_shards(run / "shards")) == 15
    assert json.loads(before)["data_sha256"] != open_shards(run / "shards").data_hash
