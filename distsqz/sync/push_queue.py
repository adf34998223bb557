"""The order in which a worker pushes chunks to one shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from distsqz.sync.layout import WINDOW

Item = TypeVar("Item")

MOST_OVERTAKERS = WINDOW - 1
"""How many more urgent chunks may be pushed before a chunk that was ready earlier.

A shard adds gradients in the order of ranks, so a push takes up one of its worker's places there until lower
ranks have pushed the same chunk. If they pushed every more urgent chunk first, the worker would soon have no
place left for what the others wait for."""


@dataclass(slots=True)
class _Waiting(Generic[Item]):
    """A chunk that is ready."""

    chunk: int
    item: Item
    overtakers: int = 0


class PushQueue(Generic[Item]):
    """Chunks that are ready to be pushed. The most urgent one, with the least number, leaves first, except
    that each chunk is overtaken by a few at most, so that all workers push in nearly the same order.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting[Item]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, chunk: int, item: Item) -> None:
        """Adds a chunk that has become ready."""
        self._waiting.append(_Waiting(chunk, item))

    def take(self) -> Item:
        """Removes the chunk to push next."""
        place = 0
        # What became ready earlier has been overtaken at least as often, so the first one decides.
        if self._waiting[0].overtakers < MOST_OVERTAKERS:
            place = min(range(len(self._waiting)), key=lambda index: self._waiting[index].chunk)
        for overtaken in self._waiting[:place]:
            overtaken.overtakers += 1
        return self._waiting.pop(place).item
