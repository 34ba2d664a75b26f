"""Delivery of marked packets: rules by mark and table 78, in a real network namespace."""

from __future__ import annotations

import pytest

from kube_router.apply.kernel.delivery import DeliveryTarget
from kube_router.model.state import Change
from kube_router.model.state.direct import Delivery, DeliveryKey, MarkRule, MarkRuleKey
from lab.kernel_netns import Netns

pytestmark = pytest.mark.needs("root", "netns")

RULE = MarkRule(0x23FFF)
WANTED = {
    DeliveryKey(4): Delivery(),
    DeliveryKey(6): Delivery(),
    MarkRuleKey(4, 0x235E): RULE,
    MarkRuleKey(6, 0x23A9): RULE,
}


def put(target: DeliveryTarget) -> None:
    assert target.apply([Change(key, None, value) for key, value in WANTED.items()]) == {}


def rules(netns: Netns, family: int) -> list[str]:
    return [line for line in netns.run(f"ip -{family} rule").splitlines() if "32764" in line or "32765" in line]


def test_marked_packets_are_delivered_here_and_all_of_it_goes_again(netns: Netns) -> None:
    target = DeliveryTarget()
    put(target)
    put(target)
    assert rules(netns, 4) == ["32764:\tfrom all fwmark 0x235e/0x23fff lookup 78 proto 17"]
    assert netns.run("ip -4 route show table 78") == "local default dev lo proto 17 scope host \n"
    assert "via" not in (found := netns.run("ip -4 route get 203.0.113.9 mark 0x235e"))
    assert found.startswith("local 203.0.113.9 dev lo table 78")
    assert netns.run("ip -6 route get 2001:db8:e::9 mark 0x23a9").startswith("local 2001:db8:e::9 from :: dev lo table 78")
    assert netns.run("ip -4 route get 203.0.113.9 mark 0x80235e").startswith("local"), "a bit of somebody else's changes nothing"
    assert target.observe(WANTED) == WANTED
    assert target.apply([Change(key, value, None) for key, value in WANTED.items()]) == {}
    assert target.apply([Change(key, value, None) for key, value in WANTED.items()]) == {}, "deleting the absent succeeds"
    assert target.observe({}) == {}
    assert netns.run("ip -4 route show table 78", check=False) == netns.run("ip -6 route show table 78", check=False) == ""


def test_c_what_the_original_left_is_found_taken_over_and_removed(netns: Netns) -> None:
    for family in (4, 6):
        netns.run(f"ip -{family} route add local default dev lo table 78")
        netns.run(f"ip -{family} rule add priority 32765 from all lookup 79")
        netns.run(f"ip -{family} rule add priority 32764 fwmark 0x235e lookup 78")
    netns.run("ip rule add priority 32764 fwmark 0x111 lookup 78")
    target = DeliveryTarget()
    found = target.observe(WANTED)
    assert found[DeliveryKey(4)] == Delivery()
    assert found[MarkRuleKey(4, 0x235E)] == MarkRule(0xFFFFFFFF)
    assert found.keys() - WANTED.keys() == {MarkRuleKey(4, 0), MarkRuleKey(6, 0), MarkRuleKey(4, 0x111), MarkRuleKey(6, 0x235E)}
    changes = [Change(key, found.get(key), WANTED.get(key)) for key in found.keys() | WANTED.keys()]
    assert target.apply([change for change in changes if change.before != change.after]) == {}
    assert rules(netns, 4) == ["32764:\tfrom all fwmark 0x235e/0x23fff lookup 78 proto 17"]
    assert rules(netns, 6) == ["32764:\tfrom all fwmark 0x23a9/0x23fff lookup 78 proto 17"]


def test_rules_and_routes_of_others_are_not_seen(netns: Netns) -> None:
    netns.run("ip rule add priority 32764 fwmark 0x235e lookup 100")
    netns.run("ip rule add priority 32700 fwmark 0x235e iif lo lookup 78")
    netns.run("ip rule add priority 32701 from 10.0.0.0/8 lookup 78")
    netns.run("ip rule add priority 32702 from all lookup 79")
    netns.run("ip route add local 10.9.9.9 dev lo table 78")
    assert DeliveryTarget().observe({}) == {}


@pytest.mark.parametrize("family", [4, 6])
def test_a05_a_rule_and_a_route_that_somebody_took_away_are_missed_and_come_back(netns: Netns, family: int) -> None:
    target = DeliveryTarget()
    put(target)
    netns.run(f"ip -{family} rule del priority 32764")
    netns.run(f"ip -{family} route flush table 78")
    missing = WANTED.keys() - target.observe(WANTED).keys()
    assert {type(key) for key in missing} == {DeliveryKey, MarkRuleKey}
    assert all(getattr(key, "family", 0) == family for key in missing)
    put(target)
    assert target.observe(WANTED) == WANTED
