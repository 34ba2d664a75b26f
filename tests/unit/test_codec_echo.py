"""ICMP echo packets."""

from __future__ import annotations

import pytest

from kube_router.codec.echo import checksum, reply, request

HEADER = bytes.fromhex("4500001c0000400040010000c0a83c34c0a83232")  # of IPv4, without options


def test_an_ipv4_request_sums_up_to_nothing_left() -> None:
    packet = request(4, 0x1234, 7)
    assert packet[:2] == b"\x08\x00"
    assert checksum(packet) == 0


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D


def test_an_ipv6_request_leaves_its_checksum_to_the_kernel() -> None:
    assert request(6, 0x1234, 7) == bytes.fromhex("8000000012340007")


@pytest.mark.parametrize(
    ("family", "packet", "found"),
    [
        (4, HEADER + bytes.fromhex("0000000012340007"), (0x1234, 7)),
        (4, b"\x46" + HEADER[1:] + bytes(4) + bytes.fromhex("0000000012340007"), (0x1234, 7)),  # with an option
        (4, HEADER + bytes.fromhex("0800000012340007"), None),
        (4, HEADER + bytes.fromhex("0301000012340007"), None),
        (4, HEADER + b"\0", None),
        (4, b"", None),
        (6, bytes.fromhex("8100000012340007"), (0x1234, 7)),
        (6, bytes.fromhex("8000000012340007"), None),
        (6, bytes.fromhex("0100000012340007"), None),
    ],
)
def test_replies_are_read_and_nothing_else_is(family, packet, found) -> None:
    assert reply(family, packet) == found
