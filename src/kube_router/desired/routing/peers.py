"""Sessions between nodes. Every session carries all families that both ends have.

A pair of nodes has one when both are of the same AS and either of them is a route reflector, or neither is a reflector's client. Both
ends see the same annotations, so they agree. To a reflector all nodes are clients, told so or not: what it reflects to whom then is no
property of the session, and a node that becomes a client, or is none any more, keeps it.
"""

from __future__ import annotations

from typing import Final

from kube_router.cache.store import Store
from kube_router.codec import annotations as said
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.routing.datapath import ends
from kube_router.desired.routing.speaker import asn, best, restart_times
from kube_router.kit.net import FAMILIES, family_of
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.state.bgp import Neighbor, NeighborKey

HOLD_TIME: Final = 90  # seconds, for node peers; --bgp-holdtime is for external ones, as in the original


def neighbor(node: Node | None, own: Node | None, nodes: Store[Node], options: Options) -> Desired:
    """The session with another node; nothing with ourselves, or while our own Node object is missing.

    A node that nobody can speak BGP with is named in a note and bothers no other.
    """
    if node is None or own is None or node.name == own.name or not own.addresses or not options.enable_ibgp:
        return NOTHING
    number = asn(own, options)
    if number is None or not _is_peer(node, own, options):
        return NOTHING
    fault = _fault(node, own, nodes)
    if fault is not None:
        return Desired(notes=(fault,))
    local, remote = ends(own, node)
    restart, deferral = restart_times(options)
    part = said.reflector(own.annotations)
    value = Neighbor(
        asn=number,
        local_address=local,
        port=options.bgp_port,
        families=tuple(family for family in FAMILIES if family in options.families and best(node, family)),
        hold_time=HOLD_TIME,
        restart_time=restart,
        deferral_time=deferral,
        cluster_id=part.cluster_id if part is not None and part.role == "server" else "",
    )
    if not value.families:
        note = Note(Ref(Kind.NODE, node.name), "NoCommonFamily", "no address of an enabled family: no routes can be exchanged with it")
        return Desired(notes=(note,))
    return Desired({NeighborKey(remote): value})


def _is_peer(node: Node, own: Node, options: Options) -> bool:
    if asn(node, options) != asn(own, options):
        return False
    parts = [said.reflector(one.annotations) for one in (node, own)]
    roles = [part.role for part in parts if part is not None]
    return "server" in roles or "client" not in roles


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
