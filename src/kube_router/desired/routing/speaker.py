"""The BGP speaker of this node: who it is, and a path for each of its pod ranges, with a next hop of the range's own family."""

from __future__ import annotations

import ipaddress

from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.annotations import rejections
from kube_router.desired.routing import datapath
from kube_router.kit.net import Family, family_of, of_family
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import Path, PathKey, Speaker, SpeakerKey


def primary(node: Node) -> str:
    """The address that a node speaks BGP from: its first InternalIP, else its first ExternalIP; "" if it has none."""
    return node.addresses[0] if node.addresses else ""


def best(node: Node, family: Family) -> str:
    """A node's address of a family: the primary one if it is of it, else the first; "" if it has none."""
    return next(iter(of_family(node.addresses, family)), "")


def router_id(node: Node, options: Options) -> str:
    """The BGP identifier: as the flag says, "generate" hashes the primary address; else that address. "" if it must be IPv4 and is not."""
    address = primary(node)
    if options.router_id == "generate":
        return hashed_id(address) if address else ""
    if options.router_id:
        return options.router_id
    return address if address and family_of(address) == 4 else ""


def hashed_id(address: str) -> str:
    """FNV-1a, 32 bits, of the address in 16 octets (IPv4 mapped into IPv6), as a dotted quad."""
    parsed = ipaddress.ip_address(address)
    octets = parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed
    value = 0x811C9DC5
    for octet in octets:
        value = (value ^ octet) * 0x01000193 & 0xFFFFFFFF
    return str(ipaddress.IPv4Address(value))


def listen_addresses(own: Node, options: Options) -> tuple[str, ...]:
    """Where the speaker listens, sorted: this node's address of each enabled family, and the one that it published for pod traffic."""
    found = {find(own, family) for family in options.families for find in (best, datapath.address)}
    return tuple(sorted(found - {""}))


def itself(own: Node | None, options: Options) -> Desired:
    """The speaker, and a path for each pod range of this node. Nothing without our Node object or an address."""
    if own is None or not own.addresses:
        return NOTHING
    identifier = router_id(own, options)
    about = Ref(Kind.NODE, own.name)
    notes = list(rejections(about, own.rejected))
    if not identifier:
        return Desired(
            notes=(
                *notes,
                Note(about, "NoRouterID", f"primary address {primary(own)} is IPv6: give --router-id"),
            )
        )
    state: dict[Key, Value] = {SpeakerKey(): Speaker(options.asn, identifier, options.bgp_port, listen_addresses(own, options))}
    for cidr in own.pod_cidrs:
        family = family_of(cidr)
        hop = datapath.address(own, family) if family in options.families else ""
        if hop:
            state[PathKey(cidr)] = Path(hop)
        elif family in options.families:
            notes.append(Note(about, "NoNextHop", f"pod range {cidr} is not announced: this node has no IPv{family} address"))
    return Desired(state, tuple(notes))
