"""Sessions: one with every other node. Every session carries all families that both ends have."""

from __future__ import annotations

from typing import Final

from kube_router.cache.store import Store
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.routing.datapath import ends
from kube_router.desired.routing.speaker import best
from kube_router.kit.net import FAMILIES, family_of
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.state.bgp import Neighbor, NeighborKey

HOLD_TIME: Final = 90  # seconds, for node peers; --bgp-holdtime is for external ones, as in the original
# Seconds that a restarted speaker waits for its peers' End-of-RIB, at most. It would wait the whole deferral time for any peer that
# is down or knows no graceful restart, silent towards all; and what a node announces to nodes never depends on what it hears.
LONGEST_SILENCE: Final = 5


def neighbor(node: Node | None, own: Node | None, nodes: Store[Node], options: Options) -> Desired:
    """The session with another node; nothing with ourselves, or while our own Node object is missing.

    A node that nobody can speak BGP with is named in a note and bothers no other.
    """
    if node is None or own is None or node.name == own.name or not own.addresses:
        return NOTHING
    fault = _fault(node, own, nodes)
    if fault is not None:
        return Desired(notes=(fault,))
    local, remote = ends(own, node)
    value = Neighbor(
        asn=options.asn,
        local_address=local,
        port=options.bgp_port,
        families=tuple(family for family in FAMILIES if family in options.families and best(node, family)),
        hold_time=HOLD_TIME,
        restart_time=int(options.bgp_graceful_restart_time) if options.bgp_graceful_restart else 0,
        deferral_time=min(int(options.bgp_graceful_restart_deferral_time), LONGEST_SILENCE) if options.bgp_graceful_restart else 0,
    )
    if not value.families:
        note = Note(Ref(Kind.NODE, node.name), "NoCommonFamily", "no address of an enabled family: no routes can be exchanged with it")
        return Desired(notes=(note,))
    return Desired({NeighborKey(remote): value})


def _fault(node: Node, own: Node, nodes: Store[Node]) -> Note | None:
    """Why there can be no session with this node. An address that several claim is the oldest one's: a newcomer disturbs nobody."""
    about = Ref(Kind.NODE, node.name)
    local, address = ends(own, node)
    if not address:
        return Note(about, "NoAddress", "status.addresses holds no InternalIP and no ExternalIP: no BGP session with this node")
    if family_of(address) != family_of(local):
        mismatch = f"primary address {address} is IPv{family_of(address)}, that of {own.name} is IPv{family_of(local)}"
        return Note(about, "AddressFamilyMismatch", f"{mismatch}: no BGP session between them")
    holder = min(
        (other for other in nodes.by("address", address) if ends(own, other)[1] == address),
        key=lambda other: (other.name != own.name, not other.pod_cidrs, other.created, other.name),
    )
    if holder.name != node.name:
        return Note(about, "DuplicateAddress", f"address {address} is also that of node {holder.name}, which keeps it")
    return None
