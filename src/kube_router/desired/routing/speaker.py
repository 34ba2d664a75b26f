"""The BGP speaker of this node: who it is, and a path for each of its pod ranges, with a next hop of the range's own family."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from kube_router.codec import annotations as said
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.annotations import rejections
from kube_router.desired.routing import datapath
from kube_router.kit.net import Family, family_of, of_family
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import Path, PathKey, Speaker, SpeakerKey

LONGEST_SILENCE: Final = 5  # seconds


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


def asn(node: Node, options: Options) -> int | None:
    """A node's AS number: that of all nodes in full mesh, else its own; None if it has none."""
    return options.asn if options.nodes_full_mesh else said.node_asn(node.annotations)


def reflects(node: Node, options: Options) -> bool:
    """Whether a node is a route reflector: it passes on to nodes what it learns from nodes."""
    part = said.reflector(node.annotations)
    return options.enable_ibgp and part is not None and part.role == "server"


def restart_times(options: Options) -> tuple[int, int]:
    """Graceful restart in seconds: restart time, and how long a restarted speaker waits for its peers; zeros without.

    It would wait the whole deferral time for any peer that is down or knows no graceful restart, silent towards all; and what a node
    announces never depends on what it hears.
    """
    if not options.bgp_graceful_restart:
        return 0, 0
    return int(options.bgp_graceful_restart_time), min(int(options.bgp_graceful_restart_deferral_time), LONGEST_SILENCE)


def listen_addresses(own: Node, options: Options) -> tuple[str, ...]:
    """Where the speaker listens, sorted: addresses that an annotation names, those of families that are off left out; else this
    node's address of each enabled family, and the one that it published for pod traffic."""
    named = [address for address in said.local_addresses(own.annotations) if family_of(address) in options.families]
    if named:
        return tuple(sorted(named))
    found = {find(own, family) for family in options.families for find in (best, datapath.address)}
    return tuple(sorted(found - {""}))


def identity(own: Node | None, options: Options) -> Speaker | None:
    """What makes this node a speaker; None while anything of it is missing, and then nothing can be told to gobgpd at all."""
    if own is None or not own.addresses:
        return None
    number, identifier = asn(own, options), router_id(own, options)
    if number is None or not identifier:
        return None
    return Speaker(number, identifier, options.bgp_port, listen_addresses(own, options))


def itself(own: Node | None, options: Options) -> Desired:
    """The speaker, and a path for each pod range of this node. Nothing without our Node object or an address."""
    if own is None or not own.addresses:
        return NOTHING
    about = Ref(Kind.NODE, own.name)
    notes = list(rejections(about, own.rejected))
    speaker = identity(own, options)
    if speaker is None:
        return Desired(notes=(*notes, *_missing(own, options)))
    state: dict[Key, Value] = {SpeakerKey(): speaker}
    for cidr in own.pod_cidrs:
        family = family_of(cidr)
        hop = datapath.address(own, family) if family in options.families else ""
        if hop:
            state[PathKey(cidr)] = Path(hop)
        elif family in options.families:
            notes.append(Note(about, "NoNextHop", f"pod range {cidr} is not announced: this node has no IPv{family} address"))
    return Desired(state, tuple(notes))


def _missing(own: Node, options: Options) -> Iterator[Note]:
    about = Ref(Kind.NODE, own.name)
    if asn(own, options) is None:
        yield Note(about, "NoASN", f"without --nodes-full-mesh this node needs an AS number: give it the annotation {said.NODE_ASN}")
    if not router_id(own, options):
        yield Note(about, "NoRouterID", f"primary address {primary(own)} is IPv6: give --router-id")
