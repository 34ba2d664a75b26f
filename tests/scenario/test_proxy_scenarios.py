"""What happens on a node as Services, endpoints and the node itself change: which writes, in which order, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest

from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Service, ServicePort
from kube_router.model.state import Change, Key, State
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.engine import Event, after, assert_law
from tests.engine import Node as LabNode
from tests.fakes import World

OPTIONS = defaults(node_name="node1")
NODE1 = Node(Name("", "node1"), addresses=("192.168.50.50",), pod_cidrs=("10.233.64.0/24",))
UPLINK = Interface(Name("", "up0"), addresses=("192.168.50.50/24",))
LO = Interface(Name("", "lo"), addresses=("127.0.0.1/8",))


def controller() -> ProxyController:
    return ProxyController(OPTIONS, kernel=(6, 1))


def service(name: str, ip: str, *, node_port: int = 0, created: str = "2024") -> Service:
    return Service(Name("shop", name), created=created, cluster_ips=(ip,), ports=(ServicePort("http", "TCP", 80, node_port),))


def endpoints(of: str, *addresses: str, piece: str = "1") -> EndpointSlice:
    return EndpointSlice(
        Name("shop", f"{of}-{piece}"),
        Name("shop", of),
        tuple(Endpoint((address,), node_name="node2") for address in addresses),
        (EndpointPort("http", "TCP", 8080),),
    )


def server(ip: str, port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(ip, 6, port, family=4)


def a_node(*objects: Event, world: World | None = None) -> LabNode:
    node = LabNode(controller, world)
    node.begin(NODE1, UPLINK, LO, *objects)
    return node


def kinds(writes: Sequence[Change]) -> list[str]:
    names = [f"{'-' if change.after is None else '+'}{type(change.key).__name__.removesuffix('Key')}" for change in writes]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


def test_a_new_service_is_complete_before_its_address_draws_packets():
    writes = after(a_node(), service("web", "10.233.0.9", node_port=30080), endpoints("web", "10.1.0.1"))
    assert kinds(writes) == ["+VirtualServer", "+Destination", "+SetMember", "+Address"]


def test_a_deleted_service_loses_its_address_first():
    node = a_node(service("web", "10.233.0.9"), endpoints("web", "10.1.0.1"))
    assert kinds(after(node, (Kind.SERVICE, Name("shop", "web")))) == ["-Address", "-SetMember", "-Destination", "-VirtualServer"]


def test_one_endpoint_among_a_thousand_services_is_two_writes_the_new_one_first():
    many: list[Event] = []
    for n in range(1000):
        many += [service(f"s{n}", f"10.233.{n // 250}.{n % 250 + 1}"), endpoints(f"s{n}", "10.1.0.1", "10.1.0.2")]
    node = a_node(*many)
    key = server("10.233.2.8")
    assert after(node, endpoints("s507", "10.1.0.1", "10.1.0.3")) == [
        Change(DestinationKey(key, "10.1.0.3", 8080), None, Destination()),
        Change(DestinationKey(key, "10.1.0.2", 8080), Destination(), None),
    ]


def test_the_last_endpoint_goes_and_the_server_stays_to_refuse():
    node = a_node(service("web", "10.233.0.9"), endpoints("web", "10.1.0.1"))
    writes = after(node, (Kind.ENDPOINT_SLICE, Name("shop", "web-1")))
    assert kinds(writes) == ["-Destination"]
    assert server("10.233.0.9") in node.world.state


def test_a_slice_that_moves_to_another_service_leaves_the_first():
    node = a_node(service("a", "10.233.0.1"), service("b", "10.233.0.2"), endpoints("a", "10.1.0.1"))
    moved = EndpointSlice(Name("shop", "a-1"), Name("shop", "b"), endpoints("a", "10.1.0.1").endpoints, endpoints("a").ports)
    assert {(change.key.server.address, change.after is None) for change in after(node, moved)} == {
        ("10.233.0.1", True),
        ("10.233.0.2", False),
    }


@pytest.mark.parametrize(
    "nothing",
    [
        pytest.param(Interface(Name("", "veth1"), addresses=("fe80::1/64",)), id="a pod's link comes"),
        pytest.param(Interface(Name("", "kube-bridge"), kind="dummy", addresses=("10.233.64.1/24",)), id="the bridge gets its address"),
        pytest.param(Node(Name("", "node2"), labels={"beat": "1"}, addresses=("192.168.50.51",)), id="another node"),
        pytest.param(endpoints("headless", "10.1.0.1"), id="endpoints of a Service without address"),
        pytest.param(Service(Name("shop", "headless"), ports=(ServicePort("http", "TCP", 80),)), id="a Service without address"),
        pytest.param(Service(Name("shop", "web"), labels={"a": "b"}, created="2024", cluster_ips=("10.233.0.9",),
                             ports=(ServicePort("http", "TCP", 80),)), id="a label that says nothing to us"),
    ],
)  # fmt: skip
def test_no_write_for(nothing):
    node = a_node(service("web", "10.233.0.9"), endpoints("web", "10.1.0.1"), Interface(Name("", "kube-bridge"), kind="bridge"))
    assert after(node, nothing) == []


def test_a_new_pod_range_of_the_node_rewrites_one_chain():
    node = a_node(service("web", "10.233.0.9"), endpoints("web", "10.1.0.1"))
    moved = Node(NODE1.name, addresses=NODE1.addresses, pod_cidrs=("10.233.70.0/24",))
    assert [change.key for change in after(node, moved)] == [ChainKey(4, "nat", "KUBE-ROUTER-MASQ")]


def test_a_new_address_of_the_node_moves_node_ports_and_sources():
    node = a_node(service("web", "10.233.0.9", node_port=30080), endpoints("web", "10.1.0.1"))
    after(
        node,
        Node(NODE1.name, addresses=("192.168.50.99",), pod_cidrs=NODE1.pod_cidrs),
        Interface(UPLINK.name, addresses=("192.168.50.99/24",)),
    )
    state = node.world.state
    assert server("192.168.50.99", 30080) in state
    assert server("192.168.50.50", 30080) not in state
    assert state[AddressKey("kube-dummy-if", "10.233.0.9/32")] == Address(source="192.168.50.99")
    assert SetMember("kube-router-local-ips", "192.168.50.99") in state
    assert SetMember("kube-router-local-ips", "192.168.50.50") not in state


def test_an_address_of_the_node_that_is_on_no_link_for_a_while_is_no_source_meanwhile():
    node = a_node(service("web", "10.233.0.9"))
    key = AddressKey("kube-dummy-if", "10.233.0.9/32")
    after(node, Interface(UPLINK.name))
    assert node.world.state[key] == Address(source="")
    assert SetMember("kube-router-local-ips", "192.168.50.50") in node.world.state
    after(node, UPLINK)
    assert node.world.state[key] == Address(source="192.168.50.50")


def test_a_vip_that_comes_up_on_a_link_of_the_node_leaves_the_dummy_and_returns():
    node = a_node(service("web", "10.233.0.9"), service("other", "10.233.0.8"))
    lent = Interface(Name("", "nodelocal"), addresses=("10.233.0.9/32",))
    assert kinds(after(node, lent)) == ["+SetMember", "-Address"]
    assert kinds(after(node, (Kind.INTERFACE, lent.name))) == ["+Address", "-SetMember"]


def test_the_younger_takes_over_when_the_older_goes():
    node = a_node(
        service("old", "10.233.0.9"),
        service("new", "10.233.0.9", created="2025"),
        endpoints("old", "10.1.0.1"),
        endpoints("new", "10.1.0.2"),
    )
    key = server("10.233.0.9")
    assert [note.reason for note in node.cycle.notes()] == ["PortTaken"]
    assert DestinationKey(key, "10.1.0.1", 8080) in node.world.state
    writes = after(node, (Kind.SERVICE, Name("shop", "old")))
    assert [change.key for change in writes] == [DestinationKey(key, "10.1.0.2", 8080), DestinationKey(key, "10.1.0.1", 8080)]
    assert list(node.cycle.notes()) == []


def test_two_services_swap_their_addresses_in_one_pass():
    node = a_node(service("a", "10.233.0.1"), service("b", "10.233.0.2"), endpoints("a", "10.1.0.1"), endpoints("b", "10.1.0.2"))
    writes = after(node, service("a", "10.233.0.2"), service("b", "10.233.0.1"))
    assert kinds(writes) == ["+Destination", "-Destination"]
    assert DestinationKey(server("10.233.0.2"), "10.1.0.1", 8080) in node.world.state


def test_sets_of_the_original_go_once_no_rule_names_them_and_its_services_are_taken_over():
    left: State = {
        SetKey("kube-router-svip"): SetSpec("hash:ip", 4),
        SetMember("kube-router-svip", "10.233.0.9"): Member(),
        server("10.233.0.9"): VirtualServer(flags=1, timeout=10800, prefix=-1),
        DestinationKey(server("10.233.0.9"), "10.1.0.1", 8080): Destination(),
        DestinationKey(server("10.233.0.9"), "10.1.0.7", 8080): Destination(),
    }
    world = World(left)
    node = LabNode(controller, world)
    for value in (NODE1, UPLINK, LO, service("web", "10.233.0.9"), endpoints("web", "10.1.0.1")):
        node.feed(value)
    node.settle()
    keys: list[Key] = [change.key for change in world.writes]
    assert SetKey("kube-router-svip") not in world.state
    assert keys.index(SetKey("kube-router-svip")) > keys.index(JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES"))
    assert world.state[server("10.233.0.9")] == VirtualServer()
    assert DestinationKey(server("10.233.0.9"), "10.1.0.1", 8080) not in keys, "what served goes on serving"
    assert DestinationKey(server("10.233.0.9"), "10.1.0.7", 8080) not in world.state


STORY: tuple[Event, ...] = (
    NODE1,
    UPLINK,
    service("web", "10.233.0.9", node_port=30080),
    endpoints("web", "10.1.0.1", "10.1.0.2"),
    endpoints("web", "10.1.0.3", piece="2"),
    service("rival", "10.233.0.9", created="2025"),
    (Kind.ENDPOINT_SLICE, Name("shop", "web-1")),
    (Kind.SERVICE, Name("shop", "web")),
)


@pytest.mark.parametrize("order", range(3))
def test_a_story_ends_the_same_reversed_doubled_and_with_each_call_failing_once(order):
    told = list(permutations(STORY[2:6]))[order * 11]
    events = (*STORY[:2], *told, *STORY[6:])
    assert_law(controller, events)
    assert_law(controller, tuple(reversed(events)))
    assert_law(controller, [event for event in events for _ in range(2)])
    assert_law(controller, events, sync_at=frozenset({len(events) - 1}))
    for n in range(24):
        assert_law(controller, events, fail_at=frozenset({n}), restart_at=frozenset({n % len(events)}))
