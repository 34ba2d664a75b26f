"""Marks of Services that stand in the kernel when we start: in sets, where we leave them, and in rules, where the original does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from kube_router.control.marks import Holder
from kube_router.desired.proxy.marks import UNDELIVERABLE, MarkKind
from kube_router.kit.net import FAMILIES
from kube_router.model.names import CLUSTER_MARKS, SERVICE_MARKS, set_name
from kube_router.model.objects import Claim
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import LeftoverKey, Member, SetMember
from kube_router.plan import leftovers

_KINDS: Final[dict[str, MarkKind]] = {
    **{set_name(SERVICE_MARKS, family): "direct" for family in FAMILIES},
    **{set_name(CLUSTER_MARKS, family): "cluster" for family in FAMILIES},
}


def found_marks(sets: Mapping[Key, Value], rules: Mapping[Key, Value]) -> Mapping[Holder, int]:
    """Whose each mark is; what our own sets say counts more than what a rule says."""
    return dict(_in_rules(rules)) | dict(_in_sets(sets))


def _in_sets(state: Mapping[Key, Value]) -> Iterator[tuple[Holder, int]]:
    for key, value in state.items():
        if (
            isinstance(key, SetMember)
            and isinstance(value, Member)
            and value.mark > 0
            and value.mark != UNDELIVERABLE
            and key.set in _KINDS
        ):
            address, _, place = key.entry.partition(",")
            protocol, _, port = place.partition(":")
            yield Holder(Claim(address, protocol.upper(), int(port)), _KINDS[key.set]), value.mark


def _in_rules(state: Mapping[Key, Value]) -> Iterator[tuple[Holder, int]]:
    for key in state:
        marking = leftovers.marking(key.table, key.builtin, key.rule) if isinstance(key, LeftoverKey) else None
        if marking is not None:
            yield Holder(marking[0], "direct"), marking[1]
