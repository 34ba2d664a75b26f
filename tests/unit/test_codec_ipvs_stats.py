"""Counters of IPVS services, from the 64-bit attribute where the kernel has it."""

from __future__ import annotations

import struct

import pytest

from kube_router.codec.ipvs_stats import ServiceStats, parse_stats
from kube_router.codec.netlink import Reply


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def reply(*attributes: bytes) -> Reply:
    payload = b"\x01\x01\0\0" + attribute(1, b"".join(attributes))
    return Reply(*(memoryview(payload) if field == "payload" else 0 for field in Reply._fields))


WIDE = attribute(12, b"".join(attribute(n, struct.pack("=Q", n * 10**10)) for n in range(1, 11)))
NARROW = attribute(10, b"".join(attribute(n, struct.pack("=Q", n) if n in (4, 5) else struct.pack("=I", n)) for n in range(1, 11)))


@pytest.mark.parametrize(
    ("attributes", "stats"),
    [
        ((WIDE,), ServiceStats(*(n * 10**10 for n in range(1, 11)))),
        ((NARROW,), ServiceStats(*range(1, 11))),
        ((NARROW, WIDE), ServiceStats(*(n * 10**10 for n in range(1, 11)))),
        ((attribute(12, attribute(1, struct.pack("=Q", 7))),), ServiceStats(connections=7)),
    ],
)
def test_counters_are_read_and_what_is_missing_is_nought(attributes, stats):
    assert parse_stats(reply(*attributes)) == stats


def test_a_service_without_counters_is_an_error():
    with pytest.raises(ValueError, match="without counters"):
        parse_stats(reply(attribute(3, b"abcd")))
