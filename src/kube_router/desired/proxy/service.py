"""One Service on this node: virtual servers with their destinations, addresses, and entries of the shared sets.

A port at one of the Service's addresses (frontends.py) is one virtual server with the backends that the traffic policy there
means (endpoints.py). A policy without a backend leaves an empty virtual server, which refuses: packets are never routed past
it. Two Services that claim the same address, protocol and port: the older one has it, the younger is told so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from kube_router.codec import annotations as said
from kube_router.codec.sets import port_entry
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.annotations import rejections
from kube_router.desired.proxy import dsr, health, marked, sources
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.endpoints import Choice, backends, choose
from kube_router.desired.proxy.frontends import Binding, Frontend, frontends, number, server_at
from kube_router.kit.net import FAMILIES, Family, host_prefix
from kube_router.model import names
from kube_router.model.objects import Claim, EndpointSlice, Kind, Ref, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import FALLBACK, FALLING_BACK, Destination, DestinationKey, VirtualServer
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import Member, SetMember

PROXY_NAME: Final = "kube-router"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
PERSISTENT: Final = 0x1  # IP_VS_SVC_F_PERSISTENT

_HOST_BITS: Final[dict[Family, int]] = {4: 32, 6: 128}
_PORT_SETS: Final = {family: names.set_name(names.IPVS_SERVICES, family) for family in FAMILIES}
_VIP_SETS: Final = {family: names.set_name(names.SERVICE_IPS, family) for family in FAMILIES}
_OWN_SETS: Final = {family: names.set_name(names.LOCAL_IPS, family) for family in FAMILIES}
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
    planned = dsr.plan(service, slices, context)
    everything = []
    for binding, choice in bindings(service, slices, context, notes):
        _bind(state, binding, planned, context)
        if choice.ignored or binding.frontend.policy == "Local":
            notes += _how(binding, choice, context.around.name)
        everything.append(binding)
    notes += dsr.notes(service, everything, planned, context)
    if service.health_check_node_port:
        state |= health.answers(service, slices, (binding.frontend for binding in everything), context.around)
    return Desired(state, tuple(dict.fromkeys(notes)), seniority(service))


def backing(service: Service, address: str, slices: Sequence[EndpointSlice], context: Context) -> Desired:
    """What a pod of this node needs, by its address, as a backend of the Service that answers directly."""
    planned = dsr.plan(service, slices, context)
    if planned is None or not is_served(service):
        return NOTHING
    everything = [binding for binding, _ in bindings(service, slices, context, [])]
    return Desired(dsr.backing(everything, address, planned, context), (), seniority(service))


def bindings(service: Service, slices: Sequence[EndpointSlice], context: Context, notes: list[Note]) -> Iterator[tuple[Binding, Choice]]:
    """Ports of a Service at its addresses here, as far as it has them; what it has not is said in `notes`."""
    scheduler, flags = _scheduling(service)
    if context.options.ipvs_graceful_termination and scheduler in FALLING_BACK:
        flags |= FALLBACK  # otherwise clients of a backend that drains are refused
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
            value = _virtual_server(scheduler, flags, service.affinity_timeout, front.family)
            server = server_at(front, port.protocol, at)
            yield Binding(service, front, port.protocol, at, server, value, choice.everyone, choice.here), choice


def seniority(service: Service) -> tuple[object, ...]:
    """Of Services that claim the same, the least has it: the oldest, then the first by name."""
    return service.created, service.name


def _bind(state: dict[Key, Value], binding: Binding, planned: dsr.Plan | None, context: Context) -> None:
    """All that one port at one address comes to."""
    front, server = binding.frontend, binding.server
    if planned is not None and dsr.applies(binding, planned, context):
        state |= dsr.direct(binding, planned, context)
    else:
        state[server] = binding.value
        for backend, port in binding.chosen:
            state[DestinationKey(server, backend, port)] = _DESTINATION
    state[SetMember(_PORT_SETS[front.family], port_entry(front.address, binding.protocol, binding.port))] = _MEMBER
    state[SetMember(_VIP_SETS[front.family], front.address)] = _MEMBER
    if front.policy == "Local" or binding.service.source_ranges:
        state |= _rules(binding, planned, context)
    if front.kind == "nodeport":
        return
    if front.address in context.around.own:
        # What else listens there goes on being reached.
        state[SetMember(_OWN_SETS[front.family], front.address)] = _MEMBER
        return
    if front.kind in dsr.OUTSIDE and context.is_direct(front.address):
        if not dsr.applies(binding, planned, context):
            state |= dsr.shared(binding, context)
    else:
        state[AddressKey(names.DUMMY, host_prefix(front.address))] = _address(context.around.sources[front.family])


def _rules(binding: Binding, planned: dsr.Plan | None, context: Context) -> dict[Key, Value]:
    """Who may reach it, and whose packets are treated apart; nothing for nearly all."""
    front, state = binding.frontend, sources.restrict(binding)
    if front.policy == "Local" and not dsr.applies(binding, planned, context):
        inside = marked.in_cluster(binding, context.mark_of)
        state |= inside
        if front.kind in dsr.OUTSIDE and context.is_direct(front.address):
            state |= dsr.delivered(inside)
    return state


def _scheduling(service: Service) -> tuple[str, int]:
    """Scheduler and its flags; these are for Maglev hashing only, as the original has it."""
    if not service.annotations:
        return said.DEFAULT_SCHEDULER, 0
    scheduler = said.scheduler(service.annotations)
    return scheduler, said.scheduler_flags(service.annotations) if scheduler == "mh" else 0


# Many Services want equal values: one of each is enough.
@lru_cache(maxsize=256)
def _virtual_server(scheduler: str, flags: int, affinity_timeout: int, family: Family) -> VirtualServer:
    return VirtualServer(
        scheduler=scheduler,
        flags=flags | (PERSISTENT if affinity_timeout else 0),
        timeout=affinity_timeout,
        prefix=_HOST_BITS[family],
    )


@lru_cache(maxsize=16)
def _address(source: str) -> Address:
    return Address(source=source)


def _taken(service: Service, front: Frontend, protocol: str, port: int, context: Context, notes: list[Note]) -> bool:
    rivals = {
        rival.name: rival
        for claim in claims_at(front.address, front.family, protocol, port, context)
        for rival in context.rivals(claim)
        if rival.name != service.name
    }
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


def claims_at(address: str, family: Family, protocol: str, port: int, context: Context) -> tuple[Claim, ...]:
    """Claims that come to one port at one address here: of the address, and where it is one for node ports, of a node port."""
    if address in context.around.node_ports.get(family, ()):
        return Claim(address, protocol, port), Claim("", protocol, port)
    return (Claim(address, protocol, port),)


def _serves(service: Service, address: str, protocol: str, port: int, context: Context) -> bool:
    """Whether a Service would serve a port at an address, were it alone: a claim that is refused takes nothing from others."""
    return any(
        front.address == address and any(p.protocol == protocol and number(front, p.port, p.node_port) == port for p in service.ports)
        for front in frontends(service, context, [])
    )


def _first_notes(service: Service) -> list[Note]:
    if not service.rejected and not service.annotations:
        return []
    about = Ref(Kind.SERVICE, service.name)
    notes = list(rejections(about, (one for one in service.rejected if one.annotation in said.OF_PROXY)))
    if said.SCHEDULER_FLAGS in service.annotations and said.scheduler(service.annotations) != "mh":
        words = f"annotation {said.SCHEDULER_FLAGS} counts only with {said.SCHEDULER}=mh; set that, or leave the flags out"
        notes.append(Note(about, "SchedulerFlagsIgnored", words))
    return notes


def _how(binding: Binding, choice: Choice, node: str) -> Iterator[Note]:
    """How backends were chosen, where that may surprise somebody who wonders where packets go."""
    about = Ref(Kind.SERVICE, binding.service.name)
    if choice.ignored:
        yield Note(about, "HintsIgnored", f"all ready endpoints are used, hints or not: {choice.ignored}", quiet=True)
    if binding.frontend.policy == "Local" and choice.everyone and not choice.here:
        policy = "internalTrafficPolicy" if binding.frontend.kind == "cluster" else "externalTrafficPolicy"
        who = "clients on this node are" if binding.frontend.kind == "cluster" else "clients from outside the cluster are"
        yield Note(about, "NoLocalEndpoint", f"{policy} is Local, and node {node} has no endpoint: {who} refused here", quiet=True)
