"""Addresses of a link and the local routes that go with them, as rtnetlink messages (linux/if_addr.h, linux/rtnetlink.h).

Only what is put there as host prefixes (/32, /128), and their routes in table "local". Written by hand rather than through a general
library because a node takes in thousands at once.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, REQUEST, U32, Message, Reply, attributes
from kube_router.codec.rtnetlink import (
    AF,
    DELETE_ROUTE,
    GET_ROUTE,
    LENGTH,
    NEW_ROUTE,
    ROUTE_MESSAGE,
    RTA_DST,
    RTA_OIF,
    RTA_PREFSRC,
    RTA_PRIORITY,
    RTA_TABLE,
    address_attribute,
    family_in,
    number_attribute,
    packed,
    text,
)
from kube_router.kit.net import Family

SCOPE_NAMES: Final = {0: "global", 253: "link"}  # RT_SCOPE_UNIVERSE, RT_SCOPE_LINK
SCOPES: Final = {name: number for number, name in SCOPE_NAMES.items()}
KERNEL_METRIC: Final = 0  # of the IPv6 route that the kernel itself makes for an address; what is added from outside gets 1024

_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22  # RTM_*
_ADDRESS, _LOCAL, _FLAGS = 1, 2, 8  # IFA_*
_TABLE_LOCAL: Final = 255
_KERNEL: Final = 2  # RTPROT_KERNEL, as the kernel's own local routes bear it
_SCOPE_HOST: Final = 254
_TYPE_LOCAL: Final = 2  # RTN_LOCAL
# IFA_F_NODAD: no wait before an IPv6 address works. IFA_F_NOPREFIXROUTE: no route to it in table main as well.
_ADDRESS_FLAGS: Final = 0x02 | 0x200

_IFADDR: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, link


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
    octets = packed(address, family)
    body = address_attribute(_LOCAL, octets) + address_attribute(_ADDRESS, octets)
    if family == 6:
        body += number_attribute(_FLAGS, _ADDRESS_FLAGS)
    head = _IFADDR.pack(AF[family], LENGTH[family], 0, SCOPES[scope] if family == 4 else 0, link)
    return Message(_NEW_ADDRESS, REQUEST | CREATE | EXCLUSIVE, head + body)


def delete_address(address: str, family: Family, *, length: int, link: int) -> Message:
    """Takes an address of this prefix length off a link."""
    body = address_attribute(_LOCAL, packed(address, family))
    return Message(_DELETE_ADDRESS, REQUEST, _IFADDR.pack(AF[family], length, 0, 0, link) + body)


def new_route(address: str, family: Family, *, link: int, source: str) -> Message:
    """Makes the address's local route carry a preferred source, in place of one of the same metric.

    IPv4: replaces the kernel's own. IPv6: stands behind the kernel's own (metric 0), which has to go for this one to count.
    """
    body = (
        address_attribute(RTA_DST, packed(address, family))
        + number_attribute(RTA_OIF, link)
        + address_attribute(RTA_PREFSRC, packed(source, family))
    )
    return Message(NEW_ROUTE, REQUEST | CREATE | REPLACE, _route_head(family) + body)


def delete_route(address: str, family: Family, *, link: int) -> Message:
    """Takes away the first local route to the address, whatever its source: of IPv6 the one of least metric."""
    body = address_attribute(RTA_DST, packed(address, family)) + number_attribute(RTA_OIF, link)
    return Message(DELETE_ROUTE, REQUEST, _route_head(family) + body)


def dump_addresses(family: Family, *, link: int) -> Message:
    """Asks for the addresses of a link; of number 0, of all."""
    return Message(_GET_ADDRESS, REQUEST | DUMP, _IFADDR.pack(AF[family], 0, 0, 0, link))


def dump_local_routes(family: Family, *, link: int) -> Message:
    """Asks for the local routes of a link."""
    head = ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, 0, 0, 0, _TYPE_LOCAL, 0)
    return Message(GET_ROUTE, REQUEST | DUMP, head + number_attribute(RTA_TABLE, _TABLE_LOCAL) + number_attribute(RTA_OIF, link))


def is_route(message: Message) -> bool:
    """Whether a message is about a route rather than an address."""
    return message.type in (NEW_ROUTE, DELETE_ROUTE)


def parse_address(reply: Reply, *, link: int = 0) -> Held | None:
    """One address of a dump; None when it is on another link than the one named (kernels that do not filter send all)."""
    number, length, _, scope, index = _IFADDR.unpack_from(reply.payload)
    found = attributes(reply.payload[_IFADDR.size :])
    octets = found.get(_LOCAL, found.get(_ADDRESS))
    if link not in (0, index) or octets is None:
        return None
    return Held(text(octets, family_in(number)), length, SCOPE_NAMES.get(scope, str(scope)))


def parse_local_route(reply: Reply, *, link: int) -> LocalRoute | None:
    """One route of a dump; None when it is not a local route to one address over the link."""
    number, length, _, _, table, _, _, kind, _ = ROUTE_MESSAGE.unpack_from(reply.payload)
    if kind != _TYPE_LOCAL or table != _TABLE_LOCAL or length != LENGTH[family_in(number)]:
        return None
    found = attributes(reply.payload[ROUTE_MESSAGE.size :])
    if RTA_DST not in found or RTA_OIF not in found or U32.unpack(found[RTA_OIF])[0] != link:
        return None
    metric = U32.unpack(found[RTA_PRIORITY])[0] if RTA_PRIORITY in found else KERNEL_METRIC
    source = text(found[RTA_PREFSRC], family_in(number)) if RTA_PREFSRC in found else ""
    return LocalRoute(text(found[RTA_DST], family_in(number)), link, metric, source)


def _route_head(family: Family) -> bytes:
    scope = _SCOPE_HOST if family == 4 else 0
    return ROUTE_MESSAGE.pack(AF[family], LENGTH[family], 0, 0, _TABLE_LOCAL, _KERNEL, scope, _TYPE_LOCAL, 0)
