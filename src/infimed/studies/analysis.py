"""What a study found: means of its arms, differences with intervals, and its one sentence.

The verdict follows rules that stand in the study's file before anything is run. It compares the interval of the
primary comparison with what the claim expects: above zero, below zero, or within a margin around it. Differences
of a study are one family for Holm's correction; the primary ones of all studies on a page are another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

from infimed.core.errors import DataError
from infimed.pipeline.card import StudyFinding
from infimed.studies.cells import Planned
from infimed.studies.definition import Check, Compared, Conclusion, Gap, Study, Variant
from infimed.studies.results import arm_scores
from infimed.studies.statistics import Effect, Scores, difference, holm, mean_of, share_of_gap
from infimed.studies.work import is_done, read_result

Verdict = Literal["supported", "refuted", "bounded", "not shown", "not run"]

NO_GAP: Final = "the gap itself is not shown"


@dataclass(frozen=True)
class ArmRow:
    """An arm: its means by measure (None where nothing was asked), and what it took, median over the seeds."""

    name: str
    label: str
    means: tuple[Effect | None, ...]
    seeds: int
    spent: dict[str, float]
    joules: float | None
    counts: dict[str, int]


@dataclass(frozen=True)
class Difference:
    """A comparison with its adjusted p-value; None where an arm is missing."""

    compared: Compared
    effect: Effect | None
    adjusted: float | None


@dataclass(frozen=True)
class GapShare:
    """How much of a gap an arm closes; share is None where the gap itself is not shown."""

    gap: Gap
    share: Effect | None
    why: str = ""


@dataclass(frozen=True)
class Checked:
    """What became of a planted check. passed: None where its arms are not done."""

    says: str
    passed: bool | None
    figure: str


@dataclass(frozen=True)
class Found:
    """What a study found on a preset."""

    study: Study
    preset: str
    variant: Variant
    arms: tuple[ArmRow, ...]
    differences: tuple[Difference, ...]
    gaps: tuple[GapShare, ...]
    verdict: Verdict
    sentence: str
    primary: Effect | None
    cells: int
    done: int
    commits: tuple[str, ...]
    machines: tuple[str, ...] = ()
    checks: tuple[Checked, ...] = ()

    @property
    def seeds(self) -> int:
        """Seeds of the arm that has fewest."""
        return min((arm.seeds for arm in self.arms), default=0)


def analyse(study: Study, preset: str, planned: Sequence[Planned], out: Path) -> Found:
    """Everything a study found, from the cells that are done.

    Args:
        planned: cells of this study on this preset; others are passed over.
    """
    variant = study.presets[preset]
    own = [one for one in planned if (one.study, one.preset) == (study.name, preset)]
    scores = {
        arm.name: tuple(arm_scores(out, own, arm, measure) for measure in variant.measures)
        for arm in variant.arms
    }
    effects = [_compare(compared, scores) for compared in variant.comparisons]
    tested = [
        at for at, effect in enumerate(effects) if effect is not None and effect.p is not None
    ]
    adjusted = dict(zip(tested, holm([_p(effects[at]) for at in tested]), strict=True))
    differences = tuple(
        Difference(compared, effect, adjusted.get(at))
        for at, (compared, effect) in enumerate(zip(variant.comparisons, effects, strict=True))
    )
    primary = effects[variant.comparisons.index(variant.conclusion.compare)]
    verdict, sentence = conclude(variant.conclusion, primary)
    results = [read_result(out, one.cell) for one in own if is_done(out, one.cell)]
    checks = tuple(_checked(check, variant, scores) for check in study.checks)
    return Found(
        study=study,
        preset=preset,
        variant=variant,
        arms=tuple(_row(variant, own, out, arm.name, scores[arm.name]) for arm in variant.arms),
        differences=differences,
        gaps=tuple(_share(gap, scores) for gap in variant.gaps),
        verdict=verdict,
        sentence=sentence,
        primary=primary,
        cells=len(own),
        done=len(results),
        commits=tuple(sorted({result["commit"] for result in results})),
        machines=tuple(sorted({result["machine"]["cpu"] for result in results})),
        checks=checks,
    )


def claim_probabilities(found: Sequence[Found]) -> dict[tuple[str, str], float]:
    """(study, preset) -> p of its primary comparison, adjusted over those of all claims; one seed gives none."""
    tested = {
        (one.study.name, one.preset): one.primary.p
        for one in found
        if not one.study.planted
        and one.primary is not None
        and one.primary.seeds > 1
        and one.primary.p is not None
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def findings(found: Sequence[Found]) -> list[StudyFinding]:
    """What became of every claim that was tried; planted checks are none."""
    adjusted = claim_probabilities(found)
    return [
        StudyFinding(
            study=one.study.name,
            title=one.study.title,
            preset=one.preset,
            claim=one.study.claim,
            verdict=one.verdict,
            sentence=one.sentence,
            questions=one.primary.n,
            groups=one.primary.groups,
            seeds=one.primary.seeds,
            p=adjusted.get((one.study.name, one.preset)),
            commits=one.commits,
        )
        for one in found
        if one.primary is not None and not one.study.planted
    ]


def conclude(conclusion: Conclusion, effect: Effect | None) -> tuple[Verdict, str]:
    """The verdict on a claim, and the study's one sentence."""
    if effect is None:
        return "not run", "Not run: the arms it compares are not done."
    told = points(effect)
    if effect.low is None or effect.high is None:
        return "not shown", conclusion.unclear.format(difference=told)
    if effect.seeds < 2:
        # Its interval knows nothing of what another training would have given.
        told = f"{100 * effect.mean:+.1f} points in the one seed that ran"
        return "not shown", conclusion.unclear.format(difference=told)
    within = -conclusion.margin <= effect.low and effect.high <= conclusion.margin
    # What the claim says may still be there, and is too small to matter; the other side is open.
    reach = {"more": effect.high, "less": -effect.low}.get(conclusion.expects)
    if effect.low > 0:
        outcome, sentence = "more", conclusion.more
    elif effect.high < 0:
        outcome, sentence = "less", conclusion.less
    elif within:
        outcome, sentence = "none", conclusion.none
    elif reach is not None and reach <= conclusion.margin:
        outcome, sentence = "bounded", conclusion.bounded
    else:
        outcome, sentence = "unclear", conclusion.unclear
    return _verdict(conclusion, effect, outcome), sentence.format(difference=told)


def _verdict(conclusion: Conclusion, effect: Effect, outcome: str) -> Verdict:
    assert effect.low is not None and effect.high is not None
    expects, margin = conclusion.expects, conclusion.margin
    if outcome == expects:
        return "supported"
    if expects == "none":
        if outcome == "unclear":
            return "not shown"
        # An effect that is there and small bounds the claim; a large one refutes it.
        small = max(abs(effect.low), abs(effect.high)) <= margin
        return "bounded" if small else "refuted"
    if outcome in ("none", "bounded"):
        return "bounded"
    opposite = {"more": "less", "less": "more"}[expects]
    return "refuted" if outcome == opposite else "not shown"


def points(effect: Effect, signed: bool = True) -> str:
    """``+3.1 points [+1.0, +5.2]``."""
    sign = "+" if signed else ""
    if effect.low is None or effect.high is None:
        return f"{100 * effect.mean:{sign}.1f} points"
    return f"{100 * effect.mean:{sign}.1f} points [{100 * effect.low:{sign}.1f}, {100 * effect.high:{sign}.1f}]"


def _p(effect: Effect | None) -> float:
    assert effect is not None and effect.p is not None
    return effect.p


def _compare(compared: Compared, scores: dict[str, tuple[Scores | None, ...]]) -> Effect | None:
    one, other = (scores[name][compared.measure] for name in (compared.arm, compared.against))
    if one is None or other is None or not set(one.seeds) & set(other.seeds):
        return None
    return difference(one, other)


def _share(gap: Gap, scores: dict[str, tuple[Scores | None, ...]]) -> GapShare:
    arm, floor, ceiling = (scores[name][0] for name in (gap.arm, gap.floor, gap.ceiling))
    if arm is None or floor is None or ceiling is None:
        return GapShare(gap, None, "not run")
    try:
        share = share_of_gap(arm, floor, ceiling)
    except DataError:
        return GapShare(gap, None, "not run")
    return GapShare(gap, share, "" if share else NO_GAP)


def _checked(
    check: Check, variant: Variant, scores: dict[str, tuple[Scores | None, ...]]
) -> Checked:
    if check.expects == "closes nothing":
        gap = next(g for g in variant.gaps if (g.arm, g.floor) == (check.arm, check.against))
        share = _share(gap, scores).share
        if share is None or share.low is None or share.high is None:
            # Without a gap there is nothing that it could close, and nothing that the check could show.
            return Checked(check.says, None, _share(gap, scores).why)
        if share.seeds < 2:
            return Checked(check.says, None, "one seed")
        figure = f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}] of it"
        return Checked(check.says, share.low <= 0 <= share.high, figure)
    effect = _compare(Compared(arm=check.arm, against=check.against, measure=0), scores)
    if effect is None or effect.low is None or effect.high is None:
        return Checked(check.says, None, "not run")
    if effect.seeds < 2:
        return Checked(check.says, None, "one seed")
    if check.expects == "same":
        return Checked(check.says, effect.low <= 0 <= effect.high, points(effect))
    means = {name: own[0].values.mean() for name, own in scores.items() if own[0] is not None}
    lowest = min(means, key=lambda name: float(means[name]))
    figure = f"{points(effect)}; lowest of all: {variant.arm(lowest).label}"
    return Checked(check.says, lowest == check.arm and effect.high < 0, figure)


def _row(
    variant: Variant,
    own: Sequence[Planned],
    out: Path,
    name: str,
    scores: tuple[Scores | None, ...],
) -> ArmRow:
    results: list[dict[str, Any]] = [
        read_result(out, one.cell) for one in own if one.arm == name and is_done(out, one.cell)
    ]
    # Medians: whatever else runs on a machine for a while makes some of its trainings longer, never shorter.
    spent = {
        key: median(float(r["spent"][key]) for r in results)
        for key in (results[0]["spent"] if results else ())
    }
    energies = [r["joules"] for r in results]
    known = bool(energies) and all(energy is not None for energy in energies)
    counts = {
        key: round(sum(r["data"][key] for r in results) / len(results))
        for key in (results[0]["data"] if results else ())
    }
    return ArmRow(
        name=name,
        label=variant.arm(name).label,
        means=tuple(None if one is None else mean_of(one) for one in scores),
        seeds=len(results),
        spent=spent,
        joules=sum(energies) / len(energies) if known else None,
        counts=counts,
    )
