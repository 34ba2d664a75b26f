"""Host routing and learned routes obey the engine's law."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.app.watchers import adopted
from kube_router.config.options import defaults
from kube_router.control.datapath import DatapathController
from kube_router.control.fib import FibController
from kube_router.control.routing import RoutingController
from kube_router.model.names import VXLAN_LINK
from kube_router.model.objects import BestPath, CniFile, Interface, Kind, Name, Node
from kube_router.model.state import Key, Value
from kube_router.model.state.links import Link, LinkKey, Route, RouteKey, through
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec
from kube_router.model.state.tunnels import TunnelKey
from tests.engine import Node as LabNode
from tests.engine import assert_law, from_nothing, objects_of

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
# Next hops near and far, of nodes and of others, some with one name for two tunnels.
far_paths = st.builds(
    BestPath,
    name=st.sampled_from([Name("", p) for p in ("10.233.65.0/24", "10.233.66.0/24", "203.0.113.7/32", "fd00:65::/64", "fd00:66::/64")]),
    next_hops=st.lists(
        st.sampled_from(["192.168.50.51", "192.168.60.52", "fd00:50::51", "fd00:60::52", "2.13.0.4", "21.3.0.4"]), max_size=3, unique=True
    ).map(tuple),
)
far_nodes = st.builds(
    Node,
    name=node_names,
    pod_cidrs=cidrs.map(tuple),
    addresses=st.lists(
        st.sampled_from(["192.168.50.50", "192.168.50.51", "192.168.60.52", "fd00:50::50", "fd00:60::52", "21.3.0.4"]),
        max_size=3,
        unique=True,
    ).map(tuple),
    datapath=st.sampled_from([(), (), ("192.168.60.52",)]),
)
overlays = st.sampled_from(
    [
        defaults(node_name="node1", enable_ipv6=True, enable_overlay=on, overlay_encap=encap, overlay_type=kind)
        for on, encap, kind in (
            (False, "ipip", "subnet"),
            *((True, encap, kind) for encap in ("ipip", "fou", "vxlan") for kind in ("subnet", "full")),
        )
    ]
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
# Most of what can go wrong needs a node that is somewhere, with others near and far.
PLACED = (
    Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64")),
    Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51")),
    Node(Name("", "node3"), addresses=("192.168.60.52", "fd00:60::52")),
    Interface(Name("", "up0"), mtu=1500, addresses=("192.168.50.50/24", "fd00:50::50/64")),
)
far_events = st.one_of(far_paths, far_paths, far_paths, far_paths.map(lambda path: (Kind.BEST_PATH, path.name)), far_nodes, links, gone)
far_histories = st.lists(far_events, max_size=12).flatmap(lambda events: st.sampled_from([[*PLACED, *events], [*PLACED, *events], events]))
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


@given(overlays, far_histories, numbers, numbers, st.none() | numbers)
def test_r14_routes_and_tunnels_equal_a_fresh_start_after_any_events_failures_and_restarts(options, history, fail_at, restart_at, sync_at):
    assert_law(lambda: FibController(options), history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


@given(overlays, overlays, far_histories)
def test_r18_a_restart_with_other_flags_leaves_nothing_of_the_former(before, after, history):
    node = LabNode(lambda: FibController(before))
    for event in history:
        node.feed(event)
    node.settle()
    changed = LabNode(lambda: FibController(after), node.world, objects=objects_of(node.cache))
    changed.settle()
    assert changed.world.state == from_nothing(lambda: FibController(after), objects_of(node.cache)).state


@given(overlays, far_histories)
def test_r16_tunnels_stand_as_long_as_a_path_goes_through_them_and_no_longer(options, history):
    node = LabNode(lambda: FibController(options))
    for event in history:
        node.feed(event)
        node.settle()
        state = node.world.state
        tunnels = {key.name: value for key, value in state.items() if isinstance(key, TunnelKey)}
        named = {hop for path in node.cache.view.paths.values() for hop in path.next_hops}
        assert {value.remote for name, value in tunnels.items() if name != VXLAN_LINK} <= named
        over = {hop.link for value in state.values() if isinstance(value, Route) for hop in value.hops if hop.link}
        assert tunnels.keys() - {VXLAN_LINK} == over - {VXLAN_LINK}
        assert over <= tunnels.keys()


@given(overlays, far_histories)
def test_r18_who_starts_without_memory_reads_in_the_kernel_which_paths_its_routes_came_from(options, history):
    node = LabNode(lambda: FibController(options))
    for event in history:
        node.feed(event)
    node.settle()
    state = node.world.state
    ends = {key.name: value.remote for key, value in state.items() if isinstance(key, TunnelKey)}
    others = [value for value in objects_of(node.cache) if not isinstance(value, BestPath)]
    again = from_nothing(lambda: FibController(options), [*others, *adopted(state, ends)]).state
    assert main_table(again) == main_table(state)


def placed(**flags) -> LabNode:
    """node1 between node2, which is near, and node3, which is not."""
    options = defaults(node_name="node1", enable_ipv6=True, **flags)
    node = LabNode(lambda: FibController(options))
    for value in PLACED:
        node.feed(value)
    return node


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
def test_r14_a_node_that_goes_and_comes_moves_the_routes_behind_its_address(encap):
    node = placed(overlay_encap=encap, overlay_type="full")
    key = RouteKey("10.233.66.0/24")
    node.feed(BestPath(Name("", key.prefix), ("192.168.50.51",)))
    node.settle()
    wrapped = node.world.state[key]
    assert wrapped.hops[0].link
    node.feed((Kind.NODE, Name("", "node2")))
    node.settle()
    assert node.world.state[key] == Route(through("192.168.50.51"))
    node.feed(PLACED[1])
    node.settle()
    assert node.world.state[key] == wrapped


def test_r20_a_next_hop_that_takes_anothers_name_moves_the_others_routes_along():
    node = placed()
    late, early = "2.13.0.4", "21.3.0.4"
    node.feed(BestPath(Name("", "203.0.113.1/32"), (early,)))
    node.settle()
    plain = node.world.state[RouteKey("203.0.113.1/32")].hops[0].link
    node.feed(BestPath(Name("", "203.0.113.2/32"), (late,)))
    node.settle()
    state = node.world.state
    links = [state[RouteKey(prefix)].hops[0].link for prefix in ("203.0.113.1/32", "203.0.113.2/32")]
    assert links[1] == plain
    assert [state[TunnelKey(link)].remote for link in links] == [early, late]
    node.feed((Kind.BEST_PATH, Name("", "203.0.113.2/32")))
    node.settle()
    assert node.world.state[RouteKey("203.0.113.1/32")].hops[0].link == plain


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
def test_r16_the_last_path_takes_the_tunnel_along_and_no_earlier_one(encap):
    node = placed(overlay_encap=encap)
    node.settle()
    bare = dict(node.world.state)
    paths = [BestPath(Name("", prefix), ("192.168.60.52",)) for prefix in ("10.233.65.0/24", "203.0.113.1/32")]
    for path in paths:
        node.feed(path)
    node.settle()
    beside = {key: value for key, value in node.world.state.items() if key not in bare and getattr(key, "table", 0) != 254}
    assert len(beside) == (3 if encap == "vxlan" else 2)
    node.feed((Kind.BEST_PATH, paths[0].name))
    node.settle()
    assert beside.items() <= node.world.state.items()
    node.feed((Kind.BEST_PATH, paths[1].name))
    node.settle()
    assert node.world.state == bare


@pytest.mark.parametrize("encap", ["ipip", "fou", "vxlan"])
@pytest.mark.parametrize("kind", ["subnet", "full"])
def test_r18_routes_of_an_earlier_run_are_read_as_the_paths_that_they_came_from(encap, kind):
    node = placed(overlay_encap=encap, overlay_type=kind)
    paths = [
        BestPath(Name("", "10.233.65.0/24"), ("192.168.60.52",)),
        BestPath(Name("", "203.0.113.1/32"), ("192.168.50.51", "192.168.60.52")),
        BestPath(Name("", "fd00:65::/64"), ("fd00:60::52",)),
        BestPath(Name("", "fd00:66::/64"), ("fd00:50::51", "fd00:60::52")),
    ]
    for path in paths:
        node.feed(path)
    node.settle()
    ends = {key.name: value.remote for key, value in node.world.state.items() if isinstance(key, TunnelKey)}
    assert sorted(adopted(node.world.state, ends), key=lambda path: path.name) == paths


def main_table(state):
    return {key: value for key, value in state.items() if isinstance(key, RouteKey) and key.table == 254}


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
    assert [change.key for change in node.world.writes if isinstance(change.key, RouteKey)] == [RouteKey("10.233.99.0/24")]
