"""Which sessions must have their routes judged anew after rules changed. Pure.

gobgpd judges a route when it comes or goes, never when a rule changes. Most changes need no second look: a node that joins is in
the neighbour sets before its session is up, and a prefix is in its set before its path is announced, and leaves it after.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.kit.net import FAMILIES
from kube_router.model import names
from kube_router.model.state import Change
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSetKey,
    DefinedSetMember,
    NeighborKey,
    PathKey,
    PolicyKey,
    Statement,
)

EVERYBODY: Final = "*"


class Reset(msgspec.Struct, frozen=True):
    """Addresses of sessions: whose received routes, whose sent ones are judged anew, and which sessions start anew."""

    received: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()


class Doubt(NamedTuple):
    """Routes to be judged anew: towards or from `whom` (EVERYBODY, a neighbour set or an address). `way`: "import" or "export".

    `taken_back`: what was accepted before may be rejected now. Of the prefix set `of`, if named: nothing is, once the set is empty,
    as its paths went with its members. `inside`: only routes inside this prefix are meant, if the speaker has any.
    """

    way: str
    whom: str
    taken_back: bool = False
    of: str = ""
    inside: str = ""


_BOTH_WAYS: Final = ("import", "export")
_WAY_OF: Final = {names.BGP_IMPORT: "import", names.BGP_EXPORT: "export"}
_EXTERNAL: Final = tuple(("export", names.bgp_set(names.BGP_EXTERNAL_PEERS, family)) for family in FAMILIES)
# What a prefix set is used for, and for whose routes; one that is none of ours may be used for everything.
_USES: Final = {
    names.bgp_set(base, family): uses
    for base, uses in (
        (names.BGP_PODS, (("export", EVERYBODY),)),
        (names.BGP_VIPS, (("import", EVERYBODY), *_EXTERNAL)),
        (names.BGP_DEFAULT_ROUTE, (("import", EVERYBODY),)),
        (names.BGP_CUSTOM_REJECT, (("import", EVERYBODY),)),
    )
    for family in FAMILIES
}
_ANY_USE: Final = tuple((way, EVERYBODY) for way in _BOTH_WAYS)


class Speaker(Protocol):
    """What is asked of the speaker as it is now."""

    def members(self, key: DefinedSetKey) -> frozenset[str]:
        """Members of a defined set; none if there is no such set."""

    def has_routes(self, prefix: str) -> bool:
        """Whether it has any route inside the prefix, its own ones included."""


def doubts(changes: Sequence[Change]) -> frozenset[Doubt]:
    """What the changes ask for. Neighbours that come, change or go with them need nothing: their sessions start after."""
    return frozenset(_doubts(changes))


def reset_after(doubted: frozenset[Doubt], sessions: Iterable[PeerStatus], speaker: Speaker, *, soft_withdraws: bool) -> Reset:
    """Which of these sessions to reset, and how.

    `soft_withdraws`: the speaker withdraws on a soft reset what its export policy now rejects. Else such a session starts anew.
    """
    up = {peer.address for peer in sessions if peer.established}
    founded = [doubt for doubt in doubted if not doubt.inside or speaker.has_routes(doubt.inside)]
    concerned = {doubt: up & _addresses(doubt.whom, up, speaker) for doubt in founded}
    received = {address for doubt, whom in concerned.items() if doubt.way == "import" for address in whom}
    sent = {address for doubt, whom in concerned.items() if doubt.way == "export" for address in whom}
    hard = set()
    if not soft_withdraws:
        hard = {address for doubt, whom in concerned.items() if doubt.way == "export" and _takes_back(doubt, speaker) for address in whom}
    return Reset(tuple(sorted(received - hard)), tuple(sorted(sent - hard)), tuple(sorted(hard)))


def _doubts(changes: Sequence[Change]) -> Iterator[Doubt]:
    with_path = {change.key.prefix for change in changes if isinstance(change.key, PathKey)}
    with_session = {change.key.address for change in changes if isinstance(change.key, NeighborKey)}
    for change in changes:
        match change.key:
            case AssignmentKey(direction=way):
                yield Doubt(way, EVERYBODY, taken_back=_is_stricter(change.before, change.after))
            case PolicyKey(name=name) if name in _WAY_OF:  # a predecessor, which has a number, is in force no more
                yield from _of_statements(_WAY_OF[name], change.before, change.after)
            case DefinedSetMember(type="prefix", name=name, member=member) if member.partition(" ")[0] not in with_path:
                for way, whom in _USES.get(name, _ANY_USE):
                    yield _of_prefix(way, whom, member.partition(" ")[0], left=change.after is None)
            case DefinedSetMember(type="neighbor", member=member) if member.partition("/")[0] not in with_session:
                for way in _BOTH_WAYS:
                    yield Doubt(way, member.partition("/")[0], taken_back=change.after is None)


def _of_prefix(way: str, whom: str, prefix: str, *, left: bool) -> Doubt:
    # A received route that was rejected is not among the speaker's routes, so nobody can tell whether there is one.
    return Doubt(way, whom, taken_back=left, inside="" if way == "import" and left else prefix)


def _is_stricter(before: Assignment | None, after: Assignment | None) -> bool:
    """Whether an assignment may reject what the one before accepted; without one everything is."""
    return after is not None and not after.default_accept and (before is None or before != after)


def _of_statements(way: str, before: BgpPolicy | None, after: BgpPolicy | None) -> Iterator[Doubt]:
    old = set(before.statements if before else ())
    new = set(after.statements if after else ())
    accepted = {_matched(statement) for statement in new if statement.accept}
    for statement in old ^ new:
        gone = statement in old and statement.accept and _matched(statement) not in accepted
        yield Doubt(way, statement.neighbor_set, taken_back=gone, of=statement.prefix_set)
    if old == new:
        yield Doubt(way, EVERYBODY)  # the order changed


def _matched(statement: Statement) -> tuple[str, ...]:
    return statement.prefix_set, statement.neighbor_set, statement.source


def _addresses(whom: str, up: set[str], speaker: Speaker) -> set[str]:
    if whom == EVERYBODY or whom in up:
        return up if whom == EVERYBODY else {whom}
    return {member.partition("/")[0] for member in speaker.members(DefinedSetKey("neighbor", whom))}


def _takes_back(doubt: Doubt, speaker: Speaker) -> bool:
    return doubt.taken_back and (not doubt.of or bool(speaker.members(DefinedSetKey("prefix", doubt.of))))
