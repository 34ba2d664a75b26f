"""Which sessions must have their routes judged anew after rules changed. Pure.

gobgpd judges a route when it comes or goes, never when a rule changes. Most changes need no second look: a node that joins is in
the neighbour sets before its session is up, and a pod range is in its prefix set before its path is announced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.kit.net import FAMILIES
from kube_router.model import names
from kube_router.model.state import Change
from kube_router.model.state.bgp import AssignmentKey, DefinedSetMember, NeighborKey, PathKey, PolicyKey


class Reset(msgspec.Struct, frozen=True):
    """Addresses of sessions: whose received routes, whose sent ones are judged anew, and which sessions start anew."""

    received: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()


class Suspicion(msgspec.Struct, frozen=True):
    """What may have to be judged anew: directions ("import", "export"), towards these addresses or, if None, all."""

    ways: frozenset[str] = frozenset()
    addresses: frozenset[str] | None = frozenset()

    def __bool__(self) -> bool:
        return bool(self.ways)


BOTH_WAYS: Final = frozenset({"import", "export"})


# Directions in which a prefix set is used; the others in both.
_ONE_WAY: Final = {
    names.bgp_set(base, family): way
    for base, way in (
        (names.BGP_PODS, "export"),
        (names.BGP_DEFAULT_ROUTE, "import"),
        (names.BGP_CUSTOM_REJECT, "import"),
    )
    for family in FAMILIES
}


def suspicion(changes: Sequence[Change]) -> Suspicion:
    """What the changes ask for. Neighbours that come, change or go with them need nothing: their sessions start after."""
    ways = frozenset(way for change in changes for way in _ways(change)) | _routes_unseen(changes)
    if ways:
        return Suspicion(ways, None)
    new = {change.key.address for change in changes if isinstance(change.key, NeighborKey)}
    moved = frozenset(_moved_neighbors(changes) - new)
    return Suspicion(BOTH_WAYS, moved) if moved else Suspicion()


def reset_after(suspected: Suspicion, sessions: Iterable[PeerStatus], *, soft_withdraws: bool) -> Reset:
    """Which of these sessions to reset, and how.

    `soft_withdraws`: the speaker withdraws on a soft reset what its export policy now rejects. Else an external neighbour is
    reset hard; an internal one gets nothing but our own paths, and those are withdrawn by themselves.
    """
    concerned = {
        peer.address: peer for peer in sessions if peer.established and (suspected.addresses is None or peer.address in suspected.addresses)
    }
    sent = sorted(concerned) if "export" in suspected.ways else []
    hard = [] if soft_withdraws else [address for address in sent if not concerned[address].internal]
    return Reset(
        received=tuple(sorted(concerned)) if "import" in suspected.ways else (),
        sent=tuple(address for address in sent if address not in hard),
        hard=tuple(hard),
    )


def _ways(change: Change) -> Iterable[str]:
    match change.key:
        case AssignmentKey(direction=direction):
            return (direction,)
        case PolicyKey(name=name):
            return tuple(way for way in ("import", "export") if f"_{way}" in name)
    return ()


def _routes_unseen(changes: Sequence[Change]) -> frozenset[str]:
    """Ways of prefixes that came into a set or left it without their path being announced or withdrawn along with them."""
    paths = {change.key.prefix for change in changes if isinstance(change.key, PathKey)}
    unseen = (
        key.name
        for key in (change.key for change in changes)
        if isinstance(key, DefinedSetMember) and key.type == "prefix" and key.member.partition(" ")[0] not in paths
    )
    return frozenset(way for name in set(unseen) for way in ((_ONE_WAY[name],) if name in _ONE_WAY else BOTH_WAYS))


def _moved_neighbors(changes: Sequence[Change]) -> set[str]:
    """Neighbours that came into a set or left it."""
    return {
        change.key.member.partition("/")[0]
        for change in changes
        if isinstance(change.key, DefinedSetMember) and change.key.type == "neighbor"
    }
