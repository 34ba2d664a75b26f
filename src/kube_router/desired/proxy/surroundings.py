"""What of this node the proxy's rules depend on, picked from the Node object and the links."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from kube_router.kit.net import Family, family_of
from kube_router.model.names import BRIDGE
from kube_router.model.objects import Interface, Node

# Links that are not the node's own (the original's rule): our bridge and dummy, other dummies, docker's bridges.
_NOT_OWN: Final = ("dummy", "kube", "docker")


class Surroundings(msgspec.Struct, frozen=True):
    """One node, as its Services see it.

    `primary`: for each enabled family the address that Services are reached at and answered from, "" for none.
    `sources`: the same where it is on a link of this host now, else "": the kernel accepts no other as a source.
    `local`: addresses of the node's own links. `pod_cidrs`: of enabled families. `links`: those with reverse path filters.
    """

    name: str
    primary: dict[Family, str]
    sources: dict[Family, str]
    local: frozenset[str] = frozenset()
    pod_cidrs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def surroundings(name: str, node: Node | None, interfaces: Iterable[Interface], families: tuple[Family, ...]) -> Surroundings:
    """Surroundings of a node with these links. Without its Node object it has no address of its own to serve at."""
    addresses = node.addresses if node is not None else ()
    primary = {family: next((a for a in addresses if family_of(a) == family), "") for family in families}
    local: set[str] = set()
    links: list[str] = []
    for link in interfaces:
        held = addresses_of(link)
        if is_own(link):
            local.update(held)
        if link.name.name == BRIDGE or not held.isdisjoint(primary.values()):
            links.append(link.name.name)
    return Surroundings(
        name=name,
        primary=primary,
        sources={family: address if address in local else "" for family, address in primary.items()},
        local=frozenset(local),
        pod_cidrs=tuple(cidr for cidr in node.pod_cidrs if family_of(cidr) in families) if node is not None else (),
        links=tuple(sorted(links)),
    )


def is_own(link: Interface) -> bool:
    """Whether a link's addresses are the node's own, rather than those of Services or pods."""
    return not any(word in link.name.name for word in _NOT_OWN)


def addresses_of(link: Interface) -> set[str]:
    """Addresses of a link without IPv6 link-local ones, which no Service is reached at and every pod's link has."""
    return {prefix.partition("/")[0] for prefix in link.addresses if not prefix.startswith(("fe8", "fe9", "fea", "feb"))}
