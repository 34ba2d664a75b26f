"""Defined sets, statements, policies and assignments.

An empty neighbour set matches every neighbour, an empty prefix set none (measured on 3.10): a statement that names an
empty neighbour set must never exist, which desired and apply see to.
"""

from __future__ import annotations

import ipaddress

from kube_router.codec.gobgp.generation import ACCEPT, EXPORT, IMPORT, REJECT, Generation, Message
from kube_router.kit.net import canonical_address, canonical_network
from kube_router.model.state.bgp import Assignment, AssignmentKey, DefinedSetKey, Statement

GLOBAL = "global"  # the assignment that holds for every neighbour
SELF = "self"  # a next hop: the local address of the session that the route goes out by
_DIRECTIONS = {"import": IMPORT, "export": EXPORT}
_SOURCES = ("", "internal", "external", "local")  # Conditions.RouteType, the same numbers in both generations


def defined_set(generation: Generation, key: DefinedSetKey, members: tuple[str, ...] = ()) -> Message:
    """A DefinedSet with these members, spelled as model/state/bgp.py says; ValueError for one that is none."""
    pb = generation.pb
    if key.type == "neighbor":
        return pb.DefinedSet(defined_type=generation.set_neighbor, name=key.name, list=[_network(member) for member in members])
    return pb.DefinedSet(defined_type=generation.set_prefix, name=key.name, prefixes=[_prefix(generation, member) for member in members])


def defined_set_of(generation: Generation, message: Message) -> tuple[DefinedSetKey, frozenset[str]]:
    """A listed set and its members; those named twice count once."""
    if message.defined_type == generation.set_neighbor:
        return DefinedSetKey("neighbor", message.name), frozenset(canonical_network(text) for text in message.list)
    spelled = frozenset(f"{canonical_network(p.ip_prefix)} {p.mask_length_min}..{p.mask_length_max}" for p in message.prefixes)
    return DefinedSetKey("prefix", message.name), spelled


def statement(generation: Generation, value: Statement) -> Message:
    """A Statement."""
    pb = generation.pb
    conditions = pb.Conditions(neighbor_set=pb.MatchSet(type=generation.match_any, name=value.neighbor_set))
    if value.prefix_set:
        conditions.prefix_set.CopyFrom(pb.MatchSet(type=generation.match_any, name=value.prefix_set))
    if value.source:
        conditions.route_type = _SOURCES.index(value.source)
    actions = pb.Actions(route_action=ACCEPT if value.accept else REJECT)
    if value.prepend:
        asn, times = value.prepend
        actions.as_prepend.CopyFrom(pb.AsPrependAction(asn=asn, repeat=times))
    if value.communities:
        actions.community.CopyFrom(pb.CommunityAction(type=generation.community_add, communities=value.communities))
    if value.next_hop:
        is_self = value.next_hop == SELF
        actions.nexthop.CopyFrom(pb.NexthopAction(self=is_self, address="" if is_self else canonical_address(value.next_hop)))
    return pb.Statement(name=value.name, conditions=conditions, actions=actions)


def statement_of(generation: Generation, message: Message) -> Statement:
    """A listed statement. One that matches or acts in another way than ours bears that in the field, so that it equals none of ours."""
    actions = message.actions
    prepend = actions.as_prepend
    return Statement(
        name=message.name,
        prefix_set=_any_of(generation, message.conditions.prefix_set),
        neighbor_set=_any_of(generation, message.conditions.neighbor_set),
        accept=actions.route_action == ACCEPT,
        source=_SOURCES[message.conditions.route_type] if message.conditions.route_type < len(_SOURCES) else "?",
        prepend=(0 if prepend.use_left_most else prepend.asn, prepend.repeat) if prepend.repeat else None,
        communities=_added(generation, actions.community),
        next_hop=_next_hop(actions.nexthop),
    )


def policy(generation: Generation, name: str, statements: tuple[Statement, ...] = ()) -> Message:
    """A Policy by its full name, referring to its statements by name."""
    pb = generation.pb
    return pb.Policy(name=name, statements=[pb.Statement(name=value.name) for value in statements])


def assignment(generation: Generation, key: AssignmentKey, value: Assignment) -> Message:
    """The global PolicyAssignment of a direction; policies by their full names."""
    pb = generation.pb
    return pb.PolicyAssignment(
        name=GLOBAL,
        direction=_DIRECTIONS[key.direction],
        policies=[pb.Policy(name=name) for name in value.policies],
        default_action=ACCEPT if value.default_accept else REJECT,
    )


def assignment_of(message: Message) -> tuple[AssignmentKey, Assignment]:
    """A listed assignment; policies by their full names."""
    direction = "import" if message.direction == IMPORT else "export"
    names = tuple(entry.name for entry in message.policies)
    return AssignmentKey(direction), Assignment(names, default_accept=message.default_action != REJECT)


def _added(generation: Generation, action: Message) -> tuple[str, ...]:
    if not action.communities:
        return ()
    return tuple(action.communities) if action.type == generation.community_add else ("not added", *action.communities)


def _next_hop(action: Message) -> str:
    if action.self:
        return SELF
    return "unchanged" if action.unchanged else str(action.address)


def _any_of(generation: Generation, match: Message) -> str:
    if not match.name:
        return ""
    return str(match.name) if match.type == generation.match_any else f"{match.name}!{match.type}"


def _network(member: str) -> str:
    if canonical_network(member) != member:
        raise ValueError(f"{member!r} is no canonical CIDR")
    return member


def _prefix(generation: Generation, member: str) -> Message:
    cidr, _, lengths = member.partition(" ")
    least, _, most = lengths.partition("..")
    bits = ipaddress.ip_network(_network(cidr)).max_prefixlen
    if not (least.isdigit() and most.isdigit() and int(least) <= int(most) <= bits):
        raise ValueError(f"{member!r} is no prefix with a range of lengths")
    return generation.pb.Prefix(ip_prefix=cidr, mask_length_min=int(least), mask_length_max=int(most))
