"""Which of its addresses a node sends and gets pod traffic with, where it has several networks.

A node publishes its choice as an annotation on its own Node: its peers cannot know its flag or its links. Whoever routes to a node asks
here: sessions between nodes, next hops of pod ranges, ends of tunnels. Services and external peers go on using the node's addresses
as the Node object lists them.

A pair of nodes uses the chosen addresses when both have chosen; with one that has not, both use the addresses of their Node objects, so
that the two always agree on which session to open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.kit.net import Family, contains, family_of, of_family
from kube_router.model.names import BRIDGE, DATAPATH_ANNOTATION, DUMMY
from kube_router.model.objects import Interface, Kind, Node, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.cluster import Annotation, AnnotationKey

_NOT_OURS_TO_USE: Final = (BRIDGE, DUMMY)


def address(node: Node, family: Family) -> str:
    """Where pod traffic of a family goes to reach this node, and comes from: what it published, else its first address; "" if none."""
    return next(iter((*of_family(node.datapath, family), *of_family(node.addresses, family))), "")


def outer_family(node: Node, families: tuple[Family, ...]) -> Family:
    """Family of the node's first address for pod traffic, of those that are switched on: what carries a link that spans families."""
    first = next((address for address in (*node.datapath, *node.addresses) if family_of(address) in families), "")
    return family_of(first) if first else families[0]


def ends(own: Node, other: Node) -> tuple[str, str]:
    """Addresses of the session between two nodes, ours first; "" where a node has none."""
    for chosen in own.datapath:
        theirs = of_family(other.datapath, family_of(chosen))
        if theirs:
            return chosen, theirs[0]
    return next(iter(own.addresses), ""), next(iter(other.addresses), "")


def session_addresses(node: Node) -> tuple[str, ...]:
    """Addresses that sessions with this node may go to: its primary one, and those that it published."""
    return tuple(dict.fromkeys((*node.addresses[:1], *node.datapath)))


def all_addresses(node: Node) -> tuple[str, ...]:
    """Every address that is known to be the node's, those of its Node object first."""
    return tuple(dict.fromkeys((*node.addresses, *node.datapath)))


def publication(node: Node | None, interfaces: tuple[Interface, ...], options: Options) -> Desired:
    """The annotation that tells our choice to the others; nothing without the flag, or without an address to choose."""
    if node is None or not options.datapath_network:
        return NOTHING
    chosen = [found for family in options.families if (found := _choice(node, interfaces, options.datapath_network, family))]
    if not chosen:
        networks = ", ".join(options.datapath_network)
        message = f"no address of this node is in --datapath-network={networks}: pod traffic uses {', '.join(node.addresses) or 'none'}"
        return Desired(notes=(Note(Ref(Kind.NODE, node.name), "NoDatapathAddress", message),))
    state: dict[Key, Value] = {AnnotationKey(node.name.name, DATAPATH_ANNOTATION): Annotation(",".join(chosen))}
    return Desired(state)


def _choice(node: Node, interfaces: tuple[Interface, ...], networks: tuple[str, ...], family: Family) -> str:
    """The address of a family that counts: of the network named first; there the one that is published already, for a change of mind
    ends sessions; then one of the Node object; then one that is not alone in its network, as floating addresses are; then the lowest."""
    candidates = {
        (
            rank,
            text not in node.datapath,
            text not in node.addresses,
            prefix.endswith(("/32", "/128")),
            link,
            ipaddress.ip_address(text).packed,
            text,
        )
        for link, prefix, text in _addresses(interfaces)
        if family_of(text) == family
        for rank, network in enumerate(networks)
        if contains(network, text)
    }
    return min(candidates)[-1] if candidates else ""


def _addresses(interfaces: tuple[Interface, ...]) -> Iterator[tuple[str, str, str]]:
    for link in interfaces:
        if link.up and link.name.name not in _NOT_OURS_TO_USE:
            for prefix in link.addresses:
                yield link.name.name, prefix, prefix.partition("/")[0]
