"""A judge without a model whose errors are known exactly: for tests and for the calibration benchmark.

It is told which dimensions of a record are defective and errs as real judges do: it misses more and
alarms falsely more often in long texts, it is better in some dimensions than in others, it says U,
refuses, and talks nonsense.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infimed.curation.calibration import Floats, sigmoid
from infimed.curation.findings import QUALITY
from infimed.curation.judge_scoring import NONE, U

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Clinic:
    """Labelled records as arrays.

    Attributes:
        ok: [n, 5]. log_length: [n], natural logarithm of the characters of text.
        strata: [n], "source / modality".
    """

    ok: Flags
    log_length: Floats
    strata: list[str]


def sample_clinic(
    n: int,
    defects: dict[str, tuple[float, ...]],
    shares: dict[str, float],
    random: np.random.Generator,
    *,
    single: bool = False,
) -> Clinic:
    """Draw records.

    Args:
        defects: stratum -> share of defects per dimension. shares: stratum -> share of the records.
        single: at most one defect a record, instead of independent ones.
    """
    names = list(shares)
    place = random.choice(len(names), size=n, p=[shares[name] for name in names])
    rates = np.array([defects[name] for name in names])[place]
    if single:
        edges = np.cumsum(rates, axis=1)
        drawn = random.random(n)[:, None]
        bad = (drawn < edges) & (drawn >= edges - rates)
    else:
        bad = random.random(rates.shape) < rates
    return Clinic(~bad, random.normal(5.0, 1.0, n), [names[index] for index in place])


@dataclass(frozen=True)
class StubJudge:
    """How often it errs, per dimension, at a text of mean length (about 150 characters).

    Attributes:
        sensitivity: share of defects it sees. false_alarm: share of ok it objects to.
        unknown: share of U. length_effect: change of each log-odds per e-fold of length.
        carelessness: standard deviation of a log-odds that all errors about one record share.
        refused, garbage: share of records without any levels.
    """

    sensitivity: tuple[float, ...] = (0.80, 0.70, 0.85, 0.90, 0.95)
    false_alarm: tuple[float, ...] = (0.04, 0.08, 0.03, 0.02, 0.01)
    unknown: tuple[float, ...] = (0.05, 0.20, 0.05, 0.10, 0.02)
    length_effect: float = 0.5
    carelessness: float = 0.0
    refused: float = 0.04
    garbage: float = 0.02

    def codes(self, clinic: Clinic, random: np.random.Generator) -> NDArray[np.int8]:
        """Levels [n, 5] as `judge_scoring` codes them."""
        careless = (
            random.normal(0.0, self.carelessness, len(clinic.ok)) if self.carelessness else 0.0
        )
        longer = np.asarray(self.length_effect * (clinic.log_length - 5.0) + careless)[:, None]

        def share(base: tuple[float, ...], sign: float) -> Floats:
            odds = np.log(np.array(base) / (1 - np.array(base)))
            return sigmoid(odds + sign * longer)

        objects = random.random(clinic.ok.shape) < np.where(
            clinic.ok, share(self.false_alarm, 1), share(self.sensitivity, -1)
        )
        # A true defect is mostly level 0, a false alarm mostly level 1.
        fatal = random.random(clinic.ok.shape) < np.where(clinic.ok, 0.25, 0.7)
        codes = np.where(objects, np.where(fatal, 0, 1), 2)
        codes[random.random(codes.shape) < share(self.unknown, 1)] = U
        lost = random.random(len(codes)) < self.refused + self.garbage
        codes[lost] = NONE
        return codes.astype(np.int8)

    def text(self, codes: NDArray[np.int8], random: np.random.Generator) -> str:
        """One record's levels [5] as the words of a judge."""
        if (codes == NONE).all():
            refuses = random.random() < self.refused / (self.refused + self.garbage)
            return "I'm sorry, I cannot assess medical data." if refuses else "Level: fine {"
        said = {
            name: {"level": "U" if code == U else int(code), "evidence": ""}
            for name, code in zip(QUALITY, codes.tolist(), strict=True)
        }
        return f"```json\n{json.dumps(said)}\n```"
