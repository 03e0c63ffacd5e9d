"""`infimed judge` over a stub server, good and evil, and over a local checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("httpx")

from infimed.cli.main import app
from infimed.data.importing import import_data
from infimed.data.shards import open_shards
from infimed.evaluation.judging.asking import judge_answers
from infimed.evaluation.judging.prompts import load_prompt
from infimed.evaluation.judging.verdicts import replies_path
from infimed.evaluation.runner import evaluate, score
from infimed.inference.endpoint import EndpointModel
from infimed.inference.endpoint_settings import Endpoint
from infimed.inference.stubs import constant, oracle
from tests.evaluation.judging.stubs import open_records, reply
from tests.evaluation.rows import write_layout
from tests.inference.stub_server import Reply, failed, said, serving, text_of

RUNNER = CliRunner()


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Path, Path]:
    """(shards of open questions, evaluation folder with answers to them, every third one wrong)."""
    source = tmp_path / "in"
    source.mkdir()
    records = open_records()
    lines = "".join(record.to_json() + "\n" for record in records)
    (source / "records.jsonl").write_text(lines, encoding="utf-8")
    import_data(source, tmp_path / "shards", reader="records")
    known = {r.id: "a cyst" if n % 3 == 2 else str(r.answer) for n, r in enumerate(records)}
    evaluate(
        oracle(known), open_shards(tmp_path / "shards"), ["open"], tmp_path / "out", label="model"
    )
    return tmp_path / "shards", tmp_path / "out"


def fair_script(call: dict[str, Any], _: int) -> Reply:
    """Yes where the reference stands in the answer."""
    text = text_of(call)
    gold = text.split("<<<REFERENCE\n")[1].split("\nREFERENCE>>>")[0]
    answer = text.split("<<<ANSWER\n")[1].split("\nANSWER>>>")[0]
    return said(reply("yes" if gold in answer else "no"))


def judge_folder(out: Path, url: str, shards: Path, *more: str) -> Any:
    return RUNNER.invoke(
        app,
        [
            "judge",
            str(out),
            "--judge",
            url,
            "--judge-model",
            "stub",
            "--shards",
            str(shards),
            *more,
        ],
    )


def test_the_command_judges_and_scores_again(answered: tuple[Path, Path]) -> None:
    shards, out = answered
    with serving(fair_script) as stub:
        dry = judge_folder(out, stub.url, shards, "--dry-run")
        assert dry.exit_code == 0 and stub.calls == [] and "12 calls to make" in dry.output
        done = judge_folder(out, stub.url, shards)
        assert done.exit_code == 0, done.output
        assert len(stub.calls) == 12 and "kappa" in done.output
        again = judge_folder(out, stub.url, shards)
        assert again.exit_code == 0 and len(stub.calls) == 12
    board = json.loads((out / "scores.json").read_text())
    (row,) = board["tasks"][0]["judge"]["rows"]
    assert row["verdicts"] == {"yes": 8, "no": 4, "undecided": 0, "failed": 0}
    assert row["agreement"][0]["kappa"]["mean"] == 1.0
    assert board["tasks"][0]["judge"]["judge"] == "stub"
    call, headers = stub.calls[0]
    assert call["temperature"] == 0 and "authorization" not in headers


FAULTS: list[Callable[[], Reply]] = [
    lambda: failed(429, "slow down", retry_after="0"),
    lambda: failed(500),
    lambda: Reply(b"<html>"),
    lambda: Reply(b""),
    lambda: failed(503),
]


def test_a_server_with_faults_ends_with_the_scores_of_a_clean_one(
    answered: tuple[Path, Path], tmp_path: Path
) -> None:
    shards_path, out = answered
    shards = open_shards(shards_path)

    def faulty(call: dict[str, Any], before: int) -> Reply:
        number = sum(map(ord, text_of(call)))
        return fair_script(call, 0) if before else FAULTS[number % len(FAULTS)]()

    for name, script in (("clean", fair_script), ("faulty", faulty)):
        folder = tmp_path / name
        (folder / "open").mkdir(parents=True)
        for file in (out / "open").iterdir():
            (folder / "open" / file.name).write_bytes(file.read_bytes())
        with serving(script) as stub:
            for _ in range(3):
                with EndpointModel(
                    Endpoint(stub.url, "stub", attempts=3, first_wait_seconds=0.01)
                ) as model:
                    judge_answers(model, "stub", shards, ["open"], folder, prompt=load_prompt())
        score(folder, shards, ["open"], ["model"])
    for name in ("scores.json", "open/model.verdicts.jsonl"):
        assert (tmp_path / "clean" / name).read_bytes() == (tmp_path / "faulty" / name).read_bytes()


def test_a_refused_key_stops_at_once_and_the_exit_code_says_so(
    answered: tuple[Path, Path],
) -> None:
    shards, out = answered
    with serving(lambda call, _: failed(401, "who are you")) as stub:
        done = judge_folder(out, stub.url, shards, "--concurrency", "1")
        assert done.exit_code == 4, done.output
        assert len(stub.calls) <= 2  # the others are not sent
    assert "HTTP 401" in done.output
    row = json.loads((out / "scores.json").read_text())["tasks"][0]["judge"]["rows"][0]
    assert row["verdicts"]["failed"] == 12 and row["unjudged"] == 12
    with serving(fair_script) as stub:
        assert judge_folder(out, stub.url, shards).exit_code == 0
        assert len(stub.calls) == 12


def test_a_bad_request_is_not_tried_again(answered: tuple[Path, Path]) -> None:
    shards, out = answered
    with serving(lambda call, _: failed(400, "too long")) as stub:
        assert judge_folder(out, stub.url, shards).exit_code == 4
        assert len(stub.calls) == 12


def test_a_benchmark_is_judged_from_its_files_and_a_budget_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    data = write_layout("k_qa", 0, tmp_path / "k_qa", copies=2)
    from infimed.evaluation.places import DataPlaces
    from infimed.evaluation.sources import gather
    from infimed.evaluation.spec import load_task

    joined, _ = gather([load_task("k_qa")], DataPlaces(named={"k_qa": data}), tmp_path / "cache")
    evaluate(constant("It is contagious"), joined, ["k_qa"], tmp_path / "out", label="model")
    with serving(lambda call, _: said(reply("yes"))) as stub:
        command = ["judge", str(tmp_path / "out"), "--judge", stub.url, "--data", f"k_qa={data}"]
        part = RUNNER.invoke(app, [*command, "--max-calls", "4"])
        assert part.exit_code == 0, part.output
        assert len(stub.calls) == 4 and "budget is spent" in part.output
        whole = RUNNER.invoke(app, command)
        assert whole.exit_code == 0, whole.output
    assert len(stub.calls) == 2 * (3 + 5)  # needed ones twice, nice ones once
    lines = (tmp_path / "out" / "k_qa" / "model.verdicts.jsonl").read_text().splitlines()
    assert {json.loads(line)["aspect"] for line in lines} == {"entails", "contradicts"}
    task = json.loads((tmp_path / "out" / "scores.json").read_text())["tasks"][0]
    (cell,) = [c for c in task["cells"] if c["metric"] == "score"]
    assert cell["estimate"]["mean"] == 1.0


def test_a_folder_without_answers_or_a_judge_of_no_words_is_refused(tmp_path: Path) -> None:
    from infimed.core.errors import DataError

    done = RUNNER.invoke(app, ["judge", str(tmp_path), "--judge", "http://127.0.0.1:9/v1"])
    assert isinstance(done.exception, DataError) and "no answers here" in str(done.exception)


def test_a_local_checkpoint_judges_like_any_model(
    answered: tuple[Path, Path], make_model: Callable[[], Any]
) -> None:
    import torch

    from infimed.inference.local import LocalModel
    from infimed.model.processing import Processor
    from tests.conftest import tiny_tokenizer_json

    torch.manual_seed(0)
    shards_path, out = answered
    shards = open_shards(shards_path)
    local = LocalModel(make_model(), Processor(tiny_tokenizer_json(), 32, 16), "tiny")
    short = load_prompt().model_copy(
        update={
            "system": "Grade.",
            "reply": "yes or no",
            "max_new_tokens": 4,
            "questions": dict.fromkeys(load_prompt().questions, "Same?"),
        }
    )
    (done,) = judge_answers(local, "tiny", shards, ["open"], out, prompt=short)
    # A model of random weights says nothing that can be read: that is undecided, never a guess.
    assert done.verdicts == {"undecided": 12} and done.calls == 12
    before = replies_path(out, "open").read_bytes()
    judge_answers(local, "tiny", shards, ["open"], out, prompt=short)
    assert replies_path(out, "open").read_bytes() == before


def test_judging_one_task_keeps_the_scores_of_the_others(answered: tuple[Path, Path]) -> None:
    shards, out = answered
    evaluate(constant("effusion"), open_shards(shards), ["open"], out / "other", label="model")
    own = out.parent / "mine.yaml"
    own.write_text(
        "name: mine\ntitle: T\nsource: {dataset: d}\nwhere: {task: [open]}\ncontrols: []\n"
    )
    evaluate(constant("effusion"), open_shards(shards), [str(own)], out, label="model")
    with serving(fair_script) as stub:
        refused = judge_folder(out, stub.url, shards, "--tasks", "open")
        assert "name its file" in str(refused.exception)
        done = judge_folder(out, stub.url, shards, "--tasks", str(own))
        assert done.exit_code == 0, done.output
    board = json.loads((out / "scores.json").read_text())
    assert {task["task"]: bool(task["judge"]) for task in board["tasks"]} == {
        "mine": True,
        "open": False,
    }


def test_eval_judges_at_once_though_its_controls_ask_nothing_a_judge_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    data = write_layout("k_qa", 0, tmp_path / "k_qa", copies=2)
    for controls in (
        [],
        ["--controls", "all"],
    ):  # k_qa shows no image, so there is no control to ask
        with serving(lambda call, _: said(reply("yes"))) as stub:
            done = RUNNER.invoke(
                app,
                [
                    "eval", "stub:constant:It is contagious", "--tasks", "k_qa",
                    "--data", f"k_qa={data}", "--out", str(tmp_path / "out"),
                    "--judge", stub.url, *controls,
                ],
            )  # fmt: skip
        assert done.exit_code == 0, (done.exception, done.output)
    task = json.loads((tmp_path / "out" / "scores.json").read_text())["tasks"][0]
    (cell,) = [c for c in task["cells"] if c["metric"] == "score"]
    assert cell["estimate"]["mean"] == 1.0


def test_a_folder_says_itself_where_its_questions_and_its_own_task_are(
    answered: tuple[Path, Path],
) -> None:
    """The shards lie nowhere near the folder, and the task does not ship: as for infimed score."""
    shards, _ = answered
    own = shards.parent / "mine.yaml"
    own.write_text(
        "name: mine\ntitle: T\nsource: {dataset: d}\nwhere: {task: [open]}\ncontrols: []\n"
    )
    out = shards.parent / "elsewhere" / "scores"
    evaluate(constant("effusion"), open_shards(shards), [str(own)], out, label="model")
    score(out, open_shards(shards), [str(own)], ["model"])
    own.unlink()
    with serving(fair_script) as stub:
        command = ["judge", str(out), "--judge", stub.url, "--judge-model", "stub"]
        done = RUNNER.invoke(app, command)
        assert done.exit_code == 0, (done.exception, done.output)
    (task,) = json.loads((out / "scores.json").read_text())["tasks"]
    assert task["task"] == "mine" and task["judge"]["rows"][0]["verdicts"]["failed"] == 0


def test_eval_says_which_tasks_of_the_folder_its_scores_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFIMED_CACHE", str(tmp_path / "cache"))
    for name in ("k_qa", "pubmedqa"):
        write_layout(name, 0, tmp_path / name, copies=2)
        command = ["eval", "stub:constant:A", "--tasks", name, "--data", str(tmp_path)]
        done = RUNNER.invoke(app, [*command, "--out", str(tmp_path / "out")])
        assert done.exit_code == 0
        assert ("answers to k_qa are kept" in done.stderr) == (name == "pubmedqa")


@pytest.mark.parametrize(
    ("key", "same", "refused"),
    [("k" * 20, False, True), ("k" * 20, True, False), ("", False, False)],
)
def test_one_key_does_not_go_to_two_servers(
    answered: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    same: bool,
    refused: bool,
) -> None:
    shards, out = answered
    monkeypatch.setenv("INFIMED_API_KEY", key)
    script = lambda call, n: fair_script(call, n) if "<<<ANSWER" in text_of(call) else said("a cyst")  # noqa: E731  # fmt: skip
    with serving(script) as model, serving(script) as other:
        judge = model.url if same else other.url
        done = RUNNER.invoke(app, ["eval", model.url, "--model", "stub", "--tasks", "open", "--controls", "none", "--against", "none",
                                   "--shards", str(shards), "--out", str(out / "new"), "--judge", judge, "--judge-model", "stub"])  # fmt: skip
        assert (done.exit_code != 0) == refused, (done.output, done.exception)
        assert bool(model.calls) != refused
        if refused:
            assert "INFIMED_API_KEY" in str(done.exception) and not other.calls
