"""Sessions with routers outside the cluster, named by flags or, where no flag names any, by annotations of this node.

What they are sent and what is taken from them: rules.py. Peers of flags are watched with BFD as the flags say, those of annotations each
as its own entry says.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final

from kube_router.codec import annotation_peers
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.routing.speaker import best, restart_times
from kube_router.kit.net import FAMILIES, canonical_address, family_of
from kube_router.model.objects import Kind, Node, Ref
from kube_router.model.peers import ExternalPeer
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import Bfd, Neighbor, NeighborKey

_LEAST_TTL: Final = 2  # of packets to a peer that is more than a hop away


def external_peers(own: Node, options: Options) -> tuple[ExternalPeer, ...]:
    """Peers that flags or annotations name, and that this node can reach: of a family that it has an address of."""
    return tuple(peer for peer in _named(own, options) if not _fault(peer, own))


def external(own: Node | None, options: Options) -> Desired:
    """A session with each external peer; one that cannot be is named in a note and bothers no other."""
    if own is None or not own.addresses:
        return NOTHING
    about = Ref(Kind.NODE, own.name)
    state: dict[Key, Value] = {NeighborKey(peer.address): _neighbor(peer, own, options) for peer in external_peers(own, options)}
    faults = (_fault(peer, own) for peer in _named(own, options))
    return Desired(state, tuple(Note(about, "NoPeerSession", fault) for fault in faults if fault))


def _named(own: Node, options: Options) -> tuple[ExternalPeer, ...]:
    return _of_flags(options) if options.peer_router_ips else annotation_peers.peers(own.annotations)


def _of_flags(options: Options) -> tuple[ExternalPeer, ...]:
    bfd = None
    if options.enable_bfd:
        bfd = Bfd(
            port=options.bfd_port,
            multiplier=options.bfd_detection_multiplier,
            transmit=options.bfd_desired_min_tx_interval,
            receive=options.bfd_required_min_rx_interval,
        )
    ports = options.peer_router_ports or repeat(179)
    passwords = options.peer_router_passwords or repeat(None)
    rows = zip(options.peer_router_ips, options.peer_router_asns, ports, passwords, strict=False)
    return tuple(ExternalPeer(canonical_address(ip), asn, port, "", password or None, bfd) for ip, asn, port, password in rows)


def _neighbor(peer: ExternalPeer, own: Node, options: Options) -> Neighbor:
    restart, deferral = restart_times(options)
    ttl = options.peer_router_multihop_ttl
    return Neighbor(
        asn=peer.asn,
        local_address=_local(peer, own),
        port=peer.port,
        families=tuple(family for family in FAMILIES if family in options.families and best(own, family)),
        hold_time=int(options.bgp_holdtime),
        restart_time=restart,
        deferral_time=deferral,
        password=peer.password,
        multihop_ttl=ttl if ttl >= _LEAST_TTL else 0,
        bfd=peer.bfd,
    )


def _local(peer: ExternalPeer, own: Node) -> str:
    return peer.local or best(own, family_of(peer.address))


def _fault(peer: ExternalPeer, own: Node) -> str:
    if not _local(peer, own):
        return f"no BGP session with peer {peer.address}: this node has no IPv{family_of(peer.address)} address to speak from"
    if peer.address in own.addresses:
        return f"no BGP session with peer {peer.address}: that is an address of this node"
    return ""
