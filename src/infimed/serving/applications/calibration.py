"""The file ``calibration.json`` of a run: from raw probabilities to confidences, and when to abstain.

One entry a kind of answer, fitted by `infimed calibrate` on questions that nothing was trained on. It belongs
to one model in one precision: another model's file is refused, never used with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infimed.core.calibration import Method, ProbabilityMap
from infimed.core.errors import DataError
from infimed.core.files import read_json, write_json
from infimed.serving.applications.signals import UNFITTED, Kind, Signal, kind_of, signals
from infimed.serving.asking import Done, First

FILE: Final = "calibration.json"
FORMAT: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Part):
    """What the threshold was fitted for: a share of questions that are answered, or of wrong answers among them."""

    name: Literal["coverage", "risk"]
    value: float = Field(gt=0, le=1)


class KindCalibration(_Part):
    """One kind of answer.

    Attributes:
        signal: which raw probability. method, points: see `core.calibration.ProbabilityMap`.
        threshold: of the confidence, below which to abstain; None where the target cannot be met, and then every
            answer is an abstention. target: what it was fitted for.
        n, groups: answers and patients or images that it was fitted on. accuracy: share of them that was right.
        coverage, risk: shares answered and wrong among them, at the threshold, by held-out confidences.
        nll: held-out negative log-likelihood by method, nats. aurc: area under the risk-coverage curve by signal.
        ece_raw, ece: expected calibration error of the raw and of the held-out calibrated probability.
    """

    signal: Signal
    method: Method
    points: tuple[tuple[float, float], ...] = Field(min_length=1)
    threshold: float | None
    target: Target
    n: int = Field(ge=1)
    groups: int = Field(ge=1)
    accuracy: float
    coverage: float
    risk: float | None
    nll: dict[str, float]
    aurc: dict[str, float]
    ece_raw: float
    ece: float

    @model_validator(mode="after")
    def rises(self) -> Self:
        if self.method == "isotonic":
            raw, sure = zip(*self.points, strict=True)
            if list(raw) != sorted(raw) or list(sure) != sorted(sure):
                raise ValueError("the points of an isotonic map rise")
            if not 0 <= sure[0] <= sure[-1] <= 1:
                raise ValueError("probabilities are in 0..1")
        elif len(self.points) != 1 or self.points[0][0] < 0:
            raise ValueError(f"a {self.method} is one pair of numbers, the first at least 0")
        if self.signal == "options" and self.method != "temperature":
            raise ValueError("options are calibrated by a temperature")
        return self

    @property
    def map(self) -> ProbabilityMap:
        """The map from raw to calibrated."""
        return ProbabilityMap(self.method, self.points)


class Calibration(_Part):
    """All of them, and what they belong to.

    Attributes:
        model_hash: fingerprint of weights, precision and grid. preset: how the questions were asked.
        data_sha256, split, share, tasks: which questions: of the split's patients or images this share (below 1: by
            a seeded draw, so that the others are left to measure on).
    """

    format: Literal[1] = FORMAT
    model_hash: str
    preset: str
    data_sha256: str
    split: str
    share: float = Field(gt=0, le=1)
    tasks: tuple[str, ...]
    kinds: dict[Kind, KindCalibration]

    @model_validator(mode="after")
    def options_are_of_choices(self) -> Self:
        for kind, own in self.kinds.items():
            if (own.signal == "options") != (kind == "choice"):
                raise ValueError(f"{own.signal!r} is no signal of {kind!r}")
        return self

    def save(self, run: Path) -> Path:
        """Write it into a run folder."""
        write_json(run / FILE, self.model_dump(mode="json"))
        return run / FILE


@dataclass(frozen=True)
class Judged:
    """What may be believed of an answer; None is not known.

    Attributes:
        raw: probability before calibration. confidence: calibrated. threshold: below which to abstain.
        abstained: whether it is below.
    """

    raw: float | None = None
    confidence: float | None = None
    threshold: float | None = None
    abstained: bool | None = None


UNKNOWN: Final = Judged()


def read_calibration(run: Path, fingerprint: str) -> Calibration | None:
    """The calibration of a run folder; None where it has none.

    Raises:
        DataError: it is damaged, of another version, or belongs to another model.
    """
    file = run / FILE
    if not file.is_file():
        return None
    again = f"infimed calibrate {run}, or remove the file"
    try:
        found = Calibration.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"is no calibration ({place}: {first['msg']})", where=str(file), fix=again
        ) from error
    if found.model_hash != fingerprint:
        raise DataError(
            "belongs to another model: weights, precision or image grid differ",
            where=str(file),
            seen=found.model_hash[:16],
            accepted=fingerprint[:16],
            fix=again,
        )
    return found


def judge(calibration: Calibration | None, kind: Kind, found: Mapping[Signal, float]) -> Judged:
    """What may be believed of a written answer of a kind, from its signals."""
    own = calibration.kinds.get(kind) if calibration is not None else None
    if own is None:
        return Judged(found.get(UNFITTED[kind]))
    raw = found.get(own.signal)
    if raw is None:
        return UNKNOWN
    return _against(own, raw, own.map(raw))


def judge_written(calibration: Calibration | None, first: First | None, done: Done) -> Judged:
    """What may be believed of a written answer whose question is not known to be of a kind."""
    return judge(calibration, kind_of(done.text), signals(first, done))


def judge_options(calibration: Calibration | None, shares: Sequence[float]) -> tuple[Judged, list[float]]:  # fmt: skip
    """What may be believed of the likeliest of several options, and the calibrated shares of all.

    Args:
        shares: raw ones, summing to 1. They stay what they are where no calibration of choices is known.
    """
    own = calibration.kinds.get("choice") if calibration is not None else None
    if own is None:
        return Judged(max(shares)), list(shares)
    calibrated = own.map.shares(shares)
    return _against(own, max(shares), max(calibrated)), calibrated


def _against(own: KindCalibration, raw: float, confidence: float) -> Judged:
    abstained = own.threshold is None or confidence < own.threshold
    return Judged(raw, confidence, own.threshold, abstained)
