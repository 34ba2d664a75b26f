"""Drives one cycle: waits until its kinds are listed, then runs passes when its schedule says so, until told to stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.schedule import Schedule
from kube_router.model.state import Key


class Runner:
    """One per controller; everything but the targets' own work happens on the event loop."""

    def __init__(
        self,
        cycle: Cycle,
        schedule: Schedule,
        *,
        ready: Callable[[], bool],
        done: Callable[[Outcome, float], None],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.cycle = cycle
        self.schedule = schedule
        self._ready = ready
        self._done = done
        self._beat = beat
        self._wake = asyncio.Event()

    @property
    def name(self) -> str:
        """The controller's name."""
        return self.cycle.controller.name

    def poke(self) -> None:
        """Something changed."""
        self.schedule.poke()
        self._wake.set()

    def suspect(self, kinds: Iterable[type[Key]]) -> None:
        """Somebody else may have disturbed these kinds of state."""
        self.schedule.suspect(kinds)
        self._wake.set()

    def distrust(self) -> None:
        """What its targets hold may be another's by now (a speaker that restarted): look anew, and count no drift."""
        self.cycle.ledger.distrust(self.cycle.controller.writes)
        self.poke()

    async def run(self) -> None:
        """Passes, for ever; ends by cancellation. Only a bug raises."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._beat()
            wait = self.schedule.due() - loop.time() if self._ready() else _IDLE
            if wait > 0:
                await self._sleep(min(wait, _IDLE))
                continue
            audit = self.schedule.start(loop.time())
            began = loop.time()
            outcome = await self.cycle.sync(audit)
            now = loop.time()
            self.schedule.end(now, good=outcome.good, jitter=random.random(), again=outcome.again)
            self._done(outcome, now - began)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return


_IDLE = 5.0  # seconds between heartbeats of a loop that has nothing to do
