"""The speaker obeys the engine's law, on fake state and on a gobgpd in memory that fails, restarts and is meddled with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.codec.gobgp.generation import EXPORT
from kube_router.config.options import defaults
from kube_router.control.speaker import SpeakerController
from kube_router.desired.routing.vips import EXCLUDED
from kube_router.model.objects import Endpoint, EndpointSlice, Kind, Name, Node, Object, Service
from kube_router.model.state import Key, Value
from tests.engine import Event, assert_law, objects_of
from tests.gobgpd import FakeGobgpd
from tests.speaker_world import World

OPTIONS = defaults(
    node_name="node1",
    enable_ipv6=True,
    router_id="generate",
    advertise_cluster_ip=True,
    advertise_external_ip=True,
    withdraw_on_cordon=True,
    service_external_ip_range=("203.0.113.0/24", "192.168.50.0/24"),
)
ANNOTATIONS = [
    {},
    {},
    {"kube-router.io/rr.server": "1"},
    {"kube-router.io/rr.client": "1"},
    {"kube-router.io/path-prepend.as": "65001", "kube-router.io/path-prepend.repeat-n": "2"},
    {"kube-router.io/node.bgp.communities": "65000:1"},
    {"kube-router.io/node.bgp.customimportreject": "10.50.0.0/16,fd00:bad::/48"},
    {"kube-router.io/peer.ips": "192.168.60.1", "kube-router.io/peer.asns": "65001"},
    {"kube-router.io/peer.ips": "fd00:50::51,192.168.50.51", "kube-router.io/peer.asns": "65001,65002"},
]

names = st.sampled_from([Name("", name) for name in ("node1", "node2", "node3", "node4")])
addresses = st.lists(
    st.sampled_from(["192.168.50.50", "192.168.50.51", "192.168.50.52", "fd00:50::50", "fd00:50::51"]), max_size=3, unique=True
)
cidrs = st.lists(st.sampled_from(["10.233.64.0/24", "10.233.65.0/24", "fd00:64::/64"]), max_size=2, unique=True)
nodes = st.builds(
    Node,
    name=names,
    addresses=addresses.map(tuple),
    pod_cidrs=cidrs.map(tuple),
    created=st.sampled_from(["2024", "2025"]),
    labels=st.sampled_from([{}, {}, {EXCLUDED: ""}]),
    unschedulable=st.booleans(),
    datapath=st.sampled_from([(), (), ("10.7.0.1",), ("10.7.0.2", "fd00:50::51"), ("192.168.50.51",)]),
)
service_names = st.sampled_from([Name("shop", "web"), Name("shop", "api")])
policies = st.sampled_from(["Cluster", "Local"])
services = st.builds(
    Service,
    name=service_names,
    cluster_ips=st.sampled_from([(), ("10.96.0.1",), ("10.96.0.1", "fd00:233::1"), ("10.96.0.2",)]),
    external_ips=st.sampled_from([(), ("203.0.113.1",), ("203.0.113.1", "192.168.50.51"), ("192.0.2.1", "10.233.65.9")]),
    annotations=st.sampled_from([{}, {"kube-router.io/service.advertise.clusterip": "false"}]),
    internal_policy=policies,
    external_policy=policies,
)
endpoints = st.builds(
    Endpoint,
    addresses=st.sampled_from([("10.233.64.5",), ("fd00:64::5",), ("192.168.50.50",)]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node_name=st.sampled_from(["", "node1", "node2"]),
)
slices = st.builds(
    EndpointSlice,
    name=st.sampled_from([Name("shop", "slice1"), Name("shop", "slice2")]),
    service=service_names,
    endpoints=st.lists(endpoints, max_size=2).map(tuple),
)
gone = st.one_of(
    names.map(lambda name: (Kind.NODE, name)),
    service_names.map(lambda name: (Kind.SERVICE, name)),
    slices.map(lambda piece: (Kind.ENDPOINT_SLICE, piece.name)),
)
histories = st.lists(st.one_of(nodes, nodes, services, slices, gone), max_size=16)
numbers = st.frozensets(st.integers(0, 40), max_size=6)
OWN = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.233.64.0/24",))
WEB = Service(Name("shop", "web"), cluster_ips=("10.96.0.1", "fd00:233::1"), external_ips=("203.0.113.1",))
ENDS = EndpointSlice(Name("shop", "slice1"), WEB.name, (Endpoint(("10.233.64.5",)), Endpoint(("fd00:64::5",))))
OTHER = Node(Name("", "node2"), addresses=("192.168.50.51",), pod_cidrs=("10.233.65.0/24",))


@settings(max_examples=60, deadline=None)
@given(histories, numbers, st.frozensets(st.integers(0, 12), max_size=3), st.frozensets(st.integers(0, 12)))
def test_the_incremental_result_equals_the_result_from_nothing(
    events: list[Event], fail_at: frozenset[int], restart_at: frozenset[int], sync_at: frozenset[int]
) -> None:
    assert_law(lambda: SpeakerController(OPTIONS), events, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at)


def from_nothing(generation: str, objects: Iterable[Object]) -> dict[Key, Value]:
    world = World(generation, OPTIONS, objects, reachable=True)
    world.settle()
    return world.holds()


@pytest.mark.parametrize("generation", ["v3", "v4"])
@settings(max_examples=30, deadline=None)
@given(
    histories,
    st.frozensets(st.integers(0, 120), max_size=8),
    st.frozensets(st.integers(0, 12), max_size=3),
    st.frozensets(st.integers(0, 12), max_size=3),
    st.frozensets(st.integers(0, 12)),
)
def test_a_gobgpd_that_fails_and_restarts_ends_up_as_a_new_one_would(
    generation: str,
    events: Sequence[Event],
    fail_at: frozenset[int],
    restart_at: frozenset[int],
    gobgpd_restart_at: frozenset[int],
    sync_at: frozenset[int],
) -> None:
    world = World(generation, OPTIONS, [OWN], reachable=True)
    world.gobgpd.fail_at = fail_at
    for n, event in enumerate(events):
        if n in restart_at:
            world.restart()
        if n in gobgpd_restart_at:
            world.gobgpd.restart()
        world.feed(event)
        if n in sync_at:
            world.sync()
    world.settle()
    world.gobgpd.fail_at = frozenset()
    assert world.holds() == from_nothing(generation, objects_of(world.cache))
    world.restart()
    world.settle()
    assert world.target.writes == 0, "a restart over a settled speaker writes nothing"


ROUTED = replace(OPTIONS, peer_router_ips=("192.168.60.1", "fd00:60::1"), peer_router_asns=(65001, 65001))
owns = st.builds(
    Node,
    name=st.just(OWN.name),
    addresses=st.just(OWN.addresses),
    pod_cidrs=st.sampled_from([(), ("10.233.64.0/24",), ("10.233.64.0/24", "fd00:64::/64")]),
    annotations=st.sampled_from(ANNOTATIONS),
)


@pytest.mark.parametrize("generation", ["v3", "v4"])
@settings(max_examples=8, deadline=None)
@given(st.lists(st.one_of(owns, owns, st.booleans(), services, slices), max_size=8), st.frozensets(st.integers(60, 140), max_size=4))
def test_what_was_sent_is_what_rules_say_however_they_change(
    generation: str, events: Sequence[Event | bool], fail_at: frozenset[int]
) -> None:
    """A boolean starts the daemon anew, with pod ranges for external peers or without."""
    world = World(generation, ROUTED, [OWN, OTHER, WEB, ENDS], reachable=True)
    world.gobgpd.before_call = lambda method: None  # leaks are looked for in the law above
    world.settle()
    assert world.gobgpd.sent["192.168.60.1"]
    world.gobgpd.fail_at = frozenset(world.gobgpd.asked - 60 + number for number in fail_at)
    for event in events:
        if isinstance(event, bool):
            world.settle()  # who dies between a change and its second look leaves that undone
            world.restart(replace(ROUTED, advertise_pod_cidr=event))
        else:
            world.feed(event)
        world.sync()
    world.settle()


def meddle_policies(gobgpd: FakeGobgpd) -> None:
    gobgpd.assignments[EXPORT] = ((), 1)


def meddle_statement(gobgpd: FakeGobgpd) -> None:
    for entry in gobgpd.statements.values():
        entry.actions.route_action = 3 - entry.actions.route_action


def meddle_default(gobgpd: FakeGobgpd) -> None:
    names, _ = gobgpd.assignments[EXPORT]
    gobgpd.assignments[EXPORT] = (names, 1)


def meddle_sets(gobgpd: FakeGobgpd) -> None:
    for held in gobgpd.sets.values():
        if held.list:
            held.list.append("10.9.9.9/32")
            held.list.append(held.list[0])


def meddle_set_gone(gobgpd: FakeGobgpd) -> None:
    del gobgpd.sets[gobgpd.api.set_prefix, "customimportrejectdefinedset"]


def meddle_peers(gobgpd: FakeGobgpd) -> None:
    gobgpd.peers.clear()


def meddle_peer_changed(gobgpd: FakeGobgpd) -> None:
    for peer in gobgpd.peers.values():
        peer.timers.config.hold_time = 30


def meddle_paths(gobgpd: FakeGobgpd) -> None:
    gobgpd.paths.clear()


def meddle_old_policy(gobgpd: FakeGobgpd) -> None:
    gobgpd.policies["kube_router_export9"] = list(gobgpd.policies["kube_router_export1"])
    gobgpd.policies["mine"] = []


MEDDLERS: list[Any] = [
    meddle_policies,
    meddle_statement,
    meddle_default,
    meddle_sets,
    meddle_set_gone,
    meddle_peers,
    meddle_peer_changed,
    meddle_paths,
    meddle_old_policy,
]


@pytest.mark.parametrize("generation", ["v3", "v4"])
@pytest.mark.parametrize("meddle", MEDDLERS, ids=lambda meddle: meddle.__name__)
def test_what_somebody_changed_in_the_speaker_is_put_right(generation: str, meddle: Any) -> None:
    world = World(generation, OPTIONS, [OWN, OTHER, WEB, ENDS], reachable=True)
    world.settle()
    right = world.holds()
    world.gobgpd.before_call = lambda method: None
    meddle(world.gobgpd)
    assert world.sync(audit=True).drifted > 0 or meddle is meddle_sets
    world.settle()
    assert world.holds() == right
    assert not world.gobgpd.judges(EXPORT, "198.18.0.0/24", "192.168.50.51")
    assert world.gobgpd.judges(EXPORT, "10.233.64.0/24", "192.168.50.51")
