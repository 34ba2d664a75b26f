"""What the BGP speaker is told: itself, a session with every other node, our pod ranges, and rules for what goes to whom.

| path                     | to another node | from another node        |
|--------------------------|-----------------|--------------------------|
| own pod ranges           | yes             |                          |
| anything else            | no              | accepted, but for:       |
| default routes, our VIPs |                 | rejected                 |

Every session carries all families that both ends have, and every path has a next hop of its own family. No statement ever names
an empty neighbour set, which would match every neighbour: it is left out. Names are the original's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from kube_router.cache.store import Store
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.kit.net import FAMILIES, Family, family_of, host_prefix, of_family
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSet,
    DefinedSetKey,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    PolicyKey,
    Speaker,
    SpeakerKey,
    Statement,
)

HOLD_TIME: Final = 90  # seconds, for node peers; --bgp-holdtime is for external ones, as in the original
# Seconds that a restarted speaker waits for its peers' End-of-RIB, at most. It would wait the whole deferral time for any peer that
# is down or knows no graceful restart, silent towards all; and what a node announces to nodes never depends on what it hears.
LONGEST_SILENCE: Final = 5

EXPORT: Final = "kube_router_export"
IMPORT: Final = "kube_router_import"
PODS: Final = "podcidrdefinedset"
VIPS: Final = "servicevipsdefinedset"
DEFAULT_ROUTE: Final = "defaultroutedefinedset"
CUSTOM_REJECT: Final = "customimportrejectdefinedset"
IBGP_PEERS: Final = "iBGPpeerset"
ALL_PEERS: Final = "allpeerset"


def twin(name: str, family: Family) -> str:
    """Name of a defined set in a family."""
    return name if family == 4 else name + "v6"


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


def itself(own: Node | None, options: Options) -> Desired:
    """The speaker, and a path for each pod range of this node. Nothing without our Node object or an address."""
    if own is None or not own.addresses:
        return NOTHING
    identifier = router_id(own, options)
    about = Ref(Kind.NODE, own.name)
    if not identifier:
        return Desired(notes=(Note(about, "NoRouterID", f"primary address {primary(own)} is IPv6: give --router-id"),))
    listen = tuple(sorted(address for family in options.families if (address := best(own, family))))
    state: dict[Key, Value] = {SpeakerKey(): Speaker(options.asn, identifier, options.bgp_port, listen)}
    notes = []
    for cidr in own.pod_cidrs:
        family = family_of(cidr)
        hop = best(own, family) if family in options.families else ""
        if hop:
            state[PathKey(cidr)] = Path(hop)
        elif family in options.families:
            notes.append(Note(about, "NoNextHop", f"pod range {cidr} is not announced: this node has no IPv{family} address"))
    return Desired(state, tuple(notes))


def neighbor(node: Node | None, own: Node | None, nodes: Store[Node], options: Options) -> Desired:
    """The session with another node; nothing with ourselves, or while our own Node object is missing.

    A node that nobody can speak BGP with is named in a note and bothers no other.
    """
    if node is None or own is None or node.name == own.name or not own.addresses:
        return NOTHING
    fault = _fault(node, own, nodes)
    if fault is not None:
        return Desired(notes=(fault,))
    value = Neighbor(
        asn=options.asn,
        local_address=primary(own),
        port=options.bgp_port,
        families=tuple(family for family in FAMILIES if family in options.families and best(node, family)),
        hold_time=HOLD_TIME,
        restart_time=int(options.bgp_graceful_restart_time) if options.bgp_graceful_restart else 0,
        deferral_time=min(int(options.bgp_graceful_restart_deferral_time), LONGEST_SILENCE) if options.bgp_graceful_restart else 0,
    )
    if not value.families:
        note = Note(Ref(Kind.NODE, node.name), "NoCommonFamily", "no address of an enabled family: no routes can be exchanged with it")
        return Desired(notes=(note,))
    return Desired({NeighborKey(primary(node)): value})


def _fault(node: Node, own: Node, nodes: Store[Node]) -> Note | None:
    """Why there can be no session with this node. An address that several claim is the oldest one's: a newcomer disturbs nobody."""
    about = Ref(Kind.NODE, node.name)
    address = primary(node)
    if not address:
        return Note(about, "NoAddress", "status.addresses holds no InternalIP and no ExternalIP: no BGP session with this node")
    if family_of(address) != family_of(primary(own)):
        mismatch = f"primary address {address} is IPv{family_of(address)}, that of {own.name} is IPv{family_of(primary(own))}"
        return Note(about, "AddressFamilyMismatch", f"{mismatch}: no BGP session between them")
    holder = min(
        (other for other in nodes.by("address", address) if primary(other) == address),
        key=lambda other: (other.name != own.name, not other.pod_cidrs, other.created, other.name),
    )
    if holder.name != node.name:
        return Note(about, "DuplicateAddress", f"address {address} is also that of node {holder.name}, which keeps it")
    return None


def rules(own: Node | None, nodes: Iterable[Node], options: Options) -> Desired:
    """Defined sets, the two policies and their assignments. Without our Node object nothing, as there is no speaker then."""
    if own is None or not own.addresses:
        return NOTHING
    peers = sorted({primary(node) for node in nodes if node.addresses})
    pods = tuple(cidr for cidr in own.pod_cidrs if family_of(cidr) in options.families)
    sets = {**_prefix_sets(pods), **_neighbor_sets(peers)}
    return Desired({**sets, **_policies(sets)})


def _prefix_sets(pods: tuple[str, ...]) -> dict[Key, Value]:
    sets: dict[Key, Value] = {}
    for family in FAMILIES:
        exact = (f"{cidr} {length}..{length}" for cidr in of_family(pods, family) for length in [cidr.partition("/")[2]])
        default = "0.0.0.0/0 0..0" if family == 4 else "::/0 0..0"
        for name, members in ((PODS, tuple(sorted(exact))), (VIPS, ()), (DEFAULT_ROUTE, (default,)), (CUSTOM_REJECT, ())):
            sets[DefinedSetKey("prefix", twin(name, family))] = DefinedSet(members)
    return sets


def _neighbor_sets(peers: list[str]) -> dict[Key, Value]:
    sets: dict[Key, Value] = {}
    for family in FAMILIES:
        members = DefinedSet(tuple(sorted(host_prefix(address) for address in peers if family_of(address) == family)))
        for name in (IBGP_PEERS, ALL_PEERS):
            sets[DefinedSetKey("neighbor", twin(name, family))] = members
    return sets


def _policies(sets: dict[Key, Value]) -> dict[Key, Value]:
    exports = _statements(sets, prefixes=(PODS,), neighbors=IBGP_PEERS, accept=True)
    imports = _statements(sets, prefixes=(VIPS, DEFAULT_ROUTE, CUSTOM_REJECT), neighbors=ALL_PEERS, accept=False)
    return {
        PolicyKey(EXPORT): BgpPolicy(exports),
        PolicyKey(IMPORT): BgpPolicy(imports),
        AssignmentKey("export"): Assignment((EXPORT,), default_accept=False),
        AssignmentKey("import"): Assignment((IMPORT,), default_accept=True),
    }


def _statements(sets: dict[Key, Value], *, prefixes: tuple[str, ...], neighbors: str, accept: bool) -> tuple[Statement, ...]:
    """One statement for each pair of a prefix set and a neighbour set that both have members, in the original's order."""
    return tuple(
        Statement(prefix_set + neighbor_set, prefix_set, neighbor_set, accept)
        for neighbor_set in _filled(sets, "neighbor", (neighbors,))
        for prefix_set in _filled(sets, "prefix", prefixes)
    )


def _filled(sets: dict[Key, Value], kind: str, names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        for family in FAMILIES:
            value = sets[DefinedSetKey(kind, twin(name, family))]
            if isinstance(value, DefinedSet) and value.members:
                found.append(twin(name, family))
    return found
