"""ICMP echo, request and reply (RFC 792, RFC 4443 4). The kernel sees to the checksum of IPv6, and to nothing of IPv4."""

from __future__ import annotations

import struct
from typing import Final

from kube_router.kit.net import Family

REQUEST: Final[dict[Family, int]] = {4: 8, 6: 128}
REPLY: Final[dict[Family, int]] = {4: 0, 6: 129}
_ECHO: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence


def request(family: Family, identifier: int, sequence: int) -> bytes:
    """A request without data."""
    packet = _ECHO.pack(REQUEST[family], 0, 0, identifier, sequence)
    return packet if family == 6 else _ECHO.pack(REQUEST[family], 0, checksum(packet), identifier, sequence)


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def reply(family: Family, packet: bytes) -> tuple[int, int] | None:
    """Identifier and sequence of a reply as a raw socket hands it out (IPv4 with its header); None for anything else."""
    start = (packet[0] & 0xF) * 4 if family == 4 and packet else 0
    if len(packet) < start + _ECHO.size:
        return None
    kind, code, _, identifier, sequence = _ECHO.unpack_from(packet, start)
    return (identifier, sequence) if (kind, code) == (REPLY[family], 0) else None
