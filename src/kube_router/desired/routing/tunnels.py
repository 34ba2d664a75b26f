"""How packets get to a next hop: straight, when it is on a network of ours, or through a tunnel of the overlay. Pure.

    pod --> rule "from pod range lookup 77" --> table 77: other nodes' own addresses --+--> tunnel --> the other node
        \\-> table main: other nodes' pod ranges ----------------------------------------/

Names are the original's: `tun-` and eleven digits of a hash, one tunnel for a next hop. Two next hops may have one name; then
the lower one bears it, and the others take one of a hash that tells them apart. VXLAN has one link for all of them (the kernel
allows one of an identifier and port), in whose tables each node has its entries; its link-layer address comes from the node's
address, so that nobody need be asked for it. IPv6 gateways on a tunnel are link-local addresses, since the kernel takes no other
whose network is on another link, wherever the route says that it is.

A router that is no node ends no tunnels: with `--overlay-type=full` it is reached straight where it is on a network of ours.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection
from typing import Final

import msgspec

from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired
from kube_router.desired.routing import datapath
from kube_router.desired.routing.around import Surroundings
from kube_router.desired.routing.mtu import OVERHEAD
from kube_router.kit.net import contains, family_of, host_prefix, of_family
from kube_router.model.names import OVERLAY_TABLE, VXLAN_LINK
from kube_router.model.objects import Node
from kube_router.model.state import Key, Value
from kube_router.model.state.links import Hop, Route, RouteKey, Rule, RuleKey
from kube_router.model.state.tunnels import Fdb, FdbKey, Fou, FouKey, Neighbour, NeighbourKey, Tunnel, TunnelKey

_ANYBODY: Final = "fe80::1"


class Way(msgspec.Struct, frozen=True):
    """The way to a next hop. `refused`: why there is none. `link` "": straight. `tunnel`: the link's own state, for a link of its own;
    else `gateway`, `mac` and `outer` are its entries in the shared one. `beside`: further addresses of the node at its end."""

    hop: str
    refused: str = ""
    link: str = ""
    tunnel: Tunnel | None = None
    gateway: str = ""
    mac: str = ""
    outer: str = ""
    beside: tuple[str, ...] = ()


def plain_name(hop: str) -> str:
    """The name that the original gives to the tunnel to a next hop."""
    return _named(hop.replace(".", "").replace(":", ""))


def tunnel_name(hop: str, rivals: Collection[str]) -> str:
    """The tunnel's name; `rivals`: all next hops of one plain name."""
    return plain_name(hop) if hop == min((hop, *rivals)) else _named(hop)


def _named(text: str) -> str:
    return "tun-" + hashlib.sha256(text.encode()).hexdigest()[:11]


def link_address(address: str) -> str:
    """The link-layer address of a node's VXLAN link: locally administered, from the node's address."""
    return (b"\x02" + hashlib.sha256(address.encode()).digest()[:5]).hex(":")


def link_local(mac: str) -> str:
    """The IPv6 address of a link-layer address on its own link (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:]))


def way(hop: str, around: Surroundings, peer: Node | None, *, rivals: Collection[str], options: Options) -> Way:
    """How packets get to a next hop. `peer`: the node that has this address, if any."""
    if hop in around.addresses:
        return Way(hop, refused="an address of this node")
    if family_of(hop) not in around.families:
        return Way(hop, refused="of a family that is switched off")
    near = any(contains(subnet, hop) for subnet in around.subnets)
    if not options.enable_overlay:
        return Way(hop) if near else Way(hop, refused="on no network of this node, and the overlay is off")
    if near and not (options.overlay_type == "full" and peer is not None):
        return Way(hop)
    beside = tuple(
        address
        for address in (of_family(datapath.all_addresses(peer), family_of(hop)) if peer else ())
        if address not in around.addresses
        and not (options.overlay_type != "full" and any(contains(net, address) for net in around.subnets))
    )
    if options.overlay_encap == "vxlan":
        return _shared(hop, around, peer, beside=beside)
    local = around.local.get(family_of(hop), "")
    if not local:
        return Way(hop, refused="of a family in which this node has no address")
    kind, encap = "ipip" if family_of(hop) == 4 else "ip6tnl", options.overlay_encap
    mtu = around.mtu - OVERHEAD[encap][family_of(hop)] if around.mtu else 0
    tunnel = Tunnel(kind, local, hop, options.overlay_encap_port if encap == "fou" else 0, mtu=max(mtu, 0))
    return Way(hop, link=tunnel_name(hop, rivals), tunnel=tunnel, beside=beside)


def _shared(hop: str, around: Surroundings, peer: Node | None, *, beside: tuple[str, ...]) -> Way:
    if around.outer not in around.local:
        return Way(hop, refused="this node has no address to send from")
    outer = datapath.address(peer, around.outer) if peer else hop
    if not outer or family_of(outer) != around.outer:
        return Way(hop, refused=f"no node has it, or one without an IPv{around.outer} address, which VXLAN needs here")
    mac = link_address(outer)
    gateway = hop if family_of(hop) == 4 else link_local(mac)
    return Way(hop, link=VXLAN_LINK, gateway=gateway, mac=mac, outer=outer, beside=beside)


def tunnel(found: Way | None) -> Desired:
    """What a next hop behind a tunnel needs: the tunnel or its entries, and the ways of pods to the node itself."""
    if found is None or not found.link:
        return NOTHING
    state: dict[Key, Value] = {}
    if found.tunnel:
        state[TunnelKey(found.link)] = found.tunnel
    else:
        state[FdbKey(found.link, found.mac)] = Fdb(found.outer)
        state[NeighbourKey(found.link, found.gateway)] = Neighbour(found.mac)
    for address in dict.fromkeys((found.hop, *found.beside)):
        state[RouteKey(host_prefix(address), OVERLAY_TABLE)] = Route((step(found),))
    return Desired(state)


def step(found: Way, *, alone: bool = True) -> Hop:
    """The way as part of a route. IPv6 counts only gateways as equal, so among several a tunnel gets one, which nobody asks for."""
    if not found.link:
        return Hop(found.hop)
    six = family_of(found.hop) == 6
    if found.tunnel:
        return Hop(_ANYBODY, found.link) if six and not alone else Hop(link=found.link)
    return Hop(found.gateway, found.link, onlink=not six)


def overlay(node: Node | None, around: Surroundings, options: Options) -> Desired:
    """What the overlay needs whatever there is to reach: rules for our pods, listeners, the VXLAN link."""
    if node is None or not options.enable_overlay:
        return NOTHING
    state: dict[Key, Value] = {
        RuleKey(cidr, OVERLAY_TABLE): Rule() for cidr in node.pod_cidrs if family_of(cidr) in around.families and around.local
    }
    if options.overlay_encap == "vxlan":
        local = around.local.get(around.outer, "")
        if local:
            mtu = around.mtu - OVERHEAD["vxlan"][around.outer] if around.mtu else 0
            state[TunnelKey(VXLAN_LINK)] = Tunnel("vxlan", local, port=options.overlay_vxlan_port, mtu=max(mtu, 0), mac=link_address(local))
        return Desired(state)
    for family in around.local:
        # Without FOU a listener of before stays: nodes that have not changed yet still send to it, and our tunnels take what it unwraps.
        state[FouKey(family, options.overlay_encap_port)] = Fou(make=options.overlay_encap == "fou")
    return Desired(state)
