"""Our own checkpoints as a model: batched greedy answers, and a streaming chat.

The same processor that rendered the training data renders the requests. Invariant: answers equal
those of asking one question at a time (tests compare them in fp32); batches depend on the full list
of requests only. Cost: one pass per image plus one per question, see `branches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infimed.core.errors import DataError, MemoryBudgetError
from infimed.core.files import sha256_json
from infimed.data.record import Message, Record
from infimed.inference.branches import Row, greedy, next_tokens
from infimed.inference.requests import Picture, Request, Response

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
    """Group requests by shared images, then groups of equal trunk length into batches.

    At most `batch_size` requests a batch; a larger group is cut. A pure function of its arguments.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, item in enumerate(prepared):
        groups.setdefault((item.group, item.request.max_new_tokens), []).append(index)
    open_batch: dict[tuple[int, int], list[int]] = {}
    done: list[list[int]] = []
    for members in groups.values():
        first = prepared[members[0]]
        kind = (len(first.trunk), first.request.max_new_tokens)
        for start in range(0, len(members), batch_size):
            part = members[start : start + batch_size]
            current = open_batch.setdefault(kind, [])
            if current and len(current) + len(part) > batch_size:
                done.append(current)
                current = open_batch[kind] = []
            current.extend(part)
    done.extend(batch for batch in open_batch.values() if batch)
    return sorted(done, key=lambda batch: batch[0])


def encode_pictures(
    model: InfiMedForConditionalGeneration, processor: Processor, pictures: Sequence[Picture]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Features [views * visual_tokens, d] by picture hash, and the reason for each that cannot be read."""
    features: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    parameter = next(model.parameters())
    distinct = list({picture.sha256: picture for picture in pictures}.values())
    for start in range(0, len(distinct), IMAGES_PER_PASS):
        loaded = []
        for picture in distinct[start : start + IMAGES_PER_PASS]:
            try:
                loaded.append((picture.sha256, processor.views(picture.load(), picture.size)))
            except (DataError, OSError) as error:
                failed[picture.sha256] = str(error).splitlines()[0]
        if loaded:
            shown = [view for _, views in loaded for view in views]
            passes = []
            for at in range(0, len(shown), IMAGES_PER_PASS):
                pixels = processor.pixels(shown[at : at + IMAGES_PER_PASS]).to(
                    parameter.device, parameter.dtype
                )
                passes.append(model.image_features(pixels, processor.visual_tokens))
            made = torch.cat(passes).split([len(views) for _, views in loaded])
            for (sha256, _), own in zip(loaded, made, strict=True):
                features[sha256] = own.flatten(0, 1)
    return features, failed


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
        self.model.set_attention("sdpa")
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
        try:
            yield from self._respond(requests)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise MemoryBudgetError(
                f"{len(requests)} questions at once do not fit in memory",
                fix="lower evaluation.batch_size",
            ) from error

    def _respond(self, requests: Sequence[Request]) -> Iterator[Response]:
        prepared = [prepare(self.processor, request) for request in requests]
        features, failed = encode_pictures(
            self.model, self.processor, [picture for item in prepared for picture in item.pictures]
        )
        limit = int(self.model.config.text_config.max_position_embeddings)
        ready: list[Prepared] = []
        answers: dict[str, Response] = {}
        for item in prepared:
            broken = [failed[p.sha256] for p in item.pictures if p.sha256 in failed]
            needed = len(item.trunk) + len(item.branch) + item.request.max_new_tokens
            if broken:
                answers[item.request.id] = Response(item.request.id, "", "error", error=broken[0])
            elif needed > limit:
                reason = f"{needed} tokens are more than the model's {limit}"
                answers[item.request.id] = Response(item.request.id, "", "error", error=reason)
            else:
                ready.append(item)
        kinds: dict[tuple[int, int], list[Prepared]] = {}
        for item in ready:
            kinds.setdefault((len(item.trunk), item.request.max_new_tokens), []).append(item)
        for (_, most), items in kinds.items():
            for response in self._answer(items, features, most):
                answers[response.id] = response
        for request in requests:
            yield answers[request.id]

    def _answer(
        self, items: Sequence[Prepared], features: dict[str, Tensor], most: int
    ) -> Iterator[Response]:
        """Greedy answers of requests with trunks of one length."""
        groups: dict[tuple[object, ...], list[Prepared]] = {}
        for item in items:
            groups.setdefault(item.group, []).append(item)
        rows = [
            Row(
                list(members[0].trunk),
                [list(member.branch) for member in members],
                torch.cat([features[p.sha256] for p in members[0].pictures])
                if members[0].pictures
                else None,
            )
            for members in groups.values()
        ]
        answers = greedy(self.model, rows, self.processor.stop_ids, most)
        for members, found in zip(groups.values(), answers, strict=True):
            for member, (ids, stopped) in zip(members, found, strict=True):
                yield Response(
                    member.request.id,
                    self.processor.decode(ids),
                    "ok" if stopped else "truncated",
                    new_tokens=len(ids),
                )


@dataclass
class Chat:
    """A conversation that keeps its key-value cache, so a turn costs only its own tokens.

    Images are shown with the turn that brings them; user text can never become a control token
    (the processor sees to that).
    """

    local: LocalModel
    max_new_tokens: int = 256
    messages: list[Message] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    _cache: Any = None
    _ids: list[int] = field(default_factory=list)

    @torch.no_grad()
    def ask(self, text: str, pictures: Sequence[Picture] = ()) -> Iterator[str]:
        """Add a user turn and stream the answer as pieces of text; keeps both as turns.

        Raises:
            DataError: an image cannot be read, or the conversation outgrew the model.
        """
        first = len(self.pictures)
        turn = Message("user", (*range(first, first + len(pictures)), text))
        messages = (*self.messages, turn)
        shown = [*self.pictures, *pictures]
        said = ""
        for piece in self._stream(messages, shown):
            said += piece
            yield piece
        self.messages = [*messages, Message("assistant", (said,))]
        self.pictures = shown

    def reset(self) -> None:
        """Forget every turn and image.

        The cache goes too: its tokens say that an image was shown, and not which.
        """
        self.messages, self.pictures = [], []
        self._cache, self._ids = None, []

    def _stream(self, messages: Sequence[Message], pictures: Sequence[Picture]) -> Iterator[str]:
        from transformers import DynamicCache

        model, processor = self.local.model, self.local.processor
        sizes = [picture.size for picture in pictures]
        encoded = processor.encode(messages, sizes, generation=True)
        ids = encoded.input_ids
        limit = int(model.config.text_config.max_position_embeddings)
        if len(ids) + 1 > limit:
            raise DataError(
                f"the conversation has {len(ids)} tokens and the model takes {limit}",
                fix="start a new chat, or show fewer images",
            )
        keep = self._reusable(ids, processor.image_token_id)
        if self._cache is None or keep == 0:
            self._cache, keep = DynamicCache(), 0
        elif keep < self._cache.get_seq_length():
            self._cache.crop(keep - self._cache.get_seq_length())
        # Until this answer is complete the cache holds what no later turn may rely on.
        cache, self._cache, self._ids = self._cache, None, []
        rest = ids[keep:]
        new_views = rest.count(processor.image_token_id) // processor.visual_tokens
        shown: list[Picture] = []
        for index, views in zip(reversed(encoded.images), reversed(encoded.views), strict=True):
            if new_views <= 0:
                break
            shown.insert(0, pictures[index])
            new_views -= views
        features, failed = encode_pictures(model, processor, shown)
        if failed:
            raise DataError(f"the image cannot be read: {next(iter(failed.values()))}")
        device = next(model.parameters()).device
        stacked = torch.cat([features[picture.sha256] for picture in shown]) if shown else None
        embedded = model.embed(torch.tensor([rest], device=device), stacked)
        written: list[int] = []
        past, emitted = keep, ""
        for _ in range(min(self.max_new_tokens, limit - len(ids))):
            end = past + embedded.shape[1]
            hidden = model.model.language_model(
                inputs_embeds=embedded,
                position_ids=torch.arange(past, end, device=device).unsqueeze(0),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            past = end
            (token,) = next_tokens(model, hidden[:, -1])
            if token in processor.stop_ids:
                break
            written.append(token)
            text = processor.decode(written)
            if text.startswith(emitted) and not text.endswith("\ufffd"):  # half a character: wait
                if len(text) > len(emitted):
                    yield text[len(emitted) :]
                emitted = text
            embedded = model.get_input_embeddings()(torch.tensor([[token]], device=device))
        whole = processor.decode(written)
        if whole.startswith(emitted) and len(whole) > len(emitted):
            yield whole[len(emitted) :]
        self._cache, self._ids = cache, [*ids, *written][:past]

    def _reusable(self, ids: Sequence[int], image_token: int) -> int:
        """Length of the prefix whose cache still holds; never cuts an image, leaves one token."""
        keep = 0
        while keep < min(len(ids) - 1, len(self._ids)) and ids[keep] == self._ids[keep]:
            keep += 1
        while 0 < keep < len(ids) and ids[keep] == image_token:
            keep -= 1
        return keep


def stream(
    local: LocalModel, text: str, pictures: Sequence[Picture] = (), max_new_tokens: int = 256
) -> Iterator[str]:
    """The answer to one question, piece by piece."""
    return Chat(local, max_new_tokens).ask(text, pictures)
