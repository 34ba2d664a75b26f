"""Where watchers put what they see: into the cache, and a poke to every controller that has something new.

All of it runs on the event loop; watchers that live in threads call through `call_soon_threadsafe`.
"""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.cache.cache import Cache, Feed
from kube_router.control.runner import Runner
from kube_router.model.objects import Kind, Name, Object
from kube_router.model.state import Key


class Inbox:
    """The sink of all watchers."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._runners: dict[int, Runner] = {}

    def serve(self, runner: Runner) -> None:
        """From now on poke this runner when its feed has something new."""
        self._runners[id(runner.cycle.feed)] = runner

    def replace(self, kind: Kind, objects: Iterable[Object]) -> None:
        """A complete list of a kind."""
        self._poke(self._cache.replace(kind, objects))

    def put(self, value: Object) -> None:
        """An object that is new or changed."""
        self._poke(self._cache.put(value))

    def remove(self, kind: Kind, name: Name) -> None:
        """An object that is gone."""
        self._poke(self._cache.remove(kind, name))

    def suspect(self, kinds: Iterable[type[Key]]) -> None:
        """Somebody may have disturbed these kinds of state."""
        disturbed = frozenset(kinds)
        for runner in self._runners.values():
            if disturbed.intersection(runner.cycle.controller.writes):
                runner.suspect(disturbed)

    def _poke(self, feeds: Iterable[Feed]) -> None:
        for feed in feeds:
            runner = self._runners.get(id(feed))
            if runner is not None:
                runner.poke()
