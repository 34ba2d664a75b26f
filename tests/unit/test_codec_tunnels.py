"""Messages of the overlay: tunnels, listeners, policy rules, VXLAN entries. As they are kept, and read back as they were asked for."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.codec import fou, neighbours, policy_rules, tunnels
from kube_router.codec.netlink import Reply, attribute
from kube_router.codec.rtnetlink import ROUTE_MESSAGE
from kube_router.kit.net import Family
from kube_router.model.state.tunnels import Tunnel
from tests.conftest import Golden
from tests.unit.test_codec_ipvs import rows

IPIP = Tunnel("ipip", "192.168.50.50", "192.168.60.52", mtu=1480)
IP6 = Tunnel("ip6tnl", "fd00:50::50", "fd00:60::52", mtu=1452)
GUE = Tunnel("ipip", "192.168.50.50", "192.168.60.52", 5555, mtu=1468)
GUE6 = Tunnel("ip6tnl", "fd00:50::50", "fd00:60::52", 5555, mtu=1440)
VXLAN = Tunnel("vxlan", "192.168.50.50", port=4789, mtu=1450, mac="02:11:22:33:44:55")
VXLAN6 = Tunnel("vxlan", "fd00:50::50", port=8472, mac="02:11:22:33:44:55")
ALL = (IPIP, IP6, GUE, GUE6, VXLAN, VXLAN6)


def reply(payload: bytes) -> Reply:
    return Reply(16, 0, 1, memoryview(payload))


def test_messages_are_as_they_are_kept(golden: Golden) -> None:
    messages = {f"new {one.kind} {'GUE ' if one.port else ''}{one.local}": tunnels.new_tunnel("tun-cae1aae1758", one) for one in ALL}
    messages |= {
        "anew in the place of link 7": tunnels.new_tunnel("kube-vxlan", VXLAN, index=7),
        "change link 7": tunnels.change_tunnel(7, GUE),
        "delete link 7": tunnels.delete_link(7),
        "open a listener": fou.add(30, 4, 5555),
        "open a listener, IPv6": fou.add(30, 6, 5555),
        "close a listener": fou.delete(30, 4, 5555),
        "listeners": fou.dump(30),
        "rule": policy_rules.new_rule("10.233.64.0/24", 77, protocol=17),
        "rule, IPv6": policy_rules.new_rule("fd00:64::/64", 77, protocol=17),
        "delete rule": policy_rules.delete_rule(policy_rules.FoundRule(4, "10.233.64.0/24", 77, 32765)),
        "forwarding entry": neighbours.put(7, "02:11:22:33:44:55", "192.168.60.52", forwarding=True),
        "neighbour": neighbours.put(7, "02:11:22:33:44:55", "fe80::1", forwarding=False),
        "delete forwarding entry": neighbours.delete(7, "02:11:22:33:44:55", "192.168.60.52", forwarding=True),
        "delete neighbour": neighbours.delete(7, "02:11:22:33:44:55", "fe80::1", forwarding=False),
        "forwarding entries": neighbours.dump(7, None),
        "neighbours": neighbours.dump(7, 6),
    }
    golden("netlink_tunnels.txt", "".join(f"{name}\n{rows(message)}" for name, message in messages.items()))


@pytest.mark.parametrize("wanted", ALL, ids=lambda one: f"{one.kind} {one.port}")
def test_a_tunnel_is_read_as_it_was_asked_for(wanted: Tunnel) -> None:
    message = tunnels.new_tunnel("tun-cae1aae1758", wanted, index=7)
    assert tunnels.parse_link(reply(message.payload)) == tunnels.FoundLink("tun-cae1aae1758", 7, wanted.kind, wanted)


# What the original makes, octet for octet as its own links are told: attributes by number (linux/if_tunnel.h).
ORIGINALS = {
    IPIP: {2: bytes((192, 168, 50, 50)), 3: bytes((192, 168, 60, 52)), 4: b"\0", 10: b"\0", 9: b"\0"},
    GUE: {
        2: bytes((192, 168, 50, 50)),
        3: bytes((192, 168, 60, 52)),
        4: b"\xe1",
        10: b"\1",
        9: b"\4",
        15: b"\2\0",
        16: b"\0\0",
        17: b"\0\0",
        18: b"\x15\xb3",
    },
}


@pytest.mark.parametrize("wanted", ORIGINALS, ids=lambda one: str(one.port))
def test_tunnels_of_the_original_are_as_ours(wanted: Tunnel) -> None:
    data = b"".join(attribute(number, octets) for number, octets in ORIGINALS[wanted].items())
    info = attribute(1, b"ipip\0") + attribute(2, data)
    body = attribute(3, b"tun-cae1aae1758\0") + attribute(4, struct.pack("=I", wanted.mtu)) + attribute(18, info)
    found = tunnels.parse_link(reply(struct.pack("=BxHiII", 0, 768, 14, 1, 0) + body))
    assert found.tunnel == wanted


@pytest.mark.parametrize(
    ("number", "octets", "odd"),
    [
        (4, b"\x40", "ttl 64"),
        (5, b"\x10", "tos 16"),
        (10, b"\1", "path MTU discovery 1"),
        (1, b"\2\0\0\0", "link 2"),
        (15, b"\1\0", "encap 1"),
    ],
)
def test_r20_each_attribute_that_is_not_as_we_make_it_is_named(number: int, octets: bytes, odd: str) -> None:
    data = attribute(2, bytes((192, 168, 50, 50))) + attribute(3, bytes((192, 168, 60, 52))) + attribute(number, octets)
    body = attribute(3, b"tun-cae1aae1758\0") + attribute(18, attribute(1, b"ipip\0") + attribute(2, data))
    found = tunnels.parse_link(reply(struct.pack("=BxHiII", 0, 768, 14, 0, 0) + body))
    assert found.tunnel == Tunnel("ipip", "192.168.50.50", "192.168.60.52", up=False, odd=(odd,))


@pytest.mark.parametrize(("protocol", "odd"), [(0, ()), (4, ()), (137, ("protocol 137",))])
def test_an_ipip_tunnel_may_take_any_protocol_or_ipv4_alone_since_the_kernel_never_changes_it(protocol: int, odd: tuple[str, ...]) -> None:
    for port in (0, 5555):
        message = tunnels.new_tunnel("tun-cae1aae1758", Tunnel("ipip", "192.168.50.50", "192.168.60.52", port)).payload
        was = attribute(9, bytes((4 if port else 0,)))
        assert was in message
        found = tunnels.parse_link(reply(message.replace(was, attribute(9, bytes((protocol,))))))
        assert found.tunnel is not None
        assert found.tunnel.odd == odd


def test_links_of_other_kinds_are_no_tunnels() -> None:
    body = attribute(3, b"kube-vxlan\0") + attribute(18, attribute(1, b"bridge\0"))
    assert tunnels.parse_link(reply(struct.pack("=BxHiII", 0, 1, 9, 1, 0) + body)) == tunnels.FoundLink("kube-vxlan", 9, "bridge", None)
    assert tunnels.parse_link(reply(struct.pack("=BxHiII", 0, 1, 9, 1, 0) + attribute(3, b"eth0\0"))).kind == ""


@given(st.sampled_from([4, 6]), st.integers(1, 65535))
def test_a_listener_is_read_as_it_was_asked_for(family: Family, port: int) -> None:
    assert fou.parse(reply(fou.add(30, family, port).payload)) == fou.Listener(family, port, True)


@pytest.mark.parametrize("source", ["10.233.64.0/24", "fd00:64::/64", "10.0.0.1/32"])
@pytest.mark.parametrize("table", [77, 1000])
def test_a_rule_is_read_as_it_was_asked_for(source: str, table: int) -> None:
    family: Family = 6 if ":" in source else 4
    found = policy_rules.parse_rule(reply(policy_rules.new_rule(source, table, protocol=17).payload))
    assert found == policy_rules.FoundRule(family, source, table, 0)
    rule = policy_rules.FoundRule(family, source, table, 32000)
    assert policy_rules.parse_rule(reply(policy_rules.delete_rule(rule).payload)) == rule


def _rule(*more: bytes, tos: int = 0, action: int = 1, flags: int = 0, destination: int = 0) -> bytes:
    body = attribute(2, bytes((10, 233, 64, 0))) + attribute(15, struct.pack("=I", 77)) + b"".join(more)
    return ROUTE_MESSAGE.pack(2, destination, 24, tos, 77, 0, 0, action, flags) + body


@pytest.mark.parametrize(
    "message",
    [
        _rule(attribute(10, struct.pack("=I", 0x34CA))),  # by mark
        _rule(attribute(3, b"eth0\0")),  # by incoming link
        _rule(attribute(17, b"eth0\0")),  # by outgoing link
        _rule(attribute(14, struct.pack("=I", 0))),  # suppressing
        _rule(attribute(22, b"\6")),  # by protocol
        _rule(tos=4),
        _rule(action=6),  # blackhole
        _rule(flags=2),  # not
        _rule(attribute(1, bytes((10, 0, 0, 0))), destination=8),
    ],
)
def test_r32_a_rule_with_any_other_condition_is_anothers(message: bytes) -> None:
    assert policy_rules.parse_rule(reply(message)) is None
    assert policy_rules.parse_rule(reply(_rule(attribute(14, struct.pack("=I", 0xFFFFFFFF))))) is not None


@pytest.mark.parametrize(
    ("address", "forwarding"), [("192.168.60.52", True), ("fd00:60::52", True), ("192.168.60.52", False), ("fe80::1", False)]
)
def test_an_entry_is_read_as_it_was_asked_for(address: str, forwarding: bool) -> None:
    message = neighbours.put(7, "02:11:22:33:44:55", address, forwarding=forwarding)
    assert neighbours.parse(reply(message.payload)) == neighbours.Entry(7, forwarding, address, "02:11:22:33:44:55", True)


def test_entries_of_bridges_are_nobodys() -> None:
    head = struct.pack("=BxxxiHBB", 7, 7, 0x80, 4, 0)  # NTF_MASTER
    assert neighbours.parse(reply(head)) is None
