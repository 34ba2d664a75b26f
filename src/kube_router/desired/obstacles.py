"""Addresses that a Service must not have, because somebody else does: another node, a pod, a gateway.

Made local, such an address would cut this node off from its owner; announced, it would draw others' packets away from it. Strict
validation (desired/external_ips.py) is about what people may write; this holds whatever the flags say. Addresses of this node itself
are no obstacle: Services share them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable, Iterable, Iterator
from typing import Final

from kube_router.cache.cache import View
from kube_router.kit.net import family_of
from kube_router.model.objects import Interface, Kind, Node, Object, Ref, Service

_ADVICE: Final = "choose an address that nobody has"


def obstacle(address: str, own: str, view: View) -> str:
    """Whose the address is, and what would be right; "" when it is nobody's. `own`: name of this node."""
    others = [node.name.name for node in view.nodes.each("address", address) if node.name.name != own]
    if others:
        return f"it is an address of node {min(others)}, whose own traffic would be drawn away; {_ADVICE}"
    if view.interfaces.has("gateway", address):
        return f"it is a gateway of node {own}, which would lose its way out; {_ADVICE}"
    for cidr in _ranges_around(address, view):
        owner = min(node.name.name for node in view.nodes.each("range", cidr))
        return f"it lies in {cidr}, the pods of node {owner}; {_ADVICE}"
    return ""


def concerned(changed: Iterable[tuple[Object | None, Object | None]], view: View) -> Iterator[Ref]:
    """Services for whose addresses these nodes and links, each as it was and as it is, may have become or ceased to be an obstacle."""
    addresses: set[str] = set()
    ranges: set[str] = set()
    for before, now in changed:
        addresses |= _addresses(before) ^ _addresses(now)
        ranges |= _pod_ranges(before) ^ _pod_ranges(now)
    for address in addresses:
        for service in view.services.each("address", address):
            yield Ref(Kind.SERVICE, service.name)
    lengths = {(family_of(cidr), int(cidr.rpartition("/")[2])) for cidr in ranges}
    for service in view.services.each("outside", True) if ranges else ():
        if any(cidr in ranges for address in _brought(service) for cidr in _networks(address, lengths)):
            yield Ref(Kind.SERVICE, service.name)


def _addresses(value: Object | None) -> set[str]:
    if isinstance(value, Interface):
        return set(value.gateways)
    return {*value.addresses, *value.datapath} if isinstance(value, Node) else set()


def _pod_ranges(node: Object | None) -> set[str]:
    return set(node.pod_cidrs) if isinstance(node, Node) else set()


def _brought(service: Service) -> tuple[str, ...]:
    return (*service.external_ips, *(entry.address for entry in service.ingress))


def _ranges_around(address: str, view: View) -> Iterator[str]:
    """Pod ranges that hold an address."""
    return (cidr for cidr in _networks(address, view.nodes.words("length")) if view.nodes.has("range", cidr))


def _networks(address: str, lengths: Iterable[Hashable]) -> Iterator[str]:
    """The networks of these families and lengths that hold an address: a look-up each, however many networks there are."""
    for word in lengths:
        assert isinstance(word, tuple)
        family, length = word
        if family == family_of(address):
            yield str(ipaddress.ip_network((address, length), strict=False))
