"""Direct server return as Services, pods and failures come and go: what is written, and in which order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kube_router.app.found_marks import found_marks
from kube_router.config.options import defaults
from kube_router.control.draining import Draining
from kube_router.control.marks import Holder, MarkBook
from kube_router.control.proxy import ProxyController
from kube_router.desired.proxy.marks import HASH
from kube_router.model.objects import (
    Claim,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Interface,
    Kind,
    Name,
    Node,
    Ref,
    Service,
    ServicePort,
)
from kube_router.model.state import Change, Key
from kube_router.model.state.direct import DeliveryKey, MarkRule, MarkRuleKey, PodTunnel, PodTunnelKey, PodVip, PodVipKey
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import ChainKey, Member, SetMember
from tests.engine import Event
from tests.engine import Node as LabNode
from tests.fakes import World

OPTIONS = defaults(node_name="node1", service_external_ip_range=("0.0.0.0/0",))
NODE1 = Node(Name("", "node1"), addresses=("192.168.50.50",), pod_cidrs=("10.242.0.0/24",))
UPLINK = Interface(Name("", "up0"), mtu=1500, addresses=("192.168.50.50/24",))
VIP = "203.0.113.21"
MINE, ALSO_MINE, OTHER = "10.242.0.5", "10.242.0.6", "10.242.1.7"


def service(name: str, port: int, *, direct: bool = True, vip: str = VIP, protocol: str = "TCP") -> Service:
    annotations = {"kube-router.io/service.dsr": "tunnel"} if direct else {}
    ports = (ServicePort("http", protocol, port),)
    return Service(Name("shop", name), created=name, annotations=annotations, cluster_ips=("10.96.0.1",), external_ips=(vip,), ports=ports)


def endpoints(of: str, *addresses: str, port: int = 80, ready: bool = True, protocol: str = "TCP") -> EndpointSlice:
    found = tuple(Endpoint((a,), node_name="node1" if a.startswith("10.242.0.") else "node2", ready=ready) for a in addresses)
    return EndpointSlice(Name("shop", f"{of}-1"), Name("shop", of), found, (EndpointPort("http", protocol, port),))


def a_node(*objects: Event, world: World | None = None) -> LabNode:
    held = world or World()

    def look() -> Mapping[Holder, int]:
        return found_marks(held.state, held.state)

    node = LabNode(lambda: ProxyController(OPTIONS, kernel=(6, 1), marks=MarkBook(look)), held)
    node.begin(NODE1, UPLINK, *objects)
    return node


def tunnelled(node: LabNode) -> set[str]:
    return {key.address for key, value in node.world.state.items() if isinstance(key, DestinationKey) and value.forward == 2}  # type: ignore[attr-defined]


def sent(node: LabNode, *kinds: type[Key]) -> list[Change]:
    return [change for change in node.world.writes if isinstance(change.key, kinds)]


def test_b08_a_pod_of_this_node_is_a_destination_once_its_tunnel_and_address_stand() -> None:
    node = a_node(service("a", 80))
    node.feed(endpoints("a", MINE))
    node.settle()
    assert len(sent(node, PodTunnelKey, PodVipKey)) == 2
    first = next(n for n, change in enumerate(node.world.writes) if isinstance(change.key, DestinationKey) and change.key.server.mark)
    assert all(n < first for n, change in enumerate(node.world.writes) if isinstance(change.key, PodTunnelKey | PodVipKey))


def test_a01_a_pod_in_which_no_tunnel_can_be_made_keeps_nobody_waiting() -> None:
    node = a_node(service("a", 80), service("b", 81))
    broken = True
    node.world.refuses = lambda change: "the pod is away" if broken and getattr(change.key, "pod", "") == MINE else None
    node.feed(endpoints("a", MINE, ALSO_MINE, OTHER))
    node.feed(endpoints("b", ALSO_MINE, port=81))
    node.sync()
    assert tunnelled(node) == {ALSO_MINE, OTHER}
    marked = [key for key in node.world.state if isinstance(key, SetMember) and key.set == "kube-router-service-marks"]
    assert {key.entry for key in marked} == {f"{VIP},tcp:80", f"{VIP},tcp:81"}
    about_pod = {key for key, _ in node.report.rejections if isinstance(key, PodTunnelKey)}
    assert about_pod == {PodTunnelKey(MINE)}
    assert [ref.name.name for ref in _owners(node, PodTunnelKey(MINE))] == ["a"], "its Service is told of it"
    broken = False
    node.settle()
    assert tunnelled(node) == {MINE, ALSO_MINE, OTHER}


def _owners(node: LabNode, key: Key) -> list:  # type: ignore[type-arg]
    return [item.about for item in node.cycle.ledger.owners(key)]  # type: ignore[attr-defined]


def test_packets_are_marked_last_and_the_mark_goes_first() -> None:
    node = a_node()
    node.feed(service("a", 80))
    node.feed(endpoints("a", MINE, OTHER))
    node.settle()
    order = [type(c.key) for c in node.world.writes if not isinstance(c.key, SetMember) or c.key.set == "kube-router-service-marks"]
    mine = [
        kind for kind in order if kind in (VirtualServerKey, PodTunnelKey, PodVipKey, DestinationKey, DeliveryKey, MarkRuleKey, SetMember)
    ]
    assert mine[-1] is SetMember
    assert mine.index(MarkRuleKey) > mine.index(DeliveryKey) > mine.index(DestinationKey) > mine.index(PodVipKey) > mine.index(PodTunnelKey)
    node.world.writes.clear()
    node.feed((Kind.SERVICE, Name("shop", "a")))
    node.settle()
    order = [type(c.key) for c in node.world.writes if not isinstance(c.key, SetMember) or c.key.set == "kube-router-service-marks"]
    assert order.index(SetMember) < order.index(MarkRuleKey) < order.index(DeliveryKey) < order.index(DestinationKey)
    assert order.index(DestinationKey) < order.index(PodVipKey) < order.index(PodTunnelKey)


@pytest.mark.parametrize("how", ["service", "annotation", "endpoint"])
def test_c_removal_leaves_nothing_behind(how: str) -> None:
    empty = a_node(service("a", 80, direct=False))
    node = a_node(service("a", 80), endpoints("a", MINE, OTHER))
    assert {PodTunnelKey(MINE), PodVipKey(MINE, VIP)} <= node.world.state.keys()
    if how == "service":
        node.feed((Kind.SERVICE, Name("shop", "a")))
    elif how == "annotation":
        node.feed(service("a", 80, direct=False))
    else:
        node.feed(endpoints("a", OTHER))
    node.settle()
    assert not any(isinstance(key, PodTunnelKey | PodVipKey) for key in node.world.state)
    if how == "annotation":
        node.feed((Kind.ENDPOINT_SLICE, Name("shop", "a-1")))
        node.settle()
        assert node.world.state == empty.world.state
    if how == "service":
        assert not any(isinstance(key, MarkRuleKey | DeliveryKey) for key in node.world.state)
        assert not any(isinstance(key, ChainKey) and key.table == "mangle" for key in node.world.state)


def test_c_what_was_left_in_pods_while_we_were_away_goes_too() -> None:
    world = World(
        {PodTunnelKey("10.242.0.9"): PodTunnel(), PodVipKey("10.242.0.9", "203.0.113.99"): PodVip(), MarkRuleKey(4, 4711): MarkRule()}
    )
    node = a_node(world=world)
    assert not any(isinstance(key, PodTunnelKey | PodVipKey | MarkRuleKey) for key in node.world.state)


def test_b14_an_address_goes_from_the_link_when_a_service_wants_it_answered_directly_and_comes_back() -> None:
    node = a_node(service("z", 81, direct=False), endpoints("z", OTHER, port=81))
    address = AddressKey("kube-dummy-if", f"{VIP}/32")
    assert address in node.world.state
    node.feed(service("a", 80))
    node.settle()
    assert address not in node.world.state
    entry = SetMember("kube-router-service-marks", f"{VIP},tcp:81")
    assert entry in node.world.state
    node.world.writes.clear()
    for _ in range(3):
        node.feed(endpoints("z", OTHER, MINE, port=81))
        node.feed(endpoints("z", OTHER, port=81))
        node.settle()
    assert not [change for change in node.world.writes if change.key in (address, entry)], "nothing flaps"
    node.feed((Kind.SERVICE, Name("shop", "a")))
    node.settle()
    assert address in node.world.state
    assert entry not in node.world.state


@pytest.mark.parametrize("how", ["endpoints", "service"])
def test_u018_one_service_of_a_shared_address_takes_nothing_from_the_other(how: str) -> None:
    node = a_node(service("a", 8080), service("b", 8081), endpoints("a", MINE, port=8080), endpoints("b", MINE, port=8081))
    clamp = ChainKey(4, "mangle", "KUBE-ROUTER-MSS")
    entry = SetMember("kube-router-service-marks", f"{VIP},tcp:8080")
    before = node.world.state[clamp], node.world.state[entry]
    node.feed(endpoints("b", port=8081) if how == "endpoints" else (Kind.SERVICE, Name("shop", "b")))
    node.settle()
    assert (node.world.state[clamp], node.world.state[entry]) == before
    assert {PodTunnelKey(MINE), PodVipKey(MINE, VIP)} <= node.world.state.keys(), "the other still needs both"
    assert not sent(node, ChainKey, PodTunnelKey, PodVipKey)


def test_b17_marks_are_kept_over_a_restart_though_the_services_come_in_another_order() -> None:
    # Two claims with one hash (tests/unit/test_marks.py).
    first, second = service("a", 8080, vip="147.160.180.44"), service("b", 80, vip="147.160.180.44", protocol="UDP")
    slices = endpoints("a", OTHER), endpoints("b", OTHER, protocol="UDP")
    node = a_node(second, *slices)
    node.feed(first)
    node.settle()
    kept = {key: value for key, value in node.world.state.items() if isinstance(value, Member) and value.mark}
    assert len({value.mark for value in kept.values()}) == 2  # type: ignore[attr-defined]
    again = a_node(first, second, *slices, world=node.world)
    assert not again.world.writes
    assert {key: value for key, value in again.world.state.items() if isinstance(value, Member) and value.mark} == kept
    again.feed((Kind.SERVICE, second.name))
    again.settle()
    assert {key.mark for key in again.world.state if isinstance(key, MarkRuleKey)} - {0x10000} == {
        value.mark
        for key, value in kept.items()
        if key.entry.endswith("tcp:8080")  # type: ignore[attr-defined]
    }


def test_d10_nothing_is_asked_of_pods_while_nothing_changes_there() -> None:
    node = a_node(service("a", 80), endpoints("a", MINE, OTHER))
    node.feed(endpoints("a", MINE, OTHER, "10.242.1.8"))
    node.settle()
    node.feed(service("unrelated", 82, direct=False, vip="203.0.113.22"))
    node.settle()
    assert not sent(node, PodTunnelKey, PodVipKey, MarkRuleKey, DeliveryKey, ChainKey)


def test_a_service_that_goes_while_connections_are_open_keeps_all_that_they_run_through_until_they_end() -> None:
    kept: dict[str, int] = {MINE: 1, OTHER: 1}
    clock = 0.0
    held = World()

    def connections(servers: object) -> Mapping[DestinationKey, int]:
        return {key: kept[key.address] for key in held.state if isinstance(key, DestinationKey) and key.server in servers}  # type: ignore[operator]

    controller = ProxyController(OPTIONS, kernel=(6, 1))
    keeper = Draining(30.0, connections=connections, ends=lambda *_: False, claim_of=controller.claim_of, now=lambda: clock)
    node = LabNode(lambda: controller, held, keeper=lambda *_: keeper)
    for value in (NODE1, UPLINK, service("a", 80), endpoints("a", MINE, OTHER)):
        node.feed(value)
    node.settle()
    before = {key for key in held.state if not isinstance(key, AddressKey)}
    node.feed((Kind.SERVICE, Name("shop", "a")))
    node.feed((Kind.ENDPOINT_SLICE, Name("shop", "a-1")))
    node.settle()
    lost = before - held.state.keys()
    new = {key for key in lost if "MSS" in str(key) or "REFUSED" in str(key) or getattr(key, "mark", 0) == 0x10000}
    assert lost - new == {DeliveryKey(4, 79)}, "what is lost is about new connections"
    assert {value.weight for key, value in held.state.items() if isinstance(key, DestinationKey)} == {0}  # type: ignore[attr-defined]
    kept = {MINE: 0, OTHER: 0}
    clock = 10.0
    node.settle()
    assert not any(isinstance(key, PodTunnelKey | PodVipKey | MarkRuleKey | DeliveryKey | DestinationKey) for key in held.state)


def test_a_book_without_a_free_mark_is_the_services_trouble_alone() -> None:
    full = {Holder(Claim("203.0.113.1", "UDP", mark), "direct"): mark for mark in range(1, HASH + 1)}
    node = LabNode(lambda: ProxyController(OPTIONS, kernel=(6, 1), marks=MarkBook(lambda: full)))
    for value in (NODE1, UPLINK, service("a", 80), service("plain", 82, direct=False, vip="203.0.113.22")):
        node.feed(value)
    outcome = node.sync()
    assert not outcome.failure
    assert node.report.faults == [Ref(Kind.SERVICE, Name("shop", "a"))]
    assert AddressKey("kube-dummy-if", "203.0.113.22/32") in node.world.state
    node.settle()
    assert any(isinstance(key, MarkRuleKey) for key in node.world.state), "what was found and is nobody's is free by the second pass"
