"""Delivery of packets to addresses that no link of this node has: policy routing rules by mark, and tables with one route each.

    packet with a mark of ours --> rule "fwmark MARK/MASK lookup 78" --> table 78: local default --> INPUT, where IPVS takes it
    one that is too long for it --> rule ... lookup 79 --> table 79: a route with a small MTU --> "too big", back to the sender

Both tables are ours by their numbers, whoever filled them. What the original left there is taken over as it is found, the rule that leads
every packet to its empty table 79 included, which then goes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from socket import if_nametoindex
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, Fault, NetlinkTarget
from kube_router.codec import delivery as codec
from kube_router.codec.netlink import Message
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.names import DIRECT_TABLE, ROUTE_PROTOCOL, TOO_BIG_TABLE
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.direct import Delivery, DeliveryKey, MarkRule, MarkRuleKey

_TABLES: Final = (DIRECT_TABLE, TOO_BIG_TABLE)
_ORIGINALS_PRIORITY: Final = 32765  # of its rule that leads to table 79
_SETTLED: Final[dict[bool, frozenset[int]]] = {True: frozenset({errno.EEXIST}), False: frozenset({errno.ENOENT, errno.ESRCH})}

_Step = tuple[Change, Message]


class DeliveryTarget(NetlinkTarget):
    """Rules and routes in the network namespace in which it was made."""

    kinds: tuple[type[Key], ...] = (DeliveryKey, MarkRuleKey)

    def __init__(self) -> None:
        super().__init__(ROUTE)

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our rules and routes of both families. A mark with several rules is told by one that is not as wanted."""
        held: dict[Key, Value] = {}
        with self._lock:
            for rule in self._rules():
                key = MarkRuleKey(rule.family, rule.mark)
                if key not in held or held[key] == wanted.get(key):
                    held[key] = MarkRule(rule.mask, rule.priority, rule.table)
            for family in FAMILIES:
                for table in _TABLES:
                    held |= self._deliveries(family, table)
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make those that are missing, delete; rules are read once. A rule that changes is made before the old one goes."""
        with self._lock:
            standing: dict[Key, list[codec.FoundRule]] = {}
            if any(isinstance(change.key, MarkRuleKey) for change in changes):
                for rule in self._rules():
                    standing.setdefault(MarkRuleKey(rule.family, rule.mark), []).append(rule)
            steps = [step for change in changes for step in _steps(change, standing.get(change.key, ()))]
            faults = self._socket.send([message for _, message in steps])
        refused: dict[Key, str] = {}
        for n, fault in faults.items():
            change, _ = steps[n]
            if not _settles(change, fault):
                refused[change.key] = str(fault)
        return refused

    def _rules(self) -> Iterator[codec.FoundRule]:
        for family in FAMILIES:
            try:
                replies = self._socket.dump(codec.dump_rules(family))
            except OSError as fault:
                raise Busy(f"cannot list policy routing rules: {fault}") from fault
            for reply in replies:
                rule = codec.parse_rule(reply)
                if rule is not None and _is_ours(rule):
                    yield rule

    def _deliveries(self, family: Family, table: int) -> dict[Key, Value]:
        try:
            replies = self._socket.dump(codec.dump_deliveries(family, table=table))
        except FileNotFoundError:
            return {}  # a table in which nobody has put anything yet
        except OSError as fault:
            raise Busy(f"cannot list routes: {fault}") from fault
        loopback = if_nametoindex("lo")
        found = (codec.parse_delivery(reply, table=table, link=loopback) for reply in replies)
        return {DeliveryKey(family, table): Delivery(mtu) for mtu in found if mtu is not None}


def _is_ours(rule: codec.FoundRule) -> bool:
    if rule.mark:
        return rule.table in _TABLES
    return rule.table == TOO_BIG_TABLE and rule.priority == _ORIGINALS_PRIORITY


def _steps(change: Change, standing: Sequence[codec.FoundRule]) -> Iterator[_Step]:
    key, wish = change.key, change.after
    if isinstance(key, DeliveryKey):
        if wish is None or (change.before is not None and change.before != wish):
            yield change, codec.delete_delivery(key.family, table=key.table)  # IPv6 would put a route of another type beside it
        if wish is not None:
            loopback = if_nametoindex("lo")
            yield change, codec.put_delivery(key.family, table=key.table, link=loopback, mtu=wish.mtu, protocol=ROUTE_PROTOCOL)
        return
    assert isinstance(key, MarkRuleKey)
    right = None if wish is None else codec.FoundRule(key.family, key.mark, wish.mask, wish.table, wish.priority)
    if right is not None and right not in standing:
        yield change, codec.new_rule(right, protocol=ROUTE_PROTOCOL)
    kept = False
    for rule in standing:
        if rule == right and not kept:
            kept = True
        else:
            yield change, codec.delete_rule(rule)


def _settles(change: Change, fault: Fault) -> bool:
    """Whether a message failed only because it is as it should be. Of a change it may have been the new rule or the old one."""
    return fault.number in _SETTLED[change.after is not None] or (change.after is not None and fault.number in _SETTLED[False])
