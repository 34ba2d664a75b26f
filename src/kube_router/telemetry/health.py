"""Whether the program is alive and ready, from what its loops report.

Alive: every loop turned lately. A pass that fails is not a reason to be restarted, since a restart repairs nothing
that the next pass would not; a loop that hangs is. Ready: every controller has synced, and none is failing now.
Loops run in threads and tasks alike; the clock is given (monotonic seconds).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

GRACE: Final = 10.0
"""Seconds a loop may be late beyond its period: a busy node, a slow disk, a long first pass."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Good when there is no reason against it; each reason is one line that begins with the name of a loop."""

    reasons: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


@dataclass(slots=True)
class _Loop:
    period: float
    last_beat: float
    synced: bool = False
    trouble: str = ""


class Health:
    """Takes reports from loops and answers the two questions."""

    def __init__(self, clock: Callable[[], float], *, grace: float = GRACE) -> None:
        self._clock = clock
        self._grace = grace
        self._loops: dict[str, _Loop] = {}
        self._lock = threading.Lock()

    def expect(self, name: str, *, period: float) -> None:
        """From now on this loop must beat at least every `period` seconds (and a grace), and must sync once."""
        with self._lock:
            self._loops[name] = _Loop(period, self._clock())

    def beat(self, name: str) -> None:
        """The loop turned, whatever came of it. KeyError for a loop nobody expects."""
        with self._lock:
            self._loops[name].last_beat = self._clock()

    def synced(self, name: str) -> None:
        """The loop brought its part of the node to what it should be; counts as a beat and ends a failure."""
        with self._lock:
            loop = self._loops[name]
            loop.last_beat, loop.synced, loop.trouble = self._clock(), True, ""

    def failing(self, name: str, reason: str) -> None:
        """The loop turned and failed; the reason is shown until it has synced. Counts as a beat."""
        with self._lock:
            loop = self._loops[name]
            loop.last_beat, loop.trouble = self._clock(), " ".join(reason.split()) or "failing"

    def live(self, *names: str) -> Verdict:
        """Whether every loop turns, or those named; one that nobody expects does not."""
        with self._lock:
            now = self._clock()
            missing = tuple(f"{name}: it does not run" for name in names if name not in self._loops)
            return Verdict(
                tuple(
                    f"{name}: no turn for {now - loop.last_beat:.0f} s, allowed are {loop.period + self._grace:.0f} s"
                    for name, loop in self._loops.items()
                    if now - loop.last_beat > loop.period + self._grace and (not names or name in names)
                )
                + missing
            )

    def ready(self) -> Verdict:
        """Whether every controller has synced and none fails."""
        with self._lock:
            if not self._loops:
                return Verdict(("starting: no controller runs yet",))
            return Verdict(
                tuple(
                    f"{name}: {loop.trouble or 'not synced yet'}" for name, loop in self._loops.items() if loop.trouble or not loop.synced
                )
            )
