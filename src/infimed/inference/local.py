"""Our own checkpoints as a model: answers and option scores, many requests together.

The same processor that rendered the training data renders the requests. Invariant: answers equal
those of asking one question at a time (tests compare them in fp32); batches depend on the full list
of requests only. Cost: one pass per image plus one per question, see `branches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from infimed.core.errors import DataError, MemoryBudgetError
from infimed.core.files import sha256_json
from infimed.data.record import Message, Record
from infimed.inference.answer_loss import IGNORE, Continuation, LossRow, target_losses
from infimed.inference.branches import Row, fill, new_cache
from infimed.inference.cache import CACHED
from infimed.inference.decoding import Writer, write
from infimed.inference.requests import ChoiceScores, OptionScore, Picture, Pixels, Request, Response

if TYPE_CHECKING:
    from infimed.model.modeling import InfiMedForConditionalGeneration
    from infimed.model.processing import Processor

IMAGES_PER_PASS = 8
"""Images encoded together; more gains nothing on a CPU and costs memory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as token ids: the trunk up to the last image, and the rest."""

    request: Request
    trunk: tuple[int, ...]
    branch: tuple[int, ...]
    pictures: tuple[Picture, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the question as a whole."""
        return len(self.trunk) + len(self.branch)

    @property
    def group(self) -> tuple[object, ...]:
        """Requests with equal groups share one trunk."""
        shas = tuple(picture.sha256 for picture in self.pictures)
        return (shas, self.trunk) if self.trunk else (self.request.id,)


def prepare(processor: Processor, request: Request) -> Prepared:
    """Token ids of a request. Images are in the order in which the turns show them."""
    sizes = [picture.size for picture in request.pictures]
    encoded = processor.encode(request.messages, sizes, generation=True)
    pictures = tuple(request.pictures[index] for index in encoded.images)
    ids = tuple(encoded.input_ids)
    return Prepared(request, ids[: encoded.trunk], ids[encoded.trunk :], pictures)


def plan_batches(prepared: Sequence[Prepared], batch_size: int) -> list[list[int]]:
    """Group requests by shared images, then groups into batches, in the order of their first request.

    At most `batch_size` requests a batch; a larger group is cut. A pure function of its arguments.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, item in enumerate(prepared):
        groups.setdefault(item.group, []).append(index)
    batches: list[list[int]] = [[]]
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            if len(batches[-1]) + len(part) > batch_size:
                batches.append([])
            batches[-1].extend(part)
    return [batch for batch in batches if batch]


def encode_pictures(
    model: InfiMedForConditionalGeneration, processor: Processor, pictures: Sequence[Picture]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Features [views * visual_tokens, d] by picture hash, and the reason for each that cannot be read."""
    features: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    distinct = list({picture.sha256: picture for picture in pictures}.values())
    for start in range(0, len(distinct), IMAGES_PER_PASS):
        loaded = []
        for picture in distinct[start : start + IMAGES_PER_PASS]:
            try:
                views = picture.views
                if views is None:
                    views = processor.views(picture.load(), picture.size)
                loaded.append((picture.sha256, views))
            except (DataError, OSError) as error:
                failed[picture.sha256] = str(error).splitlines()[0]
        made = encode_views(model, processor, [views for _, views in loaded])
        features |= {sha256: own for (sha256, _), own in zip(loaded, made, strict=True)}
    return features, failed


def encode_views(
    model: InfiMedForConditionalGeneration, processor: Processor, images: Sequence[Pixels]
) -> list[Tensor]:
    """Features [views * visual_tokens, d] of each image, given as views uint8 [views, S, S, 3]."""
    if not images:
        return []
    parameter = next(model.parameters())
    shown = [view for views in images for view in views]
    passes = []
    for at in range(0, len(shown), IMAGES_PER_PASS):
        pixels = processor.pixels(shown[at : at + IMAGES_PER_PASS])
        pixels = pixels.to(parameter.device, parameter.dtype)
        passes.append(model.image_features(pixels, processor.visual_tokens))
    made = torch.cat(passes).split([len(views) for views in images])
    return [own.flatten(0, 1) for own in made]


@dataclass
class LocalModel:
    """A checkpoint in this process.

    Attributes:
        model, processor: as `infimed.model.loading.load_checkpoint` returns them. The processor's
            grid is the one that is asked.
        checkpoint: fingerprint of the weights, from the checkpoint's manifest.
        batch_size: most questions answered together.
    """

    model: InfiMedForConditionalGeneration
    processor: Processor
    checkpoint: str
    batch_size: int = 32
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.model.eval()
        self.model.set_attention(CACHED)
        self.fingerprint = sha256_json(
            {
                "checkpoint": self.checkpoint,
                "template": self.processor.template_hash,
                "image_size": self.processor.image_size,
                "visual_tokens": self.processor.visual_tokens,
                **({"tiles": self.processor.tiles} if self.processor.tiles else {}),
                "dtype": str(next(self.model.parameters()).dtype),
            }
        )

    @staticmethod
    def open(
        run_or_checkpoint: Path, *, dtype: torch.dtype = torch.float32, batch_size: int = 32
    ) -> LocalModel:
        """Load the newest complete checkpoint of a run folder, or a checkpoint folder.

        Raises:
            DataError: there is no complete checkpoint.
        """
        from infimed.core.files import read_json
        from infimed.model.loading import MARKER, find_checkpoint, load_checkpoint

        folder = find_checkpoint(run_or_checkpoint)
        model, processor = load_checkpoint(folder, dtype)
        manifest = read_json(folder / MARKER)
        return LocalModel(model, processor, str(manifest["fingerprint"]), batch_size)

    def conversation(
        self, record: Record, option_order: Sequence[int] | None
    ) -> tuple[Message, ...]:
        """The turns as training rendered them."""
        return self.processor.conversation(record, option_order=option_order, answer=False)

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """See `plan_batches`."""
        return plan_batches(
            [prepare(self.processor, request) for request in requests], self.batch_size
        )

    @torch.no_grad()
    def respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        """Answer one batch; unreadable images and over-long questions become errors.

        Raises:
            MemoryBudgetError: the batch does not fit in memory.
        """
        with memory_named(len(requests)):
            ready, features, failed = self._ready(requests)
            found = self._answer(ready, features)
        for request in requests:
            error = failed.get(request.id)
            yield (
                found[request.id]
                if error is None
                else Response(request.id, "", "error", error=error)
            )

    @torch.no_grad()
    def score_choices(self, requests: Sequence[Request]) -> list[ChoiceScores]:
        """How likely each of a request's choices is as its answer, instead of writing one.

        All options of all questions about the same images share their trunk, so scoring five options
        costs one image. `max_new_tokens`, `sampling` and `stop` have no effect.

        Raises:
            DataError: a request has no choices, or an empty one.
            MemoryBudgetError: the batch does not fit in memory.
        """
        options: dict[str, list[list[int]]] = {}
        for request in requests:
            ids = [self.processor.text_ids(choice) for choice in request.choices]
            if not ids or not all(ids):
                raise DataError(
                    "an option is empty, or there is none",
                    where=request.id,
                    seen=list(request.choices),
                )
            options[request.id] = ids
        with memory_named(len(requests)):
            ready, features, failed = self._ready(
                requests, {name: max(map(len, ids)) for name, ids in options.items()}
            )
            rows = [
                LossRow(
                    members[0].trunk,
                    tuple(
                        answered(m.branch, ids) for m in members for ids in options[m.request.id]
                    ),
                    shown(members[0], features),
                )
                for members in ready
            ]
            found = {}
            for members, scores in zip(ready, target_losses(self.model, rows), strict=True):
                each = iter(scores)
                for member in members:
                    name = member.request.id
                    scored = islice(each, len(options[name]))
                    found[name] = tuple(OptionScore(-loss, count) for loss, count in scored)
        return [ChoiceScores(r.id, found.get(r.id, ()), failed.get(r.id, "")) for r in requests]

    def _ready(
        self, requests: Sequence[Request], room: Mapping[str, int] | None = None
    ) -> tuple[list[list[Prepared]], dict[str, Tensor], dict[str, str]]:
        """Requests that can be answered, those with one trunk together; their images' features by hash;
        and for each other request why it cannot.

        Args:
            room: tokens to leave for the answer, by request id; its `max_new_tokens` otherwise.
        """
        prepared = [prepare(self.processor, request) for request in requests]
        features, broken = encode_pictures(
            self.model, self.processor, [picture for item in prepared for picture in item.pictures]
        )
        limit = int(self.model.config.text_config.max_position_embeddings)
        groups: dict[tuple[object, ...], list[Prepared]] = {}
        failed: dict[str, str] = {}
        for item in prepared:
            request = item.request
            unread = [broken[p.sha256] for p in item.pictures if p.sha256 in broken]
            most = request.max_new_tokens if room is None else room[request.id]
            needed = item.tokens + most
            if unread:
                failed[request.id] = unread[0]
            elif needed > limit:
                failed[request.id] = f"{needed} tokens are more than the model's {limit}"
            else:
                groups.setdefault(item.group, []).append(item)
        return list(groups.values()), features, failed

    def _answer(
        self, ready: Sequence[Sequence[Prepared]], features: Mapping[str, Tensor]
    ) -> dict[str, Response]:
        """Answers by request id; requests with one trunk stand together."""
        if not ready:
            return {}
        rows = [
            Row(members[0].trunk, [m.branch for m in members], shown(members[0], features))
            for members in ready
        ]
        cache = new_cache(self.model, len(rows))
        states = fill(self.model, rows, cache)
        last = torch.cat(
            [of[[end - 1 for end in row.ends()]] for row, of in zip(rows, states, strict=True)]
        )
        del states
        writers = [
            writer_of(self.processor, member.request, number, branch, member.tokens)
            for number, members in enumerate(ready)
            for branch, member in enumerate(members)
        ]
        for _ in write(self.model, cache, last, writers):
            pass
        asked = [member.request for members in ready for member in members]
        return {
            request.id: Response(
                request.id,
                writer.text,
                "ok" if writer.stopped else "truncated",
                new_tokens=len(writer.ids),
            )
            for request, writer in zip(asked, writers, strict=True)
        }


def shown(item: Prepared, features: Mapping[str, Tensor]) -> Tensor | None:
    """Features [images * visual_tokens, d] of a request's images in order, or None without."""
    return torch.cat([features[p.sha256] for p in item.pictures]) if item.pictures else None


def writer_of(
    processor: Processor, request: Request, row: int, branch: int, position: int
) -> Writer:
    """Who writes the answer to a request."""
    return Writer(
        row,
        branch,
        position,
        processor.raw_text,
        processor.stop_ids,
        request.max_new_tokens,
        request.sampling,
        request.stop,
    )


def answered(branch: Sequence[int], answer: Sequence[int]) -> Continuation:
    """A question with an answer, of which the answer's tokens are predicted."""
    silent = len(branch) - 1
    return Continuation((*branch, *answer[:-1]), (*[IGNORE] * silent, *answer))


@contextmanager
def memory_named(questions: int) -> Iterator[None]:
    """Name the way out where memory runs out."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise MemoryBudgetError(
            f"{questions} questions at once do not fit in memory",
            fix="lower --batch-size (evaluation.batch_size of a recipe)",
        ) from error
