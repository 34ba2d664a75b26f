"""The kernel's routes: a pure function of the speaker's best paths, the ways to their next hops, and this node.

A guard refuses what no speaker may tell us to route: the default route, a network that we are connected to, our own pod
ranges, our own addresses, and whatever is of a family that is switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing.around import Surroundings
from kube_router.desired.routing.tunnels import Way, step
from kube_router.kit.net import contains, family_of, host_prefix, network
from kube_router.model.objects import BestPath
from kube_router.model.state.links import Hop, Route, RouteKey


def route(path: BestPath | None, around: Surroundings, ways: Mapping[str, Way]) -> Desired:
    """The route to a learned prefix through all its next hops that there is a way to, several as one multipath route.

    Through a tunnel this node's own packets get its address as source, since the tunnel has none.
    """
    if path is None or refusal(path.prefix, around):
        return NOTHING
    family = family_of(path.prefix)
    found = [ways[hop] for hop in path.next_hops if family_of(hop) == family and hop in ways and not ways[hop].refused]
    if not found:
        return NOTHING
    hops = tuple(sorted(step(one, alone=len(found) == 1) for one in found))
    source = around.local.get(family, "") if any(one.link for one in found) else ""
    return Desired({RouteKey(path.prefix): _shared(hops, source)})


@lru_cache(maxsize=4096)
def _shared(hops: tuple[Hop, ...], source: str) -> Route:
    """One object for all routes that go the same way: there may be a hundred thousand."""
    return Route(hops, source=source)


def refusal(prefix: str, around: Surroundings) -> str:
    """Why a prefix must never become a route of ours; empty when it may."""
    if family_of(prefix) not in around.families:
        return "of a family that is switched off"
    address, _, length = prefix.partition("/")
    if length == "0":
        return "a default route"
    if prefix in around.connected:
        return "a network that this node is connected to"
    if any(int(length) >= network(own).prefixlen and contains(own, address) for own in around.own):
        return "inside this node's own pod range"
    if address in around.addresses and prefix == host_prefix(address):
        return "an address of this node"
    return ""
