"""Counters of IPVS services, from the 64-bit attribute where the kernel has it."""

from __future__ import annotations

import struct

import pytest

from kube_router.codec.ipvs_stats import ServiceStats, parse_counters
from kube_router.codec.netlink import Reply
from kube_router.model.state.ipvs import VirtualServerKey


def attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def reply(*attributes: bytes) -> Reply:
    payload = b"\x01\x01\0\0" + attribute(1, b"".join(attributes))
    return Reply(*(memoryview(payload) if field == "payload" else 0 for field in Reply._fields))


def counters(kind: int, form: str, numbers: dict[int, int]) -> bytes:
    return attribute(kind, b"".join(attribute(n, struct.pack(form, value)) for n, value in numbers.items()))


ADDRESSED = (
    attribute(1, struct.pack("=H", 2)),
    attribute(2, struct.pack("=H", 6)),
    attribute(3, bytes((10, 96, 0, 1)) + bytes(12)),
    attribute(4, struct.pack(">H", 80)),
)
MARKED = (attribute(1, struct.pack("=H", 10)), attribute(5, struct.pack("=I", 0x2AB)))
LARGE = {n: n * 10**10 for n in range(1, 11)}
WIDE = counters(12, "=Q", LARGE)
NARROW = attribute(10, b"".join(attribute(n, struct.pack("=Q", n) if n in (4, 5) else struct.pack("=I", n)) for n in range(1, 11)))


@pytest.mark.parametrize(
    ("attributes", "stats"),
    [
        ((WIDE,), ServiceStats(*LARGE.values())),
        ((NARROW,), ServiceStats(*range(1, 11))),
        ((NARROW, WIDE), ServiceStats(*LARGE.values())),
        ((counters(12, "=Q", {1: 7}),), ServiceStats(connections=7)),
        ((counters(12, "=Q", dict(reversed(LARGE.items()))),), ServiceStats(*LARGE.values())),
    ],
)
def test_counters_are_read_in_any_layout_and_what_is_missing_is_nought(attributes, stats):
    assert parse_counters(reply(*ADDRESSED, *attributes)) == (VirtualServerKey("10.96.0.1", 6, 80), stats)
    assert parse_counters(reply(*MARKED, *attributes)) == (VirtualServerKey("", 0, 0, 0x2AB, 6), stats)


def test_counters_of_two_services_add_up_one_by_one():
    assert ServiceStats(*range(10)).plus(ServiceStats(*range(100, 110))) == ServiceStats(*range(100, 120, 2))


@pytest.mark.parametrize("attributes", [ADDRESSED, (WIDE,), (*ADDRESSED[:3], WIDE)])
def test_a_service_without_counters_or_identity_is_an_error(attributes):
    with pytest.raises(ValueError, match="IPVS service without"):
        parse_counters(reply(*attributes))
