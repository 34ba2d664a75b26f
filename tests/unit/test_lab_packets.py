"""Reading packets and BGP off a wire, and the targets of probes."""

from __future__ import annotations

import socket
import struct

import pytest

from lab import bgp
from lab.capture import Packet, parse
from lab.probe import Target, parse_target
from lab.route_notices import RouteNotice, parse_notices

ETHERNET4, ETHERNET6 = b"\0" * 12 + b"\x08\0", b"\0" * 12 + b"\x86\xdd"


def ipv4(protocol: int, rest: bytes, source: str = "10.0.0.1", target: str = "10.0.0.2") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), 0, 0, 64, protocol, 0)
    return ETHERNET4 + head + socket.inet_aton(source) + socket.inet_aton(target) + rest


def ipv6(protocol: int, rest: bytes) -> bytes:
    head = struct.pack("!IHBB", 0x60000000, len(rest), protocol, 64)
    ends = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, "fd00::2")
    return ETHERNET6 + head + ends + rest


def tcp(source: int, target: int, payload: bytes, *, sequence: int = 1) -> bytes:
    return struct.pack("!HHIIBBHHH", source, target, sequence, 0, 0x50, 0x18, 0, 0, 0) + payload


UDP = struct.pack("!HHHH", 1000, 53, 11, 0) + b"hey"
HOP_BY_HOP = bytes([17, 0]) + b"\0" * 6


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (ipv4(17, UDP), ("10.0.0.1", "10.0.0.2", 17, 1000, 53, b"hey")),
        (ipv4(17, UDP) + b"padding", ("10.0.0.1", "10.0.0.2", 17, 1000, 53, b"hey")),
        (ipv4(6, tcp(1, 179, b"x")), ("10.0.0.1", "10.0.0.2", 6, 1, 179, b"x")),
        (ipv4(1, b"\x08\0\0\0"), ("10.0.0.1", "10.0.0.2", 1, 0, 0, b"\x08\0\0\0")),
        (ipv6(17, UDP), ("fd00::1", "fd00::2", 17, 1000, 53, b"hey")),
        (ipv6(0, HOP_BY_HOP + UDP), ("fd00::1", "fd00::2", 17, 1000, 53, b"hey")),
        (b"\0" * 12 + b"\x08\x06" + b"\0" * 28, ("", "", 0, 0, 0, b"")),
        (b"", ("", "", 0, 0, 0, b"")),
    ],
)
def test_a_frame_is_read_as_far_as_the_ports(frame: bytes, expected: tuple[object, ...]) -> None:
    packet = parse(frame)
    found = (packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, packet.payload)
    assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:53/udp", Target("10.0.0.1", 53, "udp")),
        ("10.0.0.1:80", Target("10.0.0.1", 80, "tcp")),
        ("[fd00::1]:80/sctp", Target("fd00::1", 80, "sctp")),
        ("web:80", Target("web", 80, "tcp")),
    ],
)
def test_a_target_is_an_address_a_port_and_a_protocol(text: str, expected: Target) -> None:
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:x", "10.0.0.1:80/icmp", "fd00::1:80", ""])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a target is"):
        parse_target(text)


def message(kind: int, body: bytes) -> bytes:
    return bgp.MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def capability(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


CAPABILITIES = b"".join(
    [
        capability(2, b""),
        capability(73, b"\x05node3\0"),
        capability(1, b"\0\1\0\1"),
        capability(1, b"\0\2\0\1"),
        capability(65, struct.pack("!I", 64512)),
        capability(64, struct.pack("!HHBB", 0x8000 | 90, 1, 1, 0x80)),
        capability(5, b"\0\1\0\1\0\2"),
    ]
)
OPEN = message(
    1,
    struct.pack("!BHH", 4, 64512, 90)
    + socket.inet_aton("192.168.50.52")
    + bytes([len(CAPABILITIES) + 2, 2, len(CAPABILITIES)])
    + CAPABILITIES,
)
ATTRIBUTES = bytes.fromhex("40010100" "400200" "400304c0a83234" "40050400000064")  # fmt: skip
UPDATE = message(2, struct.pack("!HH", 0, len(ATTRIBUTES)) + ATTRIBUTES + bytes([24, 10, 233, 65]))
MP = bytes.fromhex("0002" "01" "10" "fd000050000000000000000000000052" "00" "40" "fd00006500000000")  # fmt: skip
UPDATE6 = message(2, struct.pack("!HH", 0, len(MP) + 3) + bytes([0x80, 14, len(MP)]) + MP)
END, END6 = message(2, b"\0\0\0\0"), message(2, bytes.fromhex("0000" "0006" "800f03000201"))  # fmt: skip
WITHDRAWAL = message(2, bytes.fromhex("0004" "180ae941" "0000"))  # fmt: skip


def one(data: bytes) -> bgp.Open | bgp.Update | bytes:
    (found,) = bgp.messages([(0.0, data)])
    return found.body


def test_an_open_tells_its_fields_and_capabilities() -> None:
    found = one(OPEN)
    assert isinstance(found, bgp.Open)
    assert (found.version, found.asn, found.hold_time, found.identifier) == (4, 64512, 90, "192.168.50.52")
    assert (found.host_name, found.four_octet_asn) == ("node3", 64512)
    assert found.families == {bgp.IPV4_UNICAST, bgp.IPV6_UNICAST}
    assert found.graceful_restart == bgp.GracefulRestart(True, 90, {bgp.IPV4_UNICAST: True})
    assert found.extended_next_hops == {(1, 1, 2)}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (UPDATE, bgp.Update(("10.233.65.0/24",), (), "192.168.50.52", 0, (), 100)),
        (UPDATE6, bgp.Update(("fd00:65::/64",), (), "fd00:50::52")),
        (WITHDRAWAL, bgp.Update((), ("10.233.65.0/24",))),
        (END, bgp.Update(end_of_rib=bgp.IPV4_UNICAST)),
        (END6, bgp.Update(end_of_rib=bgp.IPV6_UNICAST)),
    ],
)
def test_an_update_tells_its_routes(data: bytes, expected: bgp.Update) -> None:
    assert one(data) == expected


def test_messages_are_put_together_from_pieces_in_order_and_repeats_left_out() -> None:
    whole = OPEN + message(4, b"") + UPDATE
    pieces = [(at, whole[at : at + 7]) for at in range(0, len(whole), 7)]
    packets = [parse(ipv4(6, tcp(179, 4000, data, sequence=at))) for at, data in pieces]
    stirred = [*packets[::-1], packets[3], parse(ipv4(6, tcp(4000, 179, b"other", sequence=0), source="10.0.0.9"))]
    (stream,) = bgp.streams(stirred, source="10.0.0.1")
    assert [found.name for found in bgp.messages(stream)] == ["OPEN", "KEEPALIVE", "UPDATE"]


def test_what_is_not_bgp_is_refused_and_what_is_cut_off_left_out() -> None:
    with pytest.raises(ValueError, match="not BGP"):
        bgp.messages([(0.0, b"GET / HTTP/1.1\r\nHost: x\r\n")])
    assert [found.kind for found in bgp.messages([(0.0, OPEN + UPDATE[:-1])])] == [bgp.OPEN]


def test_the_end_of_a_connection_is_seen() -> None:
    ends = {flags: ipv4(6, tcp(179, 4000, b"")[:13] + bytes([flags]) + b"\0" * 6) for flags in (0x10, 0x11, 0x14, 0x02)}
    ended = bgp.endings([parse(frame, at=float(flags)) for flags, frame in ends.items()])
    assert [int(packet.at) for packet in ended] == [0x11, 0x14]


def test_a_packet_knows_its_ports() -> None:
    packet = Packet(0.0, b"", False, source_port=1, target_port=179)
    assert packet.has_port(179)
    assert not packet.has_port(2)


def route_notice(kind: int, prefix: bytes, bits: int, gateway: bytes, *, table: int = 254, flags: int = 0) -> bytes:
    family = socket.AF_INET if len(prefix) == 4 else socket.AF_INET6
    body = struct.pack("=BBBBBBBBI", family, bits, 0, 0, table, 17, 0, 1, flags)
    for number, value in ((1, prefix), (5, gateway)):
        body += struct.pack("=HH", 4 + len(value), number) + value if value else b""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


PREFIX, GATEWAY = bytes([10, 233, 65, 0]), bytes([192, 168, 50, 52])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (route_notice(24, PREFIX, 24, GATEWAY), [RouteNotice(1.0, False, "10.233.65.0/24", "192.168.50.52")]),
        (route_notice(25, PREFIX, 24, b""), [RouteNotice(1.0, True, "10.233.65.0/24")]),
        (route_notice(24, b"\xfd" + b"\0" * 15, 8, b""), [RouteNotice(1.0, False, "fd00::/8")]),
        (route_notice(24, PREFIX, 24, GATEWAY, table=77), []),
        (route_notice(24, PREFIX, 24, GATEWAY, flags=0x200), []),
        (route_notice(28, PREFIX, 24, GATEWAY), []),
        (
            route_notice(25, PREFIX, 24, b"") + route_notice(24, PREFIX, 25, b""),
            [RouteNotice(1.0, True, "10.233.65.0/24"), RouteNotice(1.0, False, "10.233.65.0/25")],
        ),
        (b"", []),
    ],
)
def test_a_notice_tells_which_route_came_or_went(data: bytes, expected: list[RouteNotice]) -> None:
    assert list(parse_notices(data, at=1.0)) == expected
