"""Scores of a whole ledger: what scoring record by record gives, however often it was interrupted."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infimed.cli.curate import app
from infimed.core.errors import DataError
from infimed.core.files import sha256_file, write_json
from infimed.curation import curate, ledger, score_pass
from infimed.curation.calibration import Isotonic, Logistic, logit
from infimed.curation.evidence import plain_columns
from infimed.curation.findings import DIMENSIONS, QUALITY, Finding
from infimed.curation.grounding_table import GROUNDING_FILE
from infimed.curation.grounding_table import SCHEMA as GROUNDING_SCHEMA
from infimed.curation.judge import rule_scores
from infimed.curation.judge_parsing import Judgement
from infimed.curation.judge_scoring import fit_judge_scorer
from infimed.curation.judge_tables import level_codes
from infimed.curation.label_shift import Joint, JointByStratum, estimate_prior, shift_prior
from infimed.curation.report_data import read_scores
from infimed.curation.score_features import LedgerFeatures, signal_columns
from infimed.curation.score_pass import score_ledger, up_to_date
from infimed.curation.score_table import SCHEMA, scored_by, told
from infimed.curation.scoring import (
    DROPPED,
    EXTRAS,
    PLAIN,
    DimensionModel,
    Evaluator,
    default_evaluator,
    feature_names,
    features,
    gated,
    signal_features,
)
from infimed.curation.signals import Signals
from tests.curation.clinic import clinic
from tests.curation.judged_world import write_judgements, write_ledger

COUNT = 300
runner = CliRunner()


def evaluator() -> Evaluator:
    """Every objection, note and suspicion halves the odds, or worse."""
    models = {}
    for at, name in enumerate(QUALITY):
        count = len(feature_names(name))
        weights = tuple(-0.7 - 0.1 * (column + at) for column in range(count))
        logistic = Logistic((0.0,) * count, (1.0,) * count, weights, 2.0)
        models[name] = DimensionModel(logistic, Isotonic((0.0, 1.0), (0.02, 0.99)), 0.8)
    return Evaluator(models, {"command": "test"})


def judging(seed: int = 0) -> Evaluator:
    """The same with a judge that is mostly right, fitted on records made for it."""
    random = np.random.default_rng(seed)
    ok = random.random((800, 5)) < 0.8
    codes = np.where(
        random.random(ok.shape) < 0.8, np.where(ok, 2, 0), random.integers(-1, 4, ok.shape)
    )
    plain = random.normal(1.0, 1.0, (800, 5, 4)) + np.where(ok, 0.5, -0.5)[:, :, None]
    scorer = fit_judge_scorer(
        codes, ok, random.normal(4, 1, (800, 1)), names=QUALITY, extra_names=EXTRAS, plain=plain,
        plain_names=PLAIN,
    )  # fmt: skip
    return Evaluator(evaluator().models, {"command": "test"}, scorer)


def judged_ledger(folder: Path) -> Path:
    """Three strata, notes and drops of rules, a judge on half of the records, some gaps."""
    random = np.random.default_rng(1)
    strata = random.choice(["a / ct", "a / mr", "b / "], COUNT, p=[0.6, 0.3, 0.1]).tolist()
    findings = {}
    for row in range(0, COUNT, 7):
        severity = "drop" if row % 3 == 0 else "note"
        name = QUALITY[row % 5]
        rule = "completeness.gold_choice" if row % 21 == 0 else f"{name}.test"
        findings[row] = [Finding(rule, 1, name, severity, "question", "x")]  # type: ignore[arg-type]
    write_ledger(folder, strata, random.normal(4.5, 1.0, COUNT), findings)
    levels = np.array(["0", "1", "2", "2", "2", "U"])
    said = {
        row: Judgement("ok", dict(zip(QUALITY, random.choice(levels, 5).tolist(), strict=True)))
        if row % 10
        else Judgement("refused")
        for row in range(0, COUNT, 2)
    }
    write_judgements(folder, said)
    rows = [
        {"row": row, "record_id": f"r{row}", "status": "ok", "target_tokens": 2, "loss": 1.0,
         "gap_without": float(random.normal()), "gap_swapped": float(random.normal()) if row % 9 else None}
        for row in range(0, COUNT, 3)
    ]  # fmt: skip
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows, schema=GROUNDING_SCHEMA), folder / GROUNDING_FILE)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged_ledger(tmp_path_factory.mktemp("judged") / "ledger")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "ledger")
    return tmp_path / "ledger"


def rules_slowly(folder: Path, judge: Evaluator) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Record by record: P(ok) by the rules as fitted and at the base rates found, drops and gates."""
    found: dict[int, list[Finding]] = defaultdict(list)
    for line in ledger.read_ledger(folder, ledger.FINDINGS).to_pylist():
        found[line["row"]].append(ledger.finding_of(line))
    raw, factor, strata, lengths = [], [], [], []
    for line in ledger.read_ledger(folder, ledger.SIGNALS).to_pylist():
        signals, said = Signals.from_row(line), found[line["row"]]
        seen = features(signals, said)
        raw.append(
            [
                judge.models[name].probability(np.array([seen[name]]))[0]
                if name in judge.models
                else 1.0
                for name in DIMENSIONS
            ]
        )
        closed = gated(said)
        drops = {f.dimension for f in said if f.severity == "drop"}
        factor.append([0.0 if n in closed else DROPPED if n in drops else 1.0 for n in DIMENSIONS])
        strata.append(f"{line['source'] or '?'} / {line['modality'] or '?'}")
        lengths.append(np.log1p(max(0, line["text_chars"])))
    q, names = np.array(raw), np.array(strata)
    shifted = q.copy()
    for at, name in enumerate(DIMENSIONS):
        if name in judge.models:
            before = judge.models[name].prior
            pooled = max(before, estimate_prior(q[:, at], before, strength=1.0))
            for stratum in set(strata):
                mine = names == stratum
                found = estimate_prior(q[mine, at], before, expected=pooled, strength=100.0)
                after = max(before, found)
                shifted[mine, at] = shift_prior(q[mine, at], before, after)
    return {
        "raw": q, "rules": shifted, "factor": np.array(factor), "strata": names,
        "log_length": np.array(lengths),
    }  # fmt: skip


def joints_slowly(  # type: ignore[no-untyped-def]
    joint: Joint, ratios, heard, strata
) -> JointByStratum:
    """Base rates of judge and gap, dimension by dimension: no defects beyond what the records show that were
    heard of, of which each stands for itself and one other."""

    def rates(mine, expected, strength: float) -> list[float]:  # type: ignore[no-untyped-def]
        found = joint.estimate_defects(ratios[mine], expected=expected, strength=strength)
        told = joint.estimate_defects(ratios[mine & heard], expected=expected, strength=strength)
        spoken = min(mine.sum(), 2 * (mine & heard).sum())
        made = []
        for f, t, e in zip(found, told, expected, strict=True):
            shown = (spoken * t + (mine.sum() - spoken) * e) / mine.sum()
            made.append(f if f <= e else max(e, min(f, shown)))
        return made

    pooled = rates(np.ones(len(ratios), bool), joint.defects, 1.0)
    return JointByStratum(
        joint.tilted(pooled),
        {name: joint.tilted(rates(strata == name, pooled, 100.0)) for name in set(strata)},
    )


def test_features_of_many_records_equal_those_of_each(tmp_path: Path) -> None:
    memory = clinic(12)
    curate(memory, tmp_path)
    found: dict[int, list[Finding]] = defaultdict(list)
    for line in ledger.read_ledger(tmp_path, ledger.FINDINGS).to_pylist():
        found[line["row"]].append(ledger.finding_of(line))
    table = ledger.read_ledger(tmp_path, ledger.SIGNALS)
    seen = LedgerFeatures.of(tmp_path, evidence=True).read(0, len(table))
    columns = signal_columns(table)
    assert seen.record_ids == [record.id for record in memory.records]
    assert any(found.values()) and seen.drops.any() and seen.gates.any()
    for line in table.to_pylist():
        row, signals = line["row"], Signals.from_row(line)
        slow = features(signals, found[row])
        for name in DIMENSIONS:
            assert seen.inputs[name][row].tolist() == list(slow[name])
        assert {k: float(v[row]) for k, v in columns.items()} == signal_features(signals)
        assert {DIMENSIONS[at] for at in np.flatnonzero(seen.gates[row])} == gated(found[row])
    part = LedgerFeatures.of(tmp_path, evidence=False).read(5, 9)
    assert part.rows.tolist() == [5, 6, 7, 8]
    assert part.inputs["readability"].tolist() == seen.inputs["readability"][5:9].tolist()


def test_scores_by_rules_equal_scoring_record_by_record(folder: Path) -> None:
    judge = evaluator()
    summary = score_ledger(folder, judge)
    table = pq.read_table(folder / "scores.parquet")
    slow = rules_slowly(folder, judge)
    assert table.schema.equals(SCHEMA) and table["row"].to_pylist() == list(range(COUNT))
    expected = slow["rules"] * slow["factor"]
    for at, name in enumerate(DIMENSIONS):
        np.testing.assert_allclose(table[name].to_numpy(), expected[:, at], rtol=1e-9)
    product = slow["rules"].prod(axis=1) * slow["factor"].prod(axis=1)
    np.testing.assert_allclose(table["p_ok"].to_numpy(), product, rtol=1e-9)
    assert table["p_rules"].to_pylist() == table["p_ok"].to_pylist()
    assert table["low"].null_count == COUNT and summary.judged == 0
    assert set(table["evaluator"].to_pylist()) == {judge.identity} == {summary.evaluator}
    weakest = [DIMENSIONS[at] for at in np.argmin(expected, axis=1)]
    assert table["weakest"].to_pylist() == weakest


def test_scores_with_a_judge_equal_scoring_all_records_at_once(folder: Path) -> None:
    judge = judging()
    assert judge.evidence is not None
    score_ledger(folder, judge)
    table = pq.read_table(folder / "scores.parquet")
    slow = rules_slowly(folder, judge)
    codes = np.full((COUNT, 5), -1, np.int8)
    judgements = pq.read_table(folder / "judgements.parquet")
    codes[judgements["row"].to_numpy()] = level_codes(judgements.to_pylist())
    gaps = np.full((COUNT, 2), np.nan)
    grounding = pq.read_table(folder / "grounding.parquet")
    for at, name in enumerate(("gap_without", "gap_swapped")):
        gaps[grounding["row"].to_numpy(), at] = grounding[name].to_numpy()
    extras = slow["log_length"][:, None]
    plain = np.zeros((COUNT, 5, 4))
    plain[:, :, 0] = logit(slow["raw"][:, :5], 1e-4)
    plain[:, :, 1:3] = np.clip(np.nan_to_num(gaps), -5, 5)[:, None]
    plain[:, :, 3] = np.isfinite(gaps[:, :1])
    np.testing.assert_array_equal(plain, plain_columns(PLAIN, slow["raw"], gaps))
    strata = slow["strata"].tolist()
    ratios = judge.evidence.ratios(codes, extras, plain)
    heard = (codes != -1).any(axis=1) | np.isfinite(gaps).any(axis=1)
    joints = joints_slowly(judge.evidence.joint, ratios, heard, slow["strata"])
    scores = judge.evidence.score(codes, extras, plain=plain, joints=joints, strata=strata)
    factor = slow["factor"]
    np.testing.assert_allclose(
        table["p_ok"].to_numpy(), scores.p_ok * factor.prod(axis=1), rtol=1e-9
    )
    np.testing.assert_allclose(table["low"].to_numpy(), scores.low * factor.prod(axis=1), rtol=1e-9)
    np.testing.assert_allclose(
        table["high"].to_numpy(), scores.high * factor.prod(axis=1), rtol=1e-9
    )
    for at, name in enumerate(QUALITY):
        np.testing.assert_allclose(
            table[name].to_numpy(), scores.dimensions[:, at] * factor[:, at], rtol=1e-9
        )
    assert table["judged"].to_pylist() == (codes != -1).any(axis=1).tolist()
    only_rules = rules_slowly(folder, evaluator())
    np.testing.assert_allclose(
        table["p_rules"].to_numpy(),
        only_rules["rules"].prod(axis=1) * only_rules["factor"].prod(axis=1),
        rtol=1e-9,
    )


def test_the_strongest_evidence_is_what_the_odds_hang_on(folder: Path) -> None:
    score_ledger(folder, judging())
    table = pq.read_table(folder / "scores.parquet").to_pylist()
    said = {line["row"]: line for line in pq.read_table(folder / "judgements.parquet").to_pylist()}
    notes = {
        (line["row"], line["dimension"])
        for line in ledger.read_ledger(folder, ledger.FINDINGS).to_pylist()
    }
    kinds = defaultdict(int)
    for line in table:
        kinds[line["strongest"]] += 1
        if line["strongest"] == "judge":
            assert said[line["row"]][line["weakest"]] in ("0", "1", "U")
        if line["strongest"].startswith("rules"):
            assert (line["row"], line["weakest"]) in notes
    assert kinds["judge"] > 50 and kinds["rules that drop"] > 10 and kinds["grounding"] > 0


@pytest.mark.parametrize("stop", [0, 2, 4])
def test_killed_and_resumed_the_scores_are_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(score_pass, "PART_ROWS", 64)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(made, whole)
    shutil.copytree(made, killed)
    score_ledger(whole, judging())
    weigh, calls = score_pass.weigh, []

    def counted(*given: object) -> object:
        calls.append(given)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return weigh(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(score_pass, "weigh", counted)
    with pytest.raises(KeyboardInterrupt):
        score_ledger(killed, judging())
    assert not (killed / "scores.json").exists() and not (killed / "scores.parquet").exists()
    score_ledger(killed, judging())
    assert len(calls) == 1 + -(-COUNT // 64), "finished parts are not weighed again"
    for name in ("scores.parquet", "scores.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not (killed / "scores.parts").exists()


def test_the_parts_do_not_change_the_scores(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for rows in (64, 16_384):
        out = tmp_path / str(rows)
        shutil.copytree(made, out)
        monkeypatch.setattr(score_pass, "PART_ROWS", rows)
        score_ledger(out, judging())
        tables.append(pq.read_table(out / "scores.parquet"))
    for name in ("p_ok", "low", "high", "p_rules", *DIMENSIONS):
        # One minus a probability near one is exact to the last bit of one, not of itself.
        np.testing.assert_allclose(
            tables[0][name].to_numpy(), tables[1][name].to_numpy(), rtol=1e-12, atol=1e-15
        )


def test_scores_are_made_anew_only_where_something_changed(folder: Path) -> None:
    plain, judge = evaluator(), judging()
    assert score_ledger(folder, plain).fresh and not score_ledger(folder, plain).fresh
    assert up_to_date(folder, plain) and not up_to_date(folder, judge)
    before = sha256_file(folder / "scores.parquet")
    write_judgements(folder, {1: Judgement("ok", dict.fromkeys(QUALITY, "0"))})
    assert not score_ledger(folder, plain).fresh, "the rules do not care what a judge says"
    assert score_ledger(folder, judge).fresh
    held = scored_by(folder)
    assert held is not None and held.identity == judge.identity
    write_judgements(folder, {1: Judgement("ok", dict.fromkeys(QUALITY, "2"))})
    assert score_ledger(folder, judge).fresh
    assert score_ledger(folder, plain).fresh
    assert sha256_file(folder / "scores.parquet") == before


def test_a_level_never_seen_in_training_leaves_it_to_the_rules(folder: Path) -> None:
    random = np.random.default_rng(3)
    ok = random.random((400, 5)) < 0.8
    scorer = fit_judge_scorer(
        np.where(ok, 2, 0), ok, np.full((400, 1), 4.5), names=QUALITY, extra_names=EXTRAS
    )
    (folder / "judgements.parquet").unlink()
    score_ledger(folder, Evaluator(evaluator().models, {}, scorer))
    table = pq.read_table(folder / "scores.parquet")
    noted = [
        line["row"]
        for line in ledger.read_ledger(folder, ledger.FINDINGS).to_pylist()
        if line["severity"] == "note"
    ]
    p = table["p_ok"].to_numpy()
    others = np.setdiff1d(np.arange(COUNT), [*noted, *np.arange(0, COUNT, 7)])
    strata = np.array(table["stratum"].to_pylist())
    for name in set(strata):
        mine = [p[rows][strata[rows] == name] for rows in (np.array(noted), others)]
        assert mine[0].max() < mine[1].min(), "without a judgement a note still counts"


def test_the_band_of_the_judge_is_by_the_rules_alone(folder: Path) -> None:
    score_ledger(folder, judging())
    table = pq.read_table(folder / "scores.parquet")
    assert rule_scores(folder).tolist() == table["p_rules"].to_pylist()
    assert table["p_rules"].to_pylist() != table["p_ok"].to_pylist()


def test_the_report_reads_the_scores(folder: Path) -> None:
    score_ledger(folder, evaluator())
    found = {one.dimension: one.n for one in read_scores(folder)}
    assert found == {**dict.fromkeys(DIMENSIONS, COUNT), "overall": COUNT}


def test_an_evaluator_with_a_judge_survives_json_exactly(tmp_path: Path) -> None:
    judge = judging()
    judge.save(tmp_path / "e.json")
    again = Evaluator.load(tmp_path / "e.json")
    assert again == judge and again.identity == judge.identity
    value = judge.to_dict()
    value["evidence"]["plain"] = ["phase of the moon"]
    write_json(tmp_path / "e.json", value)
    with pytest.raises(DataError, match="other evidence"):
        Evaluator.load(tmp_path / "e.json")
    write_json(tmp_path / "e.json", {**judge.to_dict(), "format": 1})
    with pytest.raises(DataError, match="another format"):
        Evaluator.load(tmp_path / "e.json")


def test_the_shipped_evaluator_knows_its_base_rates() -> None:
    shipped = default_evaluator()
    assert shipped.evidence is None and set(shipped.models) == set(DIMENSIONS)
    assert all(0.8 < model.prior < 0.999 for model in shipped.models.values())


def test_the_command_scores_and_says_so(folder: Path) -> None:
    evaluator().save(folder.parent / "e.json")
    done = runner.invoke(app, ["score", str(folder), "--evaluator", str(folder.parent / "e.json")])
    assert done.exit_code == 0, done.output
    assert f"{COUNT} records scored by evaluator {evaluator().identity}" in done.output
    again = runner.invoke(app, ["score", str(folder)])
    assert "were scored already" in again.output, "the evaluator that scored it last is the default"
    missing = runner.invoke(app, ["score", str(folder), "--evaluator", "nothing.json"])
    assert isinstance(missing.exception, DataError)
    empty = runner.invoke(app, ["score", str(folder.parent)])
    assert isinstance(empty.exception, DataError) and "no finished curation" in str(empty.exception)


def test_explain_prints_the_score(folder: Path) -> None:
    score_ledger(folder, judging())
    done = runner.invoke(app, ["explain", str(folder), "r2"])
    assert done.exit_code == 0, done.output
    line = pq.read_table(folder / "scores.parquet").to_pylist()[2]
    assert f"score {told(line['p_ok'])} by evaluator {line['evaluator']}" in done.output
    assert f"most against it: {line['strongest']}" in done.output or not line["strongest"]
