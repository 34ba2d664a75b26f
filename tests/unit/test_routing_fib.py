"""Learned routes: which paths become routes, and which never may."""

from __future__ import annotations

import pytest

from kube_router.config.options import Options, defaults
from kube_router.desired import Desired
from kube_router.desired.routing.around import Surroundings, surroundings
from kube_router.desired.routing.fib import refusal
from kube_router.desired.routing.fib import route as route_over
from kube_router.desired.routing.tunnels import way
from kube_router.model.objects import BestPath, Interface, Name, Node
from kube_router.model.state.links import Hop, Route, RouteKey, through

NODE = Node(Name("", "node1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"), addresses=("192.168.50.50", "fd00:50::50"))
LINKS = (
    Interface(Name("", "lo"), addresses=("127.0.0.1/8", "::1/128")),
    Interface(Name("", "up0"), addresses=("192.168.50.50/24", "fd00:50::50/64", "fe80::1/64")),
    Interface(Name("", "stor0"), addresses=("172.20.0.5/16",)),
    Interface(Name("", "kube-bridge"), addresses=("10.233.64.1/24",)),
)
OPTIONS = defaults(enable_ipv6=True, enable_overlay=False)
AROUND = surroundings(NODE, LINKS, OPTIONS)


def route(learned: BestPath | None, around: Surroundings, options: Options = OPTIONS) -> Desired:
    """The route with the ways to its next hops, none of which is a node's."""
    hops = learned.next_hops if learned else ()
    return route_over(learned, around, {hop: way(hop, around, None, rivals=(hop,), options=options) for hop in hops})


def path(prefix: str, *hops: str) -> BestPath:
    return BestPath(Name("", prefix), hops)


@pytest.mark.parametrize(
    ("learned", "gateways"),
    [
        (path("10.233.66.0/24", "192.168.50.51"), ("192.168.50.51",)),
        (path("fd00:66::/64", "fd00:50::51"), ("fd00:50::51",)),
        (path("203.0.113.7/32", "192.168.50.52", "192.168.50.51"), ("192.168.50.51", "192.168.50.52")),
        (path("203.0.113.7/32", "192.168.60.52", "192.168.50.51"), ("192.168.50.51",)),
        (path("10.233.0.0/16", "192.168.50.1"), ("192.168.50.1",)),  # wider than our range: longest match keeps ours
    ],
)
def test_next_hops_on_our_networks_become_one_route(learned, gateways):
    assert route(learned, AROUND).state == {RouteKey(learned.prefix): Route(through(*gateways))}


@pytest.mark.parametrize(
    "learned",
    [
        path("10.233.66.0/24", "192.168.60.51"),  # behind a router, and no tunnels
        path("10.233.66.0/24", "172.20.0.9"),  # on a network of ours that holds no node address
        path("fd00:66::/64", "192.168.50.51"),  # another family
        path("10.233.66.0/24", "192.168.50.50"),  # ourselves
        path("10.233.66.0/24"),
    ],
)
def test_other_next_hops_make_no_route(learned):
    assert route(learned, AROUND).state == {}


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("0.0.0.0/0", "default"),
        ("::/0", "default"),
        ("192.168.50.0/24", "connected"),
        ("172.20.0.0/16", "connected"),
        ("10.233.64.0/24", "connected"),
        ("10.233.64.128/25", "own pod range"),
        ("fd00:64::/64", "own pod range"),
        ("192.168.50.50/32", "address of this node"),
    ],
)
def test_the_guard_refuses_what_no_speaker_may_route(prefix, reason):
    assert reason in refusal(prefix, AROUND)
    hop = "fd00:50::51" if ":" in prefix else "192.168.50.51"
    assert route(path(prefix, hop), AROUND).state == {}


@pytest.mark.parametrize(("family", "routed"), [(4, ["10.233.66.0/24"]), (6, ["fd00:66::/64"])])
def test_a_family_that_is_switched_off_has_no_routes(family, routed):
    around = surroundings(NODE, LINKS, defaults(enable_ipv4=family == 4, enable_ipv6=family == 6, enable_overlay=False))
    learned = [path("10.233.66.0/24", "192.168.50.51"), path("fd00:66::/64", "fd00:50::51")]
    assert [key.prefix for one in learned for key in route(one, around).state] == routed


@pytest.mark.parametrize("prefix", ["10.233.66.0/24", "192.168.50.77/32", "10.0.0.0/8", "fd00:66::/64"])
def test_everything_else_may_be_routed(prefix):
    assert refusal(prefix, AROUND) == ""


def test_a_path_that_is_gone_wants_nothing():
    assert route(None, AROUND).state == {}


def test_without_our_node_nothing_is_on_our_networks():
    assert route(path("10.233.66.0/24", "192.168.50.51"), surroundings(None, LINKS, OPTIONS)).state == {}


TUNNELS = defaults(enable_ipv6=True)
FAR = {4: Hop(link="tun-cae1aae1758"), 6: Hop(link="tun-43e00a7a482")}  # to 192.168.60.52 and fd00:60::52


@pytest.mark.parametrize(
    ("learned", "wanted"),
    [
        (path("10.233.65.0/24", "192.168.60.52"), Route((FAR[4],), source="192.168.50.50")),
        (path("fd00:65::/64", "fd00:60::52"), Route((FAR[6],), source="fd00:50::50")),
        (path("10.233.65.0/24", "192.168.50.51"), Route(through("192.168.50.51"))),
        (
            path("2001:db8::7/128", "fd00:60::52", "fd00:50::51"),
            Route((Hop("fd00:50::51"), Hop("fe80::1", FAR[6].link)), source="fd00:50::50"),
        ),
        (
            path("203.0.113.7/32", "192.168.60.52", "192.168.50.51"),
            Route((FAR[4], Hop("192.168.50.51")), source="192.168.50.50"),
        ),
    ],
)
def test_next_hops_behind_a_router_are_reached_through_tunnels_beside_others(learned, wanted):
    assert route(learned, AROUND, TUNNELS).state == {RouteKey(learned.prefix): wanted}


def test_r19_the_guard_holds_for_tunnels_too():
    for prefix in ("0.0.0.0/0", "192.168.50.0/24", "10.233.64.0/24", "192.168.50.50/32"):
        assert route(path(prefix, "192.168.60.52"), AROUND, TUNNELS).state == {}


def test_routes_that_go_the_same_way_are_one_object():
    first, second = (route(path(prefix, "192.168.60.52"), AROUND, TUNNELS).state for prefix in ("10.1.0.0/24", "10.2.0.0/24"))
    assert first[RouteKey("10.1.0.0/24")] is second[RouteKey("10.2.0.0/24")]
