"""Netlink framing, addresses with their local routes, and conntrack entries: messages as they are kept, answers as they are read."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from kube_router.codec import addresses, conntrack
from kube_router.codec.conntrack import Flow
from kube_router.codec.netlink import (
    CAPPED,
    ERROR,
    HAS_ATTRIBUTES,
    HEADER,
    NESTED,
    Message,
    Reply,
    attribute,
    attributes,
    errno_of,
    error_text,
    family_request,
    parse_family,
    replies,
)
from tests.conftest import Golden
from tests.unit.test_codec_ipvs import rows

LINK = 7


def reply(payload: bytes, *, kind: int = 0, flags: int = 0) -> Reply:
    return Reply(kind, flags, 1, memoryview(payload))


def test_messages_of_a_datagram_are_told_apart_and_padding_is_skipped():
    data = HEADER.pack(19, 5, 0, 1, 0) + b"abc\0" + HEADER.pack(16, 6, 2, 9, 0)
    assert [(r.type, r.flags, r.sequence, bytes(r.payload)) for r in replies(data)] == [(5, 0, 1, b"abc"), (6, 2, 9, b"")]


@pytest.mark.parametrize("length", [0, 15, 40])
def test_a_message_with_an_impossible_length_is_a_value_error(length):
    with pytest.raises(ValueError):
        list(replies(HEADER.pack(length, 5, 0, 1, 0) + b"abcd"))


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_attribute_with_an_impossible_length_is_a_value_error(length):
    with pytest.raises(ValueError):
        attributes(memoryview(struct.pack("=HHI", length, 1, 0)))


def test_attributes_are_padded_and_flags_of_their_type_cleared():
    data = attribute(1 | NESTED, b"abcde") + attribute(2, b"")
    assert len(data) == 16
    assert {kind: bytes(value) for kind, value in attributes(memoryview(data)).items()} == {1: b"abcde", 2: b""}


def test_errors_are_positive_numbers_with_the_kernels_words():
    header = HEADER.pack(16, 20, 0, 1, 0)
    words = attribute(1, b"no such thing\0")
    failed = reply(struct.pack("=i", -errno.ENOENT) + header + words, kind=ERROR, flags=CAPPED | HAS_ATTRIBUTES)
    assert (errno_of(failed), error_text(failed)) == (errno.ENOENT, "no such thing")
    echoed = struct.pack("=i", -errno.ENOENT) + HEADER.pack(21, 20, 0, 1, 0) + b"abcde\0\0\0" + words
    assert error_text(reply(echoed, kind=ERROR, flags=HAS_ATTRIBUTES)) == "no such thing"
    fine = reply(struct.pack("=i", 0) + header, kind=ERROR)
    assert (errno_of(fine), error_text(fine)) == (0, "")


def test_a_generic_family_is_asked_for_by_name():
    assert b"IPVS\0" in family_request("IPVS").payload
    assert parse_family(reply(b"\1\2\0\0" + attribute(2, b"IPVS\0") + attribute(1, struct.pack("=H", 0x25)))) == ("IPVS", 0x25)


def test_octets_of_addresses_and_routes_are_as_kept(golden: Golden):
    messages: dict[str, Message] = {}
    for family, vip, node in ((4, "10.233.0.1", "192.168.50.50"), (6, "fd00:233::1", "fd00:50::50")):
        messages |= {
            f"new address {vip}": addresses.new_address(vip, family, link=LINK, scope="link"),
            f"delete address {vip}": addresses.delete_address(vip, family, length=32 if family == 4 else 128, link=LINK),
            f"new local route {vip} source {node}": addresses.new_route(vip, family, link=LINK, source=node),
            f"delete local route {vip}": addresses.delete_route(vip, family, link=LINK),
            f"dump addresses, IPv{family}": addresses.dump_addresses(family, link=LINK),
            f"dump local routes, IPv{family}": addresses.dump_local_routes(family, link=LINK),
        }
    golden("netlink_addresses.txt", "".join(f"{what}\n{rows(message)}\n" for what, message in messages.items()))


@pytest.mark.parametrize(
    ("family", "vip", "length"), [(4, "10.233.0.1", 32), (6, "fd00:233::1", 128), (6, "::ffff:a00:1", 128), (6, "::a00:1", 128)]
)
def test_an_address_and_its_route_are_read_as_they_were_packed(family, vip, length):
    packed = addresses.new_address(vip, family, link=LINK, scope="link")
    held = addresses.parse_address(reply(packed.payload), link=LINK)
    assert held == addresses.Held(vip, length, "link" if family == 4 else "global")
    assert addresses.parse_address(reply(packed.payload), link=LINK + 1) is None
    route = addresses.new_route(vip, family, link=LINK, source=vip)
    assert addresses.parse_local_route(reply(route.payload), link=LINK) == addresses.LocalRoute(vip, LINK, 0, vip)
    assert addresses.parse_local_route(reply(route.payload), link=LINK + 1) is None
    gone = addresses.delete_route(vip, family, link=LINK)
    assert addresses.parse_local_route(reply(gone.payload), link=LINK) == addresses.LocalRoute(vip, LINK, 0, "")


@pytest.mark.parametrize(("at", "octet"), [(1, 24), (4, 254), (7, 1)], ids=["a network", "another table", "unicast"])
def test_routes_that_are_not_local_to_one_address_are_left_out(at, octet):
    payload = bytearray(addresses.new_route("10.233.0.1", 4, link=LINK, source="192.168.50.50").payload)
    payload[at] = octet
    assert addresses.parse_local_route(reply(bytes(payload)), link=LINK) is None


def entry(family: int, *, protocol: int = 17) -> bytes:
    if family == 4:
        client, vip, backend, source, target = "10.1.0.9", "10.233.0.3", "10.1.0.1", 1, 2
    else:
        client, vip, backend, source, target = "fd00:64::9", "fd00:233::3", "fd00:64::1", 3, 4
    af = socket.AF_INET if family == 4 else socket.AF_INET6

    def tuple_of(kind: int, here: str, there: str, ports: tuple[int, int]) -> bytes:
        ip = attribute(source, socket.inet_pton(af, here)) + attribute(target, socket.inet_pton(af, there))
        proto = attribute(1, bytes([protocol])) + attribute(2, ports[0].to_bytes(2, "big")) + attribute(3, ports[1].to_bytes(2, "big"))
        return attribute(kind | NESTED, attribute(1 | NESTED, ip) + attribute(2 | NESTED, proto))

    original, answer = tuple_of(1, client, vip, (40000, 53)), tuple_of(2, backend, client, (8053, 40000))
    return struct.pack("!BBH", af, 0, 0) + original + answer + attribute(12, b"\0\0\0\7")


@pytest.mark.parametrize(
    ("family", "flow"),
    [(4, Flow("10.233.0.3", 53, "10.1.0.1", 8053)), (6, Flow("fd00:233::3", 53, "fd00:64::1", 8053))],
)
def test_a_tracked_flow_is_who_was_asked_and_who_answers(family, flow):
    found = conntrack.parse(reply(entry(family)))
    assert found is not None
    assert (found.flow, found.family) == (flow, family)
    ended = conntrack.delete(found)
    payload = memoryview(ended.payload)
    assert set(attributes(payload[4:])) == {1, 12}, "named by its original direction and its id"
    assert bytes(attributes(payload[4:])[1]) == bytes(attributes(memoryview(entry(family))[4:])[1])


def test_other_protocols_are_none_of_ours_and_broken_entries_are_value_errors():
    assert conntrack.parse(reply(entry(4, protocol=6))) is None
    with pytest.raises(ValueError):
        conntrack.parse(reply(entry(4)[:60]))


def test_octets_of_conntrack_questions_are_as_kept(golden: Golden):
    messages = {
        "all UDP, IPv4": conntrack.dump(4),
        "UDP to 10.233.0.3 port 53": conntrack.dump(4, ("10.233.0.3", 53)),
        "UDP to port 53, IPv6": conntrack.dump(6, ("fd00:233::3", 53)),
    }
    golden("netlink_conntrack.txt", "".join(f"{what}\n{rows(message)}\n" for what, message in messages.items()))
