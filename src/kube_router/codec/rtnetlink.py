"""What messages about addresses and routes have in common (linux/rtnetlink.h)."""

from __future__ import annotations

import socket
import struct
from typing import Final

from kube_router.kit.net import Family, canonical_address

NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26  # RTM_*
ROUTE_MESSAGE: Final = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 7, 9, 15

AF: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
LENGTH: Final[dict[Family, int]] = {4: 32, 6: 128}  # of a host prefix

_HEAD: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=HHI")


def family_in(number: int) -> Family:
    """Our word for the kernel's number of an address family."""
    return 6 if number == socket.AF_INET6 else 4


def packed(address: str, family: Family) -> bytes:
    """An address as the kernel has it."""
    return socket.inet_pton(AF[family], address)


def text(octets: memoryview | bytes, family: Family) -> str:
    """Canonical text of an address that the kernel told."""
    found = socket.inet_ntop(AF[family], octets)
    # libc writes IPv4-mapped addresses in two notations at once; our canonical form does not.
    return canonical_address(found) if "." in found and ":" in found else found


def address_attribute(kind: int, octets: bytes) -> bytes:
    """An attribute that holds an address: 4 or 16 octets need no padding."""
    return _HEAD.pack(4 + len(octets), kind) + octets


def number_attribute(kind: int, number: int) -> bytes:
    """An attribute that holds a 32-bit number."""
    return _NUMBER.pack(8, kind, number)
