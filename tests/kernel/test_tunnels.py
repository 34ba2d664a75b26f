"""Targets of the overlay on the real kernel: what they write, what they leave alone, and what they say when the kernel refuses.

VXLAN stands for all tunnels here, since every kernel has it; the others are made, changed and used in test_overlay.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.policy_rules import RuleTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.apply.kernel.tunnels import TunnelTarget
from kube_router.control.controller import Target
from kube_router.model.state import Change, State
from kube_router.model.state.links import Hop, Route, RouteKey, Rule, RuleKey
from kube_router.model.state.tunnels import Fdb, FdbKey, Neighbour, NeighbourKey, Tunnel, TunnelKey
from tests.kernel.notices import listening

pytestmark = [pytest.mark.needs("root", "netns", "veth", "vxlan"), pytest.mark.usefixtures("uplink")]

KEY = TunnelKey("kube-vxlan")
WISH = Tunnel("vxlan", "192.168.50.50", port=4789, mtu=1450, mac="02:11:22:33:44:55")
MAC = "02:aa:bb:cc:dd:01"
ENTRIES: State = {
    FdbKey("kube-vxlan", MAC): Fdb("192.168.60.52"),
    NeighbourKey("kube-vxlan", "192.168.60.52"): Neighbour(MAC),
    NeighbourKey("kube-vxlan", "fe80::aa:bbff:fecc:dd01"): Neighbour(MAC),
}
FOUR, SIX = Hop("192.168.60.52", "kube-vxlan", onlink=True), Hop("fe80::aa:bbff:fecc:dd01", "kube-vxlan")
ROUTES: State = {
    RouteKey("10.233.65.0/24"): Route((FOUR,), source="192.168.50.50"),
    RouteKey("fd00:65::/64"): Route((SIX,), source="fd00:50::50"),
    RouteKey("192.168.60.52/32", 77): Route((FOUR,)),
    RouteKey("fd00:60::52/128", 77): Route((SIX,)),
    RouteKey("10.233.66.0/24"): Route((Hop("192.168.50.51"), FOUR)),
    RouteKey("fd00:66::/64"): Route((Hop("fd00:50::51"), SIX)),
}
RULES: State = {RuleKey("10.233.64.0/24", 77): Rule(), RuleKey("fd00:64::/64", 77): Rule()}


def ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)


def said(*words: str) -> str:
    return subprocess.run(words, text=True, check=True, capture_output=True).stdout


@pytest.fixture
def uplink(netns: object) -> None:
    ip(
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up0 up",
        "link set up1 up",
        "addr add 192.168.50.50/24 dev up0",
        "addr add fd00:50::50/64 dev up0 nodad",
    )


@pytest.fixture
def targets(uplink: None) -> Iterator[dict[str, Any]]:
    made = {"tunnels": TunnelTarget(), "entries": NeighbourTarget(), "routes": RouteTarget(), "rules": RuleTarget()}
    yield made
    for target in made.values():
        target.close()


def put(target: Target, state: State) -> None:
    assert target.apply([Change(key, None, value) for key, value in state.items()]) == {}


def everything(targets: dict[str, Any]) -> None:
    put(targets["tunnels"], {KEY: WISH})
    put(targets["entries"], ENTRIES)
    put(targets["routes"], ROUTES)
    put(targets["rules"], RULES)


def test_all_is_observed_as_it_was_wanted_and_applying_twice_is_heard_by_nobody(targets: dict[str, Any]) -> None:
    everything(targets)
    for name, state in (("tunnels", {KEY: WISH}), ("entries", ENTRIES), ("routes", ROUTES), ("rules", RULES)):
        assert targets[name].observe(state) == state
    with listening() as notices:
        put(targets["routes"], ROUTES)
        put(targets["rules"], RULES)
        assert notices.take() == []


def test_all_goes_and_going_again_succeeds(targets: dict[str, Any]) -> None:
    everything(targets)
    for _ in range(2):
        for name, state in (("rules", RULES), ("routes", ROUTES), ("entries", ENTRIES), ("tunnels", {KEY: WISH})):
            assert targets[name].apply([Change(key, value, None) for key, value in state.items()]) == {}
            assert targets[name].observe({}) == {}


@pytest.mark.parametrize("change", [{"mtu": 1400}, {"mac": "02:11:22:33:44:66"}, {"local": "192.168.50.51"}, {"port": 8472}], ids=str)
def test_a_changed_tunnel_keeps_its_number_and_everything_over_it(targets: dict[str, Any], change: dict[str, Any]) -> None:
    everything(targets)
    ip("addr add 192.168.50.51/24 dev up0")
    number = said("ip", "-o", "link", "show", "kube-vxlan").split(":")[0]
    wish = Tunnel(**{field: getattr(WISH, field) for field in WISH.__struct_fields__} | change)
    assert targets["tunnels"].observe({KEY: wish}) != {KEY: wish}
    assert targets["tunnels"].apply([Change(KEY, WISH, wish)]) == {}
    assert targets["tunnels"].observe({KEY: wish}) == {KEY: wish}
    assert said("ip", "-o", "link", "show", "kube-vxlan").split(":")[0] == number
    assert targets["routes"].observe(ROUTES) == ROUTES
    assert targets["entries"].observe({}) == ENTRIES


@pytest.mark.parametrize(
    "line", ["link set kube-vxlan down", "link set kube-vxlan mtu 1300", "link set kube-vxlan address 02:00:00:00:00:09"]
)
def test_what_somebody_changed_is_seen_and_put_right_in_place(targets: dict[str, Any], line: str) -> None:
    put(targets["tunnels"], {KEY: WISH})
    ip(line)
    found = targets["tunnels"].observe({KEY: WISH})[KEY]
    assert found != WISH
    assert targets["tunnels"].apply([Change(KEY, found, WISH)]) == {}
    assert targets["tunnels"].observe({KEY: WISH}) == {KEY: WISH}


def test_r20_learning_is_an_attribute_that_is_not_as_we_make_it(targets: dict[str, Any]) -> None:
    put(targets["tunnels"], {KEY: WISH})
    ip("link set kube-vxlan type vxlan learning")
    found = targets["tunnels"].observe({KEY: WISH})[KEY]
    assert found.odd == ("learning 1",)
    assert targets["tunnels"].apply([Change(KEY, found, WISH)]) == {}
    assert targets["tunnels"].observe({KEY: WISH}) == {KEY: WISH}


@pytest.mark.needs("bridge")
def test_a_link_of_our_name_and_another_kind_is_replaced_and_left_alone_where_nobody_wants_one(targets: dict[str, Any]) -> None:
    ip("link add kube-vxlan type bridge", "link add tun-cae1aae1758 type bridge")
    assert targets["tunnels"].observe({}) == {}
    found = targets["tunnels"].observe({KEY: WISH})
    assert found[KEY].kind == "bridge"
    assert targets["tunnels"].apply([Change(KEY, found[KEY], WISH)]) == {}
    assert targets["tunnels"].observe({KEY: WISH}) == {KEY: WISH}


def test_anothers_link_that_holds_what_the_kernel_allows_once_is_named_and_kept(targets: dict[str, Any]) -> None:
    ip("link add theirs type vxlan id 19282 dstport 4789 local 192.168.50.50")
    refused = targets["tunnels"].apply([Change(KEY, None, WISH)])
    assert "another's link theirs" in refused[KEY]
    assert "theirs" in said("ip", "-o", "link")


def test_r32_rules_of_others_stay_and_double_ones_of_ours_go(targets: dict[str, Any]) -> None:
    theirs = (
        "rule add from 10.9.0.0/24 table 78",
        "rule add from 10.233.64.0/24 iif up0 table 77 priority 400",
        "rule add fwmark 0x34ca table 77 priority 401",
        "rule add from 10.233.64.0/24 to 10.0.0.0/8 table 77 priority 402",
    )
    ip(*theirs)
    before = said("ip", "rule")
    ip(
        "rule add from 10.233.64.0/24 table 77 priority 500",
        "rule add from 10.233.64.0/24 table 77 priority 501",
        "rule add from 10.233.99.0/24 table 77",
    )
    found = targets["rules"].observe({})
    assert found.keys() == {RuleKey("10.233.64.0/24", 77), RuleKey("10.233.99.0/24", 77)}
    assert targets["rules"].apply([Change(key, value, None) for key, value in found.items()]) == {}
    assert said("ip", "rule") == before


def test_rules_of_the_original_are_taken_as_they_are(targets: dict[str, Any]) -> None:
    for source in ("10.233.64.0/24", "fd00:64::/64"):
        said("ip", "-6" if ":" in source else "-4", "rule", "add", "from", source, "table", "77")
    before = said("ip", "rule")
    assert targets["rules"].observe(RULES) == RULES
    put(targets["rules"], RULES)
    assert said("ip", "rule") == before


def test_routes_of_the_original_in_its_table_are_ours_whatever_their_protocol_and_others_are_not(targets: dict[str, Any]) -> None:
    put(targets["tunnels"], {KEY: WISH})
    ip("route add 192.168.60.52/32 dev kube-vxlan table 77", "route add 203.0.113.0/24 via 192.168.50.1 table 77")
    key = RouteKey("192.168.60.52/32", 77)
    found = targets["routes"].observe({})
    assert found == {key: Route((Hop(link="kube-vxlan"),))}
    assert targets["routes"].apply([Change(key, found[key], ROUTES[key])]) == {}
    assert targets["routes"].observe({key: ROUTES[key]}) == {key: ROUTES[key]}
    assert targets["routes"].apply([Change(key, ROUTES[key], None)]) == {}
    assert said("ip", "route", "show", "table", "77").strip() == "203.0.113.0/24 via 192.168.50.1 dev up0"


def test_entries_wait_for_their_link_and_learned_ones_are_nobodys(targets: dict[str, Any]) -> None:
    assert targets["entries"].observe({}) == {}
    assert set(targets["entries"].apply([Change(key, None, value) for key, value in ENTRIES.items()]).values()) == {"its link is not there"}
    put(targets["tunnels"], {KEY: WISH})
    put(targets["entries"], ENTRIES)
    ip("neigh add 192.168.60.99 lladdr 02:00:00:00:00:01 dev kube-vxlan nud stale")
    assert targets["entries"].observe({}) == ENTRIES
    moved = {FdbKey("kube-vxlan", MAC): Fdb("192.168.60.77")}
    assert targets["entries"].apply([Change(key, ENTRIES[key], value) for key, value in moved.items()]) == {}
    assert targets["entries"].observe({}) == ENTRIES | moved


def test_a_thousand_nodes_are_a_message_for_each_entry(targets: dict[str, Any]) -> None:
    put(targets["tunnels"], {KEY: WISH})
    state: State = {}
    for n in range(1000):
        mac = f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"
        state[FdbKey("kube-vxlan", mac)] = Fdb(f"192.168.{60 + (n >> 8)}.{n & 255}")
        state[NeighbourKey("kube-vxlan", f"192.168.{60 + (n >> 8)}.{n & 255}")] = Neighbour(mac)
    before = targets["entries"].sent
    put(targets["entries"], state)
    assert targets["entries"].sent - before == len(state)
    assert targets["entries"].observe({}) == state
