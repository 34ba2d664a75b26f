"""One Service on this node: virtual servers with their destinations, addresses, and entries of the shared sets.

A port at one of the Service's addresses (frontends.py) is one virtual server with the backends that the traffic policy there
means (endpoints.py). A policy without a backend leaves an empty virtual server, which refuses: packets are never routed past
it. Two Services that claim the same address, protocol and port: the older one has it, the younger is told so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from kube_router.codec.sets import port_entry
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.annotations import rejections
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.endpoints import Choice, backends, choose
from kube_router.desired.proxy.frontends import Binding, Frontend, frontends, number
from kube_router.kit.net import FAMILIES, Family, host_prefix
from kube_router.model import names
from kube_router.model.objects import Claim, EndpointSlice, Kind, Ref, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import Member, SetMember

PROXY_NAME: Final = "kube-router"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
SCHEDULER: Final = "kube-router.io/service.scheduler"

PERSISTENT: Final = 0x1  # IP_VS_SVC_F_PERSISTENT
SCHEDULERS: Final = frozenset({"rr", "lc"})

# Annotations that ask for what is not there yet.
_MISSING: Final = {
    "kube-router.io/service.dsr": "direct server return",
    "kube-router.io/service.hairpin": "hairpin traffic",
}
_HOST_BITS: Final[dict[Family, int]] = {4: 32, 6: 128}
_PORT_SETS: Final = {family: names.set_name(names.IPVS_SERVICES, family) for family in FAMILIES}
_VIP_SETS: Final = {family: names.set_name(names.SERVICE_IPS, family) for family in FAMILIES}
_MEMBER: Final = Member()
_DESTINATION: Final = Destination()


def is_served(service: Service) -> bool:
    """Whether this proxy is to serve the Service: it has an address, and is not left to another proxy or declared headless."""
    return (
        bool(service.cluster_ips)
        and service.type != "ExternalName"
        and service.labels.get(PROXY_NAME_LABEL, PROXY_NAME) == PROXY_NAME
        and HEADLESS_LABEL not in service.labels
    )


def virtual_servers(service: Service, slices: Sequence[EndpointSlice], context: Context) -> Desired:
    """Everything that one Service wants here."""
    if not is_served(service):
        return NOTHING
    state: dict[Key, Value] = {}
    notes = _first_notes(service)
    groups = backends(slices)
    fronts = frontends(service, context, notes)
    for port in service.ports:
        group = groups.get((port.name, port.protocol), {})
        choices: dict[Family, Choice] = {}
        for front in fronts:
            at = number(front, port.port, port.node_port)
            if not at or _taken(service, front, port.protocol, at, context, notes):
                continue
            if front.family not in choices:
                choices[front.family] = choose(group, front.family, context.around)
            choice = choices[front.family]
            value = _virtual_server(service.annotations.get(SCHEDULER, "rr"), service.affinity_timeout, front.family)
            _bind(state, Binding(service, front, port.protocol, at, value, choice.everyone, choice.here), context)
    return Desired(state, tuple(dict.fromkeys(notes)), seniority(service))


def seniority(service: Service) -> tuple[object, ...]:
    """Of Services that claim the same, the least has it: the oldest, then the first by name."""
    return service.created, service.name


def _bind(state: dict[Key, Value], binding: Binding, context: Context) -> None:
    """All that one port at one address comes to."""
    front, server = binding.frontend, binding.server
    state[server] = binding.value
    for backend, port in binding.chosen:
        state[DestinationKey(server, backend, port)] = _DESTINATION
    state[SetMember(_PORT_SETS[front.family], port_entry(front.address, binding.protocol, binding.port))] = _MEMBER
    state[SetMember(_VIP_SETS[front.family], front.address)] = _MEMBER
    if front.address not in context.around.own and front.kind != "nodeport":
        state[AddressKey(names.DUMMY, host_prefix(front.address))] = _address(context.around.sources[front.family])


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


def _taken(service: Service, front: Frontend, protocol: str, port: int, context: Context, notes: list[Note]) -> bool:
    claims = claims_at(front.address, protocol, port, context)
    rivals = {rival.name: rival for claim in claims for rival in context.rivals(claim) if rival.name != service.name}
    if not rivals:
        return False
    older = [
        rival
        for rival in rivals.values()
        if seniority(rival) < seniority(service) and is_served(rival) and _serves(rival, front.address, protocol, port, context)
    ]
    if not older:
        return False
    owner = min(older, key=seniority)
    what = f"node port {port}" if front.kind == "nodeport" else f"{front.address} port {port}"
    notes.append(
        Note(
            Ref(Kind.SERVICE, service.name),
            "PortTaken",
            f"{what}/{protocol} belongs to the older Service {owner.name}; choose another for this one",
        )
    )
    return True


def claims_at(address: str, protocol: str, port: int, context: Context) -> list[Claim]:
    """Claims that come to one port at one address here: of the address, and where it is one for node ports, of a node port."""
    claims = [Claim(address, protocol, port)]
    if any(address in addresses for addresses in context.around.node_ports.values()):
        claims.append(Claim("", protocol, port))
    return claims


def _serves(service: Service, address: str, protocol: str, port: int, context: Context) -> bool:
    """Whether a Service would serve a port at an address, were it alone: a claim that is refused takes nothing from others."""
    return any(
        front.address == address and any(p.protocol == protocol and number(front, p.port, p.node_port) == port for p in service.ports)
        for front in frontends(service, context, [])
    )


def _first_notes(service: Service) -> list[Note]:
    about = Ref(Kind.SERVICE, service.name)
    notes = list(rejections(about, service.rejected))
    if not service.annotations:
        return notes
    for annotation, what in _MISSING.items():
        if annotation in service.annotations:
            notes.append(Note(about, "NotServedYet", f"annotation {annotation} asks for {what}, which this version does not do yet"))
    scheduler = service.annotations.get(SCHEDULER, "rr")
    if scheduler not in SCHEDULERS:
        known = ", ".join(sorted(SCHEDULERS))
        words = f"annotation {SCHEDULER} is {scheduler!r}, of which this version knows {known}; rr is used"
        notes.append(Note(about, "NotServedYet", words))
    return notes
