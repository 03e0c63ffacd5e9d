"""A streaming conversation with a checkpoint that keeps its key-value cache between turns.

Invariant: what is said equals the answer to the whole conversation asked anew (tests compare them in
fp32). Cost: a turn costs only its own tokens and images; a prompt is fed in parts, so memory grows with
its length and not with the square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from infimed.core.errors import DataError
from infimed.data.record import Message
from infimed.inference.branches import extend, new_cache
from infimed.inference.cache import KeyValues
from infimed.inference.decoding import write
from infimed.inference.local import LocalModel, encode_pictures, writer_of
from infimed.inference.requests import GREEDY, Picture, Request, Sampling

if TYPE_CHECKING:
    from infimed.model.processing import Encoded

TOKENS_PER_PART = 512
"""Tokens of a prompt that are fed together."""


@dataclass
class Chat:
    """A conversation.

    Images are shown with the turn that brings them; user text can never become a control token
    (the processor sees to that).

    Attributes:
        local: who answers. max_new_tokens, sampling, stop: of every answer, as in a `Request`.
        messages, pictures: the conversation so far.
    """

    local: LocalModel
    max_new_tokens: int = 256
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    messages: list[Message] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    _cache: KeyValues | None = None
    _ids: list[int] = field(default_factory=list)

    @torch.no_grad()
    def ask(self, text: str, pictures: Sequence[Picture] = ()) -> Iterator[str]:
        """Add a user turn and stream the answer as pieces of text; keeps both as turns.

        Raises:
            DataError: an image cannot be read, or the conversation outgrew the model.
        """
        first = len(self.pictures)
        turn = Message("user", (*range(first, first + len(pictures)), text))
        asked = Request(
            "chat",
            (*self.messages, turn),
            (*self.pictures, *pictures),
            self.max_new_tokens,
            sampling=self.sampling,
            stop=self.stop,
        )
        said = ""
        for piece in self._stream(asked):
            said += piece
            yield piece
        self.messages = [*asked.messages, Message("assistant", (said,))]
        self.pictures = list(asked.pictures)

    def reset(self) -> None:
        """Forget every turn and image.

        The cache goes too: its tokens say that an image was shown, and not which.
        """
        self.messages, self.pictures = [], []
        self._cache, self._ids = None, []

    def _stream(self, asked: Request) -> Iterator[str]:
        model, processor = self.local.model, self.local.processor
        encoded = self._encode(asked)
        ids = encoded.input_ids
        limit = int(model.config.text_config.max_position_embeddings)
        if len(ids) + 1 > limit:
            raise DataError(
                f"the conversation has {len(ids)} tokens and the model takes {limit}",
                fix="start a new chat, or show fewer images",
            )
        keep = self._reusable(ids, processor.image_token_id)
        # Until this answer is complete the cache holds what no later turn may rely on.
        cache, self._cache, self._ids = self._cache or new_cache(model, 1), None, []
        cache.crop(keep)
        hidden = self._feed(cache, asked, encoded, keep)
        most = min(asked.max_new_tokens, limit - len(ids))
        writer = writer_of(processor, replace(asked, max_new_tokens=most), 0, 0, len(ids))
        for _ in write(model, cache, hidden, [writer]):
            piece = writer.piece()
            if piece:
                yield piece
        self._cache, self._ids = cache, [*ids, *writer.ids][: cache.lengths[0]]

    def _encode(self, asked: Request) -> Encoded:
        sizes = [picture.size for picture in asked.pictures]
        return self.local.processor.encode(asked.messages, sizes, generation=True)

    def _feed(self, cache: KeyValues, asked: Request, encoded: Encoded, keep: int) -> Tensor:
        """Add what the cache lacks of a prompt; returns the last hidden state [1, d].

        Raises:
            DataError: an image cannot be read.
        """
        model, processor = self.local.model, self.local.processor
        rest = list(encoded.input_ids[keep:])
        new_views = rest.count(processor.image_token_id) // processor.visual_tokens
        pictures: list[Picture] = []
        for index, views in zip(reversed(encoded.images), reversed(encoded.views), strict=True):
            if new_views <= 0:
                break
            pictures.insert(0, asked.pictures[index])
            new_views -= views
        features, failed = encode_pictures(model, processor, pictures)
        if failed:
            raise DataError(f"the image cannot be read: {next(iter(failed.values()))}")
        stacked = torch.cat([features[p.sha256] for p in pictures]) if pictures else None
        embedded = model.embed(torch.tensor([rest], device=cache.device), stacked)
        hidden = embedded[0]
        for start in range(0, len(rest), TOKENS_PER_PART):
            part = embedded[:, start : start + TOKENS_PER_PART]
            begin, count = keep + start, part.shape[1]
            hidden = extend(
                model, cache, part, [0] * count, [0] * count, list(range(begin, begin + count))
            )
        return hidden[-1:]

    def _reusable(self, ids: Sequence[int], image_token: int) -> int:
        """Length of the prefix whose cache still holds; never cuts an image, leaves one token."""
        keep = 0
        while keep < min(len(ids) - 1, len(self._ids)) and ids[keep] == self._ids[keep]:
            keep += 1
        while 0 < keep < len(ids) and ids[keep] == image_token:
            keep -= 1
        return keep


def stream(
    local: LocalModel,
    text: str,
    pictures: Sequence[Picture] = (),
    max_new_tokens: int = 256,
    sampling: Sampling = GREEDY,
) -> Iterator[str]:
    """The answer to one question, piece by piece."""
    return Chat(local, max_new_tokens, sampling).ask(text, pictures)
