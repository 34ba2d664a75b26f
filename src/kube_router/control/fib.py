"""Learned routes and the overlay: the speaker's best paths become routes of the kernel, their next hops tunnels."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing import datapath, tunnels
from kube_router.desired.routing.around import Surroundings, surroundings
from kube_router.desired.routing.fib import route
from kube_router.desired.routing.tunnels import Way
from kube_router.model.objects import BestPath, Kind, Name, Node, Ref
from kube_router.model.state import Key
from kube_router.model.state.links import RouteKey, RuleKey
from kube_router.model.state.tunnels import FdbKey, FouKey, NeighbourKey, TunnelKey
from kube_router.plan import ownership

OVERLAY = ("overlay",)


class NextHop(NamedTuple):
    """Item: one next hop of any path."""

    address: str


class FibController:
    """Items: learned prefixes, their next hops, and the overlay itself.

    A path touches itself, and its next hops when it is the first or the last to name them; a node touches the next hops that are its
    addresses; this node's networks touch everything.
    """

    name = ownership.FIB
    reads = frozenset({Kind.BEST_PATH, Kind.INTERFACE, Kind.NODE})
    writes: tuple[type[Key], ...] = (FouKey, TunnelKey, FdbKey, NeighbourKey, RouteKey, RuleKey)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._own = Name("", options.node_name)
        # Derived from the view and kept between passes, since links and paths are many and changes come one by one.
        self._around: Surroundings | None = None
        self._ways: dict[str, Way] = {}
        self._named: dict[str, set[str]] = {}  # next hops by the name that the original gives to their tunnel

    def behind_tunnels(self) -> list[str]:
        """Addresses of nodes that packets of pods go to through a tunnel now."""
        return [found.hop for found in self._ways.values() if found.link]

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """What these changes may alter."""
        moved = self._look_around(changes, view)
        hops = self._come_and_gone(changes, view)
        if moved:
            hops.update(self._ways)
            yield OVERLAY
            yield from (Ref(Kind.BEST_PATH, name) for name in view.paths)
        else:
            hops.update(self._of_nodes(changes, view))
        yield from self._reconsidered(hops, view)
        yield from (ref for ref in changes if ref.kind is Kind.BEST_PATH)

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/{fib,tunnels}.py."""
        assert self._around is not None, "touched() comes first"
        if isinstance(item, NextHop):
            return tunnels.tunnel(self._ways.get(item.address))
        if item == OVERLAY:
            return tunnels.overlay(view.nodes.get(self._own), self._around, self._options)
        assert isinstance(item, Ref)
        return route(view.paths.get(item.name), self._around, self._ways)

    def _look_around(self, changes: Changes, view: View) -> bool:
        """Whether this node's surroundings are others than before."""
        if self._around is not None and not any(ref.kind is Kind.INTERFACE or ref.name == self._own for ref in changes):
            return False
        around = surroundings(view.nodes.get(self._own), tuple(view.interfaces.values()), self._options)
        moved = around != self._around
        self._around = around
        return moved

    def _come_and_gone(self, changes: Changes, view: View) -> set[str]:
        """Next hops that no path named before, or none does now, with those that share their names."""
        found: set[str] = set()
        for ref, before in changes.items():
            if ref.kind is Kind.BEST_PATH:
                now = view.paths.get(ref.name)
                was = before.next_hops if isinstance(before, BestPath) else ()
                found.update(set(was) ^ set(now.next_hops if now else ()))
        changed = {hop for hop in found if (hop in self._ways) != _is_named(hop, view)}
        for hop in tuple(changed):
            name = tunnels.plain_name(hop)
            rivals = self._named.setdefault(name, set())
            if hop in self._ways:
                rivals.discard(hop)
            else:
                rivals.add(hop)
            changed |= rivals
            if not rivals:
                del self._named[name]
        return changed

    def _of_nodes(self, changes: Changes, view: View) -> Iterator[str]:
        """Next hops that changed nodes have as an address, or had."""
        for ref, before in changes.items():
            if ref.kind is Kind.NODE:
                for node in (before, view.nodes.get(ref.name)):
                    if isinstance(node, Node):
                        yield from (address for address in datapath.all_addresses(node) if address in self._ways)

    def _reconsidered(self, hops: Iterable[str], view: View) -> Iterator[Hashable]:
        """Next hops whose way is another than before; their paths as well when the route is."""
        assert self._around is not None
        for hop in hops:
            before = self._ways.get(hop)
            now = self._way(hop, view) if _is_named(hop, view) else None
            if now == before:
                continue
            if now is None:
                del self._ways[hop]
            else:
                self._ways[hop] = now
            yield NextHop(hop)
            if before is None or now is None or (before.link, before.refused) != (now.link, now.refused):
                yield from (Ref(Kind.BEST_PATH, path.name) for path in view.paths.each("hop", hop))

    def _way(self, hop: str, view: View) -> Way:
        assert self._around is not None
        peer = next(iter(view.nodes.by("address", hop)), None)
        rivals = self._named.get(tunnels.plain_name(hop), ())
        return tunnels.way(hop, self._around, peer, rivals=rivals, options=self._options)


def _is_named(hop: str, view: View) -> bool:
    return next(view.paths.each("hop", hop), None) is not None
