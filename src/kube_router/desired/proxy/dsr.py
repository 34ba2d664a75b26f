"""Direct server return (annotation `service.dsr` = tunnel): external and load-balancer IPs whose backends answer clients themselves.

    client --> VIP: no link has it --> mangle: the mark of its address and port --> ip rule: table 78, local --> INPUT
        --> IPVS, by mark --> in a packet to the backend's pod, whichever node it is on --> tunnel in the pod, where the VIP is
        --> the process answers from the VIP, straight to the client

This node must not own such an address, or it would take the answers of its own pods for forgeries. So it stands on no link, and whoever
else serves other ports of it (a Service without the annotation, or one that cannot have what it asks for) is delivered by mark as well,
only that IPVS then knows it by its address. Cluster IPs and node ports are served as always.

What each pod of this node needs is an item of its own (`backing`): its tunnel, addresses, and its place among the destinations, which it
gets once these stand; a pod in which they cannot be made keeps nobody waiting. It is prepared as soon as it has an address, ready or
not, and keeps its tunnel while it ends.

Segments of connections that are answered directly are made small enough for a packet around them, in the answer that leaves the pod. Who
sends datagrams that are too large hears of it: they are given another mark, which leads to a route that takes none of their size. A
tunnel changes no port: where a pod listens on another one, it is translated there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from kube_router.codec import annotations as said
from kube_router.codec.rules import (
    TCP_SYN,
    comment,
    ipvs,
    longer_than,
    match_mark,
    match_set,
    matching,
    must_not_be_cut,
    reject,
    rule,
    set_mark,
    set_mss,
)
from kube_router.codec.sets import port_entry
from kube_router.desired import Note
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.endpoints import is_here
from kube_router.desired.proxy.frontends import Binding, FrontendKind
from kube_router.desired.proxy.marked import CLUSTER_RANK, in_cluster, marks_everywhere, tells_apart
from kube_router.desired.proxy.marks import MASK, UNDELIVERABLE
from kube_router.kit.net import Family, family_of
from kube_router.model.names import (
    BRIDGE,
    CLAMP_CHAIN,
    PROTOCOL_NUMBERS,
    REFUSED_CHAIN,
    SERVICE_MARKS,
    TOO_BIG_CHAIN,
    TOO_BIG_TABLE,
    UNMARK_CHAIN,
    set_name,
)
from kube_router.model.objects import EndpointSlice, Kind, Ref, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.direct import (
    Delivery,
    DeliveryKey,
    MarkRule,
    MarkRuleKey,
    PodPort,
    PodPortKey,
    PodTunnel,
    PodTunnelKey,
    PodVip,
    PodVipKey,
)
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServerKey
from kube_router.model.state.links import Sysctl, SysctlKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetMember

OUTSIDE: Final[frozenset[FrontendKind]] = frozenset({"external", "loadbalancer"})

_TUNNEL: Final = Destination(forward=2)  # IP_VS_CONN_F_TUNNEL
_RULE: Final = MarkRule(MASK)
_SLOPPY: Final = SysctlKey("net/ipv4/vs/sloppy_tcp")  # IPVS takes in connections whose beginning it did not see
# Headers of IP and TCP without options, and the packet around them (RFC 9293 3.7.1: MSS is without options).
_AROUND: Final = 20  # RFC 2003
_HEADERS: Final[dict[Family, int]] = {4: 20 + 20 + 20, 6: 40 + 20 + 40}


class Backing(NamedTuple):
    """The item of one pod of this node behind one Service; `about` is the Service."""

    about: Ref
    address: str


class Plan(NamedTuple):
    """How a Service that asks for it is answered directly here. `pods`: addresses of its endpoints on this node; `anywhere`: families
    in which it has endpoints at all, whether they serve, end or begin.

    `refused`: families in which it cannot be, each with the endpoint that is in the way.
    """

    pods: frozenset[str]
    refused: Mapping[Family, str]
    anywhere: frozenset[Family] = frozenset()

    def is_over(self, binding: Binding) -> bool:
        """Whether no connection can be open either: there is no backend, nor one that ends, where the policy looks for them."""
        family = binding.frontend.family
        if binding.frontend.policy == "Cluster":
            return family not in self.anywhere
        return not any(family_of(pod) == family for pod in self.pods)


def plan(service: Service, slices: Iterable[EndpointSlice], context: Context) -> Plan | None:
    """None for a Service that does not ask for it. The answer is the same on every node, but for whose pods are whose."""
    if not said.is_direct(service.annotations):
        return None
    pods: set[str] = set()
    refused: dict[Family, str] = {}
    anywhere: set[Family] = set()
    for piece in slices:
        for endpoint in piece.endpoints:
            for address in endpoint.addresses:
                anywhere.add(family_of(address))
                if context.is_node(address):
                    family = family_of(address)
                    refused[family] = min(address, refused.get(family, address))
                elif is_here(endpoint, context.around):
                    pods.add(address)
    return Plan(frozenset(pods), refused, frozenset(anywhere))


def applies(binding: Binding, planned: Plan | None, context: Context) -> bool:
    """Whether one port at one address is answered directly."""
    front = binding.frontend
    if planned is None or front.kind not in OUTSIDE or front.family in planned.refused:
        return False
    return front.address not in context.around.own


def notes(service: Service, bindings: Iterable[Binding], planned: Plan | None, context: Context) -> list[Note]:
    """What is not answered directly although the Service asks for it, and why."""
    if planned is None:
        return []
    about = Ref(Kind.SERVICE, service.name)
    outside = {binding.frontend.address: binding.frontend.family for binding in bindings if binding.frontend.kind in OUTSIDE}
    found = []
    for address, family in outside.items():
        if family in planned.refused:
            reason = f"endpoint {planned.refused[family]} is in its node's own network, where no tunnel can be made for it; take it out"
        elif address in context.around.own:
            reason = "it is an address of this node, which answers from it in any case; choose one that no node has"
        else:
            continue
        words = f"annotation {said.DSR} cannot be followed for {address}, which is served as without it: {reason}"
        found.append(Note(about, "NoDirectReturn", words))
    return found


def direct(binding: Binding, planned: Plan, context: Context) -> dict[Key, Value]:
    """What the Service itself comes to: services by mark with the backends of other nodes, and what leads packets to them."""
    front = binding.frontend
    state: dict[Key, Value] = {}
    for server, chosen in _servers(binding, context).items():
        state[server] = binding.value
        state |= {DestinationKey(server, *backend): _TUNNEL for backend in chosen if backend[0] not in planned.pods}
    inside = in_cluster(binding, context.mark_of)
    state |= {key: value for key, value in inside.items() if not isinstance(key, DestinationKey)}
    state |= delivered(inside) | marked(binding, context)
    if front.family == 4:
        state |= _refused()
        if planned.is_over(binding):
            # IPVS would refuse from the address that was asked, which this node does not have, so nobody would hear of it.
            mark = context.mark_of(binding.claim, "direct")
            for key in (VirtualServerKey("", 0, 0, mark, 4), MarkRuleKey(4, mark)):
                del state[key]
            state[_marking(binding)] = Member(mark=UNDELIVERABLE)
    if binding.value.scheduler == "mh":
        # Every node chooses the same backend, so a connection may move to another node in its midst (a router's other choice).
        state[_SLOPPY] = Sysctl("1")
    mtu = context.around.mtu.get(front.family, 1500)
    if binding.protocol == "TCP":
        state |= _clamp(front.family, mtu)
    elif front.family == 4:
        state |= _too_big(mtu)
    if front.family == 4:
        state[DeliveryKey(4, TOO_BIG_TABLE)] = Delivery(mtu=mtu - _AROUND)
    return state


def shared(binding: Binding, context: Context) -> dict[Key, Value]:
    """What one port comes to that is served as always, at an address that stands on no link because another is answered directly."""
    return marked(binding, context) | _unmarked(binding.frontend.family)


def marked(binding: Binding, context: Context) -> dict[Key, Value]:
    """Packets to an address that stands on no link are delivered here by their mark."""
    front = binding.frontend
    mark = context.mark_of(binding.claim, "direct")
    state = marks_everywhere(front.family) | _delivered(mark, front.family)
    state[_marking(binding)] = Member(mark=mark)
    return state


def _marking(binding: Binding) -> SetMember:
    front = binding.frontend
    return SetMember(set_name(SERVICE_MARKS, front.family), port_entry(front.address, binding.protocol, binding.port))


def delivered(state: Mapping[Key, Value]) -> dict[Key, Value]:
    """The same for packets of the services by mark in there, which entries for clients inside the cluster give their mark."""
    found: dict[Key, Value] = {}
    for key in state:
        if isinstance(key, VirtualServerKey) and key.mark:
            found |= _delivered(key.mark, 6 if key.family == 6 else 4)
    return found


def backing(bindings: Sequence[Binding], address: str, planned: Plan | None, context: Context) -> dict[Key, Value]:
    """What one pod of this node needs; nothing for an address that is no endpoint here."""
    state: dict[Key, Value] = {}
    if planned is None or address not in planned.pods:
        return state
    for binding in bindings:
        front = binding.frontend
        if front.family != family_of(address) or not applies(binding, planned, context):
            continue
        state[PodTunnelKey(address)] = PodTunnel()
        state[PodVipKey(address, front.address)] = PodVip()
        for backend in {*binding.everyone, *binding.here}:
            if backend[0] == address and backend[1] != binding.port:
                state[PodPortKey(address, front.address, PROTOCOL_NUMBERS[binding.protocol], binding.port)] = PodPort(backend[1])
        for server, chosen in _servers(binding, context).items():
            state |= {DestinationKey(server, *backend): _TUNNEL for backend in chosen if backend[0] == address}
    return state


def _servers(binding: Binding, context: Context) -> dict[VirtualServerKey, list[tuple[str, int]]]:
    """Services by mark with all their backends: for everybody, and under policy Local for clients inside the cluster."""
    family = binding.frontend.family
    servers = {VirtualServerKey("", 0, 0, context.mark_of(binding.claim, "direct"), family): binding.chosen}
    if tells_apart(binding):
        servers[VirtualServerKey("", 0, 0, context.mark_of(binding.claim, "cluster"), family)] = binding.everyone
    return servers


@lru_cache(maxsize=1024)
def _delivered(mark: int, family: Family) -> dict[Key, Value]:
    return {MarkRuleKey(family, mark): _RULE, DeliveryKey(family): Delivery()}


@lru_cache(maxsize=16)
def _clamp(family: Family, mtu: int) -> dict[Key, Value]:
    """Rules that hold for every address and port with a mark: only answers that come out of a pod have such a source."""
    answers = match_set(set_name(SERVICE_MARKS, family), "src", "src")
    size = mtu - _HEADERS[family]
    rules = (rule(set_mss(size), TCP_SYN, comment("answers of pods: what clients send gets a packet around it"), answers, protocol="tcp"),)
    return {
        ChainKey(family, "mangle", CLAMP_CHAIN): Chain(rules),
        JumpKey(family, "mangle", "PREROUTING", CLAMP_CHAIN): Jump(matching(TCP_SYN, in_link=BRIDGE, protocol="tcp")),
    }


@lru_cache(maxsize=1)
def _refused() -> dict[Key, Value]:
    """Packets that cannot be delivered take a way on which they are forwarded to nowhere: whoever forwards may refuse, from his own
    address."""
    refusal = rule(reject(4), comment("nobody answers at this address and port"))
    return {
        ChainKey(4, "filter", REFUSED_CHAIN): Chain((refusal,)),
        JumpKey(4, "filter", "FORWARD", REFUSED_CHAIN): Jump(match_mark(UNDELIVERABLE), rank=-20),  # before whoever accepts all
        MarkRuleKey(4, UNDELIVERABLE): MarkRule(MASK, table=TOO_BIG_TABLE),
    }


@lru_cache(maxsize=16)
def _too_big(mtu: int) -> dict[Key, Value]:
    """Who sends datagrams that are too long for a packet around them, and must not be cut, hears of it. IPVS tells IPv6 senders by
    itself; for IPv4 the kernel would answer from the address that was asked, which this node does not have."""
    room = mtu - _AROUND
    match = matching(longer_than(room), must_not_be_cut(), protocol="!tcp")
    rules = (
        rule(
            set_mark(UNDELIVERABLE),
            comment("no room for a packet around them: the sender hears of it"),
            match_set(set_name(SERVICE_MARKS, 4), "dst", "dst"),
        ),
    )
    return {
        ChainKey(4, "mangle", TOO_BIG_CHAIN): Chain(rules),
        JumpKey(4, "mangle", "PREROUTING", TOO_BIG_CHAIN): Jump(match, first=False, rank=CLUSTER_RANK + 10),
    }


@lru_cache(maxsize=2)
def _unmarked(family: Family) -> dict[Key, Value]:
    """A packet that IPVS sends on to a backend's own address has served its mark: the kernel looks for its way once more (for its
    destination is another now), and with the mark it would find that it is to be delivered here."""
    match = ipvs(direction="ORIGINAL", method="MASQ")
    return {
        ChainKey(family, "mangle", UNMARK_CHAIN): Chain((rule(set_mark(0), comment("IPVS has sent it on: its way is its backend's")),)),
        JumpKey(family, "mangle", "OUTPUT", UNMARK_CHAIN): Jump(match, first=False, rank=CLUSTER_RANK + 10),
    }
