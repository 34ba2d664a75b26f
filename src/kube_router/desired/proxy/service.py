"""One Service on this node: virtual servers with their destinations, addresses, and entries of the shared sets.

Served are cluster IPs (with the internal traffic policy) and node ports on the node's primary addresses (with the external
one). A policy of Local without a ready endpoint here leaves an empty virtual server, which refuses: packets are never routed
past it. Two Services that claim the same address, protocol and port: the older one has it, the younger is told so.

Not served yet, and said so in a note: external and load-balancer IPs, annotations of direct server return, hash schedulers
and hairpin; and in-cluster clients of a node port under external policy Local where no endpoint is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from kube_router.codec.sets import port_entry
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.proxy.endpoints import Backend, backends, serving
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.kit.net import FAMILIES, Family, family_of, host_prefix
from kube_router.model import names
from kube_router.model.objects import Claim, EndpointSlice, Kind, Ref, Service, ServicePort
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import Member, SetMember

PROXY_NAME: Final = "kube-router"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
LOCAL: Final = "kube-router.io/service.local"
SCHEDULER: Final = "kube-router.io/service.scheduler"

PERSISTENT: Final = 0x1  # IP_VS_SVC_F_PERSISTENT
SCHEDULERS: Final = frozenset({"rr", "lc"})

# Annotations that ask for what is not there yet.
_MISSING: Final = {
    "kube-router.io/service.dsr": "direct server return",
    "kube-router.io/service.hairpin": "hairpin traffic",
}
_NUMBERS: Final = {name.upper(): number for number, name in names.PROTOCOLS.items()}
_HOST_BITS: Final[dict[Family, int]] = {4: 32, 6: 128}
_PORT_SETS: Final = {family: names.set_name(names.IPVS_SERVICES, family) for family in FAMILIES}
_VIP_SETS: Final = {family: names.set_name(names.SERVICE_IPS, family) for family in FAMILIES}
_MEMBER: Final = Member()
_DESTINATION: Final = Destination()

# Other Services that make a claim, with the asker among them.
Rivals = Callable[[Claim], Iterable[Service]]


def is_served(service: Service) -> bool:
    """Whether this proxy is to serve the Service: it has an address, and is not left to another proxy or declared headless."""
    return (
        bool(service.cluster_ips)
        and service.type != "ExternalName"
        and service.labels.get(PROXY_NAME_LABEL, PROXY_NAME) == PROXY_NAME
        and HEADLESS_LABEL not in service.labels
    )


def virtual_servers(service: Service, slices: Sequence[EndpointSlice], around: Surroundings, rivals: Rivals) -> Desired:
    """Everything that one Service wants here."""
    if not is_served(service):
        return NOTHING
    state: dict[Key, Value] = {}
    notes = list(_notes(service)) if service.annotations or service.external_ips or service.ingress else []
    internal, external = policies(service)
    groups = backends(slices)
    families = {family_of(vip) for vip in service.cluster_ips}.intersection(around.primary)
    for port in service.ports:
        group = groups.get((port.name, port.protocol), {})
        for family in families:
            value = _virtual_server(service.annotations.get(SCHEDULER, "rr"), service.affinity_timeout, family)
            everyone = serving(group, family)
            chosen = everyone if internal == "Cluster" else serving(group, family, node=around.name)
            for vip in service.cluster_ips:
                if family_of(vip) == family and not _taken(service, Claim(vip, port.protocol, port.port), rivals, notes):
                    _serve(state, Claim(vip, port.protocol, port.port), family, value, chosen)
                    if vip not in around.local:
                        state[AddressKey(names.DUMMY, host_prefix(vip))] = _address(around.sources[family])
            if port.node_port and around.primary[family]:
                chosen = everyone if external == "Cluster" else serving(group, family, node=around.name)
                if not _taken(service, Claim("", port.protocol, port.node_port), rivals, notes):
                    _serve(state, Claim(around.primary[family], port.protocol, port.node_port), family, value, chosen)
                    if external == "Local" and everyone and not chosen:
                        notes.append(_refuses_all(service, port, around))
    return Desired(state, tuple(dict.fromkeys(notes)), seniority(service))


def policies(service: Service) -> tuple[str, str]:
    """Internal and external traffic policy; the annotation forces the external one to Local and the internal one to Cluster."""
    if service.annotations.get(LOCAL) == "true":
        return "Cluster", "Local"
    return service.internal_policy, service.external_policy


def seniority(service: Service) -> tuple[object, ...]:
    """Of Services that claim the same, the least has it: the oldest, then the first by name."""
    return service.created, service.name


# Many Services want equal values: one of each is enough.
@lru_cache(maxsize=256)
def _virtual_server(scheduler: str, affinity_timeout: int, family: Family) -> VirtualServer:
    return VirtualServer(
        scheduler=scheduler if scheduler in SCHEDULERS else "rr",
        flags=PERSISTENT if affinity_timeout else 0,
        timeout=affinity_timeout,
        prefix=_HOST_BITS[family],
    )


@lru_cache(maxsize=16)
def _address(source: str) -> Address:
    return Address(source=source)


def _serve(state: dict[Key, Value], at: Claim, family: Family, value: VirtualServer, chosen: Iterable[Backend]) -> None:
    server = VirtualServerKey(at.address, _NUMBERS[at.protocol], at.port, 0, family)
    state[server] = value
    for backend, port in chosen:
        state[DestinationKey(server, backend, port)] = _DESTINATION
    state[SetMember(_PORT_SETS[family], port_entry(at.address, at.protocol, at.port))] = _MEMBER
    state[SetMember(_VIP_SETS[family], at.address)] = _MEMBER


def _taken(service: Service, claim: Claim, rivals: Rivals, notes: list[Note]) -> bool:
    others = [rival for rival in rivals(claim) if rival.name != service.name]
    if not others:
        return False
    older = [rival for rival in others if seniority(rival) < seniority(service) and is_served(rival)]
    if not older:
        return False
    owner = min(older, key=seniority)
    what = f"{claim.address} port {claim.port}" if claim.address else f"node port {claim.port}"
    notes.append(
        Note(
            Ref(Kind.SERVICE, service.name),
            "PortTaken",
            f"{what}/{claim.protocol} belongs to the older Service {owner.name}; choose another for this one",
        )
    )
    return True


def _notes(service: Service) -> Iterator[Note]:
    about = Ref(Kind.SERVICE, service.name)
    if service.external_ips or any(entry.mode == "VIP" for entry in service.ingress):
        yield Note(about, "NotServedYet", "external and load-balancer IPs are not served by this version; cluster IPs and node ports are")
    for annotation, what in _MISSING.items():
        if annotation in service.annotations:
            yield Note(about, "NotServedYet", f"annotation {annotation} asks for {what}, which this version does not do yet")
    scheduler = service.annotations.get(SCHEDULER, "rr")
    if scheduler not in SCHEDULERS:
        known = ", ".join(sorted(SCHEDULERS))
        yield Note(about, "NotServedYet", f"annotation {SCHEDULER} is {scheduler!r}, of which this version knows {known}; rr is used")


def _refuses_all(service: Service, port: ServicePort, around: Surroundings) -> Note:
    return Note(
        Ref(Kind.SERVICE, service.name),
        "NoLocalEndpoint",
        f"externalTrafficPolicy is Local and node {around.name} has no ready endpoint: "
        f"its node port {port.node_port}/{port.protocol} refuses all clients, those of the cluster too",
    )
