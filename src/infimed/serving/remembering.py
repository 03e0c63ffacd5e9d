"""What the engine keeps for later: image features by hash, keys and values of conversations.

Both are bounded in bytes and forget the least recently used. A conversation's keys and values are used only
for the client that had it, so that no client can measure what another has asked. Invariant: a prefix
is reused only where every token and every image of it is the same, and never cut within an image.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class FeatureCache:
    """Image features by content hash."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.hits, self.misses = most_bytes, 0, 0, 0
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, sha256: str) -> Tensor | None:
        """Features [views * visual_tokens, d], or None."""
        found = self._kept.get(sha256)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(sha256)
        return found

    def put(self, sha256: str, features: Tensor) -> None:
        """Keep them, if they fit at all."""
        if features.nbytes > self.most_bytes or sha256 in self._kept:
            return
        self._kept[sha256] = features.clone()  # not a view that keeps a whole batch alive
        self.bytes += features.nbytes
        while self.bytes > self.most_bytes:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class Conversation:
    """Token ids, where each image begins among them, whose hashes, and their keys and values.

    Attributes:
        taken: as `KeyValues.taken` gives them, one slot a token.
    """

    client: str
    ids: NDArray[np.int64]
    images: tuple[tuple[str, int], ...]
    taken: Tensor


class PrefixCache:
    """Keys and values of conversations that may go on."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes, self.reused_tokens = most_bytes, 0, 0
        self._kept: OrderedDict[int, Conversation] = OrderedDict()
        self._next = 0

    def find(
        self, client: str, ids: Sequence[int], images: Sequence[tuple[str, int]]
    ) -> tuple[Tensor, int] | None:
        """Keys and values of the longest known beginning, and its tokens; at least one token is left.

        Args:
            images: hash and first placeholder of each, in order.
        """
        asked = np.asarray(ids, np.int64)
        best, length = None, 0
        for number, kept in self._kept.items():
            if kept.client == client:
                common = common_length(kept, asked, images)
                if common > length:
                    best, length = number, common
        if best is None:
            return None
        self._kept.move_to_end(best)
        self.reused_tokens += length
        return self._kept[best].taken[:, :, :length], length

    def put(self, conversation: Conversation) -> None:
        """Keep it, instead of those that it goes on from."""
        size = conversation.taken.nbytes
        if size > self.most_bytes:
            return
        for number, kept in list(self._kept.items()):
            if (
                kept.client == conversation.client
                and len(kept.ids) <= len(conversation.ids)
                and common_length(kept, conversation.ids, conversation.images, rest=0)
                == len(kept.ids)
            ):
                self._forget(number)
        self._kept[self._next] = conversation
        self._next += 1
        self.bytes += size
        while self.bytes > self.most_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, number: int) -> None:
        self.bytes -= self._kept.pop(number).taken.nbytes


def common_length(
    kept: Conversation,
    asked: NDArray[np.int64],
    images: Sequence[tuple[str, int]],
    *,
    rest: int = 1,
) -> int:
    """Tokens at the beginning that are the same in both, no image cut, `rest` of those asked left over."""
    most = min(len(kept.ids), len(asked) - rest)
    differ = np.flatnonzero(kept.ids[:most] != asked[:most])
    length = int(differ[0]) if len(differ) else max(most, 0)
    for mine, theirs in zip(kept.images, images, strict=False):
        if mine != theirs:
            return min(length, mine[1], theirs[1])
    # An image that only one of the two shows lies behind their common tokens: a placeholder differs there.
    return length
