"""Which sessions are judged anew after rules changed."""

from __future__ import annotations

import pytest

from kube_router.apply.gobgp.resets import Reset, reset_after, suspicion
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
REJECTED = DefinedSetKey("prefix", "customimportrejectdefinedset")
SESSION = Neighbor(64512, "10.0.0.1")
EXPORT = BgpPolicy((Statement("pq", "p", "q", accept=True),))


def came(key: DefinedSetKey, member: str) -> Change:
    return Change(DefinedSetMember(key.type, key.name, member), None, Listed())


def went(key: DefinedSetKey, member: str) -> Change:
    return Change(DefinedSetMember(key.type, key.name, member), Listed(), None)


def resets(*changes: Change, soft_withdraws: bool = True) -> Reset:
    return reset_after(suspicion(changes), SESSIONS, soft_withdraws=soft_withdraws)


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
    assert not suspicion(changes)
    assert resets(*changes) == Reset()


EVERYONE = ("10.0.0.2", "10.0.0.3", "192.0.2.1")


@pytest.mark.parametrize(
    ("change", "reset"),
    [
        (Change(PolicyKey("kube_router_export"), EXPORT, BgpPolicy(())), Reset(sent=EVERYONE)),
        (Change(PolicyKey("kube_router_import"), EXPORT, BgpPolicy(())), Reset(received=EVERYONE)),
        (Change(AssignmentKey("export"), None, Assignment(("kube_router_export",), False)), Reset(sent=EVERYONE)),
        (Change(AssignmentKey("import"), Assignment((), True), None), Reset(received=EVERYONE)),
        (came(PODS, "10.1.0.0/24 24..24"), Reset(sent=EVERYONE)),
        (went(PODS, "10.1.0.0/24 24..24"), Reset(sent=EVERYONE)),
        (came(VIPS, "10.1.0.1/32 32..32"), Reset(received=EVERYONE, sent=EVERYONE)),
        (came(REJECTED, "10.1.0.0/16 16..32"), Reset(received=EVERYONE)),
        (came(PEERS, "10.0.0.3/32"), Reset(received=("10.0.0.3",), sent=("10.0.0.3",))),
        (went(PEERS, "10.9.9.9/32"), Reset()),
    ],
)
def test_a_rule_that_changes_under_sessions_is_applied_to_them(change: Change, reset: Reset) -> None:
    assert resets(change) == reset


def test_where_a_soft_reset_does_not_withdraw_an_external_neighbour_is_reset_hard() -> None:
    change = Change(PolicyKey("kube_router_export"), EXPORT, BgpPolicy(()))
    assert resets(change, soft_withdraws=False) == Reset(sent=("10.0.0.2", "10.0.0.3"), hard=("192.0.2.1",))


def test_rules_of_a_direction_leave_the_other_alone() -> None:
    change = Change(PolicyKey("kube_router_import"), EXPORT, BgpPolicy(()))
    assert resets(change, soft_withdraws=False) == Reset(received=EVERYONE)
