"""What rtnetlink tells about links, their entries, addresses, routes and policy rules: notices, and the dumps that they go on from
(linux/rtnetlink.h).

Only what we use of it. Written by hand rather than through a general library because a node that takes in thousands of VIPs or
routes gets a notice for each, and reads them from its first moment: this costs 10 us a message where pyroute2's decoder costs 50, and
saves its import (0.5 s) on the way to the first write.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from kube_router.codec import neighbours
from kube_router.codec.neighbours import DELETE_NEIGHBOUR, NEW_NEIGHBOUR
from kube_router.codec.netlink import DUMP, REPLACE, REQUEST, U32, Message, Reply, attribute, attributes
from kube_router.codec.policy_rules import DELETE_RULE, parse_rule
from kube_router.codec.routes import parse_route
from kube_router.codec.rtnetlink import (
    DELETE_ROUTE,
    LENGTH,
    NEW_ROUTE,
    ROUTE_MESSAGE,
    RTA_DST,
    RTA_OIF,
    RTA_TABLE,
    family_in,
    text,
)

MAIN_TABLE: Final = 254  # RT_TABLE_MAIN
NEW_LINK, DELETE_LINK, _GET_LINK = 16, 17, 18  # RTM_*
NEW_ADDRESS, DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22

# Multicast groups (RTNLGRP_*) that carry what `parse` understands.
# Links, neighbours and forwarding entries; addresses, routes and rules of IPv4; of IPv6.
GROUPS: Final = (1, 3, 5, 7, 8, 9, 11, 19)

_IFINFO: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, changed flags
_IFADDR: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, link
_IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 4, 10, 18, 29
_INFO_KIND: Final = 1
_SKIP_STATISTICS: Final = 8  # RTEXT_FILTER_SKIP_STATS: most of what a link's message weighs
_IFF_UP: Final = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_DADFAILED: Final = 0x08  # IFA_F_DADFAILED: another host has this address, the kernel will not use it
_INET, _INET6 = 2, 10


class LinkSeen(NamedTuple):
    """A link is there, like this. `link` is its index, `master` that of the bridge (or the like) that it is a port of, 0 when of none."""

    link: int
    name: str
    kind: str
    up: bool
    mtu: int
    master: int


class LinkGone(NamedTuple):
    """A link is there no more."""

    link: int


class AddressSeen(NamedTuple):
    """A link has an address; `prefix` is its canonical text with the length."""

    link: int
    prefix: str


class AddressGone(NamedTuple):
    """A link has an address no more, or cannot use it."""

    link: int
    prefix: str


class RouteGone(NamedTuple):
    """A route is there no more. `link`: index of its link, 0 when it named none; `host`: its prefix is one address."""

    prefix: str
    table: int
    protocol: int
    link: int
    host: bool


class RouteReplaced(NamedTuple):
    """Somebody laid a route over the one to this prefix, in its place."""

    prefix: str
    table: int


class WaysChanged(NamedTuple):
    """A default route of the main table came, went or was replaced."""


class WayOut(NamedTuple):
    """A default route of the main table leads over this link to this gateway."""

    link: int
    gateway: str


class RuleGone(NamedTuple):
    """A policy rule that names a source, a table and nothing else is there no more."""

    source: str
    table: int


class EntryGone(NamedTuple):
    """A link's permanent entry is there no more: of its forwarding table, else a neighbour."""

    link: int
    forwarding: bool
    address: str
    mac: str


Told = LinkSeen | LinkGone | AddressSeen | AddressGone | RouteGone | RouteReplaced | WaysChanged | RuleGone | EntryGone


def dump_links() -> Message:
    """Asks for all links."""
    mask = attribute(_IFLA_EXT_MASK, U32.pack(_SKIP_STATISTICS))
    return Message(_GET_LINK, REQUEST | DUMP, _IFINFO.pack(0, 0, 0, 0, 0) + mask)


def dump_addresses() -> Message:
    """Asks for all addresses of both families."""
    return Message(_GET_ADDRESS, REQUEST | DUMP, _IFADDR.pack(0, 0, 0, 0, 0))


def parse(kind: int, payload: memoryview, flags: int = 0) -> Told | None:
    """One message of a dump or notice by its type and flags; None for what does not concern us.

    ValueError or struct.error when cut short.
    """
    if kind in (NEW_ADDRESS, DELETE_ADDRESS):
        return _address(payload, there=kind == NEW_ADDRESS)
    if kind in (NEW_LINK, DELETE_LINK):
        return _link(payload, there=kind == NEW_LINK)
    if kind == DELETE_ROUTE:
        return _route_gone(payload)
    if kind == NEW_ROUTE:
        return _route_seen(payload, flags)
    if kind == DELETE_RULE:
        return _rule_gone(kind, payload)
    return _entry_gone(kind, payload) if kind == DELETE_NEIGHBOUR else None


def default_route(payload: memoryview) -> bool:
    """Whether a route message is about a default route of the main table; told from its head, for tables may be long."""
    _, length, _, _, table, _, _, _, _ = ROUTE_MESSAGE.unpack_from(payload)
    return bool(length == 0 and table == MAIN_TABLE)


def ways_out(found: Iterable[Reply]) -> Iterator[WayOut]:
    """Gateways of the default routes in a dump of the main table."""
    for reply in found:
        if reply.type == NEW_ROUTE and default_route(reply.payload):
            route = parse_route(reply)
            for hop in route.hops if route is not None else ():
                if hop.gateway:
                    yield WayOut(hop.link, hop.gateway)


def filter_program() -> list[tuple[int, int, int, int]]:
    """A socket filter (linux/filter.h) that drops notices which nobody here reads, for there may be a million: of new neighbours, and
    of new routes that take no other's place and are no default route.

    Instructions as (code, jump if true, jump if false, operand). Filters load numbers in network order, netlink has them in the host's.
    """
    new_route, new_neighbour, replace = (int.from_bytes(struct.pack("=H", n), "big") for n in (NEW_ROUTE, NEW_NEIGHBOUR, REPLACE))
    return [
        (0x28, 0, 0, 4),  # load the half word at 4: nlmsg_type
        (0x15, 5, 0, new_neighbour),  # RTM_NEWNEIGH: drop
        (0x15, 0, 5, new_route),  # anything but RTM_NEWROUTE: keep
        (0x28, 0, 0, 6),  # load nlmsg_flags
        (0x45, 3, 0, replace),  # NLM_F_REPLACE: keep
        (0x30, 0, 0, 17),  # load the octet at 17: rtm_dst_len
        (0x15, 1, 0, 0),  # no length, a default route: keep
        (0x06, 0, 0, 0),  # drop the message
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
    ]


def _link(payload: memoryview, *, there: bool) -> Told | None:
    family, _, index, flags, _ = _IFINFO.unpack_from(payload)
    if family != 0:
        return None  # a bridge speaks of its port (AF_BRIDGE): that a port left the bridge looks like a deleted link
    if not there:
        return LinkGone(index)
    found = attributes(payload[_IFINFO.size :])
    info = attributes(found[_IFLA_LINKINFO]) if _IFLA_LINKINFO in found else {}
    return LinkSeen(
        link=index,
        name=_string(found.get(_IFLA_IFNAME)),
        kind=_string(info.get(_INFO_KIND)),
        up=bool(flags & _IFF_UP),
        mtu=U32.unpack(found[_IFLA_MTU])[0] if _IFLA_MTU in found else 0,
        master=U32.unpack(found[_IFLA_MASTER])[0] if _IFLA_MASTER in found else 0,
    )


def _address(payload: memoryview, *, there: bool) -> Told | None:
    number, length, flags, _, index = _IFADDR.unpack_from(payload)
    if number not in (_INET, _INET6):
        return None
    found = attributes(payload[_IFADDR.size :])
    octets = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))  # of a point-to-point link, the other one is the peer's
    if octets is None:
        return None
    if _IFA_FLAGS in found:
        (flags,) = U32.unpack(found[_IFA_FLAGS])
    prefix = f"{text(octets, family_in(number))}/{length}"
    return AddressSeen(index, prefix) if there and not flags & _DADFAILED else AddressGone(index, prefix)


def _route_seen(payload: memoryview, flags: int) -> Told | None:
    if flags & REPLACE:
        gone = _route_gone(payload)
        return RouteReplaced(gone.prefix, gone.table) if gone else None
    return WaysChanged() if default_route(payload) else None


def _route_gone(payload: memoryview) -> RouteGone | None:
    number, length, _, _, table, protocol, _, _, _ = ROUTE_MESSAGE.unpack_from(payload)
    if number not in (_INET, _INET6):
        return None
    family = family_in(number)
    found = attributes(payload[ROUTE_MESSAGE.size :])
    address = text(found[RTA_DST], family) if RTA_DST in found else ("0.0.0.0" if family == 4 else "::")
    return RouteGone(
        prefix=f"{address}/{length}",
        table=U32.unpack(found[RTA_TABLE])[0] if RTA_TABLE in found else table,
        protocol=protocol,
        link=U32.unpack(found[RTA_OIF])[0] if RTA_OIF in found else 0,
        host=length == LENGTH[family],
    )


def _rule_gone(kind: int, payload: memoryview) -> Told | None:
    rule = parse_rule(Reply(kind, 0, 0, payload))
    return RuleGone(rule.source, rule.table) if rule is not None and rule.source else None


def _entry_gone(kind: int, payload: memoryview) -> Told | None:
    entry = neighbours.parse(Reply(kind, 0, 0, payload))
    return EntryGone(entry.link, entry.forwarding, entry.address, entry.mac) if entry is not None else None


def _string(octets: memoryview | None) -> str:
    return "" if octets is None else bytes(octets).rstrip(b"\0").decode(errors="replace")
