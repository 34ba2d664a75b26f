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
    DefinedSet,
    DefinedSetKey,
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
SESSION = Neighbor(64512, "10.0.0.1")
EXPORT = BgpPolicy((Statement("pq", "p", "q", accept=True),))


def members(key: DefinedSetKey, before: tuple[str, ...], after: tuple[str, ...]) -> Change:
    return Change(key, DefinedSet(before), DefinedSet(after))


def resets(*changes: Change, soft_withdraws: bool = True) -> Reset:
    return reset_after(suspicion(changes), SESSIONS, soft_withdraws=soft_withdraws)


JOINS = (members(PEERS, ("10.0.0.2/32",), ("10.0.0.2/32", "10.0.0.3/32")), Change(NeighborKey("10.0.0.3"), None, SESSION))
LEAVES = (members(PEERS, ("10.0.0.2/32", "10.0.0.3/32"), ("10.0.0.2/32",)), Change(NeighborKey("10.0.0.3"), SESSION, None))
MOVES = (
    members(PODS, ("10.1.0.0/24 24..24",), ("10.2.0.0/24 24..24",)),
    Change(PathKey("10.2.0.0/24"), None, Path("10.0.0.1")),
    Change(PathKey("10.1.0.0/24"), Path("10.0.0.1"), None),
)


@pytest.mark.parametrize("changes", [(), JOINS, LEAVES, MOVES], ids=["nothing", "joins", "leaves", "moves"])
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
        (members(PODS, (), ("10.1.0.0/24 24..24",)), Reset(received=EVERYONE, sent=EVERYONE)),
        (members(PEERS, (), ("10.0.0.3/32",)), Reset(received=("10.0.0.3",), sent=("10.0.0.3",))),
        (members(PEERS, ("10.0.0.4/32", "10.9.9.9/32"), ()), Reset()),
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
