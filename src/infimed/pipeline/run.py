"""The pipeline: clinic or files -> shards -> verdicts -> plans -> training -> twin -> evaluation -> report
-> export.

Each step leaves something complete behind and is skipped when that is there, so re-running the same
command after a kill goes on where it stopped and ends with the same numbers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from infimed.core.allocator import return_free_memory
from infimed.core.console import err, out, progress, table
from infimed.core.errors import DataError, InfiMedError
from infimed.core.recipe import Curation, Recipe, Stage
from infimed.core.run import MetricsLog, RunFolder
from infimed.core.stage import NO_TILING, Tiling
from infimed.curation.deciding import decide_ledger
from infimed.curation.engine import curate
from infimed.curation.ledger import kept_rows
from infimed.curation.scoring import evaluator_named
from infimed.data.importing import import_data
from infimed.data.privacy.options import Privacy
from infimed.data.shards import ShardSet, open_shards
from infimed.model.loading import base_processor, build_model
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import preset
from infimed.model.processing import Processor
from infimed.model.weights import ensure_weights, part_folders
from infimed.pipeline.asking import evaluate_step, wants_twin
from infimed.pipeline.benchmarks import keep_benchmarks
from infimed.pipeline.checks import check_export
from infimed.pipeline.exporting import ABOUT, export
from infimed.pipeline.headline import headline
from infimed.pipeline.index import Index, read_index
from infimed.pipeline.planning import plan_jobs, summarise, write_plans
from infimed.pipeline.precision import settled
from infimed.pipeline.report import write_report
from infimed.pipeline.throughput import speed_ratio, speed_table, stage_speeds
from infimed.pipeline.twin import twin_beside
from infimed.training.device import set_threads
from infimed.training.loop import StageJob, Trainer
from infimed.training.parallel import World
from infimed.training.whitening import tower_features, training_images, whiten_projector

LEDGER = "ledger.parquet"


def source_folder(recipe: Recipe, run: RunFolder) -> Path:
    """The folder that is imported; generates the phantom clinic where the recipe asks for one."""
    phantom = recipe.data.phantom
    if phantom is None or recipe.data.splits is None:
        assert recipe.data.root is not None
        if not recipe.data.root.exists():
            raise DataError(
                "no such file or folder",
                where="data.root",
                seen=str(recipe.data.root),
                fix="give data.root=FOLDER",
            )
        return recipe.data.root
    from infimed.data.phantom import write_clinic

    folder = run / "clinic"
    write_clinic(
        folder,
        patients=phantom.patients,
        seed=phantom.seed,
        size=phantom.size,
        splits=recipe.data.splits,
        workers=recipe.curation.workers,
    )
    return folder


def reader_options(recipe: Recipe) -> dict[str, Any]:
    """Options of the reader, with the recipe's split file or split shares among them."""
    options = dict(recipe.data.options)
    if recipe.data.split_file is not None:
        options["split_file"] = recipe.data.split_file
    if recipe.data.splits and recipe.data.phantom is None:
        options["splits"] = ",".join(f"{k}={v}" for k, v in sorted(recipe.data.splits.items()))
    return options


def import_step(recipe: Recipe, run: RunFolder) -> ShardSet:
    """Shards of the recipe's data."""
    benchmarks = keep_benchmarks(recipe, run)  # before the work: they may be missing
    scored = {}
    if recipe.curation.evaluator is not None:
        scored = {"evaluator": evaluator_named(recipe.curation.evaluator).identity}
    folder = run / "shards"
    with progress("import", None, unit="items") as advance:
        summary = import_data(
            source_folder(recipe, run),
            folder,
            reader="records" if recipe.data.phantom else recipe.data.reader,
            options=reader_options(recipe),
            progress=lambda _items, _problems: advance(1),
            privacy=Privacy(mask_text=recipe.data.mask_text, redact=recipe.data.redact),
            describe=recipe.data.describe,
        )
    if summary.problems:
        err.print(
            f"{summary.problems} items were not imported; the reasons are in {folder / 'problems.jsonl'}",
            style="yellow",
        )
    shards = open_shards(folder)
    run.check_data({"shards": shards.data_hash, **benchmarks, **scored})
    return shards


def curate_step(recipe: Recipe, run: RunFolder, shards: ShardSet) -> None:
    """Write the ledger, unless curation is switched off."""
    if not recipe.curation.enabled:
        return
    folder = run / LEDGER
    with progress("curate", len(shards), unit="records") as advance:
        made = curate(shards, folder, workers=recipe.curation.workers, on_progress=advance)
    kept = made.kept
    if recipe.curation.evaluator is not None:
        kept = _decide(recipe.curation, folder, made.records)
    err.print(
        f"curation kept {kept:,} of {made.records:,} records; why: infimed curate explain {folder} ID"
    )


def _decide(curation: Curation, folder: Path, records: int) -> int:
    """Let the recipe's evaluator drop by score, too; returns the records kept."""
    assert curation.evaluator is not None
    evaluator = evaluator_named(curation.evaluator)
    with progress("score", records, unit="records") as advance:
        made = decide_ledger(
            folder, evaluator, target_precision=curation.target_precision, on_progress=advance
        )
    unreached = [one for one in made.strata if one.remark]
    where = f"; nothing in {len(unreached)} of {len(made.strata)} strata" if unreached else ""
    err.print(f"the score dropped {made.by_score:,} beside the rules{where}", markup=False)
    return sum(one.records - one.by_rules - one.by_score for one in made.strata)


@dataclass(frozen=True)
class Prepared:
    """What training needs: data, plans and where to begin."""

    recipe: Recipe
    run: RunFolder
    shards: ShardSet
    processor: Processor
    kept: NDArray[np.int64] | None

    def index(self, blind: bool, tiling: Tiling = NO_TILING) -> Index:
        """Planning columns as the model, or its blind twin, sees the records."""
        tiles, side = tiling
        processor = self.processor
        return read_index(
            self.shards,
            processor.with_grid(side, processor.visual_tokens, tiles) if tiles else processor,
            self.run / "plan",
            self.recipe.data,
            kept=self.kept,
            blind=blind,
        )

    def indexes(self, blind: bool) -> dict[Tiling, Index]:
        """The same for every way in which the recipe's stages tile images."""
        ways = {stage.tiling for stage in self.recipe.stages}
        return {way: self.index(blind, way) for way in sorted(ways)}


def prepare(recipe: Recipe, run: RunFolder) -> Prepared:
    """What training needs, from the run folder's finished shards and verdicts."""
    return Prepared(
        recipe,
        run,
        open_shards(run / "shards"),
        base_processor(preset(recipe.model.preset), base_folders(recipe)[1]),
        kept_rows(run / LEDGER) if recipe.curation.enabled else None,
    )


def base_folders(recipe: Recipe) -> tuple[Path, Path]:
    """Folders of the pretrained tower and language model. Nothing is downloaded here."""
    if recipe.model.weights is not None:
        return part_folders(recipe.model.preset, recipe.model.weights)
    folders = ensure_weights(recipe.model.preset, offline=True)
    return folders.vision, folders.language


def base_model(recipe: Recipe) -> tuple[InfiMedForConditionalGeneration, Processor]:
    """A fresh model of the recipe's preset on its pretrained bases; the projector follows the seed."""
    torch.manual_seed(recipe.train.seed)
    return build_model(
        preset(recipe.model.preset), *base_folders(recipe), reducer=recipe.model.reducer
    )


def plan_table(jobs: list[StageJob]) -> Any:
    """The plan of all stages as a table for the terminal; a column that has nothing to tell is left out."""
    found = [summarise(job) for job in jobs]
    rare = {
        "over-long": [s.over_long for s in found],
        "split": [s.split for s in found],
        "shrunk": [s.shrunk for s in found],
        "without answer": [s.without_targets for s in found],
    }
    told = {name: counts for name, counts in rare.items() if name == "over-long" or any(counts)}
    rows = [
        (
            s.stage,
            s.grid,
            s.records,
            s.rows,
            s.steps,
            f"{s.tokens:,}",
            f"{100 * s.fill:.1f} %",
            *(counts[number] for counts in told.values()),
        )
        for number, s in enumerate(found)
    ]
    names = ["stage", "grid", "records", "rows", "steps", "tokens", "fill", *told]
    return table("plan", names, rows, numeric=2)


def align_projector(
    prepared: Prepared,
    model: InfiMedForConditionalGeneration,
    processor: Processor,
    index: Index,
    stage: Stage,
) -> None:
    """Start the projector from the features of training images at the first stage's grid."""
    seed = prepared.recipe.train.seed
    images = training_images(prepared.shards, np.flatnonzero(index.train).tolist(), seed)
    if images:
        at = processor.with_grid(stage.image_size, stage.visual_tokens)
        whiten_projector(model, tower_features(model, at, prepared.shards, images), seed)


def train_step(prepared: Prepared, *, blind: bool, world: World | None = None) -> Path:
    """Train the model, or its twin without images; returns the final checkpoint."""
    recipe, run = prepared.recipe, prepared.run
    world = world or World()
    folder = run / "blind" if blind else run.path
    shown = world.main and not blind
    if world.main:
        world.together(lambda: prepared.indexes(blind))  # measures lengths once, for every rank
    else:
        world.agree(None)
    indexes = prepared.indexes(blind)
    jobs = plan_jobs(indexes, recipe)
    if blind:  # a stage of tower and projector alone has nothing to teach a model without images
        jobs = [job for job in jobs if job.stage.learning_rate.language] or jobs
    if world.main:
        write_plans(jobs, folder / "plan")
    if shown:
        err.print(plan_table(jobs))
    model, processor = base_model(recipe)
    if not blind:
        first = recipe.stages[0]
        align_projector(prepared, model, processor, indexes[first.tiling], first)
    trainer = Trainer(
        model=model,
        processor=processor,
        shards=prepared.shards,
        jobs=jobs,
        train=recipe.train,
        folder=folder,
        blind=blind,
        world=world,
    )
    final = trainer.run()
    if shown:
        speeds = stage_speeds(MetricsLog(folder / "metrics.jsonl").read())
        err.print(speed_table(speeds))
        for saving in filter(None, (speed.saving for speed in speeds)):
            err.print(saving, markup=False)
        ratio = speed_ratio(speeds)
        if ratio is not None:
            err.print(
                f"pretrain-low trained {ratio:.2f} times the samples per second of pretrain-high"
            )
    return final


def export_step(run: RunFolder) -> None:
    """Export the final model into the run folder, once."""
    if not (run / "export" / ABOUT).is_file():
        export(run.path, run / "export")
    out.print(f"export: {run / 'export'}", markup=False, soft_wrap=True)


def run_recipe(recipe: Recipe, folder: Path) -> Path:
    """Do everything the recipe says in `folder`; returns the report's path.

    Raises:
        InfiMedError: something the user can act on; STATUS.json then says where it stopped.
    """
    check_export(recipe)
    run = RunFolder(folder)
    with run.locked():
        recipe = settled(recipe, run)
        resuming = run.adopt(recipe)
        if resuming:
            err.print(f"going on in {folder}")
        set_threads(recipe.train.threads)
        try:
            return _steps(recipe, run)
        except InfiMedError as error:
            run.status("stopped", reason=error.what, exit_code=error.exit_code)
            raise
        except KeyboardInterrupt:
            run.status("stopped", reason="interrupted", exit_code=130)
            raise


def _steps(recipe: Recipe, run: RunFolder) -> Path:
    def at(step: str, work: Callable[[], Any]) -> Any:
        run.status(step)
        done = work()
        gc.collect()  # a trainer refers to itself: without this its model lives on beside the next
        return_free_memory()
        return done

    shards = at("import", lambda: import_step(recipe, run))
    at("curate", lambda: curate_step(recipe, run, shards))
    prepared = prepare(recipe, run)
    twin = wants_twin(recipe)
    if twin and recipe.train.twin_beside:
        with twin_beside(run) as process:
            final = at("train", lambda: train_step(prepared, blind=False))
            at("train-blind", process.wait)
    else:
        final = at("train", lambda: train_step(prepared, blind=False))
        if twin:
            at("train-blind", lambda: train_step(prepared, blind=True))
    if recipe.evaluation.tasks:
        board = at("evaluate", lambda: evaluate_step(recipe, run, shards))
        out.print(headline(board))
    report = at("report", lambda: write_report(run.path))
    if recipe.export:
        at("export", lambda: export_step(run))
    run.status("done", report=report.name, checkpoint=final.name)
    return report
