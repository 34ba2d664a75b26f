"""Delivery of marked packets as rtnetlink messages (linux/fib_rules.h, linux/rtnetlink.h): policy routing rules by firewall mark, and
the default route over lo of the table that they lead to.

Only rules that ask for a mark, or for nothing at all; what has any further condition is another's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, REPLACE, REQUEST, U32, Message, Reply, attribute, attributes
from kube_router.codec.policy_rules import DELETE_RULE, NEW_RULE
from kube_router.codec.rtnetlink import (
    AF,
    DELETE_ROUTE,
    GET_ROUTE,
    NEW_ROUTE,
    ROUTE_MESSAGE,
    RTA_OIF,
    RTA_TABLE,
    family_in,
    number_attribute,
)
from kube_router.kit.net import Family

_GET_RULE: Final = 34  # RTM_GETRULE
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_INVERT: Final = 0x2  # FIB_RULE_INVERT
_PRIORITY, _MARK, _SUPPRESS_LENGTH, _TABLE, _MASK, _PROTOCOL = 6, 10, 14, 15, 16, 21  # FRA_*
_HARMLESS: Final = frozenset({_PRIORITY, _MARK, _SUPPRESS_LENGTH, _TABLE, _MASK, 18, _PROTOCOL})  # 18: padding
_NO_LENGTH: Final = 0xFFFFFFFF  # of FRA_SUPPRESS_PREFIXLEN: no condition
_UNICAST, _LOCAL = 1, 2  # RTN_*
_LINK, _HOST = 253, 254  # RT_SCOPE_*
_METRICS: Final = 8  # RTA_METRICS
_METRIC_MTU: Final = 2  # RTAX_MTU
_ANY_SCOPE: Final = 255


class FoundRule(NamedTuple):
    """A rule by mark; mark and mask 0 for one that every packet meets."""

    family: Family
    mark: int
    mask: int
    table: int
    priority: int


def new_rule(rule: FoundRule, *, protocol: int) -> Message:
    """Makes a rule; EEXIST where just that one stands."""
    body = _identity(rule) + b"\x05\0\x15\0" + bytes((protocol, 0, 0, 0))  # nla: length 5, padded to 8
    return Message(NEW_RULE, REQUEST | CREATE | EXCLUSIVE, _head(rule) + body)


def delete_rule(rule: FoundRule) -> Message:
    """Takes away this very rule; ENOENT where it is gone."""
    return Message(DELETE_RULE, REQUEST, _head(rule) + _identity(rule))


def dump_rules(family: Family) -> Message:
    """Asks for all rules of a family."""
    return Message(_GET_RULE, REQUEST | DUMP, ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0))


def parse_rule(reply: Reply) -> FoundRule | None:
    """One rule of a dump; None for one with other conditions than a mark, or another action."""
    number, destination, source, tos, table, _, _, action, flags = ROUTE_MESSAGE.unpack_from(reply.payload)
    if number not in AF.values() or destination or source or tos or action != _TO_TABLE or flags & _INVERT:
        return None
    found = attributes(reply.payload[ROUTE_MESSAGE.size :])
    if not found.keys() <= _HARMLESS or _number(found, _SUPPRESS_LENGTH, _NO_LENGTH) != _NO_LENGTH:
        return None
    return FoundRule(
        family_in(number), _number(found, _MARK), _number(found, _MASK), _number(found, _TABLE, table), _number(found, _PRIORITY)
    )


def put_delivery(family: Family, *, table: int, link: int, mtu: int, protocol: int) -> Message:
    """Makes the table's default route, or makes it as wanted: delivering here, or (with an MTU) taking no longer packets."""
    kind, scope = (_UNICAST, _LINK if family == 4 else 0) if mtu else (_LOCAL, _HOST)
    head = ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, table, protocol, scope, kind, 0)
    body = number_attribute(RTA_OIF, link)
    if mtu:
        body += attribute(_METRICS, number_attribute(_METRIC_MTU, mtu))
    return Message(NEW_ROUTE, REQUEST | CREATE | REPLACE, head + body)


def delete_delivery(family: Family, *, table: int) -> Message:
    """Takes the table's default route away; ESRCH where it has none."""
    return Message(DELETE_ROUTE, REQUEST, ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, table, 0, _ANY_SCOPE if family == 4 else 0, 0, 0))


def dump_deliveries(family: Family, *, table: int) -> Message:
    """Asks for the routes of the table."""
    return Message(GET_ROUTE, REQUEST | DUMP, ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0) + number_attribute(RTA_TABLE, table))


def parse_delivery(reply: Reply, *, table: int, link: int) -> int | None:
    """Of a default route of the table over the link its MTU, 0 for one that delivers here; None for another route."""
    _, length, _, _, there, _, _, kind, _ = ROUTE_MESSAGE.unpack_from(reply.payload)
    if length or there != table or kind not in (_LOCAL, _UNICAST):
        return None
    found = attributes(reply.payload[ROUTE_MESSAGE.size :])
    if _number(found, RTA_OIF) != link:
        return None
    mtu = _number(attributes(found[_METRICS]), _METRIC_MTU) if _METRICS in found else 0
    return mtu if (kind == _UNICAST) == bool(mtu) else None


def _head(rule: FoundRule) -> bytes:
    return ROUTE_MESSAGE.pack(AF[rule.family], 0, 0, 0, rule.table if rule.table < 256 else 0, 0, 0, _TO_TABLE, 0)


def _identity(rule: FoundRule) -> bytes:
    body = number_attribute(_TABLE, rule.table) + number_attribute(_PRIORITY, rule.priority)
    return body + number_attribute(_MARK, rule.mark) + number_attribute(_MASK, rule.mask) if rule.mark else body


def _number(found: dict[int, memoryview], kind: int, absent: int = 0) -> int:
    return int(U32.unpack(found[kind])[0]) if kind in found else absent
