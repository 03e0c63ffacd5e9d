"""From signals and findings to P(ok) per dimension, and to one pooled score.

Per dimension: a logistic function of how many rules object, how many only note, and of a few
signals; isotonic regression makes it a probability. The pooled score is the product over the
dimensions, not a mean: one fatal defect makes a record useless however good the rest is. Hard gates
come first: where one of their rules objects, P(ok) of its dimension is 0. An evaluator that was fitted on
people's labels also knows what a judge's levels and the grounding gap mean (`judge_scoring`).

A dimension looks at its own objections only. Those of the others say much in a benchmark, where a record
has one defect and no other: there an objection elsewhere excuses, and none at all accuses. In other data,
with other base rates, both are wrong, and the correction for base rates (`label_shift`) needs evidence
that means the same everywhere.

Which rule objected is no feature, only how many did: so a rule written later, or one that no
training defect sets off, counts like the others. Cost: about 20 microseconds a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError
from infimed.core.files import read_json, sha256_json, write_json
from infimed.curation.calibration import Isotonic, Logistic, fit_isotonic, fit_logistic
from infimed.curation.findings import DIMENSIONS, QUALITY, Finding
from infimed.curation.judge_scoring import JudgeScorer
from infimed.curation.signals import Signals

Floats = NDArray[np.float64]

EVALUATOR_FORMAT: Final = 2
DEFAULT_EVALUATOR: Final = Path(__file__).parent / "evaluator.json"
"""Made by ``infimed curate train-evaluator`` on phantoms; see its key ``made_by``."""

SHIPPED: Final = "shipped"
"""Name of that evaluator where a file could be given."""

PHANTOMS: Final = "phantom clinic"
"""Name of the generated records that an evaluator can be fitted on."""

DROPPED: Final = 1e-4
"""P(ok) of a dimension is scaled by this where a rule of severity "drop" objects."""

GATES: Final = frozenset(
    {
        "completeness.unreadable_image",
        "completeness.broken_reference",
        "completeness.gold_choice",
        "completeness.few_choices",
        "completeness.short_response",
        "relevance.blank_image",
    }
)
"""Rules whose objection no other evidence can outweigh."""

SIGNAL_FEATURES: Final[Mapping[str, tuple[str, ...]]] = {
    "completeness": ("breaks_off",),
    "accuracy": (),
    "consistency": (),
    "relevance": ("lay", "everyday", "white", "flat", "few_greys"),
    "readability": (
        "odd_words", "misspelt", "repeated", "soft", "one_direction", "no_grain", "blocks",
        "no_contrast",
    ),
    "duplication": (),
}  # fmt: skip
"""Signals that a dimension's logistic sees besides the objections in it."""


EXTRAS: Final = ("log_length",)
"""What a judge's levels are crossed with: its errors depend on the length of the text."""

PLAIN: Final = ("rules", "gap_without", "gap_swapped", "gap_measured")
"""What stands beside a level: the log-odds of P(ok) by the rules, and the grounding gap."""


def feature_names(dimension: str) -> tuple[str, ...]:
    """Columns of a dimension's features."""
    return ("drops", "notes", *SIGNAL_FEATURES.get(dimension, ()))


def signal_features(signals: Signals) -> dict[str, float]:
    """The signals the evaluator looks at, each a suspicion between 0 (none) and 1.

    A signal is 0 over the whole range that sound records of *any* source have, so that an evaluator
    fitted on one kind of data does not distrust another for looking different. Image values are of
    the worst image; 0 where there is none or it cannot be read.
    """
    text = signals.text
    words = max(1, text.words)
    shown = [image for image in signals.images if not image.problem]

    def worst(values: Iterable[float]) -> float:
        return max(values, default=0.0)

    return {
        "breaks_off": float(bool(text.ending)),
        "lay": float(text.words >= 3 and text.medical_terms == 0),
        "everyday": rise(text.everyday_words / words, 0.0, 0.3),
        "odd_words": rise(text.odd_words, 0.0, 0.15),
        "misspelt": rise(text.misspelt / words, 0.0, 0.15),
        "repeated": rise(text.repeated_trigrams, 0.15, 0.6),
        "soft": worst(rise(-i.sharpness, -2.1, -1.4) for i in shown if i.sharpness),
        "one_direction": worst(
            rise(-i.least_sharpness, -1.6, -1.1) * rise(-i.noise, -0.8, -0.4)
            for i in shown
            if i.least_sharpness
        ),
        "no_grain": worst(rise(-i.noise, -0.34, -0.22) for i in shown if i.std >= 3),
        "blocks": worst(rise(i.blocking, 1.45, 2.6) for i in shown),
        "no_contrast": worst(rise(-i.spread, -90.0, -20.0) for i in shown),
        "white": worst(rise(i.white_share, 0.4, 0.8) for i in shown),
        "flat": worst(rise(i.flat, 0.6, 0.9) for i in shown if i.std >= 3),
        "few_greys": worst(rise(-i.entropy, -2.2, -0.8) for i in shown),
    }


def rise(value: Any, low: float, high: float) -> Any:
    """0 up to `low`, 1 from `high` on, linear between; of a number, or of an array."""
    if isinstance(value, np.ndarray):
        return np.clip((value - low) / (high - low), 0.0, 1.0)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def features(signals: Signals, findings: Iterable[Finding]) -> dict[str, tuple[float, ...]]:
    """Dimension -> its features, in the order of `feature_names`."""
    drops = dict.fromkeys(DIMENSIONS, 0)
    notes = dict.fromkeys(DIMENSIONS, 0)
    for finding in findings:
        counts = drops if finding.severity == "drop" else notes
        counts[finding.dimension] = counts.get(finding.dimension, 0) + 1
    measured = signal_features(signals)
    return {
        name: (
            float(min(2, drops[name])),
            float(min(2, notes[name])),
            *(measured[key] for key in SIGNAL_FEATURES.get(name, ())),
        )
        for name in DIMENSIONS
    }


def gated(findings: Iterable[Finding]) -> frozenset[str]:
    """Dimensions closed by a hard gate."""
    return frozenset(f.dimension for f in findings if f.severity == "drop" and f.rule in GATES)


@dataclass(frozen=True)
class DimensionModel:
    """P(ok) in one dimension: a logistic function, then isotonic calibration.

    Attributes:
        prior: mean P(ok) of the records it was fitted on, the base rate at which the probability holds.
    """

    logistic: Logistic
    isotonic: Isotonic
    prior: float

    def probability(self, x: Floats) -> Floats:
        """P(ok) [n] of features [n, f].

        A hundredth of the uncalibrated probability is mixed in, so that records on one step of the
        isotonic function keep their order.
        """
        raw = self.logistic.probability(x)
        return np.asarray(0.99 * self.isotonic(raw) + 0.01 * raw, np.float64)


@dataclass(frozen=True)
class Evaluator:
    """The fitted evaluator.

    Attributes:
        models: dimension -> model; a dimension without one is ok unless a rule objects.
        made_by: the command that fitted it, and on what.
        evidence: what judge and grounding gap mean beside the rules; None where that was not fitted.
    """

    models: Mapping[str, DimensionModel]
    made_by: Mapping[str, Any] = field(default_factory=dict)
    evidence: JudgeScorer | None = None

    @property
    def identity(self) -> str:
        """16 hex digits naming everything that can change a score."""
        value = self.to_dict()
        return sha256_json({name: value[name] for name in ("dimensions", "evidence")})[:16]

    @property
    def of_phantoms(self) -> bool:
        """Whether it knows generated records only, and nobody's labels: what a signal means for real ones is
        then not known."""
        return self.evidence is None and self.made_by.get("data") == PHANTOMS

    def probabilities(
        self, rows: Sequence[Mapping[str, tuple[float, ...]]], gates: Sequence[frozenset[str]] = ()
    ) -> dict[str, Floats]:
        """Dimension -> P(ok) [n] for the features of n records."""
        out: dict[str, Floats] = {}
        for name in DIMENSIONS:
            x = np.array([row[name] for row in rows], np.float64).reshape(len(rows), -1)
            model = self.models.get(name)
            if model is None:
                out[name] = np.where(x[:, 0] > 0, DROPPED, 1.0) if len(rows) else np.zeros(0)
            else:
                # A drop is an objection in itself: only records that a rule drops fall below
                # `DROPPED`, however strange the others look to an evaluator from elsewhere.
                out[name] = model.probability(x) * np.where(x[:, 0] > 0, DROPPED, 1.0)
            for index, closed in enumerate(gates):
                if name in closed:
                    out[name][index] = 0.0
        return out

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `from_dict` inverts it exactly."""
        return {
            "format": EVALUATOR_FORMAT,
            "made_by": dict(self.made_by),
            "dimensions": {
                name: {
                    "features": list(feature_names(name)),
                    "logistic": model.logistic.to_dict(),
                    "isotonic": model.isotonic.to_dict(),
                    "prior": model.prior,
                }
                for name, model in self.models.items()
            },
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
        }

    @staticmethod
    def from_dict(value: Mapping[str, Any], where: str = "evaluator") -> Evaluator:
        """Inverse of `to_dict`.

        Raises:
            DataError: another format, or features this version does not measure.
        """
        fix = "fit it again: infimed curate train-evaluator"
        try:
            if value["format"] != EVALUATOR_FORMAT:
                raise DataError(
                    "an evaluator of another format", where=where, seen=value["format"], fix=fix
                )
            models = {}
            for name, entry in value["dimensions"].items():
                if name not in DIMENSIONS or tuple(entry["features"]) != feature_names(name):
                    raise DataError(
                        "the evaluator knows other features", where=where, seen=name, fix=fix
                    )
                models[name] = DimensionModel(
                    Logistic.from_dict(entry["logistic"]),
                    Isotonic.from_dict(entry["isotonic"]),
                    float(entry["prior"]),
                )
            evidence = value["evidence"]
            scorer = None if evidence is None else JudgeScorer.from_dict(evidence)
            if scorer is not None and (
                scorer.names != QUALITY
                or scorer.extra_names != EXTRAS
                or not set(scorer.plain_names) <= set(PLAIN)
            ):
                raise DataError(
                    "the evaluator knows other evidence",
                    where=where,
                    seen=[*scorer.extra_names, *scorer.plain_names],
                    fix=fix,
                )
            return Evaluator(models, dict(value.get("made_by", {})), scorer)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not an evaluator ({error!r})", where=where, fix=fix) from error

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_dict())

    @staticmethod
    def load(path: Path) -> Evaluator:
        """Read what `save` wrote.

        Raises:
            DataError: missing or malformed.
        """
        return Evaluator.from_dict(read_json(path), str(path))


def pooled(probabilities: Mapping[str, Floats]) -> Floats:
    """The pooled score [n]: the product of P(ok) over all dimensions."""
    return np.asarray(np.prod(np.stack(list(probabilities.values())), axis=0), np.float64)


def fit_evaluator(
    rows: Sequence[Mapping[str, tuple[float, ...]]],
    ok: Mapping[str, Sequence[bool | None]],
    l2: float = 1.0,
    made_by: Mapping[str, Any] | None = None,
) -> Evaluator:
    """Fit one model a dimension.

    Every second labelled record trains the logistic function, the others calibrate it.

    Args:
        rows: features of n records. ok: dimension -> label of each record, None where unknown.
        l2: penalty of the logistic weights.

    Raises:
        DataError: no label at all. ValueError: labels of another length.
    """
    models: dict[str, DimensionModel] = {}
    for name, labels in ok.items():
        if len(labels) != len(rows):
            raise ValueError(f"{len(rows)} records, {len(labels)} labels for {name}")
        known = [i for i, label in enumerate(labels) if label is not None]
        y = np.array([bool(labels[i]) for i in known])
        if len(set(y.tolist())) < 2 or len(known) < 20:
            continue
        x = np.array([rows[i][name] for i in known], np.float64)
        # Alternate within each class, so that both halves have both.
        order = np.concatenate([np.flatnonzero(y), np.flatnonzero(~y)])
        train, calibrate = order[0::2], order[1::2]
        logistic = fit_logistic(x[train], y[train], l2)
        raw = logistic.probability(x[calibrate])
        isotonic = fit_isotonic(raw, y[calibrate], smoothing=1.0)
        model = DimensionModel(logistic, isotonic, 1.0)
        # The base rate by its own account: evidence that tells nothing apart is then worth exactly nothing.
        # Against the share of labels it would be off by the smoothing, alike for every record of a new set.
        models[name] = replace(model, prior=float(model.probability(x).mean()))
    if not models:
        raise DataError(
            "too few labels to fit an evaluator",
            seen={name: sum(v is not None for v in labels) for name, labels in ok.items()},
            accepted="at least 20 labels of both kinds in one dimension",
        )
    return Evaluator(models, dict(made_by or {}))


def default_evaluator() -> Evaluator:
    """The evaluator in the package, fitted on phantoms."""
    return Evaluator.load(DEFAULT_EVALUATOR)


def evaluator_named(name: str) -> Evaluator:
    """The evaluator in the package (`SHIPPED`), or the one in a file.

    Raises:
        DataError: no such file, or it is malformed.
    """
    return default_evaluator() if name == SHIPPED else Evaluator.load(Path(name))
