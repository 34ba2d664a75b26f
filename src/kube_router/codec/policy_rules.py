"""Policy routing rules as rtnetlink messages (linux/fib_rules.h): which packets look into which table.

Only rules that say "from this prefix, look into that table" and nothing else; what has any further condition is another's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, EXCLUSIVE, REQUEST, U32, Message, Reply, attributes
from kube_router.codec.rtnetlink import AF, ROUTE_MESSAGE, address_attribute, family_in, number_attribute, packed, text
from kube_router.kit.net import Family, family_of

NEW_RULE, DELETE_RULE, _GET_RULE = 32, 33, 34  # RTM_*
_TO_TABLE: Final = 1  # FR_ACT_TO_TBL
_SOURCE, _PRIORITY, _SUPPRESS_LENGTH, _TABLE, _PROTOCOL = 2, 6, 14, 15, 21  # FRA_*
_HARMLESS: Final = frozenset({_SOURCE, _PRIORITY, _TABLE, _PROTOCOL, _SUPPRESS_LENGTH, 18})  # 18: padding
_NO_LENGTH: Final = 0xFFFFFFFF  # of FRA_SUPPRESS_PREFIXLEN: no condition


class FoundRule(NamedTuple):
    """A rule without further conditions. `source` "" is every packet's."""

    family: Family
    source: str
    table: int
    priority: int


def new_rule(source: str, table: int, *, protocol: int) -> Message:
    """Makes a rule of the next priority before all others, as the kernel chooses it."""
    family = family_of(source)
    length = int(source.rpartition("/")[2])
    head = ROUTE_MESSAGE.pack(AF[family], 0, length, 0, table if table < 256 else 0, 0, 0, _TO_TABLE, 0)
    body = address_attribute(_SOURCE, packed(source.partition("/")[0], family)) + number_attribute(_TABLE, table)
    # nla: length 5, padded to 8
    return Message(NEW_RULE, REQUEST | CREATE | EXCLUSIVE, head + body + b"\x05\0\x15\0" + bytes((protocol, 0, 0, 0)))


def delete_rule(rule: FoundRule) -> Message:
    """Takes away this very rule; ENOENT where it is gone."""
    length = int(rule.source.rpartition("/")[2])
    table = rule.table if rule.table < 256 else 0
    head = ROUTE_MESSAGE.pack(AF[rule.family], 0, length, 0, table, 0, 0, _TO_TABLE, 0)
    body = address_attribute(_SOURCE, packed(rule.source.partition("/")[0], rule.family))
    return Message(DELETE_RULE, REQUEST, head + body + number_attribute(_TABLE, rule.table) + number_attribute(_PRIORITY, rule.priority))


def dump_rules(family: Family) -> Message:
    """Asks for all rules of a family."""
    return Message(_GET_RULE, REQUEST | DUMP, ROUTE_MESSAGE.pack(AF[family], 0, 0, 0, 0, 0, 0, 0, 0))


def parse_rule(reply: Reply) -> FoundRule | None:
    """One rule of a dump or notice; None for one with conditions beside the source, or another action."""
    number, destination, length, tos, table, _, _, action, flags = ROUTE_MESSAGE.unpack_from(reply.payload)
    if number not in AF.values() or destination or tos or action != _TO_TABLE or flags & 0x2:  # FIB_RULE_INVERT
        return None
    family = family_in(number)
    found = attributes(reply.payload[ROUTE_MESSAGE.size :])
    if not found.keys() <= _HARMLESS or (_SUPPRESS_LENGTH in found and U32.unpack(found[_SUPPRESS_LENGTH])[0] != _NO_LENGTH):
        return None
    if _TABLE in found:
        (table,) = U32.unpack(found[_TABLE])
    priority = U32.unpack(found[_PRIORITY])[0] if _PRIORITY in found else 0
    source = f"{text(found[_SOURCE], family)}/{length}" if _SOURCE in found else ""
    return FoundRule(family, source, table, priority)
