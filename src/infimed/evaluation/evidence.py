"""What stands beside a score: how much of it is seeing, how steady it is, how far it can be believed.

Typed blocks of a task's scores, each with a plain form in scores.json. Estimates are shares in 0..1
with intervals clustered by patient or image. Computed in `seeing`, `consistency`, `believing` and
`leaks`; drawn by `evidence_tables` and by whoever reads scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from infimed.core.reliability import Bin, Point
from infimed.core.statistics import Estimate

FEW_QUESTIONS = 30
FEW_GROUPS = 10
"""A set of fewer questions or groups is shown with its n and carries no claim."""

Verdict = Literal[
    "better with its images", "not shown to see", "worse with its images", "not asked", "too few"
]


@dataclass(frozen=True, slots=True)
class PairedTest:
    """McNemar's test of `row` against `control` on the `column`'s questions; see `statistics.mcnemar`."""

    row: str
    control: str
    column: str
    n: int
    only_row: int
    only_control: int
    exact: float
    mid_p: float


@dataclass(frozen=True, slots=True)
class Seeing:
    """How much of a score needs the image, on one column.

    Attributes:
        score: of the model. best: the strongest way of answering without its image, and `best_score`
            of it. difference: model minus best, paired. verdict, words: what may be said of it.
        compared: every way that does not see its image which was looked at.
    """

    column: str
    score: Estimate
    best: str
    best_score: Estimate | None
    difference: Estimate | None
    verdict: Verdict
    words: str
    compared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """Shares of all read answers, and of all right options, that stand at a letter."""

    letter: str
    said: float
    gold: float


@dataclass(frozen=True, slots=True)
class Rotations:
    """Choice questions asked with their options in several orders, the model's own included.

    Attributes:
        questions: how many. orders: most orders of one question. asked: answers looked at.
        plain: score in the model's own order. mean: over the orders. all_right: right in every order
            (circular accuracy). same: the same option, not the same letter, in every order.
        letters: where the answers stand. bias: half the summed distance of both shares, 0 to 1.
    """

    questions: int
    orders: int
    asked: int
    plain: Estimate
    mean: Estimate
    all_right: Estimate
    same: Estimate
    letters: tuple[Letter, ...]
    bias: Estimate


@dataclass(frozen=True, slots=True)
class Rephrasings:
    """A row on the data set's own rephrasings of questions.

    Attributes:
        row: whose answers. sets, questions: sets of questions that mean the same, and questions in
            them. same: share of sets with the same answer throughout. all_right: right throughout.
        left_out: sets whose gold answers differ.
    """

    row: str
    sets: int
    questions: int
    same: Estimate
    all_right: Estimate
    left_out: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far a row's confidence can be believed, over choice and closed questions.

    Attributes:
        row: whose answers. source: what the confidence is. n: questions. ece: expected calibration
            error over `bins` of equal mass. aurc: area under the risk-coverage curve.
    """

    row: str
    source: str
    n: int
    ece: float
    aurc: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Leakage:
    """Questions of a task that were found in what a model may have learned from.

    Attributes:
        against: name of the training data; against_sha256: which. training_records: how many.
        questions: of the task. image, question, both: found by their image, their text, or both.
        unreadable: images of either side that took no part.
    """

    against: str
    against_sha256: str
    training_records: int
    questions: int
    image: int
    question: int
    both: int
    unreadable: int

    @property
    def found(self) -> int:
        """Questions found in any way."""
        return self.image + self.question + self.both


@dataclass(frozen=True, slots=True)
class Evidence:
    """All blocks of a task; empty where there is nothing to say.

    Attributes:
        few: names of columns too small for a claim, see `FEW_QUESTIONS` and `FEW_GROUPS`.
    """

    seeing: tuple[Seeing, ...] = ()
    mcnemar: tuple[PairedTest, ...] = ()
    rotations: Rotations | None = None
    rephrasings: tuple[Rephrasings, ...] = ()
    calibration: Calibration | None = None
    risk_coverage: tuple[Point, ...] = ()
    leakage: Leakage | None = None
    few: tuple[str, ...] = ()

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Evidence:
        """From a task of scores.json; files of before have no blocks."""
        rotated, sure = value.get("rotations"), value.get("calibration")
        leaked = value.get("leakage")
        return Evidence(
            seeing=tuple(
                Seeing(
                    **_estimates(one, "score", "best_score", "difference")
                    | {"compared": tuple(one["compared"])}
                )
                for one in value.get("seeing", ())
            ),
            mcnemar=tuple(PairedTest(**one) for one in value.get("mcnemar", ())),
            rotations=Rotations(
                **_estimates(rotated, "plain", "mean", "all_right", "same", "bias")
                | {"letters": tuple(Letter(**one) for one in rotated["letters"])}
            )
            if rotated
            else None,
            rephrasings=tuple(
                Rephrasings(**_estimates(one, "same", "all_right"))
                for one in value.get("rephrasings", ())
            ),
            calibration=Calibration(**sure | {"bins": tuple(Bin(**one) for one in sure["bins"])})
            if sure
            else None,
            risk_coverage=tuple(Point(**one) for one in value.get("risk_coverage", ())),
            leakage=Leakage(**leaked) if leaked else None,
            few=tuple(value.get("few", ())),
        )


NOTHING = Evidence()


def _estimates(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    made = {name: Estimate(**value[name]) if value[name] is not None else None for name in names}
    return {**value, **made}


def extra_estimates(evidence: Evidence) -> list[tuple[str, str, Estimate]]:
    """(row, metric, estimate) of consistency, for the CSV beside the cells."""
    found: list[tuple[str, str, Estimate]] = []
    turned = evidence.rotations
    if turned is not None:
        found += [
            ("options-rotated", "all_right", turned.all_right),
            ("options-rotated", "same_option", turned.same),
            ("options-rotated", "letter_bias", turned.bias),
        ]
    for one in evidence.rephrasings:
        found += [
            (one.row, "rephrasings_same_answer", one.same),
            (one.row, "rephrasings_all_right", one.all_right),
        ]
    return found
