"""`infimed calibrate`: which questions, which raw probability, and the same numbers as when the model is served."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from infimed.cli.main import main
from infimed.core.errors import DataError, UsageError
from infimed.data.importing import import_data
from infimed.data.phantom import write_clinic
from infimed.data.record import question_record
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import load_task
from infimed.model.loading import save_checkpoint
from infimed.pipeline import calibrating
from infimed.pipeline.calibrating import Answered, Question
from infimed.serving.applications.calibration import Target, read_calibration
from infimed.serving.starting import around, local_model
from tests.serving.world import InlineDecoders, data_url, running, settings_of, tiny_local

TASKS = ("phantom_closed", "phantom_choice")
COVER = Target(name="coverage", value=0.7)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny checkpoint and the shards of a small clinic."""
    folder = tmp_path_factory.mktemp("calibrating")
    write_clinic(
        folder / "clinic", patients=40, seed=3, size=48, splits={"train": 0.5, "test": 0.5}
    )
    import_data(folder / "clinic", folder / "run" / "shards", workers=1)
    local = tiny_local()
    save_checkpoint(
        folder / "run" / "checkpoints" / "step-1", local.model, local.processor, about={"step": 1}
    )
    return folder / "run"


@pytest.fixture(scope="module")
def shards(run: Path) -> ShardSet:
    return open_shards(run / "shards")


@pytest.fixture(scope="module")
def calibrated(run: Path) -> Path:
    """The run after `infimed calibrate`."""
    before = sys.argv
    sys.argv = ["infimed", "calibrate", str(run), "--tasks", ",".join(TASKS), "--limit", "60"]
    try:
        main()
    finally:
        sys.argv = before
    return run


def test_half_of_the_test_patients_are_drawn_where_there_is_no_calibration_split(run, shards):
    chosen = calibrating.asking(run, shards, TASKS)
    assert (chosen.split, chosen.share) == ("test", 0.5)
    fitted = {q.sample.group for q in calibrating.fitted_on(shards, chosen)}
    every = {record.group for record in shards if record.split == "test"}
    assert len(fitted) == pytest.approx(len(every) / 2, abs=1)
    assert fitted == {q.sample.group for q in calibrating.fitted_on(shards, chosen)}


def test_a_split_that_was_trained_on_is_refused(run, shards):
    with pytest.raises(UsageError, match="trained on this split"):
        calibrating.asking(run, shards, TASKS, "train")


def test_a_split_without_questions_is_refused(run, shards):
    chosen = calibrating.asking(run, shards, TASKS, "dev")
    with pytest.raises(DataError, match="no question"):
        calibrating.fitted_on(shards, chosen)


def test_only_tasks_with_one_right_answer_are_asked():
    assert calibrating.decisive(["phantom_closed", "phantom_report"]) == ("phantom_closed",)


def test_everything_is_written_and_taken_when_served(calibrated, shards):
    local = local_model(calibrated, "fp32", "cpu")
    made = read_calibration(calibrated, local.fingerprint)
    assert made is not None and made.tasks == TASKS and set(made.kinds) >= {"choice"}
    assert made.data_sha256 == shards.data_hash
    assert (calibrated / "calibration.png").read_bytes().startswith(b"\x89PNG")
    page = (calibrated / "calibration.html").read_text(encoding="utf-8")
    assert page.count('<svg class="drawing"') == 2 and "<script" not in page
    for own in made.kinds.values():
        assert own.threshold is not None and own.coverage >= 0.7 - 1e-9 and own.target == COVER
    measured = {q.sample.group for q in calibrating.measured_on(shards, made)}
    chosen = calibrating.asking(calibrated, shards, TASKS)
    assert measured.isdisjoint(q.sample.group for q in calibrating.fitted_on(shards, chosen))


def test_another_precision_refuses_the_file(calibrated):
    local = local_model(calibrated, "bf16", "cpu")
    with pytest.raises(DataError, match="another model"):
        read_calibration(calibrated, local.fingerprint)


def test_what_is_calibrated_is_what_is_served(calibrated, shards):
    local = local_model(calibrated, "fp32", "cpu")
    made = read_calibration(calibrated, local.fingerprint)
    assert made is not None
    questions = calibrating.measured_on(shards, made)
    some = [next(q for q in questions if q.sample.kind == kind) for kind in ("closed", "choice")]
    answered = calibrating.answers(local, shards, some)
    stated = calibrating.confidences(made, answered)
    settings = settings_of()
    service = around(local_model(calibrated, "fp32", "cpu"), "tiny", settings, made)
    service.decoders = InlineDecoders(settings, service.decoders.wanted)
    with running(service) as url:
        for one, sure in zip(answered, stated, strict=True):
            sample = one.question.sample
            images = [{"url": data_url(shards.image_bytes(i.sha256))} for i in sample.record.images]
            value = {"model": "tiny", "question": sample.question, "images": images}
            if sample.order:
                value["choices"] = list(sample.options)
            found = httpx.post(
                f"{url}/v1/infimed/ask", json=value, timeout=60, trust_env=False
            ).json()
            assert found["answer"] == one.text
            if sure is None:
                assert found["confidence"] is None
            else:
                assert found["confidence"] == pytest.approx(sure, rel=1e-4)


def scripted(n: int, kind: str, seed: int = 0) -> list[Answered]:
    """Answers whose `answer` signal is calibrated and whose `first_token` says nothing."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(n):
        sure = float(generator.uniform(0.05, 0.95))
        record = question_record(
            id=str(number), question="q", answer="yes", images=(), task="closed"
        )
        sample = Sample(str(number), record, "closed", "yes", (), f"group-{number // 2}", "")
        found = {"answer": sure, "first_token": float(generator.random())}
        right = bool(generator.random() < sure)
        made.append(
            Answered(Question(load_task("phantom_closed"), sample), kind, "yes", right, found)
        )  # type: ignore[arg-type]
    return made


def test_the_raw_probability_that_ranks_best_is_taken(shards):
    local = tiny_local()
    chosen = calibrating.Asking(TASKS, "test", 0.5)
    own = [*scripted(300, "yes_no"), *scripted(10, "open")]
    made, curves, notes = calibrating.calibrate(local, shards, chosen, own, COVER)
    assert set(made.kinds) == {"yes_no"} and made.kinds["yes_no"].signal == "answer"
    assert notes == ["open: 10 answers about 5 groups are too few"]
    entry = made.kinds["yes_no"]
    assert (
        entry.aurc["answer"] < entry.aurc["first_token"] and entry.n == 300 and entry.groups == 150
    )
    assert entry.risk is not None and entry.risk < 1 - entry.accuracy
    assert entry.ece < 0.1 and len(curves["yes_no"].confidence) == 300


def test_a_risk_that_cannot_be_kept_means_never_answering(shards):
    chosen = calibrating.Asking(TASKS, "test", 0.5)
    target = Target(name="risk", value=0.001)
    made, _, _ = calibrating.calibrate(
        tiny_local(), shards, chosen, scripted(100, "yes_no"), target
    )
    entry = made.kinds["yes_no"]
    assert entry.threshold is None and entry.coverage == 0 and entry.risk is None
    assert set(calibrating.confidences(made, scripted(3, "yes_no"))) != {None}


def test_too_few_answers_are_no_calibration(shards):
    chosen = calibrating.Asking(TASKS, "test", 0.5)
    with pytest.raises(DataError, match="nothing can be calibrated"):
        calibrating.calibrate(tiny_local(), shards, chosen, scripted(20, "yes_no"), COVER)


def test_two_targets_and_no_task_are_refused(run, monkeypatch):
    for more in (["--risk", "0.1", "--coverage", "0.5"], ["--tasks", "phantom_report"], []):
        monkeypatch.setattr(sys, "argv", ["infimed", "calibrate", str(run), *more])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
