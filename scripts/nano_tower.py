"""The small pretrained vision tower: a SigLIP-shaped encoder taught what, where, which side, how large.

Supervision is dense and lies on the very features a LLaVA-style model reads (the last encoder
layer's output, before the final layer norm): every token must know the occupancy of its own cell and,
for the whole image, which findings are present on which side, how large, how many and at which level.
The same is asked of 48-pixel images and of the 96-pixel grid after 2x2 average pooling.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from infimed.core.seeds import derive_seed, stream
from infimed.data.phantom.catalogue import FINDING_KEYS, MODALITIES
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.imaging import render_image
from infimed.data.phantom.truth import ImageTruth, dense_targets, size_bucket

FULL, LOW, GRID = 96, 48, 12
KINDS = [(modality, kind) for modality in MODALITIES for kind in modality.findings]
SMALL_KINDS = [index for index, (_, kind) in enumerate(KINDS) if kind.small]
ACQUISITIONS = [
    (modality.key, view)
    for modality in MODALITIES
    for view in (modality.views if modality.key == "brain_mri" else (None,))
]
IGNORE = -100
SIDES = 2
ASKED_TOKENS = 20


@dataclass
class Pool:
    """Images and labels of one set, as arrays; first axis = image.

    full uint8 [N, 96, 96, 3], low uint8 [N, 48, 48, 3], cells uint8 [N, 24, 12, 12] (occupancy * 255),
    modality, acquisition int64 [N], present int8 [N, 24, 2] (finding x half, left first),
    size, count, level int8 [N, 24] (-100 where it does not apply).
    """

    full: np.ndarray
    low: np.ndarray
    cells: np.ndarray
    modality: np.ndarray
    acquisition: np.ndarray
    present: np.ndarray
    size: np.ndarray
    count: np.ndarray
    level: np.ndarray


def labels_of(truth: ImageTruth) -> tuple[int, int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Modality, acquisition, present, size, count and level targets of one image."""
    keys = [modality.key for modality in MODALITIES]
    view = truth.acquisition.view if truth.modality == "brain_mri" else None
    present = np.zeros((len(KINDS), SIDES), np.int8)
    size, count, level = (np.full(len(KINDS), IGNORE, np.int8) for _ in range(3))
    for finding in truth.findings:
        index = FINDING_KEYS.index(finding.key)
        kind = KINDS[index][1]
        present[index, int(finding.half == "right")] = 1
        if kind.small:
            count[index] = finding.count - 1
        else:
            size[index] = size_bucket(kind, finding.size_fraction)
        if kind.free_level:
            level[index] = finding.level
    return (
        keys.index(truth.modality),
        ACQUISITIONS.index((truth.modality, view)),
        present,
        size,
        count,
        level,
    )


def _chunk(args: tuple[int, int, int]) -> tuple[list[np.ndarray], ...]:
    seed, first, last = args
    cv2.setNumThreads(1)
    rows: tuple[list, ...] = tuple([] for _ in range(9))
    for index in range(first, last):
        truth = draw_patient(seed, index, pair=False).images[0]
        pixels = render_image(truth, 192).pixels
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        rows[0].append(cv2.resize(pixels, (FULL, FULL), interpolation=cv2.INTER_AREA))
        rows[1].append(cv2.resize(pixels, (LOW, LOW), interpolation=cv2.INTER_AREA))
        rows[2].append(np.round(dense_targets(truth, GRID) * 255).astype(np.uint8))
        for row, value in zip(rows[3:], labels_of(truth), strict=True):
            row.append(value)
    return tuple(np.stack(row) for row in rows)


def make_pool(seed: int, images: int, workers: int = 1) -> Pool:
    """Draw `images` single images of the clinic `seed`, modalities in turn."""
    step = 250
    jobs = [(seed, first, min(first + step, images)) for first in range(0, images, step)]
    if workers > 1:
        with ProcessPoolExecutor(workers) as executor:
            parts = list(executor.map(_chunk, jobs))
    else:
        parts = [_chunk(job) for job in jobs]
    return Pool(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@dataclass
class Batch:
    """One batch: pixels [B, 3, S, S], cells [B, 24, g, g] in [0, 1] and the global targets."""

    pixels: Tensor
    cells: Tensor
    modality: Tensor
    acquisition: Tensor
    present: Tensor
    size: Tensor
    count: Tensor
    level: Tensor


def take(pool: Pool, index: np.ndarray, size: int, rng: np.random.Generator | None = None) -> Batch:
    """Assemble a batch at `size` pixels; with `rng`, flipped, jittered and noised."""
    images = (pool.full if size == FULL else pool.low)[index]
    cells, present = pool.cells[index].astype(np.float32) / 255, pool.present[index]
    pixels = images.astype(np.float32) / 255
    if rng is not None:
        flip = rng.random(len(index)) < 0.5
        pixels[flip] = pixels[flip, :, ::-1]
        cells[flip] = cells[flip, :, :, ::-1]
        present = present.copy()
        present[flip] = present[flip, :, ::-1]
        gain = rng.uniform(0.92, 1.08, (len(index), 1, 1, 1)).astype(np.float32)
        offset = rng.uniform(-0.04, 0.04, (len(index), 1, 1, 1)).astype(np.float32)
        grain = rng.standard_normal(pixels.shape[:3], dtype=np.float32)[..., None]
        pixels = np.clip(pixels * gain + offset + grain * np.float32(0.006), 0, 1)
    tensor = (
        torch.from_numpy(np.ascontiguousarray((pixels - 0.5) / 0.5))
        .permute(0, 3, 1, 2)
        .contiguous()
    )
    return Batch(
        tensor,
        torch.from_numpy(np.ascontiguousarray(cells)),
        torch.from_numpy(pool.modality[index]),
        torch.from_numpy(pool.acquisition[index]),
        torch.from_numpy(np.ascontiguousarray(present)).float(),
        *(torch.from_numpy(array[index]).long() for array in (pool.size, pool.count, pool.level)),
    )


def vision_config() -> SiglipVisionConfig:
    """The tower's shape: 1.23 M parameters, 144 tokens at 96 pixels."""
    return SiglipVisionConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=FULL,
        patch_size=8,
        vision_use_head=False,
    )


def sine_positions(grid: int, width: int) -> Tensor:
    """Fixed 2-D sine/cosine codes [grid * grid, width] to start the position table from.

    Source: MAE (He et al. 2022), appendix A; scaled to the size of the patch embeddings, so that
    where a token lies is readable from the first step.
    """
    bands = width // 4
    omega = 1.0 / 100 ** (torch.arange(bands) / bands)
    angles = torch.arange(grid)[:, None] * omega[None, :]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = axis[:, None, :].expand(grid, grid, -1)
    columns = axis[None, :, :].expand(grid, grid, -1)
    return 0.3 * torch.cat([rows, columns], dim=-1).reshape(grid * grid, width)


class DenseHeads(nn.Module):
    """Linear layers per token onto everything asked of it; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        kinds = len(KINDS)
        self.own = nn.Linear(width, kinds)
        self.parts = [len(ACQUISITIONS), kinds * SIDES, kinds * 3, kinds * 3, kinds * 2]
        self.whole = nn.Linear(width, sum(self.parts))

    def forward(self, features: Tensor) -> list[Tensor]:
        """features [B, T, d] -> acquisition, present, size, count, level, each [B, T, ...]."""
        acquisition, present, size, count, level = self.whole(features).split(self.parts, dim=-1)
        b, t = features.shape[:2]
        return [
            acquisition,
            present.view(b, t, -1, SIDES),
            size.view(b, t, -1, 3),
            count.view(b, t, -1, 3),
            level.view(b, t, -1, 2),
        ]


def _per_token_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """logits [B, T, K, C], target [B, K]: mean over the targets that apply."""
    b, t, k, c = logits.shape
    wide = target[:, None, :].expand(b, t, k)
    if not bool((target >= 0).any()):
        return logits.sum() * 0
    return nn.functional.cross_entropy(logits.reshape(-1, c), wide.reshape(-1), ignore_index=IGNORE)


def of_modality(values: Tensor, modality: Tensor) -> Tensor:
    """values [B, ..., 24, x] -> the four findings of each image's own modality [B, ..., 4, x]."""
    index = (modality[:, None] * 4 + torch.arange(4)).view(-1, *([1] * (values.dim() - 3)), 4, 1)
    return values.gather(-2, index.expand(*values.shape[:-2], 4, values.shape[-1]))


def pool_tokens(features: Tensor) -> Tensor:
    """[B, 144, d] -> [B, 36, d]: 2x2 average pooling of the grid."""
    b, t, d = features.shape
    side = math.isqrt(t)
    grid = features.view(b, side // 2, 2, side // 2, 2, d)
    return grid.mean(dim=(2, 4)).view(b, t // 4, d)


def loss_of(heads: DenseHeads, features: Tensor, batch: Batch, weight_global: float) -> Tensor:
    """The dense loss on one token grid; the global questions go to a random few of its tokens."""
    side = math.isqrt(features.shape[1])
    grid = batch.cells
    if grid.shape[-1] != side:
        grid = nn.functional.max_pool2d(grid, grid.shape[-1] // side)
    own = of_modality(grid.flatten(2).transpose(1, 2).unsqueeze(-1), batch.modality)
    mine = of_modality(heads.own(features).unsqueeze(-1), batch.modality)
    local = nn.functional.binary_cross_entropy_with_logits(mine, own, pos_weight=torch.tensor(4.0))
    asked = torch.randperm(features.shape[1])[:ASKED_TOKENS]
    acquisition, present, size, count, level = heads(features[:, asked])
    b, t = acquisition.shape[:2]
    kind = nn.functional.cross_entropy(
        acquisition.reshape(b * t, -1), batch.acquisition.repeat_interleave(t)
    )
    truth = of_modality(batch.present[:, None], batch.modality).expand(b, t, 4, SIDES)
    whole = nn.functional.binary_cross_entropy_with_logits(
        of_modality(present, batch.modality), truth
    )
    details = (
        _per_token_entropy(size, batch.size)
        + _per_token_entropy(count, batch.count)
        + _per_token_entropy(level, batch.level)
    )
    return 4 * local + 0.3 * kind + weight_global * (2 * whole + 0.3 * details)


@torch.no_grad()
def evaluate(
    tower: SiglipVisionModel, heads: DenseHeads, pool: Pool, mode: str, batch_size: int = 120
) -> dict[str, float]:
    """Accuracy of the heads read at single tokens (every fifth), averaged.

    `mode`: "full" (96 pixels, 144 tokens), "pooled" (96 pixels, 36 tokens), "low" (48 pixels, 36 tokens).
    """
    hits: dict[str, list[float]] = {}

    def note(name: str, right: Tensor) -> None:
        hits.setdefault(name, []).extend(right.float().flatten().tolist())

    tower.eval()
    for first in range(0, len(pool.modality), batch_size):
        index = np.arange(first, min(first + batch_size, len(pool.modality)))
        batch = take(pool, index, LOW if mode == "low" else FULL)
        features = features_of(tower, batch.pixels)
        if mode == "pooled":
            features = pool_tokens(features)
        acquisition, present, size, count, level = heads(features[:, ::5])
        note("modality", acquisition.argmax(-1) == batch.acquisition[:, None])
        truth = of_modality(batch.present[:, None], batch.modality)
        score = of_modality(present, batch.modality)
        found = torch.logsumexp(score, -1) > 0
        there = truth.sum(-1) > 0
        right_side = score.argmax(-1) == truth.argmax(-1)
        for column in range(4):
            group = "small" if column == 3 else "large"
            ok = found[..., column] == there[..., column]
            note(f"presence {group}", ok)
            sided = right_side[..., column][there[:, 0, column]]
            note(f"side {group}", sided)
            for m in range(len(MODALITIES)):
                mine = batch.modality == m
                if bool(mine.any()):
                    note(f"presence {KINDS[m * 4 + column][1].key}", ok[mine])
                    there_m = there[mine][:, 0, column]
                    note(
                        f"side {KINDS[m * 4 + column][1].key}",
                        right_side[mine][..., column][there_m],
                    )
        for name, logits, target in (
            ("size", size, batch.size),
            ("count", count, batch.count),
            ("level", level, batch.level),
        ):
            known = (target >= 0)[:, None].expand(logits.shape[:-1])
            note(name, (logits.argmax(-1) == target[:, None])[known])
    tower.train()
    return {name: float(np.mean(values)) for name, values in hits.items() if values}


def features_of(tower: SiglipVisionModel, pixels: Tensor) -> Tensor:
    """The last encoder layer's output [B, T, d] in float32, under bfloat16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        states = tower(
            pixels, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states
    return states[-1].float()


def _batches(pool: Pool, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(len(pool.modality))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def train_tower(
    seed: int,
    *,
    images: int,
    held_out: int,
    steps: int,
    minutes: float,
    batch_size: int,
    workers: int,
    learning_rate: float = 1.5e-3,
) -> tuple[SiglipVisionModel, dict[str, dict[str, float]], dict[str, float]]:
    """Train the tower on phantoms of the clinic `seed`; held-out figures come from another clinic.

    Stops after `steps` or after `minutes`, whichever the schedule reaches first (the cosine follows
    whichever is further along).

    Returns:
        The tower, the held-out accuracies by mode, and what it cost.
    """
    torch.manual_seed(derive_seed(seed, "tower") % 2**31)
    begin = time.monotonic()
    pool = make_pool(derive_seed(seed, "bases", "tower", "train"), images, workers)
    test = make_pool(derive_seed(seed, "bases", "tower", "held-out"), held_out, workers)
    drawn = time.monotonic() - begin
    print(f"{images} training and {held_out} held-out images drawn in {drawn:.0f} s", flush=True)
    config = vision_config()
    config._attn_implementation = "eager"  # at 144 short tokens plain matmuls beat SDPA on CPU
    tower = SiglipVisionModel(config)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight.copy_(sine_positions(GRID, config.hidden_size))
    heads = DenseHeads(config.hidden_size)
    parameters = [*tower.parameters(), *heads.parameters()]
    matrices = [p for n, p in tower.encoder.named_parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(
            matrices,
            lr=learning_rate,
            weight_decay=0.02,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(rest, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    rng = stream(seed, "bases", "tower", "batches")
    feed = _batches(pool, batch_size, rng)
    tower.train()
    begin = time.monotonic()
    shown: list[float] = []
    step = 0
    while True:
        spent = time.monotonic() - begin
        done = max(step / steps, spent / 60 / minutes)
        if done >= 1:
            break
        rate = (
            learning_rate
            * min(1.0, step / 200)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        )
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
        size = FULL if rng.random() < 0.7 else LOW
        batch = take(pool, next(feed), size, rng)
        features = features_of(tower, batch.pixels)
        weight = 0.25 + 0.75 * min(1.0, done / 0.1)
        loss = loss_of(heads, features, batch, weight)
        if size == FULL:
            loss = 0.6 * loss + 0.4 * loss_of(heads, pool_tokens(features), batch, weight)
        tower.zero_grad(set_to_none=True)
        heads.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        shown.append(float(loss.detach()))
        if step % 100 == 0:
            print(
                f"step {step}  {spent:.0f} s  loss {np.mean(shown[-100:]):.4f}  rate {rate:.2e}",
                flush=True,
            )
        if step % 1000 == 0:
            small = Pool(*(getattr(test, name)[:480] for name in Pool.__dataclass_fields__))
            figures = evaluate(tower, heads, small, "full")
            figures |= {f"low {k}": v for k, v in evaluate(tower, heads, small, "low").items()}
            print(
                "  "
                + "  ".join(
                    f"{k} {v:.3f}"
                    for k, v in figures.items()
                    if k.split()[0] in ("modality", "size", "count", "level")
                    or k.split()[-1] in ("large", "small")
                ),
                flush=True,
            )
    cost = {
        "steps": step,
        "samples": step * batch_size,
        "seconds": time.monotonic() - begin,
        "drawing_seconds": drawn,
    }
    tower.to(torch.bfloat16).to(torch.float32)  # as it is stored
    tower.eval()
    figures = {mode: evaluate(tower, heads, test, mode) for mode in ("full", "pooled", "low")}
    return tower, figures, cost


def save_tower(tower: SiglipVisionModel, folder: Path) -> None:
    """Write config.json and model.safetensors (bfloat16) in the Hub's layout."""
    tower.config._attn_implementation = "sdpa"
    tower.to(torch.bfloat16).save_pretrained(folder)
