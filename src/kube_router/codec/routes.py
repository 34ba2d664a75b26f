"""Routes of a table as rtnetlink messages (linux/rtnetlink.h): through gateways or over a link.

Written by hand rather than through a general library because a node learns a thousand at once (docs/adr/0007-batched-netlink.md).
It refuses to know who owns a route: that is a matter of protocol numbers, and of the target.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
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
    RTA_GATEWAY,
    RTA_MULTIPATH,
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
from kube_router.kit.net import Family, family_of

# Protocol numbers that people meet, as `ip route` spells them (iproute2 rt_protos).
PROTOCOL_NAMES: Final = {2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird", 16: "dhcp", 186: "bgp"}

_DEFAULT_METRIC: Final[dict[Family, int]] = {4: 0, 6: 1024}  # what a route gets that names none (IP6_RT_PRIO_USER)
_ANY_SCOPE: Final = 255  # RT_SCOPE_NOWHERE: of a deletion, "whatever its scope"
_UNICAST: Final = 1  # RTN_UNICAST
_CLONED: Final = 0x200  # RTM_F_CLONED: the kernel's notes about single destinations, not routes
_FIB_MATCH: Final = 0x2000  # RTM_F_FIB_MATCH: tell the route of the table, not what came of it for this destination
_ONLINK: Final = 4  # RTNH_F_ONLINK
_HOP: Final = struct.Struct("=HBBi")  # rtnexthop: length, flags, weight, link


class NextHop(NamedTuple):
    """One way on: a gateway ("" for none), a link's index (0 for none), and whether the gateway is on the link whatever its addresses."""

    gateway: str = ""
    link: int = 0
    onlink: bool = False


class Found(NamedTuple):
    """A route of a dump. `metric` 0 is the family's default; `hops` are sorted; `source` is "" where it names none."""

    prefix: str
    table: int
    protocol: int
    metric: int
    hops: tuple[NextHop, ...]
    source: str


def new_route(
    prefix: str,
    *,
    table: int,
    protocol: int,
    metric: int = 0,
    hops: Sequence[NextHop] = (),
    source: str = "",
    replace: bool = False,
) -> Message:
    """Makes a route; EEXIST where one of the same prefix, table and metric stands, unless `replace` puts it in that one's place."""
    family = family_of(prefix)
    body = _identity(prefix, family, table, metric)
    flags = 0
    if len(hops) == 1:
        gateway, link, onlink = hops[0]
        if gateway:
            body += address_attribute(RTA_GATEWAY, packed(gateway, family))
        if link:
            body += number_attribute(RTA_OIF, link)
        flags = _ONLINK if onlink else 0
    elif hops:
        body += _multipath(hops, family)
    if source:
        body += address_attribute(RTA_PREFSRC, packed(source, family))
    head = _head(prefix, family, table, protocol=protocol, scope=0, kind=_UNICAST, flags=flags)
    return Message(NEW_ROUTE, REQUEST | CREATE | (REPLACE if replace else EXCLUSIVE), head + body)


def delete_route(prefix: str, *, table: int, protocol: int, metric: int = 0) -> Message:
    """Takes a route of this protocol (0: whatever its protocol) away, all its next hops at once; ESRCH where there is none."""
    family = family_of(prefix)
    head = _head(prefix, family, table, protocol=protocol, scope=_ANY_SCOPE if family == 4 else 0, kind=0)
    return Message(DELETE_ROUTE, REQUEST, head + _identity(prefix, family, table, metric))


def dump_routes(family: Family, *, table: int, protocol: int = 0) -> Message:
    """Asks for the routes of a table; protocol 0 is every one. Old kernels do not filter: look at what comes."""
    head = ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, 0, protocol, 0, 0, 0)
    return Message(GET_ROUTE, REQUEST | DUMP, head + number_attribute(RTA_TABLE, table))


def look_up(prefix: str) -> Message:
    """Asks for the one route that packets to the prefix' first address take, as it stands in its table (kernel 4.13)."""
    family = family_of(prefix)
    destination = address_attribute(RTA_DST, packed(prefix.partition("/")[0], family))
    return Message(GET_ROUTE, REQUEST, ROUTE_MESSAGE.pack(AF[family], LENGTH[family], 0, 0, 0, 0, 0, 0, _FIB_MATCH) + destination)


def parse_route(reply: Reply) -> Found | None:
    """One route of a dump; None for what is not a plain route to a prefix (by type of service, or a cached destination)."""
    number, length, _, tos, table, protocol, _, _, flags = ROUTE_MESSAGE.unpack_from(reply.payload)
    if tos or flags & _CLONED:
        return None
    family = family_in(number)
    found = attributes(reply.payload[ROUTE_MESSAGE.size :])
    address = text(found[RTA_DST], family) if RTA_DST in found else ("0.0.0.0" if family == 4 else "::")
    if RTA_TABLE in found:
        (table,) = U32.unpack(found[RTA_TABLE])
    metric = U32.unpack(found[RTA_PRIORITY])[0] if RTA_PRIORITY in found else 0
    return Found(
        prefix=f"{address}/{length}",
        table=table,
        protocol=protocol,
        metric=0 if metric == _DEFAULT_METRIC[family] else metric,
        hops=tuple(sorted(_hops(found, family, flags))),
        source=text(found[RTA_PREFSRC], family) if RTA_PREFSRC in found else "",
    )


def _head(prefix: str, family: Family, table: int, *, protocol: int, scope: int, kind: int, flags: int = 0) -> bytes:
    length = int(prefix.rpartition("/")[2])
    return ROUTE_MESSAGE.pack(AF[family], length, 0, 0, table if table < 256 else 0, protocol, scope, kind, flags)


def _identity(prefix: str, family: Family, table: int, metric: int) -> bytes:
    body = address_attribute(RTA_DST, packed(prefix.partition("/")[0], family))
    metric = metric or _DEFAULT_METRIC[family]
    if metric:
        body += number_attribute(RTA_PRIORITY, metric)
    return body if table < 256 else body + number_attribute(RTA_TABLE, table)


def _multipath(ways: Sequence[NextHop], family: Family) -> bytes:
    hops = b""
    for gateway, link, onlink in ways:
        hop = address_attribute(RTA_GATEWAY, packed(gateway, family)) if gateway else b""
        hops += _HOP.pack(_HOP.size + len(hop), _ONLINK if onlink else 0, 0, link) + hop
    return address_attribute(RTA_MULTIPATH, hops)  # every hop is a multiple of 4 octets


def _hops(found: dict[int, memoryview], family: Family, flags: int) -> Iterator[NextHop]:
    hops = found.get(RTA_MULTIPATH)
    if hops is None:
        link = U32.unpack(found[RTA_OIF])[0] if RTA_OIF in found else 0
        gateway = text(found[RTA_GATEWAY], family) if RTA_GATEWAY in found else ""
        if link or gateway:
            yield NextHop(gateway, link, bool(flags & _ONLINK))
        return
    while len(hops) >= _HOP.size:
        length, marks, _, link = _HOP.unpack_from(hops)
        if not _HOP.size <= length <= len(hops):
            raise ValueError(f"next hop of {length} octets of {len(hops)}")
        via = attributes(hops[_HOP.size : length]).get(RTA_GATEWAY)
        yield NextHop("" if via is None else text(via, family), link, bool(marks & _ONLINK))
        hops = hops[(length + 3) & ~3 :]
