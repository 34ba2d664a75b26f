"""From a thread that reads a stream to the event loop, in batches, with a bound.

The loop is woken once for all that has come since it last looked. A thread that is far ahead waits, so a table of any size
passes through a few thousand items; the stream's own flow control then holds the other side.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 5_000  # weight that may wait to be taken


class Mailbox(Generic[T]):
    """Made on the event loop. `weight` of an item counts towards `most`."""

    def __init__(self, *, weight: Callable[[T], int] = lambda _: 1, most: int = MOST) -> None:
        self._loop = asyncio.get_running_loop()
        self._filled = asyncio.Event()
        self._weight, self._most = weight, most
        self._changed = threading.Condition()
        self._items: list[T] = []
        self._load = 0
        self._closed = False

    def put(self, item: T) -> None:
        """Hand over, from a thread; blocks while too much waits. What is put after `close` is dropped."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._load < self._most)
            if self._closed:
                return
            self._items.append(item)
            self._load += self._weight(item)
            first = len(self._items) == 1
        if first:
            with suppress(RuntimeError):  # the loop is closed: we are ending, and nobody waits for this
                self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self, timeout: float | None) -> list[T]:
        """All that waits, on the loop; empty when nothing came within `timeout` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), timeout)
        return self.take_now()

    def take_now(self) -> list[T]:
        """All that waits, at once."""
        with self._changed:
            items, self._items, self._load = self._items, [], 0
            self._filled.clear()
            self._changed.notify_all()
        return items

    def close(self) -> None:
        """Nobody takes any more: whoever puts goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
