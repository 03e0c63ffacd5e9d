"""The training loop: stages as data, one readable pass.

    for each stage: plan rows -> for each optimizer step: rows -> loss / weights of the step -> update

State that resumes is small: the stage, the row number in it, the weights and the optimizer's
moments. Everything random is derived from the seed and the row number, so a killed run continues to
the same bits. A step either happened or did not: interruption and failure act at step boundaries, and
with several ranks they agree on it.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice, zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from infimed.core.allocator import return_free_memory
from infimed.core.console import err, progress
from infimed.core.errors import EXIT_SIGINT, EXIT_SIGTERM, DataError, InfiMedError, NonFiniteError
from infimed.core.recipe import Stage, Train
from infimed.core.run import MetricsLog
from infimed.core.seeds import derive_seed
from infimed.data.shards import ShardSet
from infimed.model.attention import PACKED
from infimed.model.loading import checkpoint_folders, load_checkpoint
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor
from infimed.training.checkpoint import (
    check_continues,
    load_training_state,
    newest_checkpoint,
    save_training,
)
from infimed.training.compiling import compile_blocks
from infimed.training.device import autocast, decided, fastest_precision, gemm_peak
from infimed.training.features import FOLDER, FeatureCache, cacheable, stage_features
from infimed.training.flops import Cost, Flops
from infimed.training.loader import rows_from
from infimed.training.lora import add_adapters, check_adapters, resume_adapters
from infimed.training.memory import save_memory
from infimed.training.meter import SourceLosses, resident_gib, step_counts, step_rates, summed
from infimed.training.optimizer import (
    check_ranks,
    factor,
    freeze,
    idle_note,
    make_optimizer,
    set_rates,
)
from infimed.training.parallel import World, shard_model, whole_tensor
from infimed.training.quarantine import UNREADABLE, Quarantine, as_text, from_texts
from infimed.training.rows import PixelCache, Row, RowBuilder, idle_row
from infimed.training.stage import Position, StageJob
from infimed.training.step import RowLoss, non_finite_samples, row_weights
from infimed.training.trackers import Tracker, numbers_of, open_trackers

__all__ = ["Interrupted", "Position", "StageJob", "Trainer"]

TRIM_EVERY = 8
"""Most steps between two returns of free memory to the kernel."""
TRIM_GROWTH_GIB = 2.5
"""Growth of resident memory at which it is returned at once: rows of changing length fragment it."""


class Interrupted(InfiMedError):
    """Stopped by a signal at a step boundary, everything saved."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after saving",
            fix="run the same command to go on",
        )
        self.exit_code = EXIT_SIGINT if number == signal.SIGINT else EXIT_SIGTERM


@dataclass
class Trainer:
    """Trains a model through its stages and keeps the run resumable.

    Args:
        model: where training starts; the same on every rank.
        folder: where `checkpoints/` and `metrics.jsonl` go.
        jobs: the stages with their plans, in order.
        blind: train the twin that never sees an image.
        world: the ranks that train together; only the first writes.
    """

    model: InfiMedForConditionalGeneration
    processor: Processor
    shards: ShardSet
    jobs: Sequence[StageJob]
    train: Train
    folder: Path
    blind: bool = False
    world: World = field(default_factory=World)
    position: Position = field(default_factory=Position)
    _resumed: Path | None = None
    _signal: int = 0
    _saved_at: float = 0.0
    _trimmed_at: float = 0.0
    _trackers: Sequence[Tracker] = ()

    @property
    def checkpoints(self) -> Path:
        """Folder of the `step-N` checkpoints."""
        return self.folder / "checkpoints"

    def run(self) -> Path:
        """Train to the end, from the newest verified checkpoint if there is one.

        Returns:
            the final checkpoint's folder.

        Raises:
            NonFiniteError: loss or gradient is not finite. Interrupted: a signal came.
            DataError: the run began with other plans or another seed.
            RecipeError: the optimizer does not train on several ranks.
        """
        check_ranks(self.train, self.world.size)
        self.train = decided(self.train, self.world.device)
        for job in self.jobs:
            if job.stage.lora is not None:
                check_adapters(self.model, job.stage.lora)
        log = MetricsLog(self.folder / "metrics.jsonl")
        self._resume()
        self._quarantine = Quarantine(
            self.folder / UNREADABLE, self.train.bad_images, writes=self.world.main
        )
        self._quarantine.rewind(self.position.step)
        seen = 0
        if self.world.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            seen = log.last_step()
            log.rewind(self.position.step)
        self._peak = self._measured_peak()
        if self.world.main and any(job.stage.learning_rate.vision > 0 for job in self.jobs):
            err.print(idle_note(self.model), markup=False)
        cache = PixelCache(self.shards)
        self._saved_at = time.monotonic()
        with self._signals(), self._tracked(seen):
            while self.position.stage < len(self.jobs):
                self._stage(log, cache)
        if self.world.main:
            shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
        return checkpoint_folders(self.checkpoints)[0]

    @cached_property
    def _sources(self) -> list[str]:
        """Every source of the data, in the same order on every rank."""
        return list(self.shards.index(["source"])["source"].unique().to_pylist())

    @contextmanager
    def _tracked(self, seen: int) -> Iterator[None]:
        """The trackers of the recipe, on the first rank; an earlier process logged up to step `seen`."""
        name = f"{self.folder.parent.name}-blind" if self.blind else self.folder.name
        step = self.position.step + 1
        opened = open_trackers(self.train.trackers, self.folder, name, step=step, seen=seen)
        with ExitStack() as held:
            own = partial(held.enter_context, opened) if self.world.main else list
            self._trackers = self.world.together(own)
            yield

    def _measured_peak(self) -> float:
        """Operations per second of all ranks' fastest matrix products."""
        peak = self.world.sums([gemm_peak(self.world.device, self.train.precision)])[0]
        if self.world.main:
            err.print(
                f"fastest {self.train.precision} matrix product: {peak / 1e9:,.0f} GFLOP/s; "
                "utilisation (MFU) is measured against it"
            )
            if self.train.precision == "bf16" and fastest_precision(self.world.device) == "fp32":
                err.print(
                    "this machine multiplies fp32 faster; a new run would train in it by itself"
                )
        return peak

    def _resume(self) -> None:
        """Go to the newest verified checkpoint, if there is one."""
        found = newest_checkpoint(self.checkpoints, self.world)
        if found is None:
            return
        folder, manifest = found
        self.position = at = check_continues(manifest, folder, self.jobs, self.train.seed)
        self.model, _ = load_checkpoint(folder, merge=at.row == 0)
        self._resumed = folder
        if self.world.main:
            err.print(f"resuming after step {at.step} (stage {at.stage + 1}, row {at.row})")

    def _save(self) -> None:
        between = self.position.row > 0
        save_training(
            self.checkpoints / f"step-{self.position.step}",
            self.model,
            self._grid_processor(),
            self._optimizer if between else None,
            about={
                "seed": self.train.seed,
                "blind": self.blind,
                "position": vars(self.position),
                "plans": {job.stage.name: job.hash for job in self.jobs},
            },
            world=self.world,
            keep=self.train.keep_checkpoints,
            lora=self._trained_stage().lora,
        )
        self._saved_at = time.monotonic()

    def _grid_processor(self) -> Processor:
        """The processor at the grid of the stage that was last trained."""
        stage = self._trained_stage()
        return self.processor.with_grid(stage.image_size, stage.visual_tokens, stage.tiles)

    def _trained_stage(self) -> Stage:
        return self.jobs[max(0, self.position.stage - (self.position.row == 0))].stage

    def _stage(self, log: MetricsLog, cache: PixelCache) -> None:
        job = self.jobs[self.position.stage]
        stage = job.stage
        flops = self._begin(job)
        builder = RowBuilder(
            self.shards,
            self.processor.with_grid(stage.image_size, stage.visual_tokens, stage.tiles),
            cache,
            seed=self.train.seed,
            augment=0.0 if self.blind else stage.augment,
            blind=self.blind,
            features=self._features,
        )
        title = ("blind " if self.blind else "") + stage.name
        filling = self._filling(flops)
        done = job.step_at(self.position.row)
        mine = [rows[self.world.rank] for rows in self._shares(job, done)]
        rows = rows_from(
            builder,
            job.plan.rows,
            (row for share in mine for row in share),
            self.train.prefetch_rows,
        )
        with progress(title, job.steps, done, "steps", quiet=not self.world.main) as advance:
            for number, share in enumerate(mine, done):
                waiting = time.monotonic()
                batch = self.world.together(partial(_taken, rows, len(share)))
                started = time.monotonic()
                left_out = self._quarantined(job, batch)
                measured = self._step(
                    batch, factor(number, job.steps, stage, job.decay_from), flops
                )
                measured |= filling
                filling = {}
                if left_out:
                    measured["left_out"] = left_out
                self.position.row = int(job.starts[number + 1])
                self.position.step += 1
                ended = time.monotonic()
                line = self._line(job, number, batch, measured, ended - started, started - waiting)
                self.world.together(partial(self._tell, log, line))
                advance(
                    1,
                    loss=f"{measured.get('loss', math.nan):.3f}",
                    samples_s=f"{line['samples_per_second']:.0f}",
                )
                self._after_step(job)

    def _quarantined(self, job: StageJob, batch: Sequence[Row]) -> int:
        """Note the documents that any rank left out of this step; how many."""
        lost = [one for row in batch for one in row.left_out]
        total = int(self.world.sums([len(lost)])[0])
        if total:
            self._quarantine.add(
                from_texts(self.world.texts(as_text(lost))),
                step=self.position.step + 1,
                stage=job.stage.name,
                images=job.plan.images,
            )
        return total

    def _shares(self, job: StageJob, done: int) -> Iterator[tuple[tuple[int, ...], ...]]:
        return (job.shares(step, self.world.size) for step in range(done, job.steps))

    def _begin(self, job: StageJob) -> Flops:
        """Model, training step and optimizer of a stage, as its checkpoint left them."""
        stage, world = job.stage, self.world
        if stage.lora is not None:
            seed = derive_seed(self.train.seed, "adapters", self.position.stage)
            add_adapters(self.model, stage.lora, seed)
        if self._resumed is not None and self.position.row:
            resume_adapters(self.model, stage.lora, self._resumed)
        self.model.to(world.device).train()
        self.model.set_attention(PACKED)
        self.model.set_grid(stage.visual_tokens, stage.image_size)
        freeze(self.model, stage.learning_rate)
        save_memory(self.model, self.train)
        if self.train.compile:
            compile_blocks(self.model)
        flops = Flops(
            self.model,
            stage.image_size,
            questions=stage.question_weight > 0,
            isolated=stage.isolation == "document",
        )
        cached = cacheable(stage, self.train) and not self.blind
        self._features = self._stage_features(job) if cached else None
        self._row_loss = RowLoss(
            self.model,
            question_weight=stage.question_weight,
            isolated=stage.isolation == "document",
            image_size=stage.image_size if world.many else None,
            cached=cached,
        )
        if world.many:
            shard_model(self._row_loss, self.model, world, self.train.precision)
        self._optimizer = make_optimizer(self.model, stage, self.train)
        if self._resumed is not None and self.position.row:
            load_training_state(self._resumed, self.model, self._optimizer, world)
        self._resumed = None
        return flops

    def _stage_features(self, job: StageJob) -> FeatureCache:
        return stage_features(
            self.model,
            self.processor.with_grid(job.stage.image_size, job.stage.visual_tokens),
            self.shards,
            job.plan,
            self.folder / FOLDER,
            precision=self.train.precision,
            world=self.world,
        )

    def _tell(self, log: MetricsLog, line: dict[str, Any]) -> None:
        """Write a step's line, on the first rank."""
        if self.world.main:
            log.append(line)
        for tracker in self._trackers:
            tracker.log(numbers_of(line), self.position.step)

    def _filling(self, flops: Flops) -> dict[str, float]:
        """What this process spent on the features of a stage; told with the stage's next step."""
        cache = self._features
        if cache is None or not cache.filled:
            return {}
        spent = cache.filled * flops.image()
        return {"feature_seconds": round(cache.seconds, 3), "feature_flops": spent}

    def _line(
        self, job: StageJob, number: int, batch: Sequence[Row], measured: dict[str, Any],
        seconds: float, waited: float,
    ) -> dict[str, Any]:  # fmt: skip
        """What `metrics.jsonl` holds of a step."""
        stage = job.stage
        mine = step_counts(batch)
        counts = dict(zip(mine, map(int, self.world.sums(list(mine.values()))), strict=True))
        rows = int(job.starts[number + 1] - job.starts[number])
        capacity = rows * stage.row_tokens
        return {
            "step": self.position.step,
            "stage": stage.name,
            **counts,
            "fill": round(counts["tokens"] / capacity, 4),
            **measured,
            "records": job.samples_hash(number),
            **step_rates(
                counts,
                capacity=capacity,
                flops=measured["flops"],
                peak=self._peak,
                seconds=seconds,
                waited=waited,
            ),
        }

    def _after_step(self, job: StageJob) -> None:
        grown = resident_gib() - self._trimmed_at > TRIM_GROWTH_GIB
        if grown or self.position.step % TRIM_EVERY == 0:
            return_free_memory()
            self._trimmed_at = resident_gib()
        due = self.world.main and time.monotonic() - self._saved_at > self.train.checkpoint_seconds
        stop, save = map(int, self.world.largest([self._signal, due]))
        if self.position.row >= len(job.plan.rows):
            self.position.stage += 1
            self.position.row = 0
            self._save()
            # A sharded unit remembers what learned, and adapters are merged: the next stage begins anew.
            if self.world.many or job.stage.lora is not None:
                self.model, _ = load_checkpoint(checkpoint_folders(self.checkpoints)[0])
            return_free_memory()  # rows of the next stage have other lengths
        elif stop or save:
            self._save()
        if stop:
            raise Interrupted(stop)

    def _step(self, rows: Sequence[Row], share: float, flops: Flops) -> dict[str, Any]:
        """One optimizer step; nothing is updated unless loss and gradient are finite on every rank."""
        stage = self.jobs[self.position.stage].stage
        torch.manual_seed(derive_seed(self.train.seed, "step", self.position.step, self.world.rank))
        weights = [row_weights(row, stage.weighting) for row in rows]
        whole, asked = self.world.sums(
            [sum(one.total for one in weights), sum(row.question_tokens for row in rows)]
        )
        if whole == 0:
            return self._passed_over(rows)
        # Every rank runs as many rows as the busiest.
        idle = int(self.world.largest([len(rows)])[0]) - len(rows)
        batch = [*rows, *[idle_row(self.processor.end_id)] * idle]
        total, questions = 0.0, 0.0
        suspects: list[str] = []
        by_source = SourceLosses(self._sources)
        for row, one in zip_longest(batch, weights):
            row = row.to(self.world.device)
            weight = torch.zeros(0) if one is None else one.weights
            weight = weight.to(self.world.device)
            with autocast(self.world.device, self.train.precision):
                loss, losses, words = self._row_loss(row, weight, whole, max(asked, 1))
            total += float((losses * weight).sum())
            if one is not None:
                by_source.add(row, one, losses)
                if not math.isfinite(total):
                    suspects += non_finite_samples(row, one, losses)
            questions += float(words)
            if loss.requires_grad:  # a row without images teaches a projector nothing
                loss.backward()
        learning = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(whole_tensor(torch.nn.utils.clip_grad_norm_(learning, self.train.clip)))
        total, questions = self.world.sums([total / whole, questions / max(asked, 1)])
        if not all(map(math.isfinite, (total, questions, norm))):
            raise self._diverged(
                f"loss {total + stage.question_weight * questions} and gradient norm {norm}",
                suspects or [name for row in rows for name in row.record_ids],
            )
        cost = summed([flops.row(row) for row in rows], self.world)
        rates = set_rates(self._optimizer, share)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {
            "loss": total,
            **({"question_loss": questions} if stage.question_weight else {}),
            "gradient_norm": round(norm, 5),
            "learning_rate": rates,
            "source_loss": by_source.read(self.world),
            **cost.fields(),
        }

    def _passed_over(self, rows: Sequence[Row]) -> dict[str, Any]:
        """A step of which nothing is left to learn.

        Raises:
            DataError: not because documents were left out: the plan holds records without answers.
        """
        if not self.world.largest([bool(row.left_out) for row in rows] or [0])[0]:
            raise DataError("no target tokens in this step", where=_named(rows))
        return {"gradient_norm": 0.0, "learning_rate": {}, **Cost().fields()}

    def _diverged(self, what: str, names: Sequence[str]) -> NonFiniteError:
        """The same error on every rank, naming the records of all."""
        told = ", ".join(filter(None, self.world.texts(_listed(names))))
        return NonFiniteError(
            f"{what} at step {self.position.step + 1}; nothing was updated",
            where=f"records {told}",
            fix="lower the learning rate of this stage, or look at these records",
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C stop at the next step boundary; a second one stops at once."""

        def stop(number: int, _: FrameType | None) -> None:
            if self._signal:
                raise Interrupted(number)
            self._signal = number
            err.print("\nfinishing this step and saving; once more to stop at once", style="yellow")

        before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _taken(rows: Iterator[Row], count: int) -> list[Row]:
    return list(islice(rows, count))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def _named(rows: Sequence[Row]) -> str:
    return _listed([name for row in rows for name in row.record_ids])
