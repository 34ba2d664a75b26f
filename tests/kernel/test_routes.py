"""RouteTarget on the real kernel: what it writes, what it leaves alone, and what it says when the kernel refuses."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kube_router.apply.kernel.routes import RouteTarget
from kube_router.codec.rtnetlink import AF
from kube_router.kit.errors import TargetError
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.state import Change, State
from kube_router.model.state.links import Hop, Route, RouteKey, through
from tests.kernel.notices import listening

pytestmark = [pytest.mark.needs("root", "netns", "veth"), pytest.mark.usefixtures("uplink")]

# Per family: a prefix to route, others, gateways on the uplink, the node's own address, and one that no link leads to.
PREFIX: dict[Family, str] = {4: "10.233.65.0/24", 6: "fd00:65::/64"}
OTHER: dict[Family, str] = {4: "10.233.66.0/24", 6: "fd00:66::/64"}
CONNECTED: dict[Family, str] = {4: "192.168.0.0/16", 6: "fd00:50::/64"}
GATEWAYS: dict[Family, tuple[str, ...]] = {
    4: ("192.168.50.51", "192.168.50.52", "192.168.50.53"),
    6: ("fd00:50::51", "fd00:50::52", "fd00:50::53"),
}
NODE: dict[Family, str] = {4: "192.168.50.50", 6: "fd00:50::50"}
NOWHERE: dict[Family, str] = {4: "203.0.113.1", 6: "2001:db8::1"}
# No link-local addresses: the kernel tells of them whenever it likes.
UPLINK = """\
link set lo up
link add up0 type veth peer name up1
link set up0 addrgenmode none up
link set up1 addrgenmode none up
addr add 192.168.50.50/16 dev up0
addr add fd00:50::50/64 dev up0 nodad
"""


@pytest.fixture
def uplink(netns: object) -> None:
    batch(UPLINK)


@pytest.fixture
def target(uplink: None) -> Iterator[RouteTarget]:
    target = RouteTarget()
    yield target
    target.close()


@pytest.fixture(params=FAMILIES, ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    number: Family = request.param
    return number


def batch(text: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True, capture_output=True)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], text=True, check=True, capture_output=True).stdout


def shown(family: Family, prefix: str = "") -> list[str]:
    """Routes of the main table as `ip route` prints them."""
    lines = ip(f"-{family}", "route", "show", *([prefix] if prefix else [])).splitlines()
    return [" ".join(line.split()) for line in lines]


def ours(family: Family) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(ip("-j", f"-{family}", "route", "show", "proto", "17") or "[]")
    return found


def creation(state: State) -> list[Change]:
    return [Change(key, None, value) for key, value in state.items()]


def removal(state: State) -> list[Change]:
    return [Change(key, value, None) for key, value in state.items()]


def via(family: Family, *numbers: int) -> Route:
    return Route(through(*(GATEWAYS[family][number] for number in numbers or (0,))))


def everything() -> State:
    """Every shape of route, in both families."""
    state: State = {}
    for family in FAMILIES:
        state[RouteKey(PREFIX[family])] = via(family)
        state[RouteKey(OTHER[family])] = via(family, 0, 2)
    state[RouteKey("10.233.67.0/24")] = Route(through(GATEWAYS[4][0]), source=NODE[4])
    state[RouteKey("fd00:67::/64")] = Route((Hop(GATEWAYS[6][0], "up0"),), source=NODE[6])
    state[RouteKey("10.233.68.0/24")] = Route((Hop(link="up0"),))
    state[RouteKey("fd00:68::/64")] = Route((Hop(link="up0"),), source=NODE[6])
    state[RouteKey("203.0.113.7/32", metric=50)] = via(4, 1)
    state[RouteKey("2001:db8:7::7/128", metric=50)] = via(6, 1)
    return state


def many(count: int = 1000) -> State:
    state: State = {}
    for number in range(count):
        state[RouteKey(f"10.{number >> 8}.{number & 255}.0/24")] = Route(through(f"192.168.{number >> 8}.{number & 255 or 1}"))
        state[RouteKey(f"fd01:0:0:{number + 1:x}::/64")] = Route(through(f"fd00:50::1:{number + 1:x}"))
    return state


def test_ip_route_shows_what_was_wanted(target: RouteTarget) -> None:
    assert target.apply(creation(everything())) == {}
    assert shown(4) == [
        "10.233.65.0/24 via 192.168.50.51 dev up0 proto 17",
        "10.233.66.0/24 proto 17",
        "nexthop via 192.168.50.51 dev up0 weight 1",
        "nexthop via 192.168.50.53 dev up0 weight 1",
        "10.233.67.0/24 via 192.168.50.51 dev up0 proto 17 src 192.168.50.50",
        "10.233.68.0/24 dev up0 proto 17",
        "192.168.0.0/16 dev up0 proto kernel scope link src 192.168.50.50",
        "203.0.113.7 via 192.168.50.52 dev up0 proto 17 metric 50",
    ]
    assert [line for line in shown(6) if "proto 17" in line or "nexthop" in line] == [
        "2001:db8:7::7 via fd00:50::52 dev up0 proto 17 metric 50 pref medium",
        "fd00:65::/64 via fd00:50::51 dev up0 proto 17 metric 1024 pref medium",
        "fd00:66::/64 proto 17 metric 1024 pref medium",
        "nexthop via fd00:50::51 dev up0 weight 1",
        "nexthop via fd00:50::53 dev up0 weight 1",
        "fd00:67::/64 via fd00:50::51 dev up0 proto 17 src fd00:50::50 metric 1024 pref medium",
        "fd00:68::/64 dev up0 proto 17 src fd00:50::50 metric 1024 pref medium",
    ]


def test_what_was_written_is_observed_as_wanted_by_one_who_has_just_started(target: RouteTarget) -> None:
    state = everything()
    target.apply(creation(state))
    newcomer = RouteTarget()
    assert newcomer.observe(state) == state
    newcomer.close()


def test_links_and_sources_that_nobody_wants_are_told(target: RouteTarget) -> None:
    target.apply(creation(everything()))
    found = target.observe({})
    assert found[RouteKey(PREFIX[4])] == Route((Hop(GATEWAYS[4][0], "up0"),))
    assert found[RouteKey("fd00:68::/64")] == Route((Hop(link="up0"),), source=NODE[6])


@pytest.mark.parametrize(
    "wish",
    [
        {"hops": (Hop(GATEWAYS[4][0], "up1"),)},
        {"hops": (Hop(GATEWAYS[4][0], "up0", onlink=True),)},
        {"source": "192.168.50.50"},
        {"hops": through("192.168.50.52")},
    ],
    ids=str,
)
def test_a_route_that_misses_what_is_wanted_of_it_is_told_as_it_is(target: RouteTarget, wish: dict[str, Any]) -> None:
    key = RouteKey(PREFIX[4])
    target.apply(creation({key: via(4)}))
    wanted = Route(**{"hops": through(GATEWAYS[4][0])} | wish)
    assert target.observe({key: wanted}) == {key: Route((Hop(GATEWAYS[4][0], "up0"),))}


def test_applying_twice_changes_nothing(target: RouteTarget) -> None:
    state = everything()
    target.apply(creation(state))
    with listening() as notices:
        assert target.apply(creation(state)) == {}
        assert notices.take() == []


def test_removing_leaves_nothing_and_can_be_repeated(target: RouteTarget) -> None:
    state = everything()
    before = [shown(family) for family in FAMILIES]
    target.apply(creation(state))
    assert target.apply(removal(state)) == {}
    assert [shown(family) for family in FAMILIES] == before
    assert target.observe(state) == {}
    assert target.apply(removal(state)) == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [((0,), (1,)), ((0,), (0, 1)), ((0, 1), (1,)), ((0, 1), (1, 2)), ((0, 1, 2), (0, 2)), ((0, 1), (2,))],
)
def test_r13_a_changed_route_is_replaced_without_ever_being_gone(
    target: RouteTarget, family: Family, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    key = RouteKey(PREFIX[family])
    target.apply(creation({key: via(family, *before)}))
    with listening() as notices:
        assert target.apply([Change(key, via(family, *before), via(family, *after))]) == {}
        told = notices.take()
    assert "no route" not in told
    assert "route" in told
    wanted: State = {key: via(family, *after)}
    assert target.observe(wanted) == wanted


def test_r13_packets_find_a_route_at_every_moment_of_its_changes(target: RouteTarget, family: Family) -> None:
    key, ways = RouteKey(PREFIX[family]), [via(family, 0), via(family, 0, 1), via(family, 1, 2), via(family, 2)]
    target.apply(creation({key: ways[0]}))
    address = PREFIX[family].partition("/")[0] + ("7" if family == 6 else "")
    lost: list[str] = []
    looks: list[int] = [0]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with socket.socket(AF[family], socket.SOCK_DGRAM) as probe:  # to connect it asks the kernel for a route
                try:
                    probe.connect((address, 9))
                    looks[0] += 1
                except OSError as fault:
                    lost.append(str(fault))

    looker = threading.Thread(target=look)
    looker.start()
    turn = 0
    while not lost and looker.is_alive() and (turn < 400 or looks[0] < 400):  # as long as it takes on a slow machine
        assert target.apply([Change(key, ways[turn % 4], ways[(turn + 1) % 4])]) == {}
        turn += 1
    assert looker.is_alive()
    done.set()
    looker.join()
    assert lost == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("via {gateway}", "via {gateway} proto boot"),
        ("via {gateway} proto static", "via {gateway} proto static"),
        ("via {gateway} proto 186", "via {gateway} proto bgp"),
        ("dev up0 proto 201", "dev up0 proto 201"),
        ("nexthop via {gateway} nexthop via {second}", "via {gateway} via {second} proto boot"),
    ],
)
def test_anothers_route_to_the_prefix_is_named_and_kept(target: RouteTarget, family: Family, words: str, told: str) -> None:
    gateways = {"gateway": GATEWAYS[family][1], "second": GATEWAYS[family][2]}
    ip(f"-{family}", "route", "add", PREFIX[family], *words.format(**gateways).split())
    before = shown(family)
    key, neighbour = RouteKey(PREFIX[family]), RouteKey(OTHER[family])
    refused = target.apply(creation({key: via(family), neighbour: via(family)}))
    assert refused == {key: f"another's route stands in the way: {PREFIX[family]} {told.format(**gateways)}"}
    assert target.observe({}).keys() == {neighbour}
    assert target.apply(removal({key: via(family), neighbour: via(family)})) == {}
    assert shown(family) == before


def test_a_route_that_throws_packets_away_is_another_s_route_too(target: RouteTarget, family: Family) -> None:
    ip(f"-{family}", "route", "add", "blackhole", PREFIX[family])
    refused = target.apply(creation({RouteKey(PREFIX[family]): via(family)}))
    assert "stands in the way" in refused[RouteKey(PREFIX[family])]
    assert shown(family, PREFIX[family])[0].startswith("blackhole")


def test_a_network_that_the_node_is_connected_to_is_kept(target: RouteTarget) -> None:
    key = RouteKey(CONNECTED[4])
    before = shown(4)
    assert target.apply(creation({key: via(4)})) == {
        key: "another's route stands in the way: 192.168.0.0/16 dev up0 proto kernel",
    }
    assert shown(4) == before


def test_anothers_route_that_took_the_place_of_ours_is_not_replaced(target: RouteTarget, family: Family) -> None:
    key = RouteKey(PREFIX[family])
    target.apply(creation({key: via(family)}))
    ip(f"-{family}", "route", "replace", PREFIX[family], "via", GATEWAYS[family][2], "proto", "static")
    before = shown(family)
    refused = target.apply([Change(key, via(family), via(family, 1))])
    assert "proto static" in refused[key]
    assert shown(family) == before


def test_a_longer_route_of_ours_is_not_taken_for_the_one_that_somebody_replaced(target: RouteTarget, family: Family) -> None:
    key = RouteKey(PREFIX[family])
    first = RouteKey(f"{PREFIX[family].partition('/')[0]}/{32 if family == 4 else 128}")
    target.apply(creation({key: via(family), first: via(family)}))
    ip(f"-{family}", "route", "replace", PREFIX[family], "via", GATEWAYS[family][2], "proto", "static")
    refused = target.apply([Change(key, via(family), via(family, 1))])
    assert "proto static" in refused[key]


def test_our_route_is_found_behind_longer_prefixes_and_lower_metrics(target: RouteTarget, family: Family) -> None:
    key = RouteKey(PREFIX[family])
    target.apply(creation({key: via(family)}))
    first = PREFIX[family].partition("/")[0]
    ip(f"-{family}", "route", "add", f"{first}/{32 if family == 4 else 128}", "via", GATEWAYS[family][2])
    if family == 6:
        ip("-6", "route", "add", PREFIX[6], "via", GATEWAYS[6][2], "metric", "10")
    with listening() as notices:
        assert target.apply([Change(key, via(family), via(family, 1))]) == {}
        assert "no route" not in notices.take()
    assert target.observe({key: via(family, 1)}) == {key: via(family, 1)}


def test_a_route_of_ours_that_somebody_removed_is_made_again_when_it_changes(target: RouteTarget, family: Family) -> None:
    key = RouteKey(PREFIX[family])
    target.apply(creation({key: via(family)}))
    ip(f"-{family}", "route", "del", PREFIX[family])
    assert target.apply([Change(key, via(family), via(family, 1))]) == {}
    assert target.observe({key: via(family, 1)}) == {key: via(family, 1)}


def test_a_fallback_of_another_metric_stands_beside_ours(target: RouteTarget, family: Family) -> None:
    ip(f"-{family}", "route", "add", PREFIX[family], "via", GATEWAYS[family][2], "metric", "5000")
    before = shown(family)
    state: State = {RouteKey(PREFIX[family]): via(family)}
    assert target.apply(creation(state)) == {}
    assert target.observe(state) == state
    assert len(shown(family, PREFIX[family])) == 2
    assert target.apply([Change(RouteKey(PREFIX[family]), via(family), via(family, 1))]) == {}
    assert target.apply(removal(state)) == {}
    assert shown(family) == before


def test_strays_of_our_protocol_are_observed_each_by_its_metric_and_removed(target: RouteTarget, family: Family) -> None:
    state: State = {RouteKey(PREFIX[family]): via(family)}
    target.apply(creation(state))
    for arguments in (
        [PREFIX[family], "via", GATEWAYS[family][1], "metric", "70"],
        [OTHER[family], "via", GATEWAYS[family][1]],
    ):
        ip(f"-{family}", "route", "add", *arguments, "proto", "17")
    found = target.observe(state)
    strays = {key: value for key, value in found.items() if key not in state}
    assert strays.keys() == {RouteKey(PREFIX[family], metric=70), RouteKey(OTHER[family])}
    assert target.apply(removal(dict(strays))) == {}
    assert target.observe(state) == state


def test_routes_of_others_are_invisible(target: RouteTarget, family: Family) -> None:
    ip(f"-{family}", "route", "add", PREFIX[family], "via", GATEWAYS[family][1], "proto", "bird")
    ip(f"-{family}", "route", "add", OTHER[family], "via", GATEWAYS[family][1], "table", "100", "proto", "17")
    assert target.observe({}) == {}


def test_a_route_without_a_way_is_refused_by_name_and_its_neighbours_go_on(target: RouteTarget, family: Family) -> None:
    bad, good = RouteKey(PREFIX[family]), RouteKey(OTHER[family])
    refused = target.apply(creation({bad: Route(through(NOWHERE[family])), good: via(family)}))
    assert list(refused) == [bad]
    assert "no link of this node leads to its gateway" in refused[bad]
    assert target.observe({good: via(family)}) == {good: via(family)}


def test_a_source_that_is_not_the_nodes_is_refused(target: RouteTarget, family: Family) -> None:
    key = RouteKey(PREFIX[family])
    refused = target.apply(creation({key: Route(through(GATEWAYS[family][0]), source=NOWHERE[family])}))
    assert "gateway or source address" in refused[key]


def test_a_route_waits_for_its_link_and_holds_up_nobody(target: RouteTarget, family: Family) -> None:
    waits, goes = RouteKey(PREFIX[family]), RouteKey(OTHER[family])
    state: State = {waits: Route((Hop(link="later0"),)), goes: via(family)}
    refused = target.apply(creation(state))
    assert refused.keys() == {waits}
    assert "its link is not there" in refused[waits]
    batch("link add later0 type veth peer name later1\nlink set later0 up\nlink set later1 up\n")
    assert target.apply(creation({waits: state[waits]})) == {}
    assert target.observe(state) == state


def test_routes_that_went_with_their_link_are_seen_as_gone_and_come_back(target: RouteTarget) -> None:
    state: State = {RouteKey(PREFIX[family]): via(family) for family in FAMILIES}
    target.apply(creation(state))
    batch("link set up0 down\n")
    assert target.observe(state) == {}
    refused = target.apply(creation(state))
    assert refused.keys() == state.keys()
    batch("link set up0 up\naddr replace fd00:50::50/64 dev up0 nodad\n")
    assert target.apply(creation(state)) == {}
    assert target.observe(state) == state


def test_a_link_that_comes_and_goes_meanwhile_costs_routes_but_never_the_daemon(target: RouteTarget) -> None:
    state: State = dict(list(many(100).items()))
    down, up = "link set up0 down\n", "link set up0 up\naddr replace fd00:50::50/64 dev up0 nodad\n"
    done = threading.Event()

    def flap() -> None:
        while not done.is_set():
            batch(down + up)

    flapper = threading.Thread(target=flap)
    flapper.start()
    try:
        for _ in range(50):
            held = target.observe(state)
            refused = target.apply([Change(key, held.get(key), value) for key, value in state.items() if held.get(key) != value])
            assert all("link" in reason for reason in refused.values())
    except TargetError:
        pass  # the kernel's tables did not come to rest: observed again later
    finally:
        done.set()
        flapper.join()
    batch(up)
    held = target.observe(state)
    assert target.apply([Change(key, held.get(key), value) for key, value in state.items() if held.get(key) != value]) == {}
    assert target.observe(state) == state


def test_a_thousand_routes_are_a_thousand_messages_and_one_changed_one_is_one(target: RouteTarget) -> None:
    state = many()
    assert target.apply(creation(state)) == {}
    assert target.sent == len(state) == 2000
    assert target.observe(state) == state
    key, other = RouteKey("10.2.7.0/24"), RouteKey("10.250.0.0/24")
    counted = []
    for change in (Change(other, None, via(4)), Change(other, via(4), None), Change(key, state[key], via(4))):
        before = target.sent
        assert target.apply([change]) == {}
        counted.append(target.sent - before)
    assert counted == [1, 1, 2], "made, deleted, and replaced after one look whether it is still ours"
    assert target.observe({})[key] == Route((Hop(GATEWAYS[4][0], "up0"),))


def test_a_thousand_collisions_take_one_look_per_family(target: RouteTarget) -> None:
    state = many()
    target.apply(creation(state))
    before = target.sent
    assert target.apply(creation(state)) == {}
    assert target.sent - before == len(state) + 2


def test_a_thousand_refusals_are_all_reported(target: RouteTarget) -> None:
    bad: State = {key: Route(through(NOWHERE[4 if "." in key.prefix else 6])) for key in many() if isinstance(key, RouteKey)}
    assert target.apply(creation(bad)).keys() == bad.keys()
    assert [ours(family) for family in FAMILIES] == [[], []]
