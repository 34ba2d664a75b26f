"""Where watchers put what they see: into the cache, and a poke to every controller that has something new.

All of it runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable

from kube_router.cache.cache import Cache
from kube_router.codec.accepted import Gate
from kube_router.codec.objects_fault import Fault
from kube_router.control.runner import Runner
from kube_router.watch.events import Batch, Event, Put, Removed, Replaced, write
from kube_router.watch.linktable import Disturbance


class Inbox:
    """The sink of all watchers. `fault` is told what is wrong with objects, `seen` how many changes of which kind came.

    Objects pass the `gate` of annotations on their way.
    """

    def __init__(self, cache: Cache, *, gate: Gate, fault: Callable[[Fault], None], seen: Callable[[str, int], None]) -> None:
        self._cache = cache
        self._gate = gate
        self._fault = fault
        self._seen = seen
        self._runners: dict[int, Runner] = {}

    def serve(self, runner: Runner) -> None:
        """From now on poke this runner when its feed has something new."""
        self._runners[id(runner.cycle.feed)] = runner

    def __call__(self, batch: Batch) -> None:
        """Events and faults of a watcher."""
        for feed in write([self._admitted(event) for event in batch.events], self._cache):
            runner = self._runners.get(id(feed))
            if runner is not None:
                runner.poke()
        for fault in batch.faults:
            self._fault(fault)
        for event in batch.events:
            match event:
                case Put(object=value):
                    self._seen(type(value).__name__, 1)
                case Removed(ref=ref):
                    self._seen(ref.kind.value, 1)

    def _admitted(self, event: Event) -> Event:
        gate = self._gate
        match event:
            case Put(object=value):
                admitted = gate.admit(value)
                return event if admitted is value else Put(admitted)
            case Replaced(kind=kind, objects=objects, keep=keep):
                gate.forget_others(kind, [*(value.name for value in objects), *keep])
                return Replaced(kind, tuple(gate.admit(value) for value in objects), keep)
            case Removed(ref=ref):
                gate.forget(ref)
        return event

    def disturbed(self, what: Disturbance) -> None:
        """Somebody may have taken away state of ours: whoever wants it looks after its kind.

        What we delete ourselves is told too, but by then it is not wanted any more (it may still count as held: the pass goes on).
        """
        for runner in self._runners.values():
            kinds = what.concerning(runner.cycle.ledger.merged)
            if kinds:
                runner.suspect(kinds)
