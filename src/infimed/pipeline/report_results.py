"""What the report says about answers: the scoreboard as rows to draw, and its plain-language reading.

Sentences are built from numbers and fixed words only, so a claim in the report cannot be stronger
than the interval under it: a difference is called one only where its interval leaves out zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infimed.core.errors import InfiMedError
from infimed.core.page import percent
from infimed.core.recipe import Recipe
from infimed.core.statistics import Estimate
from infimed.evaluation.report import SCORE, Scoreboard, TaskScores
from infimed.evaluation.spec import load_task

MODEL, ZEROED, BLIND, LOW = "model", "image-zeroed", "trained-blind", "low-grid"
TEXT_ONLY = "text-only"
FEW_GROUPS = 50
WIDE = 0.10
MANY_UNPARSED = 0.05
MOST_TYPES, FEW_QUESTIONS = 8, 10
SMALL = ("finding size (image width)=<0.04", "subset=small_findings")
"""Columns that hold findings under 4 % of the image width, the first that exists counts."""

BY_SIZE = (*SMALL, "subset=large_findings")

ROW_MEANING = {
    MODEL: "the trained model, shown the images",
    ZEROED: "the same model, shown a grey picture instead of every image",
    BLIND: "a twin trained on the same texts without any image",
    LOW: "the same model, shown the images at a lower resolution",
    TEXT_ONLY: "the trained model, asked without the images of the questions",
    "majority": "always the commonest training answer",
    "majority by type": "the commonest training answer to this type of question",
    "question-only linear": "a linear classifier that reads the question only",
}
METRIC_NAMES = {
    "accuracy": "share answered correctly",
    "exact_match": "share of exact matches",
    "token_f1": "F1 of words",
    "recall": "recall of words",
    "rouge_l": "ROUGE-L",
    "finding_f1": "F1 of stated findings",
    "side_f1": "F1 of findings with their side",
    "finding_exact": "share of reports with exactly the right findings",
    "medevalkit": "score as MedEvalKit counts it",
    "judge": "share that a judge finds right",
    "rubric": "points of the criteria that a judge finds met",
    "completeness": "share of needed statements that a judge finds",
    "contradictions": "gold statements contradicted per answer, by a judge",
    "hierarchical_macro_f1": "macro F1 over whole reports",
}
KIND_NAMES = {
    "closed": "closed",
    "choice": "multiple-choice",
    "open": "open",
    "report": "report",
    "caption": "caption",
}


@dataclass(frozen=True)
class Bar:
    """One estimate as a mark with a whisker; positions in per cent of the track, 0 to 100.

    Attributes:
        value: "84.2 %". interval: "82.1 to 86.3", or why there is none. difference: the paired
            difference to the model in points, with its interval. unparsed: share of answers that
            could not be read, or failed.
    """

    name: str
    meaning: str
    is_model: bool
    mean: float | None
    low: float | None
    high: float | None
    value: str
    interval: str
    difference: str
    unparsed: str


@dataclass(frozen=True)
class Line:
    """One set of questions across all rows of the board; `twin` is the blind twin's mark."""

    title: str
    group: str
    metric: str
    n: int
    groups: int
    bars: tuple[Bar, ...]

    @property
    def model(self) -> Bar:
        """The model's own mark."""
        return self.bars[0]

    @property
    def twin(self) -> Bar | None:
        """The mark of the twin that never saw an image."""
        return next((bar for bar in self.bars if bar.name == BLIND), None)


@dataclass(frozen=True)
class TaskResult:
    """One task: `forests` are all questions, or each kind of question where there are several; then
    a line per further set of questions."""

    task: str
    title: str
    forests: tuple[Line, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SmallFindings:
    """Findings under 4 % of the image width, at the full grid and at the low one."""

    title: str
    full: Bar
    low: Bar
    n: int
    groups: int
    reading: str


def interval(estimate: Estimate) -> str:
    """``82.1 to 86.3``, or why there is no interval."""
    if estimate.mean is None:
        return "no questions"
    if estimate.low is None or estimate.high is None:
        return "no interval: fewer than two groups"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def points(value: float) -> str:
    """``+24.1`` or ``−3.0``, with a real minus sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def signed(estimate: Estimate) -> str:
    """``+24.1 (21.0 to 27.3)`` in points."""
    if estimate.mean is None:
        return ""
    mean = points(estimate.mean)
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean} ({points(estimate.low)} to {points(estimate.high)})"


def people(recipe: Recipe) -> str:
    """What intervals cluster on, in words."""
    return "patients" if recipe.data.phantom is not None else "patients or image groups"


def metric_titles(task: TaskScores) -> dict[str, str]:
    """Column -> what its score is, in words, for the overall column and those of kinds."""
    try:
        spec = load_task(task.task)
    except InfiMedError:
        return {}
    kinds = [column.title for column in task.columns if column.group == "kind"]
    named = {
        kind: METRIC_NAMES.get(spec.metrics_of(kind)[0], "score")
        for kind in kinds or map(str, spec.where.get("task", ()))
    }
    if len(set(named.values())) == 1:
        overall = next(iter(named.values()))
    else:
        overall = ", ".join(f"{name} ({kind})" for kind, name in named.items())
    return {"overall": overall, **{f"kind={kind}": named[kind] for kind in kinds}}


def metric_title(task: TaskScores, column: str = "overall") -> str:
    """What the score of a column is, in words; "score" for a task that is not known here."""
    return metric_titles(task).get(column, "score")


def _bars(task: TaskScores, column: str, metric: str = SCORE) -> tuple[Bar, ...]:
    made = []
    first = task.rows[0].name
    gaps = {
        d.control: d.estimate for d in task.differences if (d.column, d.metric) == (column, metric)
    }
    cells = {c.row: c for c in task.cells if (c.column, c.metric) == (column, metric)}
    for row in task.rows:
        cell = cells[row.name]
        e = cell.estimate
        unread = cell.unparsed + cell.errors
        made.append(
            Bar(
                name=row.name,
                meaning=ROW_MEANING.get(row.name, ""),
                is_model=row.name == first,
                mean=_place(e.mean),
                low=_place(e.low),
                high=_place(e.high),
                value=percent(e.mean),
                interval=interval(e),
                difference=signed(gaps[row.name]) if row.name in gaps else "",
                unparsed=percent(unread) if row.kind == "model" else "",
            )
        )
    return tuple(made)


def _place(value: float | None) -> float | None:
    return None if value is None else round(100 * min(max(value, 0.0), 1.0), 2)


def _counts(task: TaskScores, column: str, metric: str = SCORE) -> tuple[int, int]:
    e = task.cell(task.rows[0].name, column, metric).estimate
    return e.n, e.groups


def _line(task: TaskScores, column: str, title: str, group: str, metric: str = SCORE) -> Line:
    n, groups = _counts(task, column, metric)
    return Line(title, group, metric_title(task, column), n, groups, _bars(task, column, metric))


def _task_result(task: TaskScores) -> TaskResult:
    lines = [_line(task, c.name, c.title, c.group) for c in task.columns]
    kinds = [line for line in lines if line.group == "kind"]
    forests = kinds or lines[:1]
    rest = [line for line in lines if line not in forests]
    extra = dict.fromkeys(
        c.metric for c in task.cells if c.column == "overall" and c.metric != SCORE
    )
    for metric in extra:
        line = _line(task, "overall", METRIC_NAMES.get(metric, metric), "other measures", metric)
        if not kinds and [bar.value for bar in line.bars] != [bar.value for bar in lines[0].bars]:
            rest.append(line)
    return TaskResult(task.task, task.title, tuple(forests), tuple(rest), task.notes)


def task_results(board: Scoreboard) -> list[TaskResult]:
    """Every task as bars and lines."""
    return [_task_result(task) for task in board.tasks]


def _grid(recipe: Recipe) -> str:
    grid = recipe.evaluation.low_grid
    return f"{grid.image_size} px and {grid.visual_tokens} tokens" if grid else "a lower resolution"


def small_findings(board: Scoreboard, recipe: Recipe) -> list[SmallFindings]:
    """How much findings under 4 % of the image width lose at the low grid, per task that has them."""
    found = []
    for task in board.tasks:
        names = [column.name for column in task.columns]
        column = next((name for name in SMALL if name in names), None)
        bars = {bar.name: bar for bar in _bars(task, column)} if column else {}
        if column is None or LOW not in bars:
            continue
        gap = task.difference(LOW, column).estimate
        n, groups = _counts(task, column)
        reading = (
            f"at {_grid(recipe)} the same model reaches {bars[LOW].value} instead of "
            f"{bars[task.rows[0].name].value}: {_direction(gap)}."
        )
        found.append(
            SmallFindings(task.title, bars[task.rows[0].name], bars[LOW], n, groups, reading)
        )
    return found


def _gap(gap: Estimate, sign: int = 1) -> str:
    """``12.0 points (95 % interval 8.1 to 16.2)``; with sign -1 the other way round."""
    if gap.mean is None or gap.low is None or gap.high is None:
        return "an unknown difference"
    low, high = sorted((100 * sign * gap.low, 100 * sign * gap.high))
    return f"{100 * sign * gap.mean:.1f} points (95 % interval {low:.1f} to {high:.1f})"


def _direction(gap: Estimate) -> str:
    """The first minus the second as a statement about the second; none where zero is inside."""
    if gap.mean is None or gap.low is None or gap.high is None:
        return "too few groups to compare"
    if gap.low > 0:
        return f"{_gap(gap)} lower"
    if gap.high < 0:
        return f"{_gap(gap, -1)} higher"
    return (
        "no difference is shown (95 % interval of the difference "
        f"{points(gap.low)} to {points(gap.high)} points)"
    )


def _headline(task: TaskScores, kinds: Sequence[str]) -> tuple[str, str]:
    """(column, kind) that the first sentence speaks of."""
    names = [column.name for column in task.columns]
    for kind in ("closed", "choice"):
        if f"kind={kind}" in names:
            return f"kind={kind}", kind
        if list(kinds) == [kind]:
            return "overall", kind
    return "overall", kinds[0] if len(kinds) == 1 else ""


def _order(board: Scoreboard, kinds: Mapping[str, Sequence[str]]) -> list[TaskScores]:
    """Tasks with closed questions first, then choice, then the rest, else as they stand."""
    rank = {"closed": 0, "choice": 1}
    return sorted(
        board.tasks, key=lambda t: min((rank.get(k, 2) for k in kinds.get(t.task, ())), default=2)
    )


def plain_result(
    board: Scoreboard, kinds: Mapping[str, Sequence[str]], recipe: Recipe
) -> list[str]:
    """The result in plain sentences: the headline task with its controls, then one a further task."""
    if not board.tasks:
        return []
    first, *others = _order(board, kinds)
    column, kind = _headline(first, kinds.get(first.task, ()))
    bars = {bar.name: bar for bar in _bars(first, column)}
    model = bars[first.rows[0].name]
    n, groups = _counts(first, column)
    asked = f"{KIND_NAMES.get(kind, kind)} questions" if kind != "report" else "reports"
    verb = "answers" if kind in ("closed", "choice") else "scores"
    tail = " correctly" if verb == "answers" else f" ({metric_title(first, column)})"
    sentences = [
        f"On {n:,} held-out {asked.strip()} about {groups:,} {people(recipe)} the model {verb} {model.value}"
        f"{tail} (95 % interval {model.interval})."
    ]
    said = [
        f"{text} {bars[name].value}"
        for name, text in (
            ("majority", "always giving the commonest answer reaches"),
            ("question-only linear", "a linear classifier that reads only the question"),
            (ZEROED, "the same model without the image"),
            (BLIND, "a twin trained without images"),
        )
        if name in bars
    ]
    if said:
        joined = "; ".join(said)
        sentences.append(joined[0].upper() + joined[1:] + ".")
    sentences.extend(_needs_image(first, column))
    for further in first.columns:
        if (further.group == "kind" and further.name != column) or (
            further.group == "subset" and further.name not in BY_SIZE
        ):
            title = (
                f"{further.title} questions"
                if further.group == "kind"
                else f"subset “{further.title}”"
            )
            sentences.append(_further(first, title[0].upper() + title[1:], further.name))
    sentences.extend(_by_type(first, mixed=column != "overall"))
    sentences.extend(
        f"Findings under 4 % of the image width: {s.reading}"
        for s in small_findings(board, recipe)[:1]
    )
    for task in others:
        sentences.append(_further(task, task.title, "overall"))
    return sentences


def _further(task: TaskScores, title: str, column: str) -> str:
    """One sentence on a further task or set of questions."""
    bars = {bar.name: bar for bar in _bars(task, column)}
    model = bars[task.rows[0].name]
    n, _ = _counts(task, column)
    against = (
        f"; the twin without images {bars[BLIND].value}, difference {bars[BLIND].difference}"
        if BLIND in bars
        else ""
    )
    metric = metric_titles(task).get(column)
    what = f"{n:,}, {metric}" if metric else f"{n:,}"
    return f"{title} ({what}): {model.value} (95 % interval {model.interval}){against}."


def _needs_image(task: TaskScores, column: str) -> list[str]:
    """Whether the answers come from the image, by the strongest control that was run."""
    control = next((r.name for r in task.rows if r.name == BLIND), None) or next(
        (r.name for r in task.rows if r.name == ZEROED), None
    )
    if control is None:
        return []
    gap = task.difference(control, column).estimate
    what = "its blind twin" if control == BLIND else "itself without images"
    if gap.low is not None and gap.low > 0:
        return [f"The model beats {what} by {_gap(gap)}: it uses the images."]
    if gap.high is not None and gap.high < 0:
        return [
            f"The model does worse than {what}, by {_gap(gap, -1)}: its images do not help here."
        ]
    return [f"Against {what} {_direction(gap)}: that the model uses the images is not shown."]


def _by_type(task: TaskScores, *, mixed: bool) -> list[str]:
    """The model's score on the commonest types of question, so that an easy one cannot hide a hard one."""
    counted = [(-_counts(task, c.name)[0], c) for c in task.columns if c.group == "type"]
    types = [c for n, c in sorted(counted, key=lambda pair: pair[0]) if -n >= FEW_QUESTIONS][
        :MOST_TYPES
    ]
    if len(types) < 2:
        return []
    scores = (
        f"{c.title.partition(': ')[2] or c.title} {_bars(task, c.name)[0].value}" for c in types
    )
    whole = ", all kinds together" if mixed else ""
    return [f"By type of question{whole}: {', '.join(scores)}."]


def warnings(
    board: Scoreboard | None,
    recipe: Recipe,
    *,
    problem_share: float = 0.0,
    dropped_share: float = 0.0,
) -> list[str]:
    """What a reader must know before trusting a number; most important first."""
    said = [
        "Research software, not a medical device: its answers must not guide the care of a patient.",
    ]
    if recipe.data.phantom is not None:
        said.append(
            "All images are generated phantoms. The numbers test the software, not a clinical ability."
        )
    else:
        said.append(
            "This file holds images and texts of the data set: share it only as you may share the data."
        )
    for task in board.tasks if board else ():
        cell = task.cell(task.rows[0].name)
        e = cell.estimate
        if e.groups < FEW_GROUPS:
            said.append(
                f"{task.title}: only {e.groups} {people(recipe)}; another draw could differ much."
            )
        elif e.low is not None and e.high is not None and e.high - e.low > 2 * WIDE:
            said.append(f"{task.title}: the interval spans {100 * (e.high - e.low):.0f} points.")
        if cell.unparsed + cell.errors > MANY_UNPARSED:
            said.append(
                f"{task.title}: {percent(cell.unparsed + cell.errors)} of the answers could not be read; they count as wrong."
            )
    if recipe.evaluation.limit is not None:
        said.append(
            f"At most {recipe.evaluation.limit} questions a task were asked, drawn by a fixed seed."
        )
    if problem_share > 0.01:
        said.append(
            f"{percent(problem_share)} of the items could not be imported; see the reasons below."
        )
    if dropped_share > 0.30:
        said.append(
            f"Curation dropped {percent(dropped_share)} of the records; look at the examples below."
        )
    return said
