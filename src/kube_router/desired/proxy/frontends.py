"""Where one Service is reached on this node: its addresses, each with the traffic policy that holds there.

| kind         | addresses                                                                  | policy                  |
|--------------|----------------------------------------------------------------------------|-------------------------|
| cluster      | cluster IPs                                                                | internalTrafficPolicy   |
| external     | external IPs that strict validation lets in                                | externalTrafficPolicy   |
| loadbalancer | load-balancer IPs of mode VIP that strict validation lets in, if not skipped | externalTrafficPolicy |
| nodeport     | the node's primary address of each family of the Service, by flag all      | externalTrafficPolicy   |

An address that is not let in is told of and served by nobody: packets to it go where routes lead. One that belongs to another
node, a gateway or a pod is never taken from them. An external address of a family that the Service does not have is served and
refuses, for routers may send its packets here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from kube_router.codec import annotations as said
from kube_router.desired import Note
from kube_router.desired.external_ips import EXTERNAL, LOAD_BALANCER, refusal
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.endpoints import Backend
from kube_router.kit.net import Family, family_of
from kube_router.model import names
from kube_router.model.objects import Claim, Kind, Ref, Service
from kube_router.model.state.ipvs import VirtualServer, VirtualServerKey

FrontendKind = Literal["cluster", "external", "loadbalancer", "nodeport"]

_KINDS: Final[dict[FrontendKind, str]] = {"external": EXTERNAL, "loadbalancer": LOAD_BALANCER}


class Frontend(NamedTuple):
    """One address of a Service here; of node ports, of the node. `policy` is "Cluster" or "Local"."""

    kind: FrontendKind
    address: str
    family: Family
    policy: str


class Binding(NamedTuple):
    """One port of a Service at one of its addresses: what IPVS calls a service.

    `port` is the one that clients use, `server` the IPVS service by address. `everyone`: the backends that a policy of Cluster means;
    `here`: those of this node that a policy of Local means; both of the frontend's family, and either may be empty.
    """

    service: Service
    frontend: Frontend
    protocol: str
    port: int
    server: VirtualServerKey
    value: VirtualServer
    everyone: list[Backend]
    here: list[Backend]

    @property
    def claim(self) -> Claim:
        """Address, protocol and port; of a node port with the node's address."""
        return Claim(self.frontend.address, self.protocol, self.port)

    @property
    def chosen(self) -> list[Backend]:
        """Backends that clients from outside are sent to."""
        return self.everyone if self.frontend.policy == "Cluster" else self.here


def server_at(frontend: Frontend, protocol: str, port: int) -> VirtualServerKey:
    """The IPVS service by address of a port at a frontend."""
    return VirtualServerKey(frontend.address, names.PROTOCOL_NUMBERS[protocol], port, 0, frontend.family)


def frontends(service: Service, context: Context, notes: list[Note]) -> list[Frontend]:
    """All of them, each address once, in a steady order; what is not let in is said in `notes`."""
    internal, external = policies(service)
    fronts = []
    for vip in service.cluster_ips:
        family = family_of(vip)
        if family in context.around.primary:
            fronts.append(Frontend("cluster", vip, family, internal))
    if service.external_ips or service.ingress:
        fronts += _from_outside(service, external, context, notes)
    for port in service.ports:
        if port.node_port:
            fronts += _of_node(service, external, context)
            break
    return fronts


def _from_outside(service: Service, policy: str, context: Context, notes: list[Note]) -> Iterator[Frontend]:
    seen = set(service.cluster_ips)
    for kind, address in _brought_along(service):
        if address in seen or family_of(address) not in context.around.primary:
            continue
        if _is_let_in(service, kind, address, context, notes):
            seen.add(address)
            yield Frontend(kind, address, family_of(address), policy)


def _of_node(service: Service, policy: str, context: Context) -> Iterator[Frontend]:
    for family in dict.fromkeys(map(family_of, service.cluster_ips)):
        for address in context.around.node_ports.get(family, ()):
            yield Frontend("nodeport", address, family, policy)


def policies(service: Service) -> tuple[str, str]:
    """Internal and external traffic policy; the annotation forces the external one to Local and the internal one to Cluster."""
    if service.annotations and said.is_local(service.annotations):
        return "Cluster", "Local"
    return service.internal_policy, service.external_policy


def number(frontend: Frontend, port: int, node_port: int) -> int:
    """The port that clients of a frontend use; 0 where the Service has none there."""
    return node_port if frontend.kind == "nodeport" else port


def _brought_along(service: Service) -> Iterator[tuple[FrontendKind, str]]:
    # Load-balancer IPs first: an address that is named as both keeps the source ranges of the stricter kind.
    if not said.skips_load_balancer(service.annotations):
        for entry in service.ingress:
            if entry.mode == "VIP":
                yield "loadbalancer", entry.address
    for address in service.external_ips:
        yield "external", address


def _is_let_in(service: Service, kind: FrontendKind, address: str, context: Context, notes: list[Note]) -> bool:
    about = Ref(Kind.SERVICE, service.name)
    reason = refusal(address, _KINDS[kind], context.allowed)
    if not reason and address not in context.around.own:
        obstacle = context.obstacle(address)
        reason = f"{_KINDS[kind]} {address} is refused: {obstacle}" if obstacle else ""
    if reason:
        notes.append(Note(about, "VIPRefused", reason))
        return False
    if family_of(address) not in _families(service.cluster_ips):
        notes.append(Note(about, "WrongFamily", _wrong_family(kind, address)))
    return True


def _families(addresses: Iterable[str]) -> set[Family]:
    return {family_of(address) for address in addresses}


def _wrong_family(kind: FrontendKind, address: str) -> str:
    family = family_of(address)
    return (
        f"{_KINDS[kind]} {address} is IPv{family}, of which the Service has neither cluster IP nor endpoints: it refuses all clients; "
        f"add IPv{family} to spec.ipFamilies, or take the address out"
    )
