"""A route's way through the speaker's policies, as desired state: from the statements alone, without a gobgpd.

It knows what gobgpd does with them (an empty neighbour set matches every neighbour, an empty prefix set no prefix) and fails on what it
does not know: a statement that names a set that is not there, or a policy that does not exist.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSetKey,
    DefinedSetMember,
    PolicyKey,
    Statement,
)


class Route(msgspec.Struct, frozen=True):
    """A route on its way: `source` is "local" (our own), "internal" (from a node) or "external"."""

    prefix: str
    source: str


def walk(state: Mapping[Key, Value], direction: str, route: Route, neighbor: str) -> tuple[bool, Statement | None]:
    """Whether the route passes to ("export") or from ("import") a neighbour, and the statement that decided; None: the default did."""
    assignment = state[AssignmentKey(direction)]
    assert isinstance(assignment, Assignment)
    for name in assignment.policies:
        policy = state[PolicyKey(name)]
        assert isinstance(policy, BgpPolicy)
        for statement in policy.statements:
            if _matches(state, statement, route, neighbor):
                return statement.accept, statement
    return assignment.default_accept, None


def _matches(state: Mapping[Key, Value], statement: Statement, route: Route, neighbor: str) -> bool:
    if statement.source not in ("", route.source):
        return False
    if statement.prefix_set and not any(_covers(member, route.prefix) for member in _members(state, "prefix", statement.prefix_set)):
        return False
    neighbors = _members(state, "neighbor", statement.neighbor_set)
    return not neighbors or any(ipaddress.ip_address(neighbor) in ipaddress.ip_network(member) for member in neighbors)


def _members(state: Mapping[Key, Value], kind: str, name: str) -> list[str]:
    assert DefinedSetKey(kind, name) in state, f"{name} does not exist"
    return [key.member for key in state if isinstance(key, DefinedSetMember) and (key.type, key.name) == (kind, name)]


def _covers(member: str, prefix: str) -> bool:
    cidr, _, lengths = member.partition(" ")
    least, _, most = lengths.partition("..")
    inner, outer = ipaddress.ip_network(prefix), ipaddress.ip_network(cidr)
    if inner.version != outer.version or not int(least) <= inner.prefixlen <= int(most):
        return False
    return inner.subnet_of(outer)  # type: ignore[arg-type]
