"""What a stage will need: memory of a device by what it is for, and seconds of an optimizer step.

Nothing is allocated: the model is built on the meta device, and activations are counted by running one
block of it on fake tensors, which have shapes and no memory, so that the count follows the code.
Memory is the largest of four moments, each of which holds the weights and the optimizer's state: the tower
at work; the loss, when all activations are held; the first block's backward; the gradient of the
embeddings, when all gradients are held. Time is operations over an assumed share of the peak, and bytes
moved over the bandwidth: on a CPU, where nothing overlaps, rounding weights and reading and writing
activations takes as long as the products of a narrow model, and updating as long as those of a wide one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from infimed.core.recipe import Recipe, Stage, Train
from infimed.model.attention import PACKED, Document, PackedLayout
from infimed.model.modeling import InfiMedForConditionalGeneration
from infimed.model.presets import Preset, build_config
from infimed.training.adam8bit import BLOCK, SMALL
from infimed.training.features import cacheable
from infimed.training.flops import Flops, attended
from infimed.training.hardware import Hardware
from infimed.training.lora import add_adapters
from infimed.training.loss import CHUNK
from infimed.training.memory import blocks, learns
from infimed.training.optimizer import freeze

GIB = 2**30
TEXT_TOKENS = 60
"""Tokens of text an image that a row is assumed to hold where no plan says more."""
TARGET_SHARE = 0.9
"""Share of them that are learned."""
PROCESS_GIB = 0.6
"""Python, torch and the recipe's code before any tensor."""
HOLES = 1.25
"""What an allocator's holes add to memory that comes and goes: 1.3 GiB in the first step of the whole
`infimed-1.7b`, 2.5 in the second (benchmarks/training_widths.py --full)."""
UPDATE_BYTES = {"adamw": 52, "adafactor": 104, "adamw8bit": 2000}
"""What clipping and updating cost a parameter that learns, in the time of so many bytes to or from memory."""
WEIGHT_BYTES, ROUNDING_BYTES = 190, 45
"""What a row costs a weight that learns (rounded for the products, its gradient back to fp32 and added), and a
frozen one in fp32, in the same unit. Most of it are single passes that do not reach the bandwidth."""
BLOCK_PASSES, TOWER_PASSES = 10, 170
"""The same for what a decoder block keeps; and, forward, for the state of a block of the tower. All fit
the measurements of benchmarks/training_widths.py."""


@dataclass(frozen=True)
class Work:
    """What a stage computes and moves.

    Attributes:
        flops: operations of a full row. row_bytes: bytes that it moves; 0 on an accelerator, whose assumed
            share of the peak includes them. step_bytes: bytes that the update of a step moves.
    """

    flops: float
    row_bytes: float
    step_bytes: float

    def seconds(self, machine: Hardware, rows: float, steps: float) -> float:
        """Of so many rows and steps on one device."""
        computing = rows * self.flops / (machine.flops * machine.mfu)
        return computing + (rows * self.row_bytes + steps * self.step_bytes) / machine.bandwidth


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. Of `moments`, the largest adds to what is always there.

    Attributes:
        parameters: weights and, sharded, the whole copies of the two blocks at work.
        gradients, optimizer, activations, logits: what their names say; the last is one chunk.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    moments: dict[str, float]

    @property
    def peak(self) -> float:
        """The most that is held at once."""
        return (
            PROCESS_GIB * GIB
            + self.parameters
            + self.optimizer
            + HOLES * max(self.moments.values())
        )


@dataclass(frozen=True)
class StageEstimate:
    """What a stage needs. `flops` and `seconds` are of one optimizer step, over all devices."""

    stage: str
    memory: Memory
    flops: float
    seconds: float


def meta_model(chosen: Preset, reducer: str = "average") -> InfiMedForConditionalGeneration:
    """The preset's model without memory."""
    with torch.device("meta"):
        model = InfiMedForConditionalGeneration(
            build_config(chosen, image_token_id=0, reducer=reducer)
        )
    model.set_attention(PACKED)
    return model.train()


def staged(model: InfiMedForConditionalGeneration, stage: Stage) -> InfiMedForConditionalGeneration:
    """A meta model as a stage trains it: frozen, at its grid, with its adapters."""
    if stage.lora is not None:
        model = copy.deepcopy(model)
        add_adapters(model, stage.lora, seed=0)
    freeze(model, stage.learning_rate)
    model.set_grid(stage.visual_tokens, stage.image_size)
    return model


def stage_counter(model: InfiMedForConditionalGeneration, stage: Stage) -> Flops:
    """Counts the operations of a stage's rows, on a meta model."""
    return Flops(
        staged(model, stage),
        stage.image_size,
        questions=stage.question_weight > 0,
        isolated=stage.isolation == "document",
    )


def recomputed(flops: Flops, tokens: float) -> float:
    """Operations of computing the language model's blocks a second time (checkpointing)."""
    return 2.0 * flops.language.all * tokens


def typical_row(stage: Stage) -> PackedLayout:
    """A row as full as it gets with documents of one image, in all its views, and a caption each."""
    shown = stage.views * stage.visual_tokens
    document = shown + TEXT_TOKENS
    count = min(stage.max_images // stage.views, max(1, stage.row_tokens // document))
    left = stage.row_tokens - count * document
    rest = (Document(min(left, document)),) * (left // document) if left >= document else ()
    return PackedLayout((Document(shown, (TEXT_TOKENS,)),) * count + rest)


def shown_documents(layout: PackedLayout, stage: Stage) -> int:
    """Documents of a typical row that show an image."""
    return len([d for d in layout.documents if d.trunk >= stage.views * stage.visual_tokens])


def saved_bytes(module: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes that a call keeps for its backward pass, weights themselves not counted."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            held[storage] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


def _faked(block: nn.Module) -> None:
    """Give a block on the meta device weights that claim to be on a CPU."""
    for module in block.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = nn.Parameter(torch.empty(parameter.shape), parameter.requires_grad)
                module._parameters[name] = made


def decoder_block_bytes(
    model: InfiMedForConditionalGeneration, layout: PackedLayout, precision: str
) -> int:
    """Bytes that one decoder block of a meta model keeps for the backward pass of a row."""
    text = model.config.text_config
    _ = layout.places, layout.biases(torch.bfloat16), layout.biases(torch.float32)
    block = blocks(model.model.language_model)[0]
    on, block.gradient_checkpointing = block.gradient_checkpointing, False
    with FakeTensorMode(allow_non_fake_inputs=True):
        _faked(block)
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        turns = tuple(torch.empty(1, layout.tokens, head_dim) for _ in range(2))
        x = torch.empty(1, layout.tokens, text.hidden_size, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            kept = saved_bytes(block, lambda: block(x, position_embeddings=turns, layout=layout))
    block.gradient_checkpointing = on
    return kept


def vision_block_bytes(
    model: InfiMedForConditionalGeneration, images: int, patches: int, precision: str
) -> int:
    """Bytes that one block of the tower keeps for the backward pass."""
    block = blocks(model.model.vision_tower)[0]
    width = model.config.vision_config.hidden_size
    with FakeTensorMode(allow_non_fake_inputs=True):
        _faked(block)
        x = torch.empty(images, patches, width, requires_grad=True)
        extra = {"attention_mask": None} if "Siglip" in type(block).__name__ else {}
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return saved_bytes(block, lambda: block(x, **extra))


def reducer_bytes(
    model: InfiMedForConditionalGeneration, images: int, patches: int, side: int, precision: str
) -> int:
    """Bytes that the reducer keeps for the backward pass of a row's images."""
    reducer = copy.deepcopy(model.model.multi_modal_reducer)
    width, passes = model.config.vision_config.hidden_size, learns(model.model.vision_tower)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _faked(reducer)
        x = torch.empty(images, patches, width, requires_grad=passes)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return saved_bytes(reducer, lambda: reducer(x, side))


def optimizer_bytes(model: nn.Module, name: str) -> int:
    """Bytes of an optimizer's state over the parameters that learn."""
    total = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        count, rows = parameter.numel(), parameter.shape[0]
        if name == "adafactor":
            total += 4 * (rows + count // rows if parameter.ndim > 1 else count)
        elif name == "adamw8bit" and count >= SMALL:
            total += 2 * count + 8 * -(-count // BLOCK)
        else:
            total += 8 * count
    return total


def stage_memory(
    model: InfiMedForConditionalGeneration,
    stage: Stage,
    train: Train,
    machine: Hardware,
    layout: PackedLayout,
) -> Memory:
    """Memory of one device for a stage of a meta model."""
    model = staged(model, stage)
    tower, language, text = (
        model.model.vision_tower,
        model.model.language_model,
        model.config.text_config,
    )
    share = 1 / machine.devices
    halved = train.frozen_dtype == "bf16" and not learns(tower)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    block = sum(p.numel() for p in blocks(language)[0].parameters())
    parameters = share * sum(
        p.numel() * (2 if halved and name.startswith("model.vision_tower.") and p.ndim > 1 else 4)
        for name, p in model.named_parameters()
    )
    if machine.devices > 1:
        parameters += 2 * block * (4 if machine.cpu else 2)
    gradients = share * 4 * learned
    optimizer = share * optimizer_bytes(model, train.optimizer)

    documents = shown_documents(layout, stage)
    images = documents * stage.views
    patches = (stage.image_size // model.patch_size) ** 2
    layers = len(blocks(language))
    kept = decoder_block_bytes(model, layout, train.precision)
    boundary = 4 * layout.tokens * text.hidden_size
    activations = layers * boundary + kept if train.activation_checkpointing else layers * kept
    side = math.isqrt(stage.visual_tokens)
    activations += reducer_bytes(model, images, patches, side, train.precision)
    seen = 4 * images * patches * model.config.vision_config.hidden_size
    states = (len(blocks(tower)) + 1) * seen
    if learns(tower):
        one = vision_block_bytes(model, images, patches, train.precision)
        depth = len(blocks(tower))
        activations += depth * seen + one if train.activation_checkpointing else depth * one

    embedding = 4 * text.vocab_size * text.hidden_size if learns(language) else 0
    targets = min(CHUNK, round(TARGET_SHARE * TEXT_TOKENS * documents) or layout.tokens)
    logits = 12.0 * targets * text.vocab_size
    # The head: logits and their gradients, or its rounded weights with their gradient in bf16 and fp32.
    head = max(logits, logits / 3 + 2 * embedding) + embedding / 2
    before = gradients if stage.rows_per_step > machine.devices else 0.0
    backward = kept + 8 * block
    moments = {
        "tower": before
        + states
        + 6 * images * patches * model.config.vision_config.intermediate_size,
        "loss": max(before, share * embedding) + activations + head,
        "first block": gradients + backward,
        "embeddings": gradients + embedding,
    }
    return Memory(parameters, gradients, optimizer, activations, logits, moments)


def stage_work(
    model: InfiMedForConditionalGeneration,
    stage: Stage,
    train: Train,
    machine: Hardware,
    layout: PackedLayout,
) -> Work:
    """What a row of a stage and an update take on one device."""
    flops = stage_counter(model, stage)
    documents = shown_documents(layout, stage)
    images = documents * stage.views
    targets = round(TARGET_SHARE * TEXT_TOKENS * documents) or layout.tokens
    work = flops.cost(
        tokens=layout.tokens,
        pairs=attended(layout.documents),
        predicted=targets,
        images=images,
        visual_tokens=images * stage.visual_tokens,
        cached=cacheable(stage, train),
    ).total
    work += recomputed(flops, layout.tokens) * train.activation_checkpointing
    staged_model = staged(model, stage)
    learned = sum(p.numel() for p in staged_model.parameters() if p.requires_grad)
    update = UPDATE_BYTES[train.optimizer] * learned / machine.devices
    moved = row_bytes(staged_model, stage, train, images, layout) if machine.cpu else 0.0
    return Work(work, moved, update)


def row_bytes(
    model: InfiMedForConditionalGeneration,
    stage: Stage,
    train: Train,
    images: int,
    layout: PackedLayout,
) -> float:
    """Bytes that a row moves between a CPU and its memory."""
    tower, language = model.model.vision_tower, model.model.language_model
    weights = sum(
        p.numel() * (WEIGHT_BYTES if p.requires_grad else ROUNDING_BYTES)
        for name, p in model.named_parameters()
        if p.requires_grad or not name.startswith("model.vision_tower.")
    )
    again = 4 / 3 if train.activation_checkpointing else 1.0
    kept = decoder_block_bytes(model, layout, train.precision)
    decoder = BLOCK_PASSES * again * len(blocks(language)) * kept
    patches = (stage.image_size // model.patch_size) ** 2
    state = 4 * images * patches * model.config.vision_config.hidden_size
    looked = 0 if cacheable(stage, train) else (3 if learns(tower) else 1)
    return weights + decoder + looked * TOWER_PASSES * len(blocks(tower)) * state


def estimate_stages(recipe: Recipe, chosen: Preset, machine: Hardware) -> list[StageEstimate]:
    """Every stage of a recipe, with rows as full as they get."""
    model = meta_model(chosen, recipe.model.reducer)
    found = []
    for stage in recipe.stages:
        layout = typical_row(stage)
        work = stage_work(model, stage, recipe.train, machine, layout)
        rows = -(-stage.rows_per_step // machine.devices)
        flops, seconds = stage.rows_per_step * work.flops, work.seconds(machine, rows, 1)
        memory = stage_memory(model, stage, recipe.train, machine, layout)
        found.append(StageEstimate(stage.name, memory, flops, seconds))
    return found
