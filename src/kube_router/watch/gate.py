"""Waiting between attempts: back-off with jitter, and one knock at a time on a server that does not answer.

When the API server is away every watch of every node finds out at the same moment. If each of them tried again by itself,
the server would come back into a storm; so while nobody answers, one thread of the process knocks and the others wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple


class Backoff(NamedTuple):
    """Delays that double from `first` up to `most` seconds, each spread by half of it to both sides."""

    first: float = 0.2
    most: float = 5.0

    def delay(self, failures: int, chance: float) -> float:
        """Seconds before the next attempt after so many failures in a row (0 waits not at all); `chance` is in [0, 1)."""
        if failures <= 0:
            return 0.0
        return float(min(self.most, self.first * 2 ** min(failures - 1, 30)) * (0.5 + chance))


class Gate:
    """Open while the API server answers. Threads pass one by one while it does not."""

    def __init__(self, backoff: Backoff, *, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._backoff = backoff
        self._clock = clock
        self._random = random
        self._changed = threading.Condition()
        self._failures = 0
        self._next = 0.0
        self._knocker: int | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the server answered last time."""
        return self._failures == 0

    def enter(self) -> bool:
        """Wait until it is this thread's turn to send a request; False when the gate was closed for good.

        After True the thread must say `answered` or `silent`.
        """
        me = threading.get_ident()
        with self._changed:
            while not self._closed:
                if self._failures == 0:
                    return True
                wait = self._next - self._clock() if self._knocker is None else None
                if wait is not None and wait <= 0:
                    self._knocker = me
                    return True
                self._changed.wait(wait)
            return False

    def answered(self) -> bool:
        """The server said something, whatever it was. True when it had been silent until now."""
        with self._changed:
            was_silent = self._failures > 0
            self._failures, self._knocker = 0, None
            self._changed.notify_all()
            return was_silent

    def silent(self) -> bool:
        """Nobody answered this thread. True when until now they had.

        Of the requests that were under way when the server went, only the first counts.
        """
        with self._changed:
            if self._failures and self._knocker != threading.get_ident():
                return False
            self._failures += 1
            self._knocker = None
            self._next = self._clock() + self._backoff.delay(self._failures, self._random())
            self._changed.notify_all()
            return self._failures == 1

    def close(self) -> None:
        """Let every waiting thread go; none is to send anything more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
