"""Known damage for measuring curation: the operators, and sources of damaged records.

Six operators are held out: no rule, threshold or evaluator may be tuned on them, and no one looks
at what is missed of them before the final report. They were chosen, one or two for every dimension,
before the first measurement: 3 (completeness), 11 and 13 (accuracy), 17 (consistency),
23 (relevance), 25 (readability).
"""

from __future__ import annotations

from typing import Final

from infimed.curation.corruption import (
    accuracy,
    completeness,
    consistency,
    others,
    readability,
    relevance,
)
from infimed.curation.corruption.base import Context, Corrupted, Operator

OPERATORS: Final[tuple[Operator, ...]] = tuple(
    sorted(
        (
            *completeness.OPERATORS,
            *accuracy.OPERATORS,
            *consistency.OPERATORS,
            *relevance.OPERATORS,
            *readability.OPERATORS,
            *others.OPERATORS,
        ),
        key=lambda operator: operator.number,
    )
)
"""All operators by number: 1-32 the catalogue, the rest this project's additions."""

HELD_OUT: Final = tuple(operator.number for operator in OPERATORS if operator.held_out)

CORE: Final = (1, 2, 3, 4, 5, 7, 8, 9, 10, 14, 15, 16, 17, 18, 19, 21, 22, 24, 25, 26, 27, 28)
"""The 22 operators that rules without a model are expected to find."""

__all__ = ["CORE", "HELD_OUT", "OPERATORS", "Context", "Corrupted", "Operator"]
