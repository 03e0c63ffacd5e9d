"""Verdicts by score: gates first, thresholds by stratum, every drop in words, and all of it can be undone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError, UsageError
from infimed.core.files import read_json
from infimed.curation import curate, explain, kept_rows, ledger, read_summary, score_pass
from infimed.curation.calibration import (
    Isotonic,
    Logistic,
    StratumThresholds,
    expected_calibration_error,
    stratum_thresholds,
)
from infimed.curation.deciding import (
    ALL,
    decide_ledger,
    plan_decision,
    read_decision,
    take_back,
    write_decision,
)
from infimed.curation.evaluator_fitting import fit_on_labels
from infimed.curation.findings import QUALITY, Finding
from infimed.curation.judge_parsing import Judgement
from infimed.curation.labels import rules_levels
from infimed.curation.record_labels import labelled_records, majority
from infimed.curation.recount import recount
from infimed.curation.score_pass import score_ledger
from infimed.curation.score_table import told
from infimed.curation.scoring import (
    PHANTOMS,
    DimensionModel,
    Evaluator,
    default_evaluator,
    feature_names,
)
from infimed.curation.stub_judge import StubJudge, sample_clinic
from tests.curation.clinic import clinic
from tests.curation.judged_world import (
    HELD_OUT,
    LABELLED,
    SHARES,
    elsewhere,
    heard,
    kept,
    write_judgements,
    write_labels,
    write_ledger,
)
from tests.curation.ledger_world import make_ledger

runner = CliRunner()
NOTE = Finding("accuracy.test", 1, "accuracy", "note", "question", "the left lung")
FATAL = Finding("accuracy.test", 1, "accuracy", "drop", "question", "the left lung")


def noting(p_noted: float = 0.03, prior: float = 0.9) -> Evaluator:
    """A note on accuracy leaves a P(ok) of about `p_noted` at the base rate `prior`."""
    count = len(feature_names("accuracy"))
    logistic = Logistic((0.0,) * count, (1.0,) * count, (0.0, -8.0), 4.0)
    model = DimensionModel(logistic, Isotonic((0.1, 0.9), (p_noted, 0.999)), prior)
    return Evaluator({"accuracy": model})


STRATA = ["a / ct"] * 600 + ["a / mr"] * 30 + ["b / us"] * 600
NOTED = (*range(0, 120, 2), 601, 602, *range(700, 740))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    findings = {row: [NOTE] for row in NOTED} | {1: [FATAL], 3: [NOTE, FATAL]}
    return write_ledger(tmp_path / "ledger", STRATA, findings=findings)


# ------------------------------------------------------------------ line 7, from files end to end


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:  # type: ignore[type-arg]
    """(held-out ledger decided by commands alone, whether each of its records is really ok)."""
    root = tmp_path_factory.mktemp("line7")
    random = np.random.default_rng(2026)
    judge = StubJudge()
    labelled = sample_clinic(4000, LABELLED, SHARES, random)
    held_out = sample_clinic(10_000, HELD_OUT, SHARES, random)
    for name, one in (("labelled", labelled), ("held_out", held_out)):
        write_ledger(root / name, one.strata, one.log_length)
        write_judgements(root / name, dict(enumerate(heard(judge, one, random))))
    write_labels(root / "labelled", dict(enumerate(labelled.ok.tolist())))
    commands = [
        ["train-evaluator", "--ledger", str(root / "labelled"), "--out", str(root / "e.json")],
        ["score", str(root / "held_out"), "--evaluator", str(root / "e.json")],
        ["decide", str(root / "held_out")],
    ]
    for command in commands:
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
    return root / "held_out", held_out.ok.all(axis=1)


def test_from_files_the_calibration_error_is_under_three_points(
    judged: tuple[Path, np.ndarray],  # type: ignore[type-arg]
) -> None:
    folder, ok = judged
    p_ok = pq.read_table(folder / "scores.parquet")["p_ok"].to_numpy()
    assert expected_calibration_error(p_ok, ok) < 0.03


def test_from_files_the_rejects_are_within_two_points_of_the_target(
    judged: tuple[Path, np.ndarray],  # type: ignore[type-arg]
) -> None:
    folder, ok = judged
    rejected = ~kept(folder)
    assert rejected.sum() >= 1500
    assert 1 - ok[rejected].mean() == pytest.approx(0.90, abs=0.02)


def test_every_rejected_record_says_why_in_words(
    judged: tuple[Path, np.ndarray],  # type: ignore[type-arg]
) -> None:
    folder, _ = judged
    decision = read_decision(folder)
    assert decision is not None
    limits = {one.name: one.threshold for one in decision.strata}
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    findings = ledger.read_ledger(folder, ledger.FINDINGS).to_pylist()
    assert [line["row"] for line in findings] == np.flatnonzero(~kept(folder)).tolist()
    for line in findings:
        score = scores[line["row"]]
        assert line["rule"] == f"score.{score['weakest']}" and line["severity"] == "drop"
        assert line["value"] == pytest.approx(score["p_ok"], abs=1e-6)
        assert line["threshold"] == pytest.approx(limits[score["stratum"]], abs=1e-6)
        assert score["p_ok"] < limits[score["stratum"]]
        assert line["evidence"].startswith(f"{score['weakest']} {told(score[score['weakest']])}")
    spoken = {line["evidence"].partition("most against it: ")[2].split(":")[0] for line in findings}
    assert {"the judge says 0", "the judge says 1"} <= spoken
    done = runner.invoke(app, ["explain", str(folder), findings[0]["record_id"]])
    assert f"dropped for {findings[0]['rule']}" in done.output
    assert findings[0]["evidence"] in done.output.replace("\n", "")


def test_retained_shares_follow_the_base_rates(
    judged: tuple[Path, np.ndarray],  # type: ignore[type-arg]
) -> None:
    decision = read_decision(judged[0])
    assert decision is not None
    shares = {one.name: one.retained for one in decision.strata}
    assert shares["a / xray"] > shares["b / us"] > shares["a / ct"]
    assert all(one.labelled == 0 for one in decision.strata), "nobody labelled the held-out part"


# ------------------------------------------------------------------------------- gates and strata


def test_gates_come_first_and_the_score_adds_to_them(folder: Path) -> None:
    made = decide_ledger(folder, noting())
    assert not kept(folder)[list(NOTED)].any(), "notes of a stratum with many of them"
    assert kept(folder).sum() == len(STRATA) - len(NOTED) - 2
    verdicts = {v["row"]: v["reasons"] for v in ledger.read_verdicts(folder).to_pylist()}
    assert verdicts[1] == verdicts[3] == ["accuracy.test"], "a gate needs no score"
    assert verdicts[0] == ["score.accuracy"]
    by_name = {one.name: one for one in made.strata}
    assert (by_name["a / ct"].by_rules, by_name["a / ct"].by_score) == (2, 60)
    assert by_name["a / ct"].retained == pytest.approx(538 / 600)
    assert explain(folder, "r0").findings[-1].evidence == (
        f"accuracy P(ok) {explain(folder, 'r0').findings[-1].value:.3f}; most against it: noted by accuracy.test"
    )


def test_a_small_stratum_leans_on_its_source(folder: Path) -> None:
    made = {one.name: one for one in decide_ledger(folder, noting()).strata}
    assert made["a / ct"].basis == "a / ct" and made["a / mr"].basis == "a"
    assert made["a / mr"].by_score == 2


def test_where_the_target_is_out_of_reach_nothing_is_dropped_and_it_is_said(folder: Path) -> None:
    made = decide_ledger(folder, noting(p_noted=0.6))
    assert made.by_score == 0
    assert kept(folder).sum() == len(STRATA) - 2
    assert all("out of reach" in one.remark for one in made.strata)
    done = runner.invoke(app, ["decide", str(folder)])
    assert "b / us: nothing is dropped by score; the target is out of reach" in done.output


def test_thresholds_equal_trying_every_threshold_level_by_level() -> None:
    """All records, then the parents, then the strata, each leaning on the level above."""
    random = np.random.default_rng(4)
    p = np.round(random.beta(0.5, 0.8, 3000), 2)
    ok = random.random(3000) < p**1.4
    sources = random.choice(["a", "b", "c"], 3000, p=[0.6, 0.39, 0.01])
    strata = [f"{s} / {m}" for s, m in zip(sources, random.choice(["ct", "mr"], 3000), strict=True)]
    made = stratum_thresholds(
        p, ok, strata, 0.8, shrinkage=50, fewest_rejects=20, parents=sources.tolist()
    )

    def below(inside: np.ndarray, t: float) -> tuple[int, int]:  # type: ignore[type-arg]
        chosen = inside & (p < t)
        return int(chosen.sum()), int((~ok[chosen]).sum())

    candidates = [*sorted(set(p.tolist()))[1:], float(np.nextafter(p.max(), 2.0))]
    everything = {t: below(np.ones(3000, bool), t) for t in candidates}
    pooled = {t: bad / n for t, (n, bad) in everything.items()}
    top = max((t for t in candidates if pooled[t] >= 0.8 - 1e-12), default=0.0)

    def level(inside: np.ndarray, above: dict[float, float], limit: float):  # type: ignore[type-arg,no-untyped-def]
        shrunk = {}
        for t in candidates:
            n, bad = below(inside, t)
            shrunk[t] = (bad + 50 * above[t]) / (n + 50)
        own = max((t for t in candidates if shrunk[t] >= 0.8 - 1e-12), default=0.0)
        enough = (inside & (p < max(own, limit))).sum() >= 20
        return (own, shrunk, True) if enough else (limit, above, False)

    for name in set(strata):
        source = name.split(" / ")[0]
        limit, curve, _ = level(np.array(sources) == source, pooled, top)
        expected, _, own = level(np.array(strata) == name, curve, limit)
        assert made.of(name) == expected
        assert (name in made.own) == own
    assert made.of("never seen") == made.pooled == top
    assert any(name not in made.own for name in strata) and made.own
    assert StratumThresholds.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_labels_that_contradict_a_threshold_keep_the_score_from_dropping(folder: Path) -> None:
    labels = {row: [True] * 5 for row in range(700, 715)} | {
        row: [True] * 5 for row in range(900, 920)
    }
    write_labels(folder, labels)
    made = {one.name: one for one in decide_ledger(folder, noting()).strata}
    one = made["b / us"]
    assert (one.labelled, one.labelled_below, one.labelled_bad) == (35, 15, 0)
    assert one.by_score == 0 and "people contradict: of its 15 labelled records" in one.remark
    assert made["a / ct"].by_score == 60 and made["a / ct"].labelled == 0
    assert kept(folder)[700:740].all()


def test_labels_that_agree_change_nothing_but_are_counted(folder: Path) -> None:
    write_labels(folder, {row: [True, False, True, True, True] for row in range(700, 715)})
    made = {one.name: one for one in decide_ledger(folder, noting()).strata}
    assert (made["b / us"].labelled_bad, made["b / us"].by_score) == (15, 40)


def test_an_evaluator_of_phantoms_drops_nothing_that_no_label_bears_out(folder: Path) -> None:
    shipped = replace(noting(), made_by={"data": PHANTOMS})
    made = {one.name: one for one in decide_ledger(folder, shipped).strata}
    assert all(one.by_score == 0 and one.threshold == 0 for one in made.values())
    assert made["b / us"].remark.startswith(
        "40 records lie below 0.5000, but this evaluator knows phantoms"
    )
    assert kept(folder)[700:740].all()
    bad = [True, False, True, True, True]
    write_labels(folder, dict.fromkeys(range(700, 709), bad))
    assert decide_ledger(folder, shipped).by_score == 0, "nine are too few"
    write_labels(folder, {709: bad})
    made = {one.name: one for one in decide_ledger(folder, shipped).strata}
    assert made["b / us"].by_score == 40 and made["a / ct"].by_score == 0
    assert not kept(folder)[700:740].any() and kept(folder)[list(NOTED[4:60])].all()


def test_the_shipped_evaluator_is_one_of_phantoms() -> None:
    assert default_evaluator().of_phantoms and not elsewhere().of_phantoms
    assert not noting().of_phantoms


def test_most_raters_decide_what_a_label_says(folder: Path) -> None:
    good, bad = [True] * 5, [True, False, True, True, True]
    write_labels(folder, {0: good, 1: bad, 2: good}, "anna")
    write_labels(folder, {0: bad, 1: bad, 2: good}, "ben")
    write_labels(folder, {0: bad, 2: bad}, "carl")
    assert labelled_records(folder) == {0: True, 1: True, 2: False}
    write_labels(folder, {3: good}, "anna")
    write_labels(folder, {3: bad}, "ben")
    assert "accuracy" not in majority(folder)[3], "a tie is unknown"
    assert 3 not in labelled_records(folder)


# ---------------------------------------------------------------------- again, back, and unchanged


def tables(folder: Path) -> dict[str, bytes]:
    names = ("findings.parquet", "verdicts.parquet", "signals.parquet", "curation.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_taken_back_every_table_is_what_the_curation_wrote(tmp_path: Path) -> None:
    memory = clinic(20)
    curate(memory, tmp_path)
    before = tables(tmp_path)
    made = decide_ledger(tmp_path, elsewhere(), target_precision=0.01)
    assert made.by_score > 0 and tables(tmp_path) != before
    assert (
        read_summary(tmp_path).kept
        == len(kept_rows(tmp_path))
        == len(memory) - sum(one.by_rules + one.by_score for one in made.strata)
    )
    take_back(tmp_path)
    assert tables(tmp_path) == before
    assert read_decision(tmp_path) is None
    with pytest.raises(DataError, match="no score decided"):
        take_back(tmp_path)


def test_counts_made_from_tables_equal_those_of_the_curation(tmp_path: Path) -> None:
    folder, _ = make_ledger(tmp_path)
    summary = read_summary(folder)
    rubric = read_json(folder / "curation.json")["rubric"]
    assert summary.rules and summary.noted
    assert recount(folder, summary, rubric) == summary


def test_deciding_again_gives_the_same_bytes_and_scores_ignore_their_own_findings(
    folder: Path,
) -> None:
    decide_ledger(folder, noting())
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    decide_ledger(folder, noting())
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()} == before
    (folder / "scores.json").unlink()
    score_ledger(folder, noting())
    write_decision(folder, plan_decision(folder))
    assert {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()} == before


def test_another_target_or_evaluator_decides_from_the_rules_verdicts(folder: Path) -> None:
    decide_ledger(folder, noting())
    strict = decide_ledger(folder, noting(), target_precision=0.999)
    assert strict.by_score == 0 and kept(folder).sum() == len(STRATA) - 2
    assert not any(
        f["rule"].startswith("score.") for f in ledger.read_ledger(folder, "findings").to_pylist()
    )
    assert decide_ledger(folder, noting()).by_score == len(NOTED)


def test_killed_while_the_tables_are_written_the_old_verdicts_stand(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(folder)
    monkeypatch.setattr(score_pass, "PART_ROWS", 512)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("infimed.curation.deciding.evidence_of", killed)
        with pytest.raises(KeyboardInterrupt):
            decide_ledger(folder, noting())
    assert tables(folder) == before and read_decision(folder) is None
    assert decide_ledger(folder, noting()).by_score == len(NOTED)


def test_a_curation_with_other_rules_leaves_no_scores_of_the_old_findings(tmp_path: Path) -> None:
    from infimed.curation import default_rubric

    memory = clinic(8)
    curate(memory, tmp_path)
    decide_ledger(tmp_path, default_evaluator())
    curate(
        memory, tmp_path, rubric=default_rubric().with_settings({"relevance.blank_image": "note"})
    )
    for name in ("scores.parquet", "scores.json", "decision.json"):
        assert not (tmp_path / name).exists()


def test_the_same_curation_again_keeps_the_decision(tmp_path: Path) -> None:
    memory = clinic(20)
    curate(memory, tmp_path)
    made = decide_ledger(tmp_path, elsewhere(), target_precision=0.01)
    summary = curate(memory, tmp_path)
    assert made.by_score and summary.kept == len(kept_rows(tmp_path))
    assert read_decision(tmp_path) == made


# --------------------------------------------------------------------------- labels teach the fit


def test_too_few_labels_are_refused_and_counted(folder: Path) -> None:
    with pytest.raises(DataError, match="too few labels") as caught:
        fit_on_labels(folder, noting())
    assert caught.value.seen == "no labels"
    write_labels(folder, {row: [True] * 5 for row in range(50)})
    with pytest.raises(DataError, match="too few labels") as caught:
        fit_on_labels(folder, noting())
    assert caught.value.seen == dict.fromkeys(QUALITY, 50)


def test_without_a_judge_labels_correct_what_the_rules_mean(folder: Path) -> None:
    """The evaluator distrusts notes; people find most noted records sound."""
    random = np.random.default_rng(0)
    rows = [*NOTED, *range(200, 400)]
    ok = {
        row: [True, bool(row not in NOTED or random.random() < 0.8), True, True, True]
        for row in rows
    }
    write_labels(folder, ok)
    fitted = fit_on_labels(folder, noting())
    assert fitted.made_by["records"] == len(rows) and fitted.made_by["judged"] == 0
    score_ledger(folder, fitted)
    table = pq.read_table(folder / "scores.parquet")
    p, rules = table["p_ok"].to_numpy(), table["p_rules"].to_numpy()
    assert rules[list(NOTED[:60])].mean() < 0.3 < 0.6 < p[list(NOTED[:60])].mean() < 0.95
    assert decide_ledger(folder, fitted).by_score == 0


def test_the_rules_levels_beside_people_leave_the_score_out(folder: Path) -> None:
    before = rules_levels(folder, [0, 1, 5])
    decide_ledger(folder, noting())
    assert not kept(folder)[0] and rules_levels(folder, [0, 1, 5]) == before


# ---------------------------------------------------------------------------------- the commands


def test_the_command_shows_strata_and_changes_nothing_with_diff(folder: Path) -> None:
    before = tables(folder)
    noting().save(folder.parent / "e.json")
    base = ["decide", str(folder), "--evaluator", str(folder.parent / "e.json")]
    shown = runner.invoke(app, [*base, "--diff"])
    assert shown.exit_code == 0, shown.output
    assert "no verdict was changed" in shown.output and tables(folder) == before
    done = runner.invoke(app, base)
    assert done.exit_code == 0, done.output
    assert f"2 dropped by rules, {len(NOTED)} more by score" in done.output
    undone = runner.invoke(app, ["decide", str(folder), "--undo"])
    assert undone.exit_code == 0 and f"kept {len(STRATA) - 2} of {len(STRATA)}" in undone.output
    assert pq.read_table(folder / "verdicts.parquet")["keep"].to_pylist().count(False) == 2


@pytest.mark.parametrize(
    "arguments", [["--target-precision", "0"], ["--target-precision", "1.5"], ["--undo", "--diff"]]
)
def test_wrong_settings_are_refused(folder: Path, arguments: list[str]) -> None:
    done = runner.invoke(app, ["decide", str(folder), *arguments])
    assert isinstance(done.exception, UsageError)


def test_the_fit_refuses_records_from_two_places(folder: Path) -> None:
    out = ["--out", str(folder.parent / "e.json")]
    both = ["train-evaluator", "--ledger", str(folder), "--shards", "x", *out]
    assert isinstance(runner.invoke(app, both).exception, UsageError)
    alone = ["train-evaluator", "--base", "shipped", *out]
    assert isinstance(runner.invoke(app, alone).exception, UsageError)


def test_a_damaged_decision_is_named(folder: Path) -> None:
    decide_ledger(folder, noting())
    (folder / "decision.json").write_text('{"strata": 3}')
    with pytest.raises(DataError, match="not a decision"):
        read_decision(folder)


def test_strata_without_a_source_or_modality_have_a_name(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path / "l", [" / "] * 30, findings={0: [NOTE]})
    (one,) = decide_ledger(folder, noting()).strata
    assert (one.name, one.basis) == ("? / ?", ALL)


def test_what_a_judge_quotes_is_shown_without_identifiers(folder: Path) -> None:
    said = {
        row: Judgement(
            "ok",
            {**dict.fromkeys(QUALITY, "2"), "accuracy": "0"},
            {"accuracy": "mail jane.doe@example.org"},
        )
        for row in range(120)
    }
    write_judgements(folder, said)
    write_labels(folder, {row: [True, row >= 120, True, True, True] for row in range(300)})
    decide_ledger(folder, fit_on_labels(folder, noting()))
    evidence = [f["evidence"] for f in ledger.read_ledger(folder, ledger.FINDINGS).to_pylist()
                if f["rule"].startswith("score.")]  # fmt: skip
    assert evidence and all("the judge says 0: mail" in text for text in evidence)
    assert not any("jane.doe" in text for text in evidence)
    page = runner.invoke(app, ["explain", str(folder), "r0"]).output
    assert "the judge says 0: mail [EMAIL]" in page and "0  mail [EMAIL]" in page
    assert "jane.doe" not in page
