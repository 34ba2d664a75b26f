"""Services with counters as the kernel dumps them (ip_vs_genl_fill_service), for tests of what is read from such a dump."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

from kube_router.codec.netlink import Reply, attribute
from kube_router.model.state.ipvs import VirtualServerKey


def service_reply(key: VirtualServerKey, stats: Sequence[int]) -> Reply:
    """A service with these ten counters, in 32 bits as well as in 64."""
    family = socket.AF_INET6 if key.family == 6 else socket.AF_INET
    identity = [attribute(1, _u16(family))]
    if key.mark:
        identity.append(attribute(5, _u32(key.mark)))
    else:
        address = socket.inet_pton(family, key.address).ljust(16, b"\0")
        identity += [attribute(2, _u16(key.protocol)), attribute(3, address), attribute(4, key.port.to_bytes(2, "big"))]
    narrow = ((n, _u64(value) if n in (4, 5) else _u32(value & 0xFFFFFFFF)) for n, value in enumerate(stats, 1))
    wide = ((n, _u64(value)) for n, value in enumerate(stats, 1))
    settings = [
        attribute(6, b"rr\0"),
        attribute(7, _u32(2) + _u32(0xFFFFFFFF)),
        attribute(8, _u32(0)),
        attribute(9, _u32(0xFFFFFFFF)),
        attribute(10, _all(narrow)),
        attribute(12, _all(wide)),
    ]
    payload = struct.pack("=BBH", 1, 1, 0) + attribute(1, b"".join((*identity, *settings)))
    return Reply(0x1C, 2, 1, memoryview(payload))


def _all(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(attribute(n, value) for n, value in pairs)


def _u16(number: int) -> bytes:
    return struct.pack("=H", number)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _u64(number: int) -> bytes:
    return struct.pack("=Q", number)
