"""How far confidences can be believed, on choice and closed questions.

A confidence is the softmax over the options of their mean log-probability of a token
(``option-scoring``), or else the share of the orders of its options in which a question gets the
same answer (``options-rotated``). An answer without one, failed or unread, has confidence 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infimed.core.reliability import Point, reliability, risk_coverage
from infimed.evaluation.controlled import ROTATED, SCORED
from infimed.evaluation.evidence import Calibration
from infimed.evaluation.sample import Sample
from infimed.evaluation.stored import RowResult

SOFTMAX = "softmax over the options of their mean log-probability of a token"
AGREEMENT = "share of the orders of the options that give the same answer"
DECISIVE = ("choice", "closed")


def believing(
    samples: Sequence[Sample], first: str, results: Mapping[str, RowResult]
) -> tuple[Calibration | None, tuple[Point, ...]]:
    """Calibration and risk-coverage curve of the best confidence there is; (None, ()) without any."""
    if SCORED in results and results[SCORED].confidence is not None:
        row, result, source = SCORED, results[SCORED], SOFTMAX
        sure = np.nan_to_num(np.asarray(result.confidence), nan=0.0)
        covered = result.covered
    elif ROTATED in results:
        row, result, source = first, results[first], AGREEMENT
        covered = results[ROTATED].covered
        sure = _agreement(results[ROTATED])
    else:
        return None, ()
    scores = result.assessment.scores()
    chosen = [at for at in covered.tolist() if samples[at].kind in DECISIVE]
    right = [scores[at] for at in chosen]
    if not chosen or any(score not in (0.0, 1.0) for score in right):
        return None, ()
    known = [float(score or 0.0) for score in right]
    bins = reliability(sure[chosen].tolist(), known)
    curve = risk_coverage(sure[chosen].tolist(), known)
    return Calibration(row, source, len(chosen), bins.ece, curve.aurc, bins.bins), curve.points


def _agreement(rotated: RowResult) -> NDArray[np.float64]:
    sure = np.zeros(len(rotated.turned))
    for at, turns in enumerate(rotated.turned):
        if turns and turns[0].parsed is not None:
            sure[at] = np.mean([turn.parsed == turns[0].parsed for turn in turns])
    return sure
