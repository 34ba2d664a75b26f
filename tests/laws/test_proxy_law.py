"""The service proxy obeys the engine's law, and no Service takes anything from another."""

from __future__ import annotations

from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.codec.annotations import PREFIX
from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.desired.proxy.endpoints import backends, choose
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.model.names import CLUSTER_MARKS, DUMMY, IPVS_SERVICES, SERVICE_IPS, SERVICE_MARKS, set_name
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Ingress, Interface, Kind, Name, Node, Service, ServicePort
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.links import AddressKey, Link, LinkKey
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec
from tests.engine import Event, assert_law
from tests.engine import Node as LabNode
from tests.fakes import World

OPTIONS = defaults(
    node_name="node1", enable_ipv6=True, service_external_ip_range=("203.0.113.0/24", "10.0.0.0/8"), loadbalancer_ip_range=("0.0.0.0/0",)
)
EVERYWHERE = replace(OPTIONS, nodeport_bindon_all_ip=True)
FOREIGN_SERVER = VirtualServerKey("192.168.50.50", 6, 6443)
FOREIGN: dict[Key, Value] = {
    SetKey("theirs"): SetSpec("hash:ip", 4),
    SetMember("theirs", "10.0.0.1"): Member(),
    LinkKey("br-vm"): Link("bridge"),
}


def controller() -> ProxyController:
    return ProxyController(OPTIONS, kernel=(6, 1))


def everywhere() -> ProxyController:
    return ProxyController(EVERYWHERE, kernel=(6, 1))


names = st.sampled_from([Name("shop", n) for n in ("a", "b", "a-b")])
ports = st.builds(
    ServicePort,
    name=st.sampled_from(["", "http"]),
    protocol=st.sampled_from(["TCP", "UDP", "SCTP"]),
    port=st.sampled_from([53, 80, 30080]),
    node_port=st.sampled_from([0, 80, 30080]),
)
services = st.builds(
    Service,
    name=names,
    created=st.sampled_from(["2024", "2025"]),
    type=st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
    labels=st.sampled_from([{}, {}, {"service.kubernetes.io/headless": ""}]),
    cluster_ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00:96::1", "192.168.50.50"]), max_size=2, unique=True).map(tuple),
    external_ips=st.sampled_from([(), ("203.0.113.1",), ("10.1.0.9", "192.168.50.50"), ("10.2.0.1", "10.0.0.1")]),
    ingress=st.sampled_from(
        [(), (Ingress("203.0.113.1"),), (Ingress("198.51.100.1"), Ingress("192.168.50.99"), Ingress("198.51.100.2", "Proxy"))]
    ),
    annotations=st.sampled_from(
        [
            {},
            {},
            {PREFIX + "service.local": "true"},
            {PREFIX + "service.skiplbips": ""},
            {PREFIX + "service.scheduler": "mh"},
            {PREFIX + "service.dsr": "tunnel"},
            {PREFIX + "service.dsr": "tunnel"},
            {PREFIX + "service.hairpin": ""},
            {PREFIX + "service.hairpin": "", PREFIX + "service.hairpin.externalips": ""},
        ]
    ),
    health_check_node_port=st.sampled_from([0, 32000]),
    source_ranges=st.sampled_from([(), (), ("10.9.0.0/16", "0.0.0.0/0"), ("fd00:9::/64",)]),
    ports=st.lists(ports, max_size=2, unique_by=lambda port: port.name).map(tuple),
    affinity_timeout=st.sampled_from([0, 10800]),
    internal_policy=st.sampled_from(["Cluster", "Local"]),
    external_policy=st.sampled_from(["Cluster", "Local"]),
)
endpoints = st.builds(
    Endpoint,
    addresses=st.sampled_from([("10.1.0.1",), ("10.1.0.2",), ("fd00:64::1",), ("192.168.50.50",), ("192.168.50.99",)]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node_name=st.sampled_from(["node1", "node2", ""]),
    hint_zones=st.sampled_from([(), ("a",), ("b",)]),
    hint_nodes=st.sampled_from([(), (), ("node1",)]),
)
slices = st.builds(
    EndpointSlice,
    name=st.sampled_from([Name("shop", n) for n in ("a-1", "a-2", "b-1")]),
    service=names,
    endpoints=st.lists(endpoints, max_size=3).map(tuple),
    ports=st.lists(
        st.builds(
            EndpointPort,
            name=st.sampled_from(["", "http"]),
            protocol=st.sampled_from(["TCP", "UDP"]),
            port=st.sampled_from([0, 8080]),
        ),
        max_size=2,
    ).map(tuple),
)
nodes = st.builds(
    Node,
    name=st.sampled_from([Name("", "node1"), Name("", "node2")]),
    addresses=st.sampled_from([(), ("192.168.50.50",), ("192.168.50.50", "fd00:50::50"), ("192.168.50.99", "fd00:50::50")]),
    pod_cidrs=st.sampled_from([(), ("10.1.0.0/24",), ("10.1.0.0/24", "10.2.0.0/24", "fd00:64::/64")]),
    labels=st.sampled_from([{}, {"topology.kubernetes.io/zone": "a"}]),
)
links = st.builds(
    Interface,
    name=st.sampled_from([Name("", n) for n in ("lo", "up0", "kube-bridge", "veth1")]),
    addresses=st.sampled_from([(), ("192.168.50.50/24",), ("192.168.50.99/24", "fd00:50::50/64"), ("fe80::1/64",), ("10.0.0.1/32",)]),
    gateways=st.sampled_from([(), (), ("203.0.113.1",), ("198.51.100.1",)]),
)
gone = st.one_of(
    names.map(lambda name: (Kind.SERVICE, name)),
    slices.map(lambda piece: (Kind.ENDPOINT_SLICE, piece.name)),
    nodes.map(lambda node: (Kind.NODE, node.name)),
    links.map(lambda link: (Kind.INTERFACE, link.name)),
)
histories = st.lists(st.one_of(services, services, slices, slices, nodes, links, gone), max_size=16)
numbers = st.frozensets(st.integers(0, 60), max_size=8)


@given(histories, numbers, numbers, st.none() | numbers)
def test_incremental_equals_from_nothing_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    assert_law(controller, history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


@settings(max_examples=40)
@given(histories, numbers, st.none() | numbers)
def test_the_same_with_node_ports_on_every_address(history, fail_at, sync_at):
    assert_law(everywhere, history, fail_at=fail_at, sync_at=sync_at, foreign=FOREIGN)


@given(histories)
def test_what_stands_is_whole(history):
    state = settled(history).state
    for key in state:
        if isinstance(key, DestinationKey):
            assert key.server in state
        if isinstance(key, VirtualServerKey) and key.mark:
            held = {other.set for other, value in state.items() if isinstance(other, SetMember) and value == Member(mark=key.mark)}
            assert held & {set_name(name, key.family) for name in (SERVICE_MARKS, CLUSTER_MARKS)}, "packets must get its mark"
        elif isinstance(key, VirtualServerKey) and key != FOREIGN_SERVER:
            prefix = "inet6:" if key.family == 6 else ""
            entry = f"{key.address},{ {6: 'tcp', 17: 'udp', 132: 'sctp'}[key.protocol] }:{key.port}"
            assert SetMember(prefix + IPVS_SERVICES, entry) in state, "the input chain must let it in"
            assert SetMember(prefix + SERVICE_IPS, key.address) in state
        if isinstance(key, AddressKey):
            address = key.prefix.partition("/")[0]
            assert any(isinstance(k, VirtualServerKey) and k.address == address for k in state), "no address without a service"
            assert key.link == DUMMY


@given(histories)
def test_destinations_of_a_server_are_backends_of_one_service(history):
    node = LabNode(controller)
    for event in history:
        node.feed(event)
    node.settle()
    ledger = node.cycle.ledger
    for key in node.world.state:
        if isinstance(key, VirtualServerKey):
            claimants = set(ledger.owners(key))
            for destination in node.world.state:
                if isinstance(destination, DestinationKey) and destination.server == key:
                    assert set(ledger.owners(destination)) <= claimants


def settled(history: list[Event]) -> World:
    node = LabNode(controller)
    for event in history:
        node.feed(event)
    node.settle()
    return node.world


def expected_backends(group: list[tuple[str, Endpoint]], *, local: bool) -> set[str]:
    """What the API promises of a port on node1 in zone a, said without regard to cost: KEP-1669, KEP-2433, KEP-4444."""
    ready = [(name, e) for name, e in group if e.ready]
    ending = [(name, e) for name, e in group if not e.ready and e.serving and e.terminating]
    if local:
        here = [[name for name, e in some if e.node_name == "node1"] for some in (ready, ending)]
        return set(here[0] or here[1])
    if not ready:
        return {name for name, _ in ending}
    for hints, mine in ((lambda e: e.hint_nodes, "node1"), (lambda e: e.hint_zones, "a")):
        if all(hints(e) for _, e in ready) and any(mine in hints(e) for _, e in ready):
            return {name for name, e in ready if mine in hints(e)}
    return {name for name, _ in ready}


hinted = st.builds(
    Endpoint,
    addresses=st.just(()),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node_name=st.sampled_from(["node1", "node2"]),
    hint_zones=st.sampled_from([("a",), ("a",), ("b",), ("a", "b"), ()]),
    hint_nodes=st.sampled_from([("node1",), ("node2",), (), ()]),
)


@given(st.lists(hinted, max_size=6))
def test_backends_are_those_that_the_api_promises(conditions):
    group = [(f"10.1.0.{n}", endpoint) for n, endpoint in enumerate(conditions)]
    named = [replace_address(endpoint, address) for address, endpoint in group]
    ports = backends([EndpointSlice(Name("shop", "a-1"), Name("shop", "a"), tuple(named), (EndpointPort("http", "TCP", 80),))])
    around = Surroundings(name="node1", primary={4: ""}, sources={4: ""}, zone="a")
    found = choose(ports[("http", "TCP")], 4, around)
    assert {address for address, _ in found.everyone} == expected_backends(group, local=False)
    assert {address for address, _ in found.here} == expected_backends(group, local=True)


def replace_address(endpoint: Endpoint, address: str) -> Endpoint:
    return msgspec.structs.replace(endpoint, addresses=(address,))
