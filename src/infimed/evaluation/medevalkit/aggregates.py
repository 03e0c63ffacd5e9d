"""What MedEvalKit writes per benchmark: counts and means, where several of its mistakes are.

Known and kept: open accuracy is divided by the count twice; with a judge PathVQA's closed answers are
never counted and SLAKE's are counted by rule and by judge; SuperGPQA's two tables are swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infimed.evaluation.medevalkit.choice import judge_multi_choice
from infimed.evaluation.medevalkit.closed import judge_close_end_vqa, judge_judgement
from infimed.evaluation.medevalkit.open_ended import judge_open_end_vqa
from infimed.evaluation.medevalkit.responses import extract, extract_boxed_content

Row = Mapping[str, Any]
Judge = Callable[[str, str, str], str]
"""(question, response, gold answer) -> the judge's reply; "0" inside ``<judge>`` means right."""

_OPEN = (
    "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougel", "precision", "recall", "f1", "em",
)  # fmt: skip


class _Tally:
    """Running counts in the shape of the result."""

    def __init__(self) -> None:
        self.total: dict[str, float] = {"total": 0, "right": 0}
        self.closed: dict[str, float] = {"total": 0, "right": 0}
        self.open: dict[str, float] = {"total": 0, "right": 0, **dict.fromkeys(_OPEN, 0)}

    def add_open(self, scores: Mapping[str, float | bool]) -> None:
        self.total["total"] += 1
        self.open["total"] += 1
        self.total["right"] += bool(scores["em"])
        self.open["right"] += bool(scores["em"])
        for name, value in scores.items():
            self.open[name] += value

    def add_closed(self, right: bool) -> None:
        self.total["total"] += 1
        self.closed["total"] += 1
        self.total["right"] += right
        self.closed["right"] += right

    def judged(self, right: bool, *, closed: bool = False) -> None:
        self.total["right"] += right
        (self.closed if closed else self.open)["right"] += right

    def result(self) -> dict[str, dict[str, float]]:
        """Raises ZeroDivisionError where there is no open or no closed question."""
        own: dict[str, dict[str, float]] = {
            "total metrics": dict(self.total),
            "open": self.open,
            "close": dict(self.closed),
        }
        for part in own.values():
            part["acc"] = part["right"] / part["total"]
        count = self.open["total"]
        own["open"] = {
            name: value if name in ("total", "right") else value / count
            for name, value in self.open.items()
        }
        return own


def answer_of(response: str) -> str:
    """The box, else the answer tags, else the response: cut out before any rule sees it."""
    inside = extract_boxed_content(response)
    if inside != "None":
        return inside
    return extract(response, "answer") if "<answer>" in response else response


def _says_right(reply: str) -> bool:
    return extract(reply, "judge") == "0"


def _yes_no_or_open(rows: Sequence[Row], judge: Judge | None, *, keep_closed: bool) -> _Tally:
    tally = _Tally()
    asked = []
    for row in rows:
        said, gold = answer_of(row["response"]).lower().strip(), row["answer"].lower().strip()
        if gold in ("yes", "no"):
            tally.add_closed(judge_judgement(gold, said))
        else:
            tally.add_open(judge_open_end_vqa(gold, said))
            asked.append((row["question"], said, gold))
    if judge is not None:
        tally.open["right"] = 0
        if not keep_closed:
            tally.closed["right"] = 0
        tally.total["right"] = tally.closed["right"]
        for question, said, gold in asked:
            tally.judged(_says_right(judge(question, said, gold)))
    return tally


def vqa_rad(rows: Sequence[Row], judge: Judge | None = None) -> dict[str, dict[str, float]]:
    """VQA-RAD: yes/no where the gold answer is one, else open."""
    return _yes_no_or_open(rows, judge, keep_closed=True).result()


def path_vqa(rows: Sequence[Row], judge: Judge | None = None) -> dict[str, dict[str, float]]:
    """PathVQA: like VQA-RAD, but a judge wipes out the closed answers."""
    return _yes_no_or_open(rows, judge, keep_closed=False).result()


def slake(rows: Sequence[Row], judge: Judge | None = None) -> dict[str, dict[str, float]]:
    """SLAKE: gold answers keep their case, so "Yes" is compared as a phrase, not as yes/no."""
    tally = _Tally()
    asked = []
    for row in rows:
        said, gold = answer_of(row["response"]), row["answer"]
        is_open = row["answer_type"] == "OPEN"
        asked.append((row["question"], said, gold, not is_open))
        if is_open:
            tally.add_open(judge_open_end_vqa(gold, said))
        else:
            closed = judge_judgement if gold in ("yes", "no") else judge_close_end_vqa
            tally.add_closed(closed(gold, said))
    if judge is not None:
        tally.total["right"], tally.open["right"] = tally.closed["right"], 0
        for question, said, gold, closed_question in asked:
            tally.judged(_says_right(judge(question, said, gold)), closed=closed_question)
    return tally.result()


def _count(rows: Sequence[Row]) -> dict[str, float]:
    right = sum(judge_multi_choice(row["choices"], row["answer"], row["response"]) for row in rows)
    return {"total": len(rows), "right": right, "acc": right / len(rows)}


def _by(rows: Sequence[Row], field: str) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(row[field] for row in rows)
    return {name: _count([row for row in rows if row[field] == name]) for name in names}


def omnimedvqa(rows: Sequence[Row]) -> dict[str, Any]:
    """OmniMedVQA: accuracy by question type and by modality."""
    return {
        "total metrics": _count(rows),
        "question type metrics": _by(rows, "question_type"),
        "modality type metrics": _by(rows, "modality_type"),
    }


def medxpertqa(rows: Sequence[Row]) -> dict[str, Any]:
    """MedXpertQA: accuracy by question type and by medical task."""
    return {
        "total metrics": _count(rows),
        "question type metrics": _by(rows, "question_type"),
        "task type metrics": _by(rows, "medical_task"),
    }


def supergpqa(rows: Sequence[Row]) -> dict[str, Any]:
    """SuperGPQA: "field" holds the difficulties and "difficulty" the fields."""
    return {
        "total metrics": _count(rows),
        "field": _by(rows, "difficulty"),
        "difficulty": _by(rows, "field"),
    }
