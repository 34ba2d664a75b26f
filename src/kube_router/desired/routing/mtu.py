"""The MTU that pods get: what fits through every link that leads to other nodes, tunnels included."""

from __future__ import annotations

from typing import Final

from kube_router.config.options import Options
from kube_router.kit.net import Family
from kube_router.model.names import BRIDGE, DUMMY
from kube_router.model.objects import Interface, Node

# Octets that an IPIP tunnel adds: an outer IPv4 header; an outer IPv6 header and the encapsulation limit option (RFC 2473 4.1).
IPIP_OVERHEAD: Final[dict[Family, int]] = {4: 20, 6: 48}
LARGEST: Final = 65535  # an IPv4 packet's length field; loopback's 65536 fits no bridge
SMALLEST: Final = 1280  # RFC 8200 5: what every IPv6 link carries


def pod_mtu(node: Node, interfaces: tuple[Interface, ...], options: Options) -> int:
    """MTU for bridge and CNI configuration in octets; 0 when no link tells.

    The smallest of the links that hold the node's addresses. An address on loopback says nothing about the way out: then
    every link with a global address counts. With the overlay enabled its overhead comes off, used or not, so that the value
    does not change as nodes come and go.
    """
    addresses = set(node.addresses)
    links = [link for link in interfaces if any(_host(a) in addresses for a in link.addresses) and not _is_loopback(link)]
    if not links:
        links = [
            link for link in interfaces if link.up and not _is_loopback(link) and link.name.name not in (BRIDGE, DUMMY) and link.addresses
        ]
    mtus = [link.mtu for link in links if link.mtu]
    if not mtus:
        return 0
    overhead = max(IPIP_OVERHEAD[family] for family in options.families) if options.enable_overlay else 0
    return max(min([*mtus, LARGEST]) - overhead, SMALLEST)


def _host(prefix: str) -> str:
    return prefix.split("/")[0]


def _is_loopback(link: Interface) -> bool:
    return link.name.name == "lo"
