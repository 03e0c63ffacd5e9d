"""The training loop: stages as data, one readable pass.

    for each stage: plan rows -> for each optimizer step: rows -> loss / target tokens -> update

State that resumes is small: the stage, the row number in it, the weights and the optimizer's
moments. Everything random is derived from the seed and the row number, so a killed run continues to
the same bits. A step either happened or did not: interruption and failure act at step boundaries.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import infimed
from infimed.core.allocator import return_free_memory
from infimed.core.console import err, progress
from infimed.core.errors import EXIT_SIGINT, EXIT_SIGTERM, DataError, InfiMedError, NonFiniteError
from infimed.core.recipe import Stage, Train
from infimed.core.run import MetricsLog
from infimed.data.shards import ShardSet
from infimed.model.attention import PACKED
from infimed.model.loading import (
    checkpoint_folders,
    load_checkpoint,
    load_training_state,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.processing import Processor
from infimed.packing.plan import Plan
from infimed.training.device import autocast, best_device
from infimed.training.loader import rows_from
from infimed.training.loss import target_loss
from infimed.training.meter import Flops, peak_memory_gib, resident_gib, step_counts
from infimed.training.optimizer import (
    factor,
    freeze,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)
from infimed.training.rows import PixelCache, Row, RowBuilder

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
class Position:
    """Where training is: the next stage, the next row in it, and optimizer steps done in all."""

    stage: int = 0
    row: int = 0
    step: int = 0


@dataclass(frozen=True)
class StageJob:
    """A stage with its plan."""

    stage: Stage
    plan: Plan

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage; the last may hold fewer rows."""
        return -(-len(self.plan.rows) // self.stage.rows_per_step)


@dataclass
class Trainer:
    """Trains a model through its stages and keeps the run resumable.

    Args:
        folder: where `checkpoints/` and `metrics.jsonl` go.
        jobs: the stages with their plans, in order.
        blind: train the twin that never sees an image.
    """

    model: InfiMedForConditionalGeneration
    processor: Processor
    shards: ShardSet
    jobs: Sequence[StageJob]
    train: Train
    folder: Path
    blind: bool = False
    device: torch.device = field(default_factory=best_device)
    position: Position = field(default_factory=Position)
    _signal: int = 0
    _saved_at: float = 0.0
    _trimmed_at: float = 0.0

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
        """
        log = MetricsLog(self.folder / "metrics.jsonl")
        optimizer_state = self._resume()
        self.folder.mkdir(parents=True, exist_ok=True)
        log.rewind(self.position.step)
        cache = PixelCache(self.shards)
        self._saved_at = time.monotonic()
        with self._signals():
            while self.position.stage < len(self.jobs):
                self._stage(log, cache, optimizer_state)
                optimizer_state = {}
        return checkpoint_folders(self.checkpoints)[0]

    def _resume(self) -> dict[str, torch.Tensor]:
        """Restore the newest verified checkpoint; returns its optimizer tensors."""
        for folder in checkpoint_folders(self.checkpoints):
            manifest = verify_checkpoint(folder)
            if manifest is None:
                err.print(
                    f"{folder.name} is damaged or incomplete; using the one before", style="yellow"
                )
                continue
            if manifest["seed"] != self.train.seed:
                raise DataError("the checkpoint was made with another seed", where=str(folder))
            self.model, _ = load_checkpoint(folder)
            at = manifest["position"]
            self.position = Position(at["stage"], at["row"], at["step"])
            err.print(
                f"resuming after step {at['step']} (stage {at['stage'] + 1}, row {at['row']})"
            )
            return load_training_state(folder)
        return {}

    def _save(self) -> None:
        state = optimizer_tensors(self.model, self._optimizer) if self.position.row else {}
        save_checkpoint(
            self.checkpoints / f"step-{self.position.step}",
            self.model,
            self._grid_processor(),
            about={
                "infimed": infimed.__version__,
                "seed": self.train.seed,
                "blind": self.blind,
                "position": vars(self.position),
            },
            training_state=state,
        )
        prune_checkpoints(self.checkpoints, self.train.keep_checkpoints)
        self._saved_at = time.monotonic()

    def _grid_processor(self) -> Processor:
        """The processor at the grid of the stage that was last trained."""
        stage = self.jobs[max(0, self.position.stage - (self.position.row == 0))].stage
        return self.processor.with_grid(stage.image_size, stage.visual_tokens)

    def _stage(self, log: MetricsLog, cache: PixelCache, state: dict[str, torch.Tensor]) -> None:
        job = self.jobs[self.position.stage]
        stage = job.stage
        self.model.to(self.device).train()
        self.model.set_attention(PACKED)
        self.model.set_grid(stage.visual_tokens, stage.image_size)
        freeze(self.model, stage.learning_rate)
        self._optimizer = make_optimizer(self.model, stage, self.train)
        load_optimizer_tensors(self.model, self._optimizer, state)
        flops = Flops(self.model)
        builder = RowBuilder(
            self.shards,
            self.processor.with_grid(stage.image_size, stage.visual_tokens),
            cache,
            seed=self.train.seed,
            augment=0.0 if self.blind else stage.augment,
            blind=self.blind,
        )
        title = ("blind " if self.blind else "") + stage.name
        done = self.position.row // stage.rows_per_step
        rows = rows_from(builder, job.plan.rows, self.position.row, self.train.prefetch_rows)
        with progress(title, job.steps, done, "steps") as advance:
            for number, batch, waited in _steps(rows, stage.rows_per_step, job.steps, done):
                started = time.monotonic()
                measured = self._step(batch, factor(number, job.steps, stage), flops)
                self.position.row += len(batch)
                self.position.step += 1
                seconds = time.monotonic() - started
                counts = step_counts(batch, stage.row_tokens)
                log.append(
                    {
                        "step": self.position.step,
                        "stage": stage.name,
                        **counts,
                        **measured,
                        "seconds": round(seconds, 4),
                        "wait_seconds": round(waited, 4),
                        "tokens_per_second": round(counts["tokens"] / seconds, 1),
                        "padded_tokens_per_second": round(
                            counts["tokens"] / counts["fill"] / seconds, 1
                        ),
                        "samples_per_second": round(counts["samples"] / seconds, 2),
                        "memory_gib": round(peak_memory_gib(), 3),
                    }
                )
                advance(
                    1,
                    loss=f"{measured['loss']:.3f}",
                    samples_s=f"{counts['samples'] / seconds:.0f}",
                )
                self._after_step(job)

    def _after_step(self, job: StageJob) -> None:
        grown = resident_gib() - self._trimmed_at > TRIM_GROWTH_GIB
        if grown or self.position.step % TRIM_EVERY == 0:
            return_free_memory()
            self._trimmed_at = resident_gib()
        if self.position.row >= len(job.plan.rows):
            self.position.stage += 1
            self.position.row = 0
            self._save()
            return_free_memory()  # rows of the next stage have other lengths
        elif self._signal or time.monotonic() - self._saved_at > self.train.checkpoint_seconds:
            self._save()
        if self._signal:
            raise Interrupted(self._signal)

    def _step(self, rows: Sequence[Row], share: float, flops: Flops) -> dict[str, Any]:
        """One optimizer step; nothing is updated unless loss and gradient are finite."""
        targets = sum(row.target_tokens for row in rows)
        ids = [name for row in rows for name in row.record_ids]
        if targets == 0:
            raise DataError("no target tokens in this step", where=", ".join(ids[:5]))
        weight = self.jobs[self.position.stage].stage.question_weight
        asked = max(1, sum(row.question_tokens for row in rows)) if weight else 1
        total, questions = 0.0, 0.0
        for row in rows:
            row = row.to(self.device)
            with autocast(self.device, self.train.precision):
                hidden = self.model.forward_row(row.input_ids, row.layout, pixels=row.pixels)
                loss = target_loss(self.model.lm_head, hidden, row.targets) / targets
                total += float(loss.detach())
                if weight:
                    words = target_loss(self.model.lm_head, hidden, row.questions) / asked
                    questions += float(words.detach())
                    loss = loss + weight * words
            if loss.requires_grad:  # a row without images teaches a projector nothing
                loss.backward()
        learning = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(learning, self.train.clip))
        if not (torch.isfinite(torch.tensor([total, questions, norm])).all()):
            raise NonFiniteError(
                f"loss {total + weight * questions} and gradient norm {norm} at step {self.position.step + 1}; nothing was updated",
                where=f"records {', '.join(ids[:8])}{' ...' if len(ids) > 8 else ''}",
                fix="lower the learning rate of this stage, or look at these records",
            )
        rates = set_rates(self._optimizer, share)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {
            "loss": total,
            **({"question_loss": questions} if weight else {}),
            "gradient_norm": round(norm, 5),
            "learning_rate": rates,
            "flops": sum(flops.row(row) for row in rows),
        }

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


def _steps(
    rows: Iterator[tuple[int, Row]], rows_per_step: int, steps: int, done: int
) -> Iterator[tuple[int, list[Row], float]]:
    """(step number in the stage, its rows, seconds spent waiting for them)."""
    for number in range(done, steps):
        started = time.monotonic()
        batch = [row for _, row in islice(rows, rows_per_step)]
        yield number, batch, time.monotonic() - started
