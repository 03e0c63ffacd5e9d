"""One evaluation of a model with its controls: which ways of asking, what they cost, in which order.

The ways are named by words of the command line; every way has its own response file. Nothing here
opens a model: whoever does passes it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from infimed.core.errors import UsageError, nearest_name
from infimed.evaluation.controlled import PRIOR, ROTATED, SCORED, SWAPPED, Control, Said
from infimed.evaluation.runner import evaluate, questions_of
from infimed.evaluation.sample import Shards
from infimed.evaluation.seeing import ZEROED
from infimed.evaluation.spec import load_task
from infimed.inference.option_scoring import OptionScorer
from infimed.inference.requests import Model

NAMES = {"zeroed": ZEROED, "swapped": SWAPPED, "shuffle": ROTATED, "prior": PRIOR}
"""Words of ``--controls`` and the rows they make."""


def parse_controls(text: str) -> tuple[str, ...]:
    """Rows from ``all``, ``none`` or ``zeroed,swapped,shuffle,prior``, in the order of the table.

    Raises:
        UsageError: an unknown word.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == ["all"]:
        return tuple(NAMES.values())
    if words in ([], ["none"]):
        return ()
    for word in words:
        if word not in NAMES:
            raise UsageError(
                "no such control",
                where="--controls",
                seen=word,
                accepted=["all", "none", *NAMES],
                nearest=nearest_name(word, ["all", "none", *NAMES]),
            )
    return tuple(row for word, row in NAMES.items() if word in words)


@dataclass(frozen=True)
class Session:
    """How a model is asked.

    Attributes:
        controls: rows beside the model's own. rotations: orders of the options; None for all.
        option_scoring: "text", "letter", "none", or "" for what each task says. limit: questions per
            task. text_only: without images.
    """

    controls: tuple[str, ...] = (ZEROED,)
    rotations: int | None = None
    option_scoring: str = ""
    limit: int | None = None
    text_only: bool = False

    @property
    def label(self) -> str:
        """The first row of the table."""
        return "text-only" if self.text_only else "model"

    @property
    def ways(self) -> tuple[str, ...]:
        """Controls that can be asked: without images only those of the text."""
        needs_images = (ZEROED, SWAPPED) if self.text_only else ()
        return tuple(name for name in self.controls if name not in needs_images)

    def scored(self, tasks: Sequence[str]) -> dict[Said, list[str]]:
        """Tasks that are asked by option scoring, by what is scored.

        Raises:
            UsageError: `option_scoring` is none of the accepted words.
        """
        words = get_args(Said)
        if self.option_scoring not in ("", "none", *words):
            raise UsageError(
                "options are scored by their text or their letter",
                where="--option-scoring",
                seen=self.option_scoring,
                accepted=[*words, "none"],
            )
        found: dict[Said, list[str]] = {}
        for name in tasks:
            own = self.option_scoring or load_task(name).option_scoring
            for word in words:
                if own == word:
                    found.setdefault(word, []).append(name)
        return found

    def cost(self, shards: Shards, tasks: Sequence[str]) -> str:
        """How many questions will be asked, one line; stored answers are not asked again."""
        counts = questions_of(shards, tasks, self.ways, limit=self.limit, rotations=self.rotations)
        plain = counts.pop("model")
        for names in self.scored(tasks).values():
            more = questions_of(shards, names, [SCORED], limit=self.limit)[SCORED]
            counts[SCORED] = counts.get(SCORED, 0) + more
        extra = sum(counts.values())
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        return f"{plain:,} questions" + (
            f", and {extra:,} more for controls: {parts}" if extra else ""
        )

    def ask(self, model: Model, shards: Shards, tasks: Sequence[str], out: Path) -> list[str]:
        """Ask the model in every way; the labels to score, the model's own first.

        Raises:
            UsageError: options are to be scored and the model cannot. DataError: as `evaluate`.
        """
        scored = self.scored(tasks)
        if scored:
            OptionScorer(model)  # refuses a model that cannot, before anything is asked
        evaluate(
            model, shards, tasks, out, label=self.label, no_images=self.text_only, limit=self.limit
        )
        labels = [self.label]
        for name in self.ways:
            control = next((known for known in get_args(Control) if known == name), None)
            evaluate(
                model, shards, tasks, out,
                label=name,
                blank_images=control is None,
                no_images=self.text_only,
                limit=self.limit,
                control=control,
                rotations=self.rotations,
            )  # fmt: skip
            labels.append(name)
        for said, names in scored.items():
            evaluate(
                model, shards, names, out,
                label=SCORED,
                no_images=self.text_only,
                limit=self.limit,
                control="option-scoring",
                options_as=said,
            )  # fmt: skip
        return [*labels, SCORED] if scored else labels
