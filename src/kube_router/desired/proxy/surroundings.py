"""What of this node the proxy's rules depend on, picked from the Node object and the links."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from kube_router.desired.proxy.topology import ZONE_LABEL
from kube_router.kit.net import Family, family_of
from kube_router.model.names import BRIDGE, DUMMY
from kube_router.model.objects import Interface, Node

# Links that are not the node's own (the original's rule): our bridge and dummy, other dummies, docker's bridges.
_NOT_OWN: Final = ("dummy", "kube", "docker")


class Surroundings(msgspec.Struct, frozen=True):
    """One node, as its Services see it.

    `primary`: for each enabled family the address that Services are reached at and answered from, "" for none.
    `sources`: the same where it is on a link of this host now, else "": the kernel accepts no other as a source.
    `local`: addresses of the node's own links; `own`: those of all links but bridge and dummy, and those that its Node object names, so
    that a Service which has one must leave it as it is. `node_ports`: where node ports are
    served. `pod_cidrs`: of enabled families. `links`: those with reverse path filters. `zone`: of its topology label, "" for none.
    `mtu`: of packets to and from pods and clients, in families in which it is known.
    """

    name: str
    primary: dict[Family, str]
    sources: dict[Family, str]
    local: frozenset[str] = frozenset()
    pod_cidrs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    node_ports: dict[Family, tuple[str, ...]] = {}
    zone: str = ""
    mtu: dict[Family, int] = {}


def surroundings(
    name: str,
    node: Node | None,
    interfaces: Iterable[Interface],
    families: tuple[Family, ...],
    *,
    everywhere: bool = False,
) -> Surroundings:
    """Surroundings of a node with these links. Without its Node object it has no address of its own to serve at.

    `everywhere`: node ports are served on all addresses of its links. Never on loopback addresses: packets that IPVS would send on from
    there the kernel drops as martians.
    """
    addresses = node.addresses if node is not None else ()
    primary = {family: next((a for a in addresses if family_of(a) == family), "") for family in families}
    local: set[str] = set()
    own = set(addresses)
    links: list[str] = []
    mtus: dict[Family, list[int]] = {family: [] for family in families}
    for link in interfaces:
        held = addresses_of(link)
        for family, address in primary.items():
            # The bridge's is what is left of a packet between nodes.
            if link.mtu and (link.name.name == BRIDGE or (address and address in held)):
                mtus[family].append(link.mtu)
        if is_own(link):
            local.update(held)
        if link.name.name not in (BRIDGE, DUMMY):
            own.update(held)
        if link.name.name == BRIDGE or not held.isdisjoint(primary.values()):
            links.append(link.name.name)
    bound = {*local, *primary.values()} if everywhere else set(primary.values())
    return Surroundings(
        name=name,
        primary=primary,
        sources={family: address if address in local else "" for family, address in primary.items()},
        local=frozenset(local),
        pod_cidrs=tuple(cidr for cidr in node.pod_cidrs if family_of(cidr) in families) if node is not None else (),
        links=tuple(sorted(links)),
        own=frozenset(own),
        node_ports={
            family: tuple(sorted(address for address in bound if address and family_of(address) == family and not _is_loopback(address)))
            for family in families
        },
        mtu={family: min(found) for family, found in mtus.items() if found},
        zone=node.labels.get(ZONE_LABEL, "") if node is not None else "",
    )


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


def is_own(link: Interface) -> bool:
    """Whether a link's addresses are the node's own, rather than those of Services or pods."""
    return not any(word in link.name.name for word in _NOT_OWN)


def addresses_of(link: Interface) -> set[str]:
    """Addresses of a link without IPv6 link-local ones, which no Service is reached at and every pod's link has."""
    return {prefix.partition("/")[0] for prefix in link.addresses if not prefix.startswith(("fe8", "fe9", "fea", "feb"))}
