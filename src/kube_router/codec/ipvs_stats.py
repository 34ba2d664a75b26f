"""Counters of IPVS services in a dump (linux/ip_vs.h: IPVS_SVC_ATTR_STATS64, else the older 32-bit IPVS_SVC_ATTR_STATS)."""

from __future__ import annotations

import struct
import sys
from typing import Final, NamedTuple

from kube_router.codec.ipvs import service_key
from kube_router.codec.netlink import ATTRIBUTE, Reply, attributes
from kube_router.model.state.ipvs import VirtualServerKey

_SERVICE: Final = 1  # IPVS_CMD_ATTR_SERVICE
_STATS: Final = 10
_STATS64: Final = 12
_NUMBERS: Final = range(1, 11)  # IPVS_STATS_ATTR_CONNS to IPVS_STATS_ATTR_OUTBPS
# Ten attributes of 64 bits, in order: the layout that kernels have used so far, read in a fraction of the time.
_USUAL: Final = struct.Struct("=" + "4sQ" * len(_NUMBERS))
_USUAL_HEADERS: Final = tuple(ATTRIBUTE.pack(12, number) for number in _NUMBERS)


class ServiceStats(NamedTuple):
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

    def plus(self, other: ServiceStats) -> ServiceStats:
        """Both together."""
        return ServiceStats(*map(int.__add__, self, other))


def parse_counters(reply: Reply) -> tuple[VirtualServerKey, ServiceStats]:
    """One service of a dump and its counters; ValueError when it lacks what every service has."""
    service = attributes(reply.payload[4:]).get(_SERVICE)
    found = attributes(service) if service is not None else {}
    raw = found.get(_STATS64) or found.get(_STATS)
    if raw is None:
        raise ValueError("IPVS service without counters")
    try:
        return service_key(found), _stats(raw)
    except (KeyError, struct.error) as fault:
        raise ValueError(f"IPVS service without attribute {fault}") from fault


def _stats(raw: memoryview) -> ServiceStats:
    if len(raw) == _USUAL.size:
        parts = _USUAL.unpack(raw)
        if parts[::2] == _USUAL_HEADERS:
            return ServiceStats(*parts[1::2])
    numbers = attributes(raw)
    return ServiceStats(*(_number(numbers.get(n)) for n in _NUMBERS))


def _number(raw: memoryview | None) -> int:
    return int.from_bytes(raw, sys.byteorder) if raw is not None else 0
