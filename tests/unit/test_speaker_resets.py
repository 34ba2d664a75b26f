"""Which sessions are judged anew after rules changed."""

from __future__ import annotations

import pytest

from kube_router.apply.gobgp.resets import Reset, doubts, reset_after
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.model.state import Change
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSetKey,
    DefinedSetMember,
    Listed,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    PolicyKey,
    Statement,
)

NODE = PeerStatus("10.0.0.2", 64512, internal=True, state="established", up_once=True)
OTHER = PeerStatus("10.0.0.3", 64512, internal=True, state="established", up_once=True)
DOWN = PeerStatus("10.0.0.4", 64512, internal=True, state="active")
ROUTER = PeerStatus("192.0.2.1", 64500, state="established", up_once=True)
SESSIONS = (NODE, OTHER, DOWN, ROUTER)

PEERS = DefinedSetKey("neighbor", "iBGPpeerset")
PODS = DefinedSetKey("prefix", "podcidrdefinedset")
VIPS = DefinedSetKey("prefix", "servicevipsdefinedsetv6")
OTHERS = DefinedSetKey("prefix", "somebody")
REJECTED = DefinedSetKey("prefix", "customimportrejectdefinedset")
SESSION = Neighbor(64512, "10.0.0.1")


def came(key: DefinedSetKey, member: str) -> Change:
    return Change(DefinedSetMember(key.type, key.name, member), None, Listed())


def went(key: DefinedSetKey, member: str) -> Change:
    return Change(DefinedSetMember(key.type, key.name, member), Listed(), None)


SETS = {
    ("neighbor", "iBGPpeerset"): {"10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32"},
    ("neighbor", "externalpeerset"): {"192.0.2.1/32"},
    ("prefix", "podcidrdefinedset"): {"10.1.0.0/24 24..24"},
}


ROUTES = {"10.1.0.0/24", "10.1.0.1/32"}


class Asked:
    """What the speaker holds."""

    def members(self, key: DefinedSetKey) -> frozenset[str]:
        return frozenset(SETS.get((key.type, key.name), ()))

    def has_routes(self, prefix: str) -> bool:
        return prefix in ROUTES


def resets(*changes: Change, soft_withdraws: bool = True) -> Reset:
    return reset_after(doubts(changes), SESSIONS, Asked(), soft_withdraws=soft_withdraws)


JOINS = (came(PEERS, "10.0.0.3/32"), Change(NeighborKey("10.0.0.3"), None, SESSION))
LEAVES = (went(PEERS, "10.0.0.3/32"), Change(NeighborKey("10.0.0.3"), SESSION, None))
MOVES = (
    came(PODS, "10.2.0.0/24 24..24"),
    went(PODS, "10.1.0.0/24 24..24"),
    Change(PathKey("10.2.0.0/24"), None, Path("10.0.0.1")),
    Change(PathKey("10.1.0.0/24"), Path("10.0.0.1"), None),
)


VIP = PathKey("10.9.0.1/32")
ANNOUNCED = (came(VIPS, "10.9.0.1/32 32..32"), Change(VIP, None, Path("10.0.0.1")))
TAKEN_BACK = (Change(VIP, Path("10.0.0.1"), None), went(VIPS, "10.9.0.1/32 32..32"))
EVERYDAY = {"nothing": (), "joins": JOINS, "leaves": LEAVES, "moves": MOVES, "announced": ANNOUNCED, "taken back": TAKEN_BACK}


@pytest.mark.parametrize("changes", EVERYDAY.values(), ids=EVERYDAY)
def test_everyday_changes_judge_nothing_anew(changes: tuple[Change, ...]) -> None:
    assert not doubts(changes)
    assert resets(*changes) == Reset()


EVERYONE = ("10.0.0.2", "10.0.0.3", "192.0.2.1")
TO_NODES = Statement("pn", "podcidrdefinedset", "iBGPpeerset", accept=True)
TO_ROUTER = Statement("pe", "podcidrdefinedset", "externalpeerset", accept=True)
PREPENDED = Statement("pe", "podcidrdefinedset", "externalpeerset", accept=True, prepend=(65001, 3))
EMPTIED = Statement("se", "podcidrdefinedsetv6", "externalpeerset", accept=True)
REFLECTED = Statement("rn", "", "iBGPpeerset", accept=True, source="internal")
REFUSED = Statement("ce", "customimportrejectdefinedset", "externalpeerset", accept=False)
EXPORTED = PolicyKey("kube_router_export")
IMPORTED = PolicyKey("kube_router_import")


def policy(key: PolicyKey, before: tuple[Statement, ...], after: tuple[Statement, ...]) -> Change:
    return Change(key, BgpPolicy(before), BgpPolicy(after))


@pytest.mark.parametrize(
    ("change", "reset"),
    [
        (policy(EXPORTED, (TO_NODES, TO_ROUTER), (TO_NODES,)), Reset(sent=("192.0.2.1",))),
        (policy(EXPORTED, (TO_NODES,), (TO_NODES, REFLECTED)), Reset(sent=("10.0.0.2", "10.0.0.3"))),
        (policy(EXPORTED, (TO_NODES, TO_ROUTER), (TO_NODES, PREPENDED)), Reset(sent=("192.0.2.1",))),
        (policy(EXPORTED, (TO_NODES, TO_ROUTER), (TO_ROUTER, TO_NODES)), Reset(sent=EVERYONE)),
        (policy(IMPORTED, (), (REFUSED,)), Reset(received=("192.0.2.1",))),
        (policy(IMPORTED, (REFUSED,), ()), Reset(received=("192.0.2.1",))),
        (Change(AssignmentKey("export"), None, Assignment(("kube_router_export",), False)), Reset(sent=EVERYONE)),
        (Change(AssignmentKey("import"), Assignment((), True), None), Reset(received=EVERYONE)),
        (came(PODS, "10.1.0.0/24 24..24"), Reset(sent=EVERYONE)),
        (went(PODS, "10.1.0.0/24 24..24"), Reset(sent=EVERYONE)),
        (came(VIPS, "10.1.0.1/32 32..32"), Reset(received=EVERYONE, sent=("192.0.2.1",))),
        (came(OTHERS, "10.1.0.1/32 32..32"), Reset(received=EVERYONE, sent=EVERYONE)),
        (came(REJECTED, "10.1.0.0/24 24..32"), Reset(received=EVERYONE)),
        (came(REJECTED, "10.5.0.0/24 24..32"), Reset()),
        (went(REJECTED, "10.5.0.0/24 24..32"), Reset(received=EVERYONE)),
        (went(VIPS, "10.5.0.1/32 32..32"), Reset(received=EVERYONE)),
        (came(PEERS, "10.0.0.3/32"), Reset(received=("10.0.0.3",), sent=("10.0.0.3",))),
        (went(PEERS, "10.9.9.9/32"), Reset()),
    ],
)
def test_a_rule_that_changes_under_sessions_is_applied_to_those_that_it_concerns(change: Change, reset: Reset) -> None:
    assert resets(change) == reset


@pytest.mark.parametrize(
    ("change", "reset"),
    [
        (policy(EXPORTED, (TO_NODES, TO_ROUTER), (TO_NODES,)), Reset(hard=("192.0.2.1",))),
        (policy(EXPORTED, (TO_NODES, REFLECTED), (TO_NODES,)), Reset(hard=("10.0.0.2", "10.0.0.3"))),
        (policy(EXPORTED, (TO_NODES, EMPTIED), (TO_NODES,)), Reset(sent=("192.0.2.1",))),
        (policy(EXPORTED, (TO_ROUTER,), (PREPENDED,)), Reset(sent=("192.0.2.1",))),
        (policy(EXPORTED, (), (TO_ROUTER,)), Reset(sent=("192.0.2.1",))),
        (policy(IMPORTED, (), (REFUSED,)), Reset(received=("192.0.2.1",))),
        (came(PODS, "10.1.0.0/24 24..24"), Reset(sent=EVERYONE)),
        (went(PODS, "10.1.0.0/24 24..24"), Reset(hard=EVERYONE)),
        (went(PODS, "10.5.0.0/24 24..24"), Reset()),
        (went(VIPS, "10.1.0.1/32 32..32"), Reset(received=("10.0.0.2", "10.0.0.3"), hard=("192.0.2.1",))),
        (went(PEERS, "10.0.0.3/32"), Reset(hard=("10.0.0.3",))),
        (Change(AssignmentKey("export"), None, Assignment(("kube_router_export",), False)), Reset(hard=EVERYONE)),
        (Change(AssignmentKey("export"), Assignment(("kube_router_export",), False), None), Reset(sent=EVERYONE)),
    ],
)
def test_where_a_soft_reset_does_not_withdraw_a_session_starts_anew_only_if_something_must_be(change: Change, reset: Reset) -> None:
    assert resets(change, soft_withdraws=False) == reset
