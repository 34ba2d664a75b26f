"""The MTU that pods get: the one that somebody chose, else what fits through every link that leads to other nodes, tunnels included."""

from __future__ import annotations

from typing import Final

import msgspec

from kube_router.config.options import Options
from kube_router.desired.routing import datapath
from kube_router.kit.net import Family, contains
from kube_router.model.names import BRIDGE, DUMMY, is_tunnel
from kube_router.model.objects import CniFile, Interface, Node

# Octets that a tunnel adds. IP in IP: an outer IPv4 header; an outer IPv6 header and the encapsulation limit option (RFC 2473 4.1).
# FOU: these, a UDP header and a GUE header of 4. VXLAN (RFC 7348 4): an outer header, UDP, its own 8, and the Ethernet header inside.
OVERHEAD: Final[dict[str, dict[Family, int]]] = {"ipip": {4: 20, 6: 48}, "fou": {4: 32, 6: 60}, "vxlan": {4: 50, 6: 70}}
LINK_LOCAL: Final = "fe80::/10"
LARGEST: Final = 65535  # an IPv4 packet's length field; loopback's 65536 fits no bridge
SMALLEST_IPV4: Final = 68  # RFC 791 3.2
SMALLEST: Final = 1280  # RFC 8200 5: what every IPv6 link carries


class PodMtu(msgspec.Struct, frozen=True):
    """`bridge`: MTU of kube-bridge; `file`: what we write into the CNI configuration; 0 leaves either alone. `source` is for people."""

    bridge: int = 0
    file: int = 0
    source: str = ""


def chosen(node: Node | None, interfaces: tuple[Interface, ...], cni: CniFile | None, options: Options) -> PodMtu:
    """The MTU in force and where it comes from. Bridge and configuration agree, whichever wins.

    An MTU in the CNI configuration wins, unless we wrote it, or the original did: that writes the node's own, which does not fit
    through tunnels, and nobody chose it.
    """
    named = cni.mtu if cni is not None and SMALLEST_IPV4 <= cni.mtu <= LARGEST else 0
    if cni is not None and named and not cni.mtu_is_ours and not (options.auto_mtu and named == _node_mtu(node, interfaces)):
        return PodMtu(bridge=named, source=f"named in {cni.name}")
    if not options.auto_mtu:
        return PodMtu(bridge=named, source="--auto-mtu is off")
    mtu = pod_mtu(node, interfaces, options) if node is not None else 0
    return PodMtu(mtu, mtu, "from the links that lead to other nodes" if mtu else "")


def _node_mtu(node: Node | None, interfaces: tuple[Interface, ...]) -> int:
    """MTU of the link with the node's primary address; 0 when there is none."""
    primary = node.addresses[0] if node is not None and node.addresses else ""
    return next((link.mtu for link in interfaces if any(_host(prefix) == primary for prefix in link.addresses)), 0)


def pod_mtu(node: Node, interfaces: tuple[Interface, ...], options: Options) -> int:
    """MTU for bridge and CNI configuration in octets; 0 when no link tells.

    With the overlay enabled its overhead comes off, used or not, so that the value does not change as nodes come and go.
    """
    mtu = link_mtu(node, interfaces, options)
    if not mtu or not options.enable_overlay:
        return mtu and max(mtu, SMALLEST)
    return max(mtu - max(OVERHEAD[options.overlay_encap][family] for family in outer_families(node, options)), SMALLEST)


def outer_families(node: Node, options: Options) -> tuple[Family, ...]:
    """Families of the packets that tunnels are made of: of each family its own, but for VXLAN, where one link carries both."""
    if options.overlay_encap != "vxlan":
        return options.families
    return (datapath.outer_family(node, options.families),)


def link_mtu(node: Node, interfaces: tuple[Interface, ...], options: Options) -> int:
    """The smallest MTU of the links that hold the node's addresses, or those that it published for pods; 0 when no link tells.

    An address on loopback says nothing about the way out: then every link with a global address counts.
    """
    addresses = {datapath.address(node, family) for family in options.families} if node.datapath else set(node.addresses)
    links = [link for link in interfaces if any(_host(a) in addresses for a in link.addresses) and not _is_loopback(link)]
    if not links:
        links = [link for link in interfaces if link.up and _leads_out(link)]
    mtus = [link.mtu for link in links if link.mtu]
    return min([*mtus, LARGEST]) if mtus else 0


def _host(prefix: str) -> str:
    return prefix.split("/")[0]


def _leads_out(link: Interface) -> bool:
    """Whether packets may leave by it, as far as can be told: it has an address that is not of its link alone, and is not ours."""
    return (
        not _is_loopback(link)
        and link.name.name not in (BRIDGE, DUMMY)
        and not is_tunnel(link.name.name)
        and any(not contains(LINK_LOCAL, _host(prefix)) for prefix in link.addresses)
    )


def _is_loopback(link: Interface) -> bool:
    return link.name.name == "lo"
