"""What of this node decides over routes and tunnels: its networks, addresses and pod ranges, put together once for all of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from kube_router.config.options import Options
from kube_router.desired.routing import datapath
from kube_router.desired.routing.mtu import link_mtu
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.objects import Interface, Node


class Surroundings(msgspec.Struct, frozen=True):
    """`subnets`: networks of the links that hold the node's addresses, published ones included; `connected`: networks of all its links;
    `own`: its pod ranges; `addresses`: all its addresses; `families`: those that are switched on; `local`: its address for pod traffic in
    each of them, where it has one; `outer`: the family of its first one; `mtu`: what every link to other nodes carries, 0 when unknown."""

    subnets: tuple[str, ...] = ()
    connected: frozenset[str] = frozenset()
    own: tuple[str, ...] = ()
    addresses: frozenset[str] = frozenset()
    families: tuple[Family, ...] = FAMILIES
    local: Mapping[Family, str] = {}
    outer: Family = 4
    mtu: int = 0


def surroundings(node: Node | None, interfaces: tuple[Interface, ...], options: Options) -> Surroundings:
    """Surroundings of a node with these links."""
    wanted = frozenset(datapath.all_addresses(node)) if node else frozenset()
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
    families = options.families
    return Surroundings(
        subnets=tuple(sorted(subnets)),
        connected=frozenset(connected),
        own=node.pod_cidrs if node else (),
        addresses=wanted.union(addresses),
        families=families,
        local={family: found for family in families if node and (found := datapath.address(node, family))},
        outer=datapath.outer_family(node, families) if node else families[0],
        mtu=link_mtu(node, interfaces, options) if node and options.auto_mtu else 0,
    )


def network_of(prefix: str) -> str:
    """The network that an address with prefix length is on."""
    return str(ipaddress.ip_interface(prefix).network)
