"""The BGP speaker: nodes become its sessions, this node its own configuration and paths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

import msgspec

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing.peers import neighbor
from kube_router.desired.routing.rules import memberships, rules
from kube_router.desired.routing.speaker import itself, primary
from kube_router.model.objects import Kind, Name, Node, Ref
from kube_router.model.state import Key
from kube_router.model.state.bgp import AssignmentKey, DefinedSetKey, DefinedSetMember, NeighborKey, PathKey, PolicyKey, SpeakerKey
from kube_router.plan import ownership
from kube_router.plan.ledger import Ledger

SELF: Final = ("speaker",)
RULES: Final = ("rules",)


def peers_of(ledger: Ledger) -> frozenset[str] | None:
    """Addresses of the peers that the speaker is told to have; None while it has not been programmed in this life of ours."""
    if SpeakerKey() not in ledger.held:
        return None
    return frozenset(key.address for key in ledger.merged if isinstance(key, NeighborKey))


class SpeakerController:
    """Items: the speaker itself with its paths, its rules, and a session for every node."""

    name = ownership.SPEAKER
    reads = frozenset({Kind.NODE})
    writes: tuple[type[Key], ...] = (SpeakerKey, DefinedSetKey, DefinedSetMember, PolicyKey, AssignmentKey, PathKey, NeighborKey)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._own = Name("", options.node_name)

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A node touches its session and nodes that claim the same address; ours touches all."""
        for ref, before in changes.items():
            if ref.kind is not Kind.NODE:
                continue
            now = view.nodes.get(ref.name)
            was = before if isinstance(before, Node) else None
            if was is not None and now is not None and _facts(was) == _facts(now):
                continue
            yield ref
            if ref.name == self._own:
                yield SELF
                yield RULES
                if was is None or now is None or was.addresses != now.addresses:
                    yield from (Ref(Kind.NODE, name) for name in view.nodes)
                continue
            addresses = {primary(node) for node in (was, now) if node is not None} - {""}
            for address in addresses:
                yield from (Ref(Kind.NODE, node.name) for node in view.nodes.by("address", address))

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/{speaker,peers,rules}.py."""
        own = view.nodes.get(self._own)
        if item == SELF:
            return itself(own, self._options)
        if item == RULES:
            return rules(own, self._options)
        assert isinstance(item, Ref)
        desired = neighbor(view.nodes.get(item.name), own, view.nodes, self._options)
        return msgspec.structs.replace(desired, state=desired.state | memberships(desired.state))


def _facts(node: Node) -> tuple[object, ...]:
    return node.addresses, node.pod_cidrs, node.created
