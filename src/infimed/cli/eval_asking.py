"""Asking, judging and scoring for `infimed eval`, once its words are understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from infimed.core import console
from infimed.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from infimed.evaluation.leaks import Training
    from infimed.evaluation.opening import Found, Options
    from infimed.evaluation.session import Session
    from infimed.evaluation.sources import JoinedShards
    from infimed.evaluation.spec import Breakdown


def ask_and_score(
    found: Found,
    options: Options,
    names: list[str],
    data: JoinedShards,
    target: Path,
    session: Session,
    cuts: tuple[Breakdown, ...],
    against: str,
    trained_blind: Path | None,
    threads: int,
    judge: tuple[str, str] = ("", ""),
) -> None:
    """Ask a model and its controls, have the answers judged where that was asked, and show the scores.

    Args:
        against: training data that the questions are looked up in; see `leaks.training_of`.
        judge: where a judge is and its name; empty for none.

    Raises:
        DataError: an endpoint left questions without an answer.
    """
    from infimed.evaluation.folder import trained_on
    from infimed.evaluation.leaks import training_of
    from infimed.evaluation.opening import is_remote, opened, unanswered
    from infimed.evaluation.runner import evaluate
    from infimed.evaluation.scoring import score

    if found.kind not in ("endpoint", "stub"):
        from infimed.training.device import best_device, set_threads

        set_threads(threads)
        options = replace(options, device=str(best_device()))
    if is_remote(found):
        console.err.print(
            f"questions and images go to {found.text}: make sure they may", markup=False
        )
    training = training_of(against, found.home)
    with opened(found, options) as model:
        console.err.print(session.cost(data, names), markup=False, soft_wrap=True)
        labels = session.ask(model, data, names, target)
    if trained_blind is not None:
        from infimed.inference.local import LocalModel

        twin = LocalModel.open(trained_blind, batch_size=options.batch_size)
        evaluate(
            twin, data, names, target, label="trained-blind", no_images=True, limit=session.limit
        )
        labels.append("trained-blind")
    if training is not None:
        _scan(training, data, names, target, session.limit)
    if judge[0]:
        _judge(*judge, names, data, target, labels)
    _say_left_out(target, names)
    board = score(target, data, names, labels, prior_splits=trained_on(found.home), breakdowns=cuts)
    console.out.print(board.render())
    console.err.print(f"answers and scores: {target}", markup=False)
    failed = unanswered(board)
    for name, count in failed.items():
        console.err.print(
            f"{name}: {count} questions have no answer and count as wrong; the .responses.jsonl says why",
            markup=False,
            soft_wrap=True,
        )
    if failed and found.kind == "endpoint":
        raise DataError(
            f"{sum(failed.values())} questions have no answer yet",
            where=found.text,
            fix="run the same command again when the endpoint is well: only these are asked",
        )


def _say_left_out(target: Path, names: list[str]) -> None:
    """Name the tasks of the folder that its scores will not show: they are of one command's tasks."""
    from infimed.evaluation.spec import load_task

    own = {load_task(name).name for name in names}
    there = sorted({path.parent.name for path in target.glob("*/*.run.json")} - own)
    if there:
        console.err.print(
            f"answers to {', '.join(there)} are kept in {target} too, but scores.json will not show them; "
            "name all tasks in one command, or use another --out",
            markup=False,
            soft_wrap=True,
        )


def _scan(
    training: Training, data: JoinedShards, names: list[str], target: Path, limit: int | None
) -> None:
    from infimed.evaluation.leaks import scan

    with console.progress("leakage", None, unit="records read") as advance:
        scan(training, data, names, target, limit=limit, on_progress=advance)


def check_judged(names: list[str]) -> None:
    """Refuse a judge where none of the tasks has answers for it, before anything is asked."""
    from infimed.evaluation.spec import load_task

    if not any(load_task(name).judged for name in names):
        raise UsageError(
            "a judge reads answers in words; none of these tasks asks for them",
            where="--judge",
            seen=", ".join(names),
        )


def check_keys(found: Found, judge: str) -> None:
    """Refuse to send the one key that the environment holds to two servers.

    Raises:
        UsageError: model and judge are endpoints on different servers, and there is a key.
    """
    from urllib.parse import urlsplit

    from infimed.cli.judge_model import is_url
    from infimed.inference.endpoint_settings import KEY_VARIABLE, read_key

    if found.kind != "endpoint" or not is_url(judge) or not read_key():
        return
    if urlsplit(found.text)[:2] != urlsplit(judge)[:2]:
        raise UsageError(
            f"the key in {KEY_VARIABLE} would go to the model's server and to the judge's",
            where="--judge",
            seen=judge,
            fix="leave --judge out here; then infimed judge FOLDER --judge URL --key-file FILE",
        )


def _judge(
    where: str, name: str, tasks: list[str], data: JoinedShards, target: Path, labels: list[str]
) -> None:
    """Have a judge read what was answered."""
    from contextlib import ExitStack

    from infimed.cli.judge import show_verdicts
    from infimed.cli.judge_model import open_judge_model, say_where
    from infimed.evaluation.judging.asking import asked_labels, judge_answers
    from infimed.evaluation.judging.prompts import load_prompt
    from infimed.evaluation.spec import load_task

    # A control may ask none of these tasks, or other questions, which no judge reads.
    judged = [spec.name for spec in map(load_task, tasks) if spec.judged]
    plain = {label for task in judged for label in asked_labels(target, task)}
    labels = [label for label in labels if label in plain]
    with ExitStack() as stack:
        opened = open_judge_model(stack, where, name=name)
        say_where(opened, "questions, reference answers and answers")
        done = judge_answers(
            opened.model, opened.name, data, tasks, target, labels=labels, prompt=load_prompt()
        )
    show_verdicts(done)
