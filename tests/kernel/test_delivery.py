"""Delivery of marked packets: rules by mark and table 78, in a real network namespace."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.delivery import DeliveryTarget
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.direct import Delivery, DeliveryKey, MarkRule, MarkRuleKey
from kube_router.model.state.netfilter import SetKey, SetMember
from kube_router.plan.order import ordered
from lab.kernel_netns import Netns
from tests.unit.test_proxy_dsr import behind, want, web

pytestmark = pytest.mark.needs("root", "netns")

_MTU_DISCOVER, _MTU, _DO = 10, 14, 2  # IP_MTU_DISCOVER, IP_MTU, IP_PMTUDISC_DO of <linux/in.h>
RULE = MarkRule(0x33FFF)
RULES = [
    "32764:\tfrom all fwmark 0x10000/0x33fff lookup 79 proto 17",
    "32764:\tfrom all fwmark 0x235e/0x33fff lookup 78 proto 17",
]
WANTED = {
    DeliveryKey(4): Delivery(),
    DeliveryKey(4, 79): Delivery(mtu=1480),
    MarkRuleKey(4, 0x10000): MarkRule(0x33FFF, table=79),
    DeliveryKey(6): Delivery(),
    MarkRuleKey(4, 0x235E): RULE,
    MarkRuleKey(6, 0x23A9): RULE,
}


def put(target: DeliveryTarget) -> None:
    assert target.apply([Change(key, None, value) for key, value in WANTED.items()]) == {}


def rules(netns: Netns, family: int) -> list[str]:
    return sorted(line for line in netns.run(f"ip -{family} rule").splitlines() if "32764" in line or "32765" in line)


def test_marked_packets_are_delivered_here_and_all_of_it_goes_again(netns: Netns) -> None:
    target = DeliveryTarget()
    put(target)
    put(target)
    assert rules(netns, 4) == RULES
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
    assert rules(netns, 4) == RULES
    assert rules(netns, 6) == ["32764:\tfrom all fwmark 0x23a9/0x33fff lookup 78 proto 17"]


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
    for _ in RULES if family == 4 else RULES[:1]:
        netns.run(f"ip -{family} rule del priority 32764")
    netns.run(f"ip -{family} route flush table 78")
    netns.run(f"ip -{family} route flush table 79", check=False)  # IPv6 has none
    missing = WANTED.keys() - target.observe(WANTED).keys()
    assert {type(key) for key in missing} == {DeliveryKey, MarkRuleKey}
    assert all(getattr(key, "family", 0) == family for key in missing)
    put(target)
    assert target.observe(WANTED) == WANTED


def test_a_route_of_table_79_follows_the_mtu(netns: Netns) -> None:
    target = DeliveryTarget()
    key, old, new = DeliveryKey(4, 79), Delivery(1480), Delivery(1420)
    netns.run("ip route add local default dev lo table 79")
    assert target.observe({})[key] == Delivery()
    for before, after in ((Delivery(), old), (old, new), (new, new)):
        assert target.apply([Change(key, before, after)]) == {}
        assert target.observe({}) == {key: after}
    assert netns.run("ip route show table 79").split() == ["default", "dev", "lo", "proto", "17", "scope", "link", "mtu", "1420"]


@pytest.mark.needs("veth", "ipset", "xt_set", "iptables_nft")
def test_u074_who_sends_a_datagram_without_room_for_a_packet_around_it_hears_of_it(netns: Netns, namespaces: Callable[[], Netns]) -> None:
    client = _beside(netns, namespaces)
    state = want(web(4, protocol="UDP"), behind(("10.242.1.7", "node2"), protocol="UDP")).state
    _apply(state)
    with client.entered(), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.connect(("203.0.113.80", 80))
        asking.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _DO)
        asking.send(bytes(1480 - 28))
        time.sleep(0.2)
        assert asking.getsockopt(socket.IPPROTO_IP, _MTU) == 1500, "what fits is no reason to say anything"
        asking.send(bytes(1481 - 28))
        until = time.monotonic() + 3
        while asking.getsockopt(socket.IPPROTO_IP, _MTU) != 1480 and time.monotonic() < until:
            time.sleep(0.02)
        assert asking.getsockopt(socket.IPPROTO_IP, _MTU) == 1480
    assert _count(netns, "KUBE-ROUTER-TOO-BIG") == 1
    with client.entered(), socket.socket(type=socket.SOCK_DGRAM) as asking:
        asking.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, 0)
        asking.sendto(bytes(1481 - 28), ("203.0.113.80", 80))
        asking.sendto(bytes(1481 - 28), ("203.0.113.80", 81))
        time.sleep(0.2)
    assert _count(netns, "KUBE-ROUTER-TOO-BIG") == 1, "what may be cut is delivered"


@pytest.mark.needs("veth", "ipset", "xt_set", "iptables_nft")
@pytest.mark.parametrize(("protocol", "kind"), [("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)])
def test_b11_an_address_that_no_link_has_refuses_where_nobody_answers(
    netns: Netns, namespaces: Callable[[], Netns], protocol: str, kind: socket.SocketKind
) -> None:
    client = _beside(netns, namespaces)
    _apply(want(web(4, protocol=protocol)).state)
    with client.entered(), socket.socket(type=kind) as asking:
        asking.settimeout(3)
        with pytest.raises(ConnectionRefusedError):
            asking.connect(("203.0.113.80", 80)) if kind is socket.SOCK_STREAM else _ask(asking)


def _ask(asking: socket.socket) -> None:
    asking.connect(("203.0.113.80", 80))
    asking.send(b"hello")
    asking.recv(16)


def _beside(netns: Netns, namespaces: Callable[[], Netns]) -> Netns:
    """A client that sends packets to the address through this node."""
    client = namespaces()
    netns.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", client.path])
    for inside, address in ((netns, "10.0.0.1/24"), (client, "10.0.0.9/24")):
        inside.run(f"ip address add {address} dev eth0")
        inside.run("ip link set eth0 up")
    netns.run("sysctl -q -w net.ipv4.ip_forward=1")
    client.run("ip route add 203.0.113.80 via 10.0.0.1")
    return client


def _apply(state: Mapping[Key, Value]) -> None:
    commands = Commands()
    for target in (SetTarget(commands), DeliveryTarget(), IptablesTarget(installed(commands)["nft"])):
        mine = [Change(key, None, value) for key, value in state.items() if type(key) in target.kinds and _is_needed(key, state)]
        assert target.apply(ordered(mine)) == {}
        assert target.observe(state).items() >= {change.key: change.after for change in mine}.items(), "it is read as it was written"


def _is_needed(key: Key, state: Mapping[Key, Value]) -> bool:
    """The node's own item makes the sets of VIPs."""
    return not isinstance(key, SetMember) or SetKey(key.set) in state


def _count(netns: Netns, chain: str) -> int:
    """Packets that a rule of a chain matched."""
    [line] = [line for line in netns.run("iptables-nft-save -c -t mangle").splitlines() if f"-A {chain} " in line]
    return int(line[1 : line.index(":")])
