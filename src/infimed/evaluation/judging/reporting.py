"""What a table of scores says about a judge: which scores need one, what it came to, how far it agrees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infimed.evaluation.assess import Assessment
from infimed.evaluation.judging.agreement import RIGHT, JudgeSummary, row_verdicts
from infimed.evaluation.judging.scores import WHOLE
from infimed.evaluation.judging.verdicts import JudgeFolder, Verdicts
from infimed.evaluation.metrics.registry import METRICS
from infimed.evaluation.report import SCORE
from infimed.evaluation.sample import Sample
from infimed.evaluation.spec import TaskSpec


def metrics_shown(spec: TaskSpec, kind: str, results: Mapping[str, Assessment]) -> tuple[str, ...]:
    """Metrics of a kind of question, with the judge's where one has read whole answers."""
    names = tuple(spec.metrics_of(kind))
    judged = any("judge" in found.measures for found in results.values())
    if judged and spec.judged_by(kind) in WHOLE and "judge" not in names:
        return (*names, "judge")
    return names


def needing_judge(
    spec: TaskSpec, samples: Sequence[Sample], results: Mapping[str, Assessment]
) -> tuple[tuple[str, ...], list[str]]:
    """Metrics that only verdicts give, the score among them where it is one; notes where none is there."""
    kinds = dict.fromkeys(sample.kind for sample in samples)
    names = dict.fromkeys(name for kind in kinds for name in spec.metrics_of(kind))
    found = tuple(name for name in names if METRICS[name].judged)
    if found and all(METRICS[spec.metrics_of(kind)[0]].judged for kind in kinds):
        found = (SCORE, *found)
    bare = [
        row for row, own in results.items() if any(not own.rows(m)[:, 1].any() for m in found)
    ]  # fmt: skip
    if not bare:
        return found, []
    return found, [f"no judge has read the answers of {', '.join(bare)}: infimed judge EVALUATION"]


def judge_summary(
    samples: Sequence[Sample],
    spec: TaskSpec,
    judge: JudgeFolder | None,
    verdicts: Mapping[str, Verdicts],
    results: Mapping[str, Assessment],
    seed: int,
) -> JudgeSummary | None:
    """Counts and agreement of every row that was judged, or None where none was.

    The rule beside a judge is the first metric of the task that needs none.
    """
    if judge is None or not verdicts:
        return None
    rules = {
        kind: next((m for m in spec.metrics_of(kind) if not METRICS[m].judged), "")
        for kind in dict.fromkeys(sample.kind for sample in samples)
        if spec.judged_by(kind) != "none"
    }
    used = [rule for rule in dict.fromkeys(rules.values()) if rule]
    name = f"{' or '.join(used)} >= {RIGHT:g}"
    found = []
    for label, said in verdicts.items():
        values = {rule: results[label].scores(rule) for rule in used}
        scores = [
            values[rules[s.kind]][at] if rules.get(s.kind) else None for at, s in enumerate(samples)
        ]
        texts = [answer.parsed or "" for answer in results[label].answers]
        found.append(row_verdicts(label, samples, said, scores, texts, name, seed=seed))
    return JudgeSummary(judge.judge, judge.fingerprint[:16], judge.prompt.identity, tuple(found))
