"""Addresses of a link and the local routes that go with them, as rtnetlink messages (linux/if_addr.h, linux/rtnetlink.h).

Only what is put there as host prefixes (/32, /128), and their routes in table "local". Written by hand rather than through a general
library because a node takes in thousands at once.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, REQUEST, U32, Message, Reply, attributes
from kube_router.kit.net import Family, canonical_address

SCOPE_NAMES: Final = {0: "global", 253: "link"}  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK
SCOPES: Final = {name: number for number, name in SCOPE_NAMES.items()}
KERNEL_METRIC: Final = 0  # of the IPv6 route that the kernel itself makes for an address; what is added from outside gets 1024

_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22  # RTM_*
_NEW_ROUTE, _DELETE_ROUTE, _GET_ROUTE = 24, 25, 26
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
_DST, _OIF, _PRIORITY, _PREFSRC, _TABLE = 1, 4, 6, 7, 15  # RTA_*
_TABLE_LOCAL: Final = 255
_KERNEL: Final = 2  # RTPROT_KERNEL, as the kernel's own local routes bear it
_SCOPE_HOST: Final = 254
_TYPE_LOCAL: Final = 2  # RTN_LOCAL
# IFA_F_NODAD: no wait before an IPv6 address works. IFA_F_NOPREFIXROUTE: no route to it in table main as well.
_ADDRESS_FLAGS: Final = 0x02 | 0x200

_AF: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_LENGTH: Final[dict[Family, int]] = {4: 32, 6: 128}
_OCTETS: Final[dict[Family, int]] = {4: 4, 6: 16}

_IFADDR: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, link
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
_HEAD: Final = struct.Struct("=HH")
_LINK: Final = struct.Struct("=HHI")


class Held(NamedTuple):
    """An address of the link."""

    address: str
    length: int
    scope: str


class LocalRoute(NamedTuple):
    """A route of table "local" to one address; source "" where it names none."""

    address: str
    link: int
    metric: int
    source: str


def new_address(address: str, family: Family, *, link: int, scope: str) -> Message:
    """Puts an address on a link; the kernel refuses (EEXIST) where it is there already."""
    packed = socket.inet_pton(_AF[family], address)
    body = _attribute(_LOCAL, packed) + _attribute(_ADDRESS, packed)
    if family == 6:
        body += _LINK.pack(8, _FLAGS, _ADDRESS_FLAGS)
    head = _IFADDR.pack(_AF[family], _LENGTH[family], 0, SCOPES[scope] if family == 4 else 0, link)
    return Message(_NEW_ADDRESS, REQUEST | CREATE | EXCLUSIVE, head + body)


def delete_address(address: str, family: Family, *, length: int, link: int) -> Message:
    """Takes an address of this prefix length off a link."""
    body = _attribute(_LOCAL, socket.inet_pton(_AF[family], address))
    return Message(_DELETE_ADDRESS, REQUEST, _IFADDR.pack(_AF[family], length, 0, 0, link) + body)


def new_route(address: str, family: Family, *, link: int, source: str) -> Message:
    """Makes the address's local route carry a preferred source, in place of one of the same metric.

    IPv4: replaces the kernel's own. IPv6: stands behind the kernel's own (metric 0), which has to go for this one to count.
    """
    body = (
        _attribute(_DST, socket.inet_pton(_AF[family], address))
        + _LINK.pack(8, _OIF, link)
        + _attribute(_PREFSRC, socket.inet_pton(_AF[family], source))
    )
    return Message(_NEW_ROUTE, REQUEST | CREATE | REPLACE, _route_head(family) + body)


def delete_route(address: str, family: Family, *, link: int) -> Message:
    """Takes away the first local route to the address, whatever its source: of IPv6 the one of least metric."""
    body = _attribute(_DST, socket.inet_pton(_AF[family], address)) + _LINK.pack(8, _OIF, link)
    return Message(_DELETE_ROUTE, REQUEST, _route_head(family) + body)


def dump_addresses(family: Family, *, link: int) -> Message:
    """Asks for the addresses of a link."""
    return Message(_GET_ADDRESS, REQUEST | DUMP, _IFADDR.pack(_AF[family], 0, 0, 0, link))


def dump_local_routes(family: Family, *, link: int) -> Message:
    """Asks for the local routes of a link."""
    head = _RTMSG.pack(_AF[family], 0, 0, 0, 0, 0, 0, _TYPE_LOCAL, 0)
    return Message(_GET_ROUTE, REQUEST | DUMP, head + _LINK.pack(8, _TABLE, _TABLE_LOCAL) + _LINK.pack(8, _OIF, link))


def is_route(message: Message) -> bool:
    """Whether a message is about a route rather than an address."""
    return message.type in (_NEW_ROUTE, _DELETE_ROUTE)


def parse_address(reply: Reply, *, link: int) -> Held | None:
    """One address of a dump; None when it is on another link (kernels that do not filter send all)."""
    number, length, _, scope, index = _IFADDR.unpack_from(reply.payload)
    found = attributes(reply.payload[_IFADDR.size :])
    packed = found.get(_LOCAL, found.get(_ADDRESS))
    if index != link or packed is None:
        return None
    return Held(_text(packed, number), length, SCOPE_NAMES.get(scope, str(scope)))


def parse_local_route(reply: Reply, *, link: int) -> LocalRoute | None:
    """One route of a dump; None when it is not a local route to one address over the link."""
    number, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(reply.payload)
    if kind != _TYPE_LOCAL or table != _TABLE_LOCAL or length != 8 * _OCTETS[6 if number == socket.AF_INET6 else 4]:
        return None
    found = attributes(reply.payload[_RTMSG.size :])
    if _DST not in found or _OIF not in found or U32.unpack(found[_OIF])[0] != link:
        return None
    metric = U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else KERNEL_METRIC
    source = _text(found[_PREFSRC], number) if _PREFSRC in found else ""
    return LocalRoute(_text(found[_DST], number), link, metric, source)


def _route_head(family: Family) -> bytes:
    scope = _SCOPE_HOST if family == 4 else 0
    return _RTMSG.pack(_AF[family], _LENGTH[family], 0, 0, _TABLE_LOCAL, _KERNEL, scope, _TYPE_LOCAL, 0)


def _attribute(kind: int, packed: bytes) -> bytes:
    return _HEAD.pack(4 + len(packed), kind) + packed


def _text(packed: memoryview, number: int) -> str:
    text = socket.inet_ntop(number, packed)
    return canonical_address(text) if "." in text and ":" in text else text
