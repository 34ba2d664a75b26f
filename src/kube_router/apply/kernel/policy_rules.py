"""Policy routing rules that send packets of pods into the overlay's table.

Ours are those that say just that. One rule may stand several times (the kernel minds only equal priorities): all of them go.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkTarget
from kube_router.codec import policy_rules as codec
from kube_router.codec.netlink import Message
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES
from kube_router.model.names import OVERLAY_TABLE, ROUTE_PROTOCOL
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import Rule, RuleKey

TABLES: Final = frozenset({OVERLAY_TABLE})
_ABSENT: Final = frozenset({errno.ENOENT, errno.ESRCH})


class RuleTarget(NetlinkTarget):
    """Rules in the network namespace in which it was made."""

    kinds: tuple[type[Key], ...] = (RuleKey,)

    def __init__(self) -> None:
        super().__init__(ROUTE)

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our rules of both families."""
        del wanted
        with self._lock:
            return {RuleKey(rule.source, rule.table): Rule() for rule in self._ours()}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make those that are missing, delete; the list is read once."""
        with self._lock:
            standing: dict[Key, list[codec.FoundRule]] = {}
            for rule in self._ours():
                standing.setdefault(RuleKey(rule.source, rule.table), []).append(rule)
            steps = [step for change in changes for step in _steps(change, standing.get(change.key, ()))]
            faults = self._socket.send([message for _, message in steps])
        refused: dict[Key, str] = {}
        for n, fault in faults.items():
            change, _ = steps[n]
            settled = _ABSENT if change.after is None else {errno.EEXIST}
            if fault.number not in settled:
                refused[change.key] = str(fault)
        return refused

    def _ours(self) -> Iterator[codec.FoundRule]:
        for family in FAMILIES:
            try:
                replies = self._socket.dump(codec.dump_rules(family))
            except OSError as fault:
                raise Busy(f"cannot list policy routing rules: {fault}") from fault
            for reply in replies:
                rule = codec.parse_rule(reply)
                if rule is not None and rule.source and rule.table in TABLES:
                    yield rule


def _steps(change: Change, standing: Sequence[codec.FoundRule]) -> Iterator[tuple[Change, Message]]:
    assert isinstance(change.key, RuleKey)
    if change.after is None:
        for rule in standing:
            yield change, codec.delete_rule(rule)
    elif not standing:
        yield change, codec.new_rule(change.key.source, change.key.table, protocol=ROUTE_PROTOCOL)
