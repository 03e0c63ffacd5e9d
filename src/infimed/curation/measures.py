"""Which stored signal each numeric limit speaks of, so that a value can be drawn against its limit.

A rule is code; what it compares with a limit is stated here once more as data: the columns of the
signals table, the number made of them, and the side on which the rule objects. Tests hold every
measure against its rule's own passing and failing example. A rule may ask for more than one number;
then a value beyond the limit is necessary for an objection, not sufficient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from infimed.curation.rubric import AnyRule, Rubric
from infimed.curation.rules.base import Threshold

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]

IMAGE_PREFIX: Final = "images.list.element."


@dataclass(frozen=True, slots=True)
class Measure:
    """A measured value and the limit that a rule holds it against.

    Attributes:
        label, unit: for people. rule, limit: ids in the rubric.
        side: "below" when the rule objects to values below the limit, else "above".
        of: "image" (a value for every image of a record) or "text" (one for each record).
        columns: needed columns of the signals table, image fields by their bare name.
        value: columns, each float64 [n], -> float64 [n]; NaN where the rule does not look.
        low, high: range that is drawn; values outside are drawn at its ends. log: scale of the axis.
        needs: what else the rule asks for, in words; "" when nothing. graded: whether a value can lie
            close to the limit; a small count is over it or not.
    """

    label: str
    unit: str
    rule: str
    limit: str
    side: Literal["below", "above"]
    of: Literal["image", "text"]
    columns: tuple[str, ...]
    value: Callable[[Columns], Floats]
    low: float
    high: float
    log: bool = False
    needs: str = ""
    graded: bool = True

    @property
    def key(self) -> str:
        """The setting that moves the limit: ``RULE.LIMIT``."""
        return f"{self.rule}.{self.limit}"

    def position(self, values: Floats) -> Floats:
        """Place on the drawn axis, 0..1."""
        low, high = self.low, self.high
        if self.log:
            low, high = float(np.log(low)), float(np.log(high))
            values = np.log(np.maximum(values, self.low))
        return np.asarray(np.clip((values - low) / (high - low), 0.0, 1.0), np.float64)

    def at(self, position: float) -> float:
        """Inverse of `position`."""
        if self.log:
            low, high = float(np.log(self.low)), float(np.log(self.high))
            return float(np.exp(low + position * (high - low)))
        return self.low + position * (self.high - self.low)

    def beyond(self, values: Floats, limits: Floats) -> NDArray[np.bool_]:
        """Where a value lies on the objected side of its limit; False for NaN."""
        with np.errstate(invalid="ignore"):
            return np.asarray(values < limits if self.side == "below" else values > limits)


def threshold(measure: Measure, rubric: Rubric) -> tuple[AnyRule, Threshold] | None:
    """The rule and limit of a measure, None where the rubric has no such rule."""
    rule = next((rule for rule in rubric.all_rules if rule.id == measure.rule), None)
    if rule is None or measure.limit not in rule.thresholds:
        return None
    return rule, rule.thresholds[measure.limit]


def _one(name: str) -> Callable[[Columns], Floats]:
    return lambda columns: columns[name]


def _where(name: str, holds: Callable[[Columns], NDArray[np.bool_]]) -> Callable[[Columns], Floats]:
    return lambda columns: np.where(holds(columns), columns[name], np.nan)


def _shorter(columns: Columns) -> Floats:
    return np.minimum(columns["width"], columns["height"])


def _ratio(columns: Columns) -> Floats:
    short = np.minimum(columns["width"], columns["height"])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.maximum(columns["width"], columns["height"]) / short
    return np.where(short > 0, ratio, np.nan)


def _noise_share(columns: Columns) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(columns["std"] > 0, columns["noise"] / columns["std"], np.nan)


MEASURES: Final = (
    Measure(
        "Sharpness", "fine over coarse gradient", "readability.blurred_image", "min_sharpness",
        "below", "image", ("sharpness",), _where("sharpness", lambda c: c["sharpness"] > 0), 0.5, 4.5,
    ),
    Measure(
        "Shorter side", "pixels", "readability.small_image", "min_side",
        "below", "image", ("width", "height"), _shorter, 8, 8192, log=True,
    ),
    Measure(
        "Longer over shorter side", "ratio", "readability.elongated_image", "max_ratio",
        "above", "image", ("width", "height"), _ratio, 1, 10, log=True,
    ),
    Measure(
        "Contrast", "grey levels spanned", "readability.low_contrast", "min_spread",
        "below", "image", ("spread", "std"), _where("spread", lambda c: c["std"] >= 3), 0, 255,
    ),
    Measure(
        "Black pixels", "share", "readability.under_exposed", "max_dark",
        "above", "image", ("dark_share",), _one("dark_share"), 0, 1,
    ),
    Measure(
        "Saturated pixels", "share", "readability.over_exposed", "max_bright",
        "above", "image", ("bright_share",), _one("bright_share"), 0, 1, needs="few edges",
    ),
    Measure(
        "Grey-level spread", "standard deviation", "relevance.blank_image", "min_std",
        "below", "image", ("std",), _one("std"), 0, 128,
    ),
    Measure(
        "Pixels of one grey value", "share", "relevance.blank_image", "max_mode_share",
        "above", "image", ("mode_share",), _one("mode_share"), 0, 1,
    ),
    Measure(
        "Noise", "share of all variation", "relevance.noise_image", "max_noise_share",
        "above", "image", ("noise", "std"), _noise_share, 0, 1.2, needs="noise above 10 grey levels",
    ),
    Measure(
        "White pixels", "share", "relevance.figure_page", "min_white",
        "above", "image", ("white_share",), _one("white_share"), 0, 1,
        needs="strokes of print or the axes of a chart",
    ),
    Measure(
        "Entropy", "bits of the grey histogram", "relevance.flat_graphic", "min_entropy",
        "below", "image", ("entropy", "std"), _where("entropy", lambda c: c["std"] >= 4), 0, 8,
        needs="no noise",
    ),
    Measure(
        "Words damaged by character recognition", "share", "readability.character_noise", "max_share",
        "above", "text", ("odd_words",), _one("odd_words"), 0, 0.5, needs="at least two such words",
    ),
    Measure(
        "Repeated 3-grams", "share", "readability.repetition", "max_share",
        "above", "text", ("repeated_trigrams",), _one("repeated_trigrams"), 0, 1,
        needs="a text long enough",
    ),
    Measure(
        "Words in the response", "words", "completeness.short_response", "min_words",
        "below", "text", ("response_words",), _one("response_words"), 0.5, 1024, log=True,
        graded=False, needs="no sign such as + or %",
    ),
    Measure(
        "Words in the question", "words", "completeness.short_question", "min_words",
        "below", "text", ("question_words",), _one("question_words"), 0.5, 256, log=True,
        graded=False,
    ),
)  # fmt: skip
"""What is drawn, the most telling first."""
