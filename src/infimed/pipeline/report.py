"""`report.html`: one self-contained page about a run, written from the run folder alone.

Invariants: no script and nothing fetched (a Content-Security-Policy says so to the browser);
every text from data, models or recipes is escaped; a part that is missing or damaged becomes a
sentence that says so, so a finished run always has its report. Cost: a few seconds, about 1 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infimed.core.errors import DataError
from infimed.core.files import read_json, write_text
from infimed.core.page import plain, section, template
from infimed.core.recipe import Recipe, dump_recipe, load_recipe
from infimed.core.run import RunFolder
from infimed.core.seeds import derive_seed
from infimed.curation.decision_words import CATCHES
from infimed.curation.engine import read_summary
from infimed.curation.rubric import default_rubric
from infimed.curation.summary import CurationSummary
from infimed.data.shards import ShardSet, open_shards
from infimed.evaluation.report import Scoreboard
from infimed.pipeline import figures, report_data, report_examples, report_results
from infimed.pipeline.benchmarks import evaluation_shards

__all__ = ["plain", "render_report", "shareable_recipe", "write_report"]


@dataclass(frozen=True)
class Training:
    """Numbers and curves of the model, and numbers of its blind twin."""

    stages: list[report_data.StageNumbers]
    twin: list[report_data.StageNumbers]
    ratio: float | None
    curves: list[figures.Figure]
    bands: list[figures.Band]


@dataclass(frozen=True)
class Curated:
    """What curation did, with examples."""

    summary: CurationSummary
    catches: Mapping[str, str]
    kept: list[report_examples.CurationExample]
    dropped: list[report_examples.CurationExample]


@dataclass(frozen=True)
class Evaluated:
    """Scores and the sentences that read them."""

    sentences: list[str]
    tasks: list[report_results.TaskResult]
    small: list[report_results.SmallFindings]
    board: Scoreboard


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises:
        DataError: the folder is no run folder, or the disk is full.
    """
    page = render_report(Path(run_folder))
    path = Path(run_folder) / "report.html"
    write_text(path, page)
    return path


def render_report(run: Path) -> str:
    """The page as text; the same run folder gives the same text."""
    if not (run / "recipe.yaml").is_file():
        raise DataError(
            "is not a run folder: it has no recipe.yaml",
            where=str(run),
            fix="give a folder below runs/",
        )
    recipe = load_recipe(str(run / "recipe.yaml"))
    seed = derive_seed(recipe.train.seed, "report")
    opened = section(lambda: open_shards(run / "shards"))
    shards = opened.value
    no_shards = None if shards is not None else opened.reason
    imported = section(lambda: report_data.read_imported(_have(shards)), no_shards)
    curation_off = (
        None
        if recipe.curation.enabled
        else "Curation is switched off in this recipe: every record was used."
    )
    missing_ledger = (
        None if (run / "ledger.parquet").is_dir() else "Curation has not finished in this run."
    )
    curated = section(
        lambda: _curated(run / "ledger.parquet", _have(shards), seed),
        curation_off or missing_ledger or no_shards,
    )
    training = section(
        lambda: _training(run, recipe),
        None if (run / "metrics.jsonl").exists() else "No stage has been trained yet.",
    )
    not_scored = _not_scored(run, recipe)
    evaluated = section(lambda: _evaluated(run / "evaluation", recipe), not_scored)
    answers = section(
        lambda: _answers(run / "evaluation", _have(shards), seed), not_scored or no_shards
    )
    origin = section(lambda: report_data.read_origin(run))
    try:
        page = template("infimed.pipeline", "report.html.j2").render(
            recipe=recipe,
            recipe_text=shareable_recipe(recipe),
            source=_source(recipe),
            people=report_results.people(recipe),
            seed=seed,
            origin=origin,
            imported=imported,
            curated=curated,
            training=training,
            evaluated=evaluated,
            answers=answers,
            warnings=_warnings(recipe, imported.value, curated.value, evaluated.value),
            drawn={
                "short": report_examples.SHORT_ANSWERS,
                "reports": report_examples.REPORTS,
                "kept": report_examples.KEPT,
                "dropped": report_examples.DROPPED,
                "per_rule": report_examples.PER_RULE,
            },
        )
    finally:
        if shards is not None:
            shards.close()
    return page


def _have(shards: ShardSet | None) -> ShardSet:
    assert shards is not None
    return shards


def _training(run: Path, recipe: Recipe) -> Training:
    rows = report_data.read_steps(run)
    steps = report_data.curve_steps(rows)
    stages = report_data.stage_numbers(run, rows, recipe)
    twin = report_data.stage_numbers(run / "blind", report_data.read_steps(run / "blind"), recipe)
    if not stages:
        raise DataError("metrics.jsonl holds no step of this recipe's stages")
    return Training(
        stages,
        twin,
        report_data.low_to_high_ratio(stages),
        figures.curves(steps),
        figures.bands_of(steps),
    )


def _curated(ledger: Path, shards: ShardSet, seed: int) -> Curated:
    summary = read_summary(ledger)
    rules = [rule.rule for rule in summary.rules if rule.severity == "drop"]
    kept, dropped = report_examples.curation_examples(shards, ledger, rules, seed)
    catches = {**{rule.id: rule.catches for rule in default_rubric().all_rules}, **CATCHES}
    return Curated(summary, catches, kept, dropped)


def _not_scored(run: Path, recipe: Recipe) -> str | None:
    if (run / "evaluation" / "scores.json").is_file():
        return None
    if not recipe.evaluation.tasks:
        return "This recipe names no evaluation task, so nothing was asked of the model."
    return "The model has not been evaluated yet; run the same command again to go on."


def _evaluated(folder: Path, recipe: Recipe) -> Evaluated:
    board = Scoreboard.from_dict(read_json(folder / "scores.json"))
    kinds = report_examples.kinds_of_tasks(folder / "samples.jsonl")
    return Evaluated(
        sentences=report_results.plain_result(board, kinds, recipe),
        tasks=report_results.task_results(board),
        small=report_results.small_findings(board, recipe),
        board=board,
    )


def _answers(folder: Path, shards: ShardSet, seed: int) -> list[report_examples.AnswerExample]:
    board = Scoreboard.from_dict(read_json(folder / "scores.json"))
    model = board.tasks[0].rows[0].name
    asked = evaluation_shards(RunFolder(folder.parent), shards)
    return report_examples.answer_examples(asked, folder / "samples.jsonl", model, seed)


def _warnings(
    recipe: Recipe,
    imported: report_data.Imported | None,
    curated: Curated | None,
    evaluated: Evaluated | None,
) -> list[str]:
    items = imported.records + imported.problem_count if imported else 0
    summary = curated.summary if curated else None
    return report_results.warnings(
        evaluated.board if evaluated else None,
        recipe,
        problem_share=imported.problem_count / items if imported and items else 0.0,
        dropped_share=summary.dropped / summary.records if summary and summary.records else 0.0,
    )


def _source(recipe: Recipe) -> str:
    phantom = recipe.data.phantom
    if phantom is not None:
        return f"a generated phantom clinic of {phantom.patients:,} patients (seed {phantom.seed})"
    assert recipe.data.root is not None
    return f"the data in “{recipe.data.root.name}” (reader: {recipe.data.reader})"


PATHS = ("root", "split_file", "weights", "evaluator")
"""Keys of a recipe whose values are paths."""


def shareable_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, paths cut to their last part: a report gets passed on."""

    def shorten(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {key: shorten(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [shorten(inner) for inner in value]
        if isinstance(value, str) and key in PATHS and len(Path(value).parts) > 1:
            return f".../{Path(value).name}"
        if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
            return f".../{Path(value).name}"
        return value

    return yaml.safe_dump(
        shorten(yaml.safe_load(dump_recipe(recipe))), sort_keys=False, allow_unicode=True
    )
