"""Host routing and learned routes obey the engine's law."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube_router.config.options import defaults
from kube_router.control.datapath import DatapathController
from kube_router.control.fib import FibController
from kube_router.control.routing import RoutingController
from kube_router.model.objects import BestPath, CniFile, Interface, Kind, Name, Node
from kube_router.model.state import Key, Value
from kube_router.model.state.links import Link, LinkKey, Route, RouteKey, through
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec
from tests.engine import Node as LabNode
from tests.engine import assert_law

OPTIONS = defaults(node_name="node1", enable_ipv6=True)

node_names = st.sampled_from([Name("", n) for n in ("node1", "node2", "node3")])
cidrs = st.lists(st.sampled_from(["10.233.64.0/24", "10.233.65.0/24", "fd00:64::/64", "fd00:65::/64"]), max_size=2, unique=True)
addresses = st.lists(st.sampled_from(["192.168.50.50", "192.168.50.51", "fd00:50::50"]), max_size=2, unique=True)
published = st.sampled_from([(), (), ("10.7.0.1",), ("192.168.50.50",)])
nodes = st.builds(Node, name=node_names, pod_cidrs=cidrs.map(tuple), addresses=addresses.map(tuple), datapath=published)
links = st.builds(
    Interface,
    name=st.sampled_from([Name("", n) for n in ("lo", "up0", "veth1")]),
    mtu=st.sampled_from([1400, 1500, 65536]),
    addresses=st.sampled_from([(), ("192.168.50.50/24",), ("192.168.50.50/16", "fd00:50::50/64")]),
)
paths = st.builds(
    BestPath,
    name=st.sampled_from([Name("", p) for p in ("10.233.64.0/24", "10.233.65.0/24", "192.168.50.0/24", "fd00:65::/64", "0.0.0.0/0")]),
    next_hops=st.sampled_from([(), ("192.168.50.51",), ("192.168.50.52", "192.168.50.51"), ("fd00:50::51",), ("192.168.60.1",)]),
)
files = st.builds(
    CniFile,
    name=st.just(Name("", OPTIONS.cni_conf_file)),
    mtu=st.sampled_from([0, 1280, 1500]),
    mtu_is_ours=st.booleans(),
    missing=st.sampled_from([(), ("bridge",)]),
)
gone = st.one_of(
    node_names.map(lambda name: (Kind.NODE, name)),
    paths.map(lambda path: (Kind.BEST_PATH, path.name)),
    links.map(lambda link: (Kind.INTERFACE, link.name)),
)
histories = st.lists(st.one_of(nodes, links, paths, files, gone), max_size=14)
numbers = st.frozensets(st.integers(0, 40), max_size=8)

FOREIGN: dict[Key, Value] = {
    SetKey("theirs"): SetSpec("hash:ip", 4),
    SetMember("theirs", "10.0.0.1"): Member(),
    LinkKey("br-vm"): Link("bridge"),
}


@given(histories, numbers, numbers, st.none() | numbers)
def test_the_host_equals_a_fresh_start_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    assert_law(lambda: RoutingController(OPTIONS), history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


@given(histories, numbers, numbers, st.none() | numbers)
def test_what_a_node_says_of_itself_equals_a_fresh_start_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    options = defaults(node_name="node1", datapath_network=("192.168.0.0/16",))
    assert_law(lambda: DatapathController(options), history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at)


@given(histories, numbers, numbers, st.none() | numbers)
def test_learned_routes_equal_a_fresh_start_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    assert_law(lambda: FibController(OPTIONS), history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


def fib_node() -> LabNode:
    node = LabNode(lambda: FibController(OPTIONS))
    node.feed(Node(Name("", "node1"), addresses=("192.168.50.50",), pod_cidrs=("10.233.64.0/24",)))
    node.feed(Interface(Name("", "up0"), addresses=("192.168.50.50/24",)))
    return node


def test_one_path_among_a_thousand_writes_one_route():
    node = fib_node()
    for n in range(1000):
        node.feed(BestPath(Name("", f"10.{n // 250}.{n % 250}.0/24"), ("192.168.50.51",)))
    node.settle()
    before = len(node.world.writes)
    node.feed(BestPath(Name("", "10.1.7.0/24"), ("192.168.50.52",)))
    node.sync()
    assert [change.key for change in node.world.writes[before:]] == [RouteKey("10.1.7.0/24")]
    assert node.world.state[RouteKey("10.1.7.0/24")] == Route(through("192.168.50.52"))


def test_a_pod_that_comes_touches_no_route():
    node = fib_node()
    node.feed(BestPath(Name("", "10.233.66.0/24"), ("192.168.50.51",)))
    node.settle()
    before = len(node.world.writes)
    node.feed(Interface(Name("", "veth1234"), index=9, mtu=1500))
    node.sync()
    assert len(node.world.writes) == before


def test_strays_of_an_earlier_run_go_and_wanted_ones_are_adopted_unwritten():
    node = fib_node()
    node.world.state[RouteKey("10.233.66.0/24")] = Route(through("192.168.50.51"))
    node.world.state[RouteKey("10.233.99.0/24")] = Route(through("192.168.50.51"))
    node.feed(BestPath(Name("", "10.233.66.0/24"), ("192.168.50.51",)))
    node.settle()
    assert [change.key for change in node.world.writes] == [RouteKey("10.233.99.0/24")]
