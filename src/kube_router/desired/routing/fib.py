"""The kernel's routes: a pure function of the speaker's best paths, this node's links and its own Node object.

A guard refuses what no speaker may tell us to route: the default route, a network that we are connected to, our own pod
ranges, our own addresses, and whatever is of a family that is switched off. What is not on a network of ours needs a tunnel
(overlay), which is not there yet: no route.
"""

from __future__ import annotations

import ipaddress

import msgspec

from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing.datapath import all_addresses
from kube_router.kit.net import FAMILIES, Family, contains, family_of, network
from kube_router.model.objects import BestPath, Interface, Node
from kube_router.model.state import Key, Value
from kube_router.model.state.links import Route, RouteKey, through


class Surroundings(msgspec.Struct, frozen=True):
    """What of this node decides over a route. `subnets`: networks of the links that hold the node's addresses, published ones
    included; `connected`: networks of all its links; `own`: its pod ranges; `addresses`: all its addresses; `families`: those that
    are switched on."""

    subnets: tuple[str, ...] = ()
    connected: frozenset[str] = frozenset()
    own: tuple[str, ...] = ()
    addresses: frozenset[str] = frozenset()
    families: tuple[Family, ...] = FAMILIES


def surroundings(node: Node | None, interfaces: tuple[Interface, ...], *, families: tuple[Family, ...] = FAMILIES) -> Surroundings:
    """Surroundings of a node with these links."""
    wanted = frozenset(all_addresses(node)) if node else frozenset()
    subnets: set[str] = set()
    connected: set[str] = set()
    addresses: set[str] = set()
    for link in interfaces:
        for prefix in link.addresses:
            cidr = network_of(prefix)
            address = prefix.split("/")[0]
            addresses.add(address)
            connected.add(cidr)
            if address in wanted:
                subnets.add(cidr)
    return Surroundings(
        subnets=tuple(sorted(subnets)),
        connected=frozenset(connected),
        own=node.pod_cidrs if node else (),
        addresses=frozenset(addresses),
        families=families,
    )


def network_of(prefix: str) -> str:
    """The network that an address with prefix length is on."""
    return str(ipaddress.ip_interface(prefix).network)


def route(path: BestPath | None, around: Surroundings) -> Desired:
    """The route to a learned prefix: through those next hops that are on a network of ours, several as one multipath route."""
    if path is None or refusal(path.prefix, around):
        return NOTHING
    gateways = [hop for hop in path.next_hops if _usable(hop, path.prefix, around)]
    if not gateways:
        return NOTHING
    state: dict[Key, Value] = {RouteKey(path.prefix): Route(through(*gateways))}
    return Desired(state)


def refusal(prefix: str, around: Surroundings) -> str:
    """Why a prefix must never become a route of ours; empty when it may."""
    if family_of(prefix) not in around.families:
        return "of a family that is switched off"
    if network(prefix).prefixlen == 0:
        return "a default route"
    if prefix in around.connected:
        return "a network that this node is connected to"
    if any(family_of(prefix) == family_of(own) and network(prefix).subnet_of(network(own)) for own in around.own):  # type: ignore[arg-type]
        return "inside this node's own pod range"
    if prefix.split("/")[0] in around.addresses and network(prefix).num_addresses == 1:
        return "an address of this node"
    return ""


def _usable(hop: str, prefix: str, around: Surroundings) -> bool:
    same_family = family_of(hop) == family_of(prefix)
    return same_family and hop not in around.addresses and any(contains(subnet, hop) for subnet in around.subnets)
