"""When the next pass of a controller is due; pure, time is handed in.

Three gaps: `min_gap` between the end of one pass and the start of the next, so that a burst of events becomes one batch;
`max_gap` until everything is audited, whether or not anything happened; and after a pass that was not good a retry gap that
doubles from `retry_first` to `retry_most`. A retry never waits when something new comes in: an event shortens the wait to
the min gap, so one stuck item does not delay its neighbours. A pass may also ask for the next one at a time of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.model.state import Key


class Schedule:
    """All times are seconds of one monotonic clock."""

    def __init__(
        self,
        now: float,
        *,
        kinds: Iterable[type[Key]],
        min_gap: float = 0.005,
        max_gap: float = 300.0,
        retry_first: float = 0.25,
        retry_most: float = 30.0,
        audit_gap: float = 0.5,
    ) -> None:
        self._kinds = frozenset(kinds)
        self._min_gap, self._max_gap = min_gap, max_gap
        self._retry_first, self._retry_most = retry_first, retry_most
        self._audit_gap = audit_gap
        self._poked: bool = True
        self._suspects: set[type[Key]] = set()
        self._ended = now - min_gap
        self._audited = now
        self._targeted = now - audit_gap
        self._retry_at: float | None = None
        self._retry_gap = retry_first
        self._again_at: float | None = None

    def poke(self) -> None:
        """Something changed: a pass is due as soon as the min gap allows."""
        self._poked = True

    def suspect(self, kinds: Iterable[type[Key]]) -> None:
        """Somebody else may have disturbed these kinds: audit them soon (at most once per `audit_gap`)."""
        self._suspects |= self._kinds.intersection(kinds)

    def due(self) -> float:
        """When the next pass is due."""
        times = [self._audited + self._max_gap]
        if self._poked:
            times.append(self._ended + self._min_gap)
        if self._suspects:
            times.append(max(self._targeted + self._audit_gap, self._ended + self._min_gap))
        if self._retry_at is not None:
            times.append(self._retry_at)
        if self._again_at is not None:
            times.append(self._again_at)
        return min(times)

    def start(self, now: float) -> frozenset[type[Key]]:
        """A pass starts; returns the kinds to audit in it."""
        self._poked = False
        self._retry_at = self._again_at = None
        if now >= self._audited + self._max_gap:
            self._audited = self._targeted = now
            self._suspects.clear()
            return self._kinds
        if self._suspects and now >= self._targeted + self._audit_gap:
            self._targeted = now
            suspects, self._suspects = frozenset(self._suspects), set()
            return suspects
        return frozenset()

    def end(self, now: float, *, good: bool, jitter: float = 0.0, again: float | None = None) -> None:
        """A pass ended; `jitter` in 0..1 stretches a retry gap by up to a quarter, so that nodes do not retry in step.
        `again`: seconds until the next pass is due even if nothing happens."""
        self._ended = now
        self._again_at = None if again is None else now + again
        if good:
            self._retry_gap = self._retry_first
            return
        self._retry_at = now + self._retry_gap * (1 + jitter / 4)
        self._retry_gap = min(self._retry_gap * 2, self._retry_most)
