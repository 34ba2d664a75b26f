"""Learned routes: the speaker's best paths become routes of the kernel."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing.fib import Surroundings, route, surroundings
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.links import RouteKey
from kube_router.plan import ownership


class FibController:
    """Items: learned prefixes. A change of this node's networks touches all of them, a path only itself."""

    name = ownership.FIB
    reads = frozenset({Kind.BEST_PATH, Kind.INTERFACE, Kind.NODE})
    writes: tuple[type[Key], ...] = (RouteKey,)

    def __init__(self, options: Options) -> None:
        self._own = Name("", options.node_name)
        self._families = options.families
        # Derived from the view and kept between passes, since links are many and paths come one by one.
        self._around: Surroundings | None = None

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """Paths that changed; all of them when this node's networks did."""
        if self._around is None or any(ref.kind is Kind.INTERFACE or ref.name == self._own for ref in changes):
            around = surroundings(view.nodes.get(self._own), tuple(view.interfaces.values()), families=self._families)
            if around != self._around:
                self._around = around
                yield from (Ref(Kind.BEST_PATH, name) for name in view.paths)
        for ref in changes:
            if ref.kind is Kind.BEST_PATH:
                yield ref

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/fib.py."""
        assert isinstance(item, Ref)
        assert self._around is not None, "touched() comes first"
        return route(view.paths.get(item.name), self._around)
