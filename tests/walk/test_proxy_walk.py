"""Packets through the rules and sets of the service proxy: who gets in, who is marked, whose source is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_router.config.options import Options
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Name, Node, Object
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import Member, SetMember
from tests.proxy_services import BOTH, OPTIONS, Facts, everywhere_reachable, on, piece, view_of
from tests.walk.walker import FELL_THROUGH, Packet, Walker

HAIRPIN = {"kube-router.io/service.hairpin": "", "kube-router.io/service.hairpin.externalips": ""}
OUTSIDER = {4: "192.0.2.200", 6: "2001:db8:2::c8"}
ELSEWHERE = {4: "172.16.9.9", 6: "2001:db8:99::9"}
SECOND_RANGE = {4: "10.244.9.0/24", 6: "fd00:244:9::/64"}
SECOND_POD = {4: "10.244.9.5", 6: "fd00:244:9::5"}
SLICES = (
    piece(*(on("node1", one.here) for one in BOTH), name="here"),
    piece(*(on("node2", one.there) for one in BOTH), name="there"),
)

pytestmark = pytest.mark.parametrize("facts", BOTH, ids=["IPv4", "IPv6"])


def node_state(*objects: Object, options: Options = OPTIONS) -> dict[Key, Value]:
    """All that node1 wants."""
    cache, controller = view_of(*objects), ProxyController(options, kernel=(6, 1))
    state: dict[Key, Value] = {}
    for item in controller.touched(cache.feed(controller.reads).take(), cache.view):
        state |= controller.want(item, cache.view).state
    return state


def walker(facts: Facts, *objects: Object, table: str = "filter", options: Options = OPTIONS) -> Walker:
    loopback = "127.0.0.1" if facts.family == 4 else "::1"
    return Walker(node_state(*objects, options=options), facts.family, frozenset({facts.node, loopback}), table=table)


def test_u014_only_the_ports_of_services_are_reached_through_their_addresses(facts: Facts) -> None:
    walk = walker(facts, everywhere_reachable(), *SLICES)
    for vip in (facts.cluster, facts.external, facts.balanced):
        for source in (OUTSIDER[facts.family], facts.here, facts.there):
            assert walk.run("INPUT", Packet(source, vip, "tcp", 80)) == "ACCEPT"
            for protocol, port in (("tcp", 22), ("tcp", 10250), ("udp", 80), ("sctp", 80)):
                assert walk.run("INPUT", Packet(source, vip, protocol, port)) == "REJECT"
            icmp, echo = ("icmp", 8) if facts.family == 4 else ("ipv6-icmp", 128)
            assert walk.run("INPUT", Packet(source, vip, icmp, 0, icmp_type=echo)) == "ACCEPT"
    assert walk.run("INPUT", Packet(facts.there, facts.node, "tcp", 30080)) == "ACCEPT"
    assert walk.run("INPUT", Packet(facts.there, facts.node, "tcp", 22)) == FELL_THROUGH, "the node's own ports are left to others"
    assert walk.run("INPUT", Packet(facts.there, facts.other_node, "tcp", 22)) == FELL_THROUGH


def test_u014_nothing_is_left_of_a_service_that_is_gone(facts: Facts) -> None:
    assert walker(facts, *SLICES).run("INPUT", Packet(facts.here, facts.cluster, "tcp", 22)) == FELL_THROUGH


def test_a_load_balancer_lets_in_the_sources_that_it_names(facts: Facts) -> None:
    ranges = ("192.0.2.0/24", "10.244.2.0/24", "2001:db8:2::/64", "fd00:244:2::/64")
    walk = walker(facts, everywhere_reachable(source_ranges=ranges), *SLICES)
    verdicts = {
        source: walk.run("INPUT", Packet(source, facts.balanced, "tcp", 80))
        for source in (OUTSIDER[facts.family], facts.there, facts.here, ELSEWHERE[facts.family])
    }
    assert verdicts == {
        OUTSIDER[facts.family]: "ACCEPT",
        facts.there: "ACCEPT",
        facts.here: "DROP",
        ELSEWHERE[facts.family]: "DROP",
    }
    assert walk.run("INPUT", Packet(OUTSIDER[facts.family], facts.balanced, "tcp", 22)) == "REJECT", "other ports are no Service's"
    for vip, port in ((facts.cluster, 80), (facts.external, 80), (facts.node, 30080)):
        assert walk.run("INPUT", Packet(ELSEWHERE[facts.family], vip, "tcp", port)) == "ACCEPT", "ranges are for load balancers"


def test_everybody_may_be_named(facts: Facts) -> None:
    walk = walker(facts, everywhere_reachable(source_ranges=("0.0.0.0/0", "::/0")), *SLICES)
    for source in (ELSEWHERE[facts.family], OUTSIDER[facts.family], "223.255.255.254" if facts.family == 4 else "ff00::1"):
        assert walk.run("INPUT", Packet(source, facts.balanced, "tcp", 80)) == "ACCEPT"


def sent_on(facts: Facts, source: str, backend: str, vip: str = "", port: int = 80) -> Packet:
    """A packet as it leaves IPVS for a backend."""
    return Packet(source, backend, "tcp", 8080, vip=vip or facts.cluster, vport=port)


def two_ranges() -> Node:
    return Node(
        Name("", "node1"),
        addresses=tuple(one.node for one in BOTH),
        pod_cidrs=(*(one.pods_here for one in BOTH), *SECOND_RANGE.values()),
    )


@pytest.mark.parametrize("several", [False, True], ids=["one range", "two ranges"])
def test_b09_pods_of_any_range_of_this_node_keep_their_source_and_are_reached_with_it(facts: Facts, several: bool) -> None:
    walk = walker(facts, *([two_ranges()] if several else []), everywhere_reachable(), *SLICES, table="nat")
    own = [facts.here, *([SECOND_POD[facts.family]] if several else [])]
    for pod in own:
        for other in (facts.there, OUTSIDER[facts.family], *own):
            if other != pod:
                assert walk.run("POSTROUTING", sent_on(facts, other, pod)) == FELL_THROUGH, "the client's address arrives at a pod here"
                assert walk.run("POSTROUTING", sent_on(facts, pod, other)) == FELL_THROUGH, "a pod here is seen with its own address"
    assert walk.run("POSTROUTING", sent_on(facts, OUTSIDER[facts.family], facts.there)) == f"SNAT {facts.node}"
    assert walk.run("POSTROUTING", Packet(OUTSIDER[facts.family], facts.there, "tcp", 8080)) == FELL_THROUGH, "no business of IPVS"
    tunnelled = sent_on(facts, OUTSIDER[facts.family], facts.there)._replace(method="IPIP")
    assert walk.run("POSTROUTING", tunnelled) == FELL_THROUGH, "who is answered directly must be seen"


def test_b09_b10_replies_come_back_without_routing_of_ours_too(facts: Facts) -> None:
    walk = walker(facts, two_ranges(), everywhere_reachable(), *SLICES, table="nat", options=replace(OPTIONS, run_router=False))
    assert walk.run("POSTROUTING", sent_on(facts, OUTSIDER[facts.family], facts.there)) == f"SNAT {facts.node}"
    assert walk.run("POSTROUTING", sent_on(facts, OUTSIDER[facts.family], SECOND_POD[facts.family])) == FELL_THROUGH


@pytest.mark.parametrize("all_of_it", [False, True])
def test_a_pod_that_reaches_itself_has_another_source(facts: Facts, all_of_it: bool) -> None:
    plain, asking = everywhere_reachable(), everywhere_reachable(annotations=HAIRPIN)
    options = replace(OPTIONS, masquerade_all=all_of_it)
    vips = ((facts.cluster, 80), (facts.node, 30080), (facts.external, 80), (facts.balanced, 80))
    for vip, port in vips:
        to_itself = sent_on(facts, facts.here, facts.here, vip, port)
        assert walker(facts, plain, *SLICES, table="nat", options=options).run("POSTROUTING", to_itself) == f"SNAT {facts.node}"
        assert walker(facts, asking, *SLICES, table="nat", options=options).run("POSTROUTING", to_itself) == f"SNAT {vip}"


def test_hairpin_rules_concern_packets_of_a_pod_to_itself_only(facts: Facts) -> None:
    another = {4: "10.244.1.6", 6: "fd00:244:1::6"}[facts.family]
    two = piece(*(on("node1", one.here) for one in BOTH), on("node1", another), name="here")
    walk = walker(facts, everywhere_reachable(annotations=HAIRPIN), two, table="nat")
    assert walk.run("POSTROUTING", sent_on(facts, facts.here, another)) == FELL_THROUGH
    assert walk.run("POSTROUTING", sent_on(facts, another, facts.here)) == FELL_THROUGH
    assert walk.run("POSTROUTING", sent_on(facts, another, another)) == f"SNAT {facts.cluster}"
    assert walk.run("POSTROUTING", sent_on(facts, another, another, facts.cluster, 81)) == f"SNAT {facts.node}", "another Service's port"


def test_who_is_inside_the_cluster_is_marked_under_policy_local_and_nobody_else(facts: Facts) -> None:
    local = everywhere_reachable(external_policy="Local", internal_policy="Local")
    state = node_state(local, *SLICES)
    walk = walker(facts, local, *SLICES, table="mangle")
    marks = {
        key.entry: value.mark for key, value in state.items() if isinstance(key, SetMember) and isinstance(value, Member) and value.mark
    }
    for vip, port in ((facts.external, 80), (facts.balanced, 80), (facts.node, 30080)):
        mark = marks[f"{vip},tcp:{port}"]
        assert walk.mark("PREROUTING", Packet(facts.here, vip, "tcp", port)) == mark
        assert walk.mark("PREROUTING", Packet(facts.there, vip, "tcp", port)) == mark, "pods of other nodes, too"
        assert walk.mark("OUTPUT", Packet(facts.node, vip, "tcp", port)) == mark, "and this node"
        assert walk.mark("PREROUTING", Packet(OUTSIDER[facts.family], vip, "tcp", port)) == 0
        assert walk.mark("PREROUTING", Packet(facts.other_node, vip, "tcp", port)) == 0, "another node is outside, as for kube-proxy"
        assert walk.mark("PREROUTING", Packet(facts.here, vip, "udp", port)) == 0
    assert walk.mark("PREROUTING", Packet(facts.here, facts.cluster, "tcp", 80)) == 0, "internalTrafficPolicy has no exception"
