"""`--cleanup-config`: what is ours goes, in both families and both backends of iptables; everything else stays.

It needs root and no API server. A part that cannot be removed is named; the others go all the same.
"""

from __future__ import annotations

import asyncio

from kube_router.app.controllers import everything
from kube_router.app.reporting import Reporting
from kube_router.app.targets import Targets
from kube_router.cache.cache import Cache
from kube_router.config.options import Options
from kube_router.control.cycle import Cycle, Outcome
from kube_router.desired import Note
from kube_router.telemetry.logging import get_logger

_TRIES = 3
_LOG = get_logger("cleanup")


def run(options: Options) -> int:
    """Remove; 0 when nothing of ours is left, 1 when something could not be removed."""
    return asyncio.run(_run(options))


async def _run(options: Options) -> int:
    cache, reporting = Cache(), Reporting(_no_event)
    targets = Targets(options, cache.view)
    left = 0
    for controller in everything():
        cycle = Cycle(
            controller,
            feed=cache.feed(controller.reads),
            view=cache.view,
            targets=targets.of(controller.writes),
            report=reporting,
        )
        outcome = await _until_done(cycle)
        if outcome.good:
            _LOG.info(f"{controller.name}: nothing of it is left")
        else:
            left += 1
            _LOG.error(f"{controller.name}: not all of it could be removed", failure=outcome.failure, refused=outcome.refused)
    return 1 if left else 0


async def _until_done(cycle: Cycle) -> Outcome:
    outcome = await cycle.sync()
    for _ in range(_TRIES):
        if outcome.good:
            break
        await asyncio.sleep(0.5)
        outcome = await cycle.sync()
    return outcome


def _no_event(note: Note) -> None:
    del note  # there is no API server to tell
