"""Counters of IPVS services in a dump (linux/ip_vs.h: IPVS_SVC_ATTR_STATS64, else the older 32-bit IPVS_SVC_ATTR_STATS)."""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from kube_router.codec.netlink import Reply, attributes

_SERVICE: Final = 1  # IPVS_CMD_ATTR_SERVICE
_STATS: Final = 10
_STATS64: Final = 12


class ServiceStats(msgspec.Struct, frozen=True, gc=False):
    """What passed a service since it was made, and rates per second as the kernel estimates them."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connection_rate: int = 0
    packet_rate_in: int = 0
    packet_rate_out: int = 0
    byte_rate_in: int = 0
    byte_rate_out: int = 0


def parse_stats(reply: Reply) -> ServiceStats:
    """Counters of one service of a dump; ValueError when it has none."""
    service = attributes(reply.payload[4:]).get(_SERVICE)
    found = attributes(service) if service is not None else {}
    raw = found.get(_STATS64) or found.get(_STATS)
    if raw is None:
        raise ValueError("IPVS service without counters")
    numbers = attributes(raw)
    return ServiceStats(*(_number(numbers.get(n)) for n in range(1, 11)))


def _number(raw: memoryview | None) -> int:
    return int.from_bytes(raw, sys.byteorder) if raw is not None else 0
