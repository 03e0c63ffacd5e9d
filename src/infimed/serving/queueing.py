"""Whose turn it is: one request of every client after another, so that no client starves another."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of clients, round robin over the clients and in order within each. Not thread-safe."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def put(self, client: str, item: Item) -> None:
        """Wait at the end of the client's own line."""
        self._clients.setdefault(client, deque()).append(item)

    def peek(self) -> Item | None:
        """Who is next, or None."""
        return next(iter(self._clients.values()))[0] if self._clients else None

    def pop(self) -> Item:
        """Take who is next; its client's turn comes again after all others'."""
        client, line = next(iter(self._clients.items()))
        item = line.popleft()
        if line:
            self._clients.move_to_end(client)
        else:
            del self._clients[client]
        return item

    def sweep(self, gone: Callable[[Item], bool]) -> list[Item]:
        """Take out all items of which `gone` is true."""
        taken: list[Item] = []
        for client, line in list(self._clients.items()):
            left = deque[Item]()
            for item in line:
                (taken if gone(item) else left).append(item)
            if left:
                self._clients[client] = left  # keeps its place
            else:
                del self._clients[client]
        return taken
