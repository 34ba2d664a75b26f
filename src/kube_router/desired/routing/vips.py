"""Addresses of one Service that this node announces, each a path and a member of the set that lets it out to external peers.

| traffic policy | announced by                                                                                         |
|----------------|------------------------------------------------------------------------------------------------------|
| Cluster        | every node, while some endpoint is ready (or by flag always): routers balance over the nodes         |
| Local          | nodes with a ready endpoint                                                                          |

Where no endpoint is ready anywhere, those that still serve while they terminate count instead; while another node has ready ones,
a node whose endpoints only terminate takes its announcement back before they are gone. Endpoints count for addresses of their own
family. Never announced: headless Services, addresses of nodes, pods and gateways (a route to one of them would draw its own traffic
here), and what the strict filter refuses.

A node that is excluded from load balancing by its label takes all back; a cordoned one, by flag, what another node announces too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal

import msgspec

from kube_router.codec import annotations as said
from kube_router.config.options import Options
from kube_router.desired import Desired, Note
from kube_router.desired.annotations import rejections
from kube_router.desired.external_ips import EXTERNAL, LOAD_BALANCER, Ranges, refusal
from kube_router.desired.routing.external import external_peers
from kube_router.desired.routing.rules import exactly
from kube_router.desired.routing.speaker import best
from kube_router.kit.net import FAMILIES, Family, family_of, host_prefix
from kube_router.model import names
from kube_router.model.objects import Endpoint, EndpointSlice, Kind, Node, Ref, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import DefinedSetMember, Listed, Path, PathKey

EXCLUDED: Final = "node.kubernetes.io/exclude-from-external-load-balancers"
_CLUSTER: Final = "cluster IP"
_LISTED: Final = Listed()

Drain = Literal["", "excluded", "cordoned"]


class Announcer(msgspec.Struct, frozen=True):
    """What of this node decides over announcements. `hops`: its next hop in each enabled family that it has an address of.

    `others`: nodes that would announce in its place (not drained themselves, with somebody to tell), known only while it is cordoned.
    """

    name: str
    addresses: tuple[str, ...]
    hops: tuple[tuple[Family, str], ...]
    drain: Drain = ""
    others: frozenset[str] = frozenset()


def announcer(own: Node | None, nodes: Callable[[], Iterable[Node]], options: Options) -> Announcer | None:
    """This node as an announcer; None while it cannot be one. `nodes` is asked only while this node is cordoned."""
    if own is None or not own.addresses:
        return None
    drain = drained(own, options)
    others = (node.name.name for node in nodes() if node.name != own.name and _announces_any(node, options)) if drain == "cordoned" else ()
    return Announcer(
        name=own.name.name,
        addresses=own.addresses,
        hops=tuple((family, best(own, family)) for family in FAMILIES if family in options.families and best(own, family)),
        drain=drain,
        others=frozenset(others),
    )


def _announces_any(node: Node, options: Options) -> bool:
    has_peers = bool(external_peers(node, options)) if options.peer_router_ips else node.names_peers
    return has_peers and not drained(node, options)


def drained(node: Node, options: Options) -> Drain:
    """Whether, and why, a node is to take its Service addresses back."""
    if EXCLUDED in node.labels:
        return "excluded"
    return "cordoned" if node.unschedulable and options.withdraw_on_cordon else ""


def drain_notes(around: Announcer | None, own: Node | None, options: Options) -> tuple[Note, ...]:
    """That this node is drained, where Services are announced by flag."""
    by_flag = options.advertise_cluster_ip or options.advertise_external_ip or options.advertise_loadbalancer_ip
    if around is None or own is None or not around.drain or not by_flag:
        return ()
    messages = {
        "excluded": f"the label {EXCLUDED} is set: this node announces no Service addresses; its sessions and pod routes stay",
        "cordoned": "cordoned: this node leaves the announcing of Service addresses to other nodes where they can; "
        "its sessions and pod routes stay",
    }
    return (Note(Ref(Kind.NODE, own.name), "ServicesWithdrawn", messages[around.drain]),)


def vips(
    service: Service,
    slices: Iterable[EndpointSlice],
    around: Announcer | None,
    *,
    options: Options,
    allowed: Ranges,
    is_node: Callable[[str], bool],
    obstacle: Callable[[str], str] = lambda _address: "",
) -> Desired:
    """Everything that one Service has announced from here. `is_node`: whether an address is a node's; `obstacle`: whose else it is."""
    about = Ref(Kind.SERVICE, service.name)
    told_elsewhere = said.OF_PROXY if options.run_service_proxy else frozenset()
    rejected = rejections(about, (one for one in service.rejected if one.annotation not in told_elsewhere))
    if around is None or not service.cluster_ips or service.type == "ExternalName" or around.drain == "excluded":
        return Desired(notes=rejected)
    state: dict[Key, Value] = {}
    refusals: list[str] = []
    endpoints: tuple[Endpoint, ...] | None = None
    hops: Mapping[Family, str] = dict(around.hops)
    for kind, policy, address in _announced(service, options):
        family = family_of(address)
        if family not in hops:
            continue
        reason = _refusal(kind, address, allowed, is_node) or _owned(kind, address, obstacle)
        if reason:
            refusals.append(reason)
            continue
        if endpoints is None:
            endpoints = tuple(endpoint for piece in slices for endpoint in piece.endpoints)
        if _announces(around, policy, [e for e in endpoints if family_of(e.addresses[0]) == family], options):
            prefix = host_prefix(address)
            state[PathKey(prefix)] = Path(hops[family])
            state[DefinedSetMember("prefix", names.bgp_set(names.BGP_VIPS, family), exactly(prefix))] = _LISTED
    return Desired(state, (*rejected, *(Note(about, "AddressNotAnnounced", reason) for reason in dict.fromkeys(refusals))))


def _announced(service: Service, options: Options) -> Iterator[tuple[str, str, str]]:
    """Kind, traffic policy and address of all that is to be announced, if somebody serves it."""
    external = "Local" if said.is_local(service.annotations) else service.external_policy
    if _advertises(service, "clusterip", options.advertise_cluster_ip):
        for address in service.cluster_ips:
            yield _CLUSTER, service.internal_policy, address
    if _advertises(service, "externalip", options.advertise_external_ip):
        for address in service.external_ips:
            yield EXTERNAL, external, address
    balanced = service.type == "LoadBalancer" and not said.skips_load_balancer(service.annotations)
    if balanced and _advertises(service, "loadbalancerip", options.advertise_loadbalancer_ip):
        for entry in service.ingress:
            if entry.mode == "VIP":
                yield LOAD_BALANCER, external, entry.address


def _advertises(service: Service, kind: said.VipKind, by_flag: bool) -> bool:
    asked = said.advertises(service.annotations, kind)
    return by_flag if asked is None else asked


def _refusal(kind: str, address: str, allowed: Ranges, is_node: Callable[[str], bool]) -> str:
    if is_node(address):
        return f"{kind} {address} is not announced: it is the address of a node, whose own traffic would be drawn away"
    return "" if kind == _CLUSTER else refusal(address, kind, allowed)


def _owned(kind: str, address: str, obstacle: Callable[[str], str]) -> str:
    reason = "" if kind == _CLUSTER else obstacle(address)
    return f"{kind} {address} is not announced: {reason}" if reason else ""


def _announces(around: Announcer, policy: str, endpoints: list[Endpoint], options: Options) -> bool:
    serving = [endpoint for endpoint in endpoints if endpoint.ready] or [e for e in endpoints if e.serving and e.terminating]
    if policy == "Local":
        here = any(_is_here(endpoint, around) for endpoint in serving)
        elsewhere = any(endpoint.node_name in around.others for endpoint in serving)
    else:
        here = bool(serving) or options.advertise_without_endpoints
        elsewhere = bool(around.others)
    return here and not (around.drain and elsewhere)


def _is_here(endpoint: Endpoint, around: Announcer) -> bool:
    if endpoint.node_name:
        return endpoint.node_name == around.name
    return any(address in around.addresses for address in endpoint.addresses)
