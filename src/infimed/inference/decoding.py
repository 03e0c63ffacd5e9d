"""Writing answers, one token after another: the one loop behind batches, streams and chats.

Which token follows is greedy unless a request samples. A request draws its random numbers from its own
seed, one a token, so its answer does not depend on what is answered beside it. An answer ends with
the end of its turn, before a stop string, or at its longest; a row whose answers are all written
leaves the batch once such rows are half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infimed.core.seeds import stream
from infimed.inference.branches import extend
from infimed.inference.cache import KeyValues
from infimed.inference.requests import Sampling

HALF_CHARACTER = "\ufffd"
"""What a decoder makes of bytes that are not a whole character yet."""


def sample(logits: Tensor, sampling: Sampling, draw: float) -> int:
    """A token from logits [vocabulary], by inverting the distribution function at `draw` in [0, 1).

    Of the likeliest `top_k` tokens those stay that are needed to reach the probability `top_p` (nucleus
    sampling, Holtzman et al. 2020, arXiv:1904.09751); the likeliest always does.
    """
    logits = logits.double()
    # The largest becomes 0, so that a tiny temperature makes no infinity of it, and no NaN of the shares.
    logits = (logits - logits.max()) / sampling.temperature
    order: Tensor | None = None
    if sampling.top_k or sampling.top_p < 1.0:
        count = min(sampling.top_k or len(logits), len(logits))
        logits, order = torch.topk(logits, count)
    shares = logits.softmax(dim=-1)
    reached = shares.cumsum(dim=-1)
    if sampling.top_p < 1.0:
        reached = reached[: int((reached - shares < sampling.top_p).sum())]
    chosen = int(torch.searchsorted(reached, draw * reached[-1], right=True))
    chosen = min(chosen, len(reached) - 1)
    return chosen if order is None else int(order[chosen])


@dataclass
class Writer:
    """One answer while it is written.

    Attributes:
        row, branch: where it grows. position: of the next token.
        decode: ids -> text. stop_ids: tokens that end a turn.
        most: longest answer, tokens. sampling, stop: as in a request.
        ids: what is written, without the token that ended the turn.
        stopped: it ended by itself or before a stop string.
    """

    row: int
    branch: int
    position: int
    decode: Callable[[Sequence[int]], str]
    stop_ids: Sequence[int]
    most: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    ids: list[int] = field(default_factory=list)
    stopped: bool = False
    _shown: int = 0

    def __post_init__(self) -> None:
        self._draws: np.random.Generator = stream(self.sampling.seed, "sampling")

    @property
    def open(self) -> bool:
        """Whether another token is wanted."""
        return not self.stopped and len(self.ids) < self.most

    def choose(self, logits: Tensor, likeliest: int) -> int:
        """The next token, of logits [vocabulary] whose largest is `likeliest`'s."""
        if self.sampling.greedy:
            return likeliest
        return sample(logits, self.sampling, float(self._draws.random()))

    def put(self, token: int) -> None:
        """Write a token, or end."""
        if token in self.stop_ids:
            self.stopped = True
            return
        self.ids.append(token)
        self.stopped = bool(self.stop) and self._cut(self.decode(self.ids)) is not None

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins."""
        found = [at for at in (text.find(word) for word in self.stop) if at >= 0]
        return min(found) if found else None

    @property
    def text(self) -> str:
        """What is written, without white space around it."""
        text = self.decode(self.ids)
        return text[: self._cut(text)].strip()

    def piece(self) -> str:
        """What can be shown since the last call; all pieces together are `text`.

        While more may come, half a character, white space at the end and the beginning of a stop string
        wait.
        """
        if not self.open:
            text = self.text
        else:
            whole = self.decode(self.ids).rstrip(HALF_CHARACTER)
            begun = [
                size
                for word in self.stop
                for size in range(1, len(word))
                if whole.endswith(word[:size])
            ]
            text = whole[: len(whole) - max(begun, default=0)].strip()
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece


@torch.no_grad()
def choose_next(
    model: Any,
    hidden: Tensor,
    writers: Sequence[Writer],
    failed: Callable[[int, Exception], object] | None = None,
) -> None:
    """Write the next token of every answer.

    An image placeholder is never written: it would stand for an image that is not there.

    Args:
        hidden: [writers, d], the last state of each.
        failed: told the number of a writer that raised, and what, instead of raising it for all. What is
            raised nevertheless was raised before any writer was asked.
    """
    logits = model.lm_head(hidden).float()
    logits[:, model.config.image_token_id] = -torch.inf
    likeliest = logits.argmax(dim=-1).tolist()
    for number, (writer, own, best) in enumerate(zip(writers, logits, likeliest, strict=True)):
        try:
            writer.put(writer.choose(own, best))
        except Exception as error:
            if failed is None:
                raise
            failed(number, error)


@torch.no_grad()
def feed_newest(
    model: Any, cache: KeyValues, writers: Sequence[Writer], place: Mapping[int, int]
) -> Tensor:
    """Compute the newest token of every answer; returns hidden states [writers, d].

    Args:
        place: where each row of the writers is in the cache.
    """
    newest = torch.tensor([[writer.ids[-1] for writer in writers]], device=cache.device)
    return extend(
        model,
        cache,
        model.get_input_embeddings()(newest),
        [place[writer.row] for writer in writers],
        [writer.branch for writer in writers],
        [writer.position + len(writer.ids) - 1 for writer in writers],
    )


@torch.no_grad()
def write(
    model: Any, cache: KeyValues, hidden: Tensor, writers: Sequence[Writer]
) -> Iterator[Sequence[Writer]]:
    """Write all answers; yields those that got a token or ended, after every step.

    Args:
        cache: rows as the writers name them; rows that are done are taken out of it.
        hidden: [writers, d], the last state before each answer.
    """
    going = [writer for writer in writers if writer.open]
    rows = list(range(len(cache.lengths)))
    while going:
        choose_next(model, hidden, going)
        yield going
        going = [writer for writer in going if writer.open]
        if not going:
            return
        needed = {writer.row for writer in going}
        if 2 * len(needed) <= len(rows):
            cache.keep([at for at, row in enumerate(rows) if row in needed])
            rows = [row for row in rows if row in needed]
        hidden = feed_newest(model, cache, going, {row: at for at, row in enumerate(rows)})
