"""From levels to rejects: with a judge whose errors are known, the numbers mean what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest

from infimed.curation.calibration import expected_calibration_error
from infimed.curation.findings import QUALITY
from infimed.curation.judge_scoring import (
    NONE,
    JudgeScorer,
    U,
    decide_by_score,
    fit_judge_scorer,
    fold_of,
    level_features,
)
from infimed.curation.judge_tables import level_codes
from infimed.curation.stub_judge import Clinic, StubJudge, sample_clinic
from tests.curation.judged_world import HELD_OUT, LABELLED, SHARES, heard


@dataclass(frozen=True)
class Trial:
    """A fitted scorer and held-out records with other base rates."""

    labelled: Clinic
    labelled_codes: np.ndarray
    scorer: JudgeScorer
    held_out: Clinic
    codes: np.ndarray

    @property
    def extras(self) -> np.ndarray:
        return self.held_out.log_length[:, None]

    @property
    def ok(self) -> np.ndarray:
        return self.held_out.ok.all(axis=1)

    def adapted(self) -> np.ndarray:
        strata = self.held_out.strata
        joints = self.scorer.adapt(self.codes, self.extras, strata)
        return self.scorer.score(self.codes, self.extras, joints=joints, strata=strata).p_ok


def spoken(judge: StubJudge, clinic: Clinic, random: np.random.Generator) -> np.ndarray:
    """Codes after a detour through the words of the judge and the parser of the house."""
    said = heard(judge, clinic, random)
    return level_codes([{name: one.levels.get(name) for name in QUALITY} for one in said])


@lru_cache(maxsize=2)
def trial(single: bool = False) -> Trial:
    random = np.random.default_rng(2026)
    judge = StubJudge()
    labelled = sample_clinic(4000, LABELLED, SHARES, random, single=single)
    held_out = sample_clinic(10_000, HELD_OUT, SHARES, random, single=single)
    codes = [spoken(judge, clinic, random) for clinic in (labelled, held_out)]
    scorer = fit_judge_scorer(
        codes[0], labelled.ok, labelled.log_length[:, None], names=QUALITY, extra_names=("log_length",)
    )  # fmt: skip
    return Trial(labelled, codes[0], scorer, held_out, codes[1])


def test_the_stub_judge_says_u_refuses_and_errs_by_dimension_and_length() -> None:
    one = trial()
    assert (one.codes == U).mean() > 0.03
    assert (one.codes == NONE).all(axis=1).mean() == pytest.approx(0.06, abs=0.01)
    bad, judged = ~one.held_out.ok, (one.codes >= 0) & (one.codes != U)
    seen = [(one.codes[:, d] < 2)[bad[:, d] & judged[:, d]].mean() for d in range(5)]
    assert max(seen) - min(seen) > 0.15
    long = one.held_out.log_length > 5.5
    accuracy = bad[:, 1] & judged[:, 1]
    missed = one.codes[:, 1] == 2
    assert missed[accuracy & long].mean() > missed[accuracy & ~long].mean() + 0.1


@pytest.mark.parametrize("single", [False, True])
def test_held_out_calibration_error_is_under_three_points_at_another_base_rate(
    single: bool,
) -> None:
    one = trial(single)
    assert one.ok.mean() < one.labelled.ok.all(axis=1).mean() - 0.03
    assert expected_calibration_error(one.adapted(), one.ok) < 0.03


@pytest.mark.parametrize("single", [False, True])
def test_held_out_rejects_are_within_two_points_of_the_target_precision(single: bool) -> None:
    one = trial(single)
    made = decide_by_score(one.adapted(), one.held_out.strata, target_precision=0.90)
    assert made.rejected.sum() >= 1500
    assert 1 - one.ok[made.rejected].mean() == pytest.approx(0.90, abs=0.02)


def test_without_the_correction_the_error_is_larger() -> None:
    one = trial(single=True)
    plain = one.scorer.score(one.codes, one.extras).p_ok
    assert expected_calibration_error(plain, one.ok) > 0.03


def test_the_base_rates_of_the_strata_are_found_without_labels() -> None:
    one = trial()
    joints = one.scorer.adapt(one.codes, one.extras, one.held_out.strata)
    names = np.array(one.held_out.strata)
    for name in SHARES:
        truth = (~one.held_out.ok[names == name]).mean(axis=0)
        np.testing.assert_allclose(joints.of(name).defects, truth, atol=0.05)


def test_retained_shares_show_which_stratum_loses_most() -> None:
    one = trial()
    made = decide_by_score(one.adapted(), one.held_out.strata)
    shares = {name: kept / records for name, (records, kept) in made.retained.items()}
    assert shares["a / xray"] > shares["b / us"] > shares["a / ct"]
    assert sum(records for records, _ in made.retained.values()) == len(one.ok)


def test_unknown_is_neither_zero_nor_two() -> None:
    one = trial()
    length = np.full((5, 1), 5.0)
    codes = np.full((5, 5), 2)
    codes[:, 1] = [0, 1, U, NONE, 2]
    p = one.scorer.score(codes, length).p_ok
    assert p[0] < p[1] < p[2] < p[4]
    assert p[0] < p[3] < p[4]


def test_a_missing_judgement_widens_the_interval_and_a_full_one_has_none() -> None:
    one = trial()
    codes = np.full((3, 5), 2)
    codes[1, 1], codes[2, :] = U, NONE
    made = one.scorer.score(codes, np.full((3, 1), 5.0))
    width = made.high - made.low
    assert width[0] == 0
    assert width[1] > 0.1
    assert width[2] > width[1]
    assert (made.low <= made.p_ok).all() and (made.p_ok <= made.high).all()


def test_codes_never_seen_in_training_leave_the_base_rate() -> None:
    one = trial()
    codes = one.labelled_codes.copy()
    keep = (codes != NONE).all(axis=1) & (codes != U).all(axis=1)
    scorer = fit_judge_scorer(codes[keep], one.labelled.ok[keep], names=QUALITY)
    made = scorer.score(np.array([[NONE] * 5, [U] * 5]))
    priors = [model.prior for model in scorer.models]
    np.testing.assert_allclose(made.dimensions, [scorer.joint.posterior(np.ones((1, 5)))[1][0]] * 2)
    np.testing.assert_allclose(made.dimensions[0], priors, atol=0.01)


def test_a_scorer_survives_json_exactly() -> None:
    one = trial()
    again = JudgeScorer.from_dict(json.loads(json.dumps(one.scorer.to_dict())))
    np.testing.assert_array_equal(
        again.score(one.codes, one.extras).p_ok, one.scorer.score(one.codes, one.extras).p_ok
    )


def test_features_equal_the_table_written_out() -> None:
    made = level_features(np.array([0, 1, 2, U, NONE]), np.array([[5.0]] * 5))
    expected = [
        [1, 0, 0, 0, 5, 5, 0, 0, 0],
        [0, 1, 0, 0, 5, 0, 5, 0, 0],
        [0, 0, 1, 0, 5, 0, 0, 5, 0],
        [0, 0, 0, 1, 5, 0, 0, 0, 5],
        [0, 0, 0, 0, 5, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(made, expected)


def test_records_of_one_group_share_a_fold() -> None:
    groups = [f"patient {i % 40}" for i in range(200)]
    fold = fold_of(groups, 5, seed=0)
    assert all(len({fold[i] for i in range(g, 200, 40)}) == 1 for g in range(40))
    assert np.bincount(fold).tolist() == [40] * 5


@pytest.mark.parametrize(
    ("codes", "ok"),
    [
        (np.full((4, 5), 4), np.ones((4, 5))),
        (np.zeros((4, 3)), np.ones((4, 3))),
        (np.zeros((4, 5)), np.ones((3, 5))),
        (np.zeros((1, 5)), np.ones((1, 5))),
    ],
)
def test_what_cannot_be_fitted_is_refused(codes: np.ndarray, ok: np.ndarray) -> None:
    with pytest.raises(ValueError):
        fit_judge_scorer(codes, ok, names=QUALITY)


def test_base_rates_need_the_strata_of_the_records() -> None:
    one = trial()
    joints = one.scorer.adapt(one.codes, one.extras, one.held_out.strata)
    with pytest.raises(ValueError, match="stratum"):
        one.scorer.score(one.codes, one.extras, joints=joints)


def test_plain_columns_stand_beside_the_levels_and_are_crossed_with_none() -> None:
    made = level_features(np.array([0, NONE]), np.array([[5.0]] * 2), np.array([[7.0], [8.0]]))
    np.testing.assert_array_equal(
        made, [[1, 0, 0, 0, 5, 5, 0, 0, 0, 7], [0, 0, 0, 0, 5, 0, 0, 0, 0, 8]]
    )


def test_a_plain_column_that_knows_the_truth_is_used() -> None:
    one = trial()
    hint = np.where(one.labelled.ok, 2.0, -2.0)[:, :, None]
    scorer = fit_judge_scorer(
        one.labelled_codes, one.labelled.ok, names=QUALITY, plain=hint, plain_names=("rules",)
    )
    made = scorer.score(one.codes, plain=np.where(one.held_out.ok, 2.0, -2.0)[:, :, None])
    assert ((made.p_ok > 0.5) == one.ok).mean() > 0.99
    again = JudgeScorer.from_dict(json.loads(json.dumps(scorer.to_dict())))
    assert again == scorer


def test_a_dimension_is_fitted_on_the_records_that_were_labelled_in_it() -> None:
    one = trial()
    labelled = np.ones(one.labelled.ok.shape, bool)
    labelled[100:, 1] = False  # accuracy was labelled in a hundred records
    wrong = one.labelled.ok.copy()
    wrong[100:, 1] = ~wrong[100:, 1]  # what stands in for the others must not matter
    fits = [
        fit_judge_scorer(one.labelled_codes, ok, names=QUALITY, labelled=labelled)
        for ok in (one.labelled.ok, wrong)
    ]
    assert fits[0] == fits[1]
    assert (
        fits[0].models[0]
        == fit_judge_scorer(one.labelled_codes, one.labelled.ok, names=QUALITY).models[0]
    )


def test_an_enriched_sample_finds_the_base_rates_of_the_data_it_was_drawn_from() -> None:
    """Suspects are labelled ten times as often as others: the sample has far more defects."""
    one = trial()
    suspect = ((one.codes == 0) | (one.codes == 1)).any(axis=1)
    random = np.random.default_rng(5)
    chosen = np.flatnonzero(random.random(len(suspect)) < np.where(suspect, 0.9, 0.09))
    common: dict[str, object] = {"names": QUALITY, "extra_names": ("log_length",)}
    labelled = (one.codes[chosen], one.held_out.ok[chosen], one.extras[chosen])
    naive = fit_judge_scorer(*labelled, **common)  # type: ignore[arg-type]
    rebased = fit_judge_scorer(*labelled, **common, population=(one.codes, one.extras, None))  # type: ignore[arg-type]
    truth = (~one.held_out.ok).mean(axis=0)
    errors = [np.abs(scorer.joint.defects - truth).max() for scorer in (naive, rebased)]
    assert errors[1] < 0.02 < errors[0]
    p_ok = rebased.score(one.codes, one.extras).p_ok
    assert expected_calibration_error(p_ok, one.ok) < 0.03
