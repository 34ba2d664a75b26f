"""Defined sets, statements, policies and assignments.

An empty neighbour set matches every neighbour, an empty prefix set none (measured on 3.10): a statement that names an
empty neighbour set must never exist, which desired and apply see to.
"""

from __future__ import annotations

import ipaddress

from kube_router.codec.gobgp.generation import ACCEPT, EXPORT, IMPORT, REJECT, Generation, Message
from kube_router.kit.net import canonical_network
from kube_router.model.state.bgp import Assignment, AssignmentKey, DefinedSet, DefinedSetKey, Statement

GLOBAL = "global"  # the assignment that holds for every neighbour
_DIRECTIONS = {"import": IMPORT, "export": EXPORT}


def defined_set(generation: Generation, key: DefinedSetKey, members: tuple[str, ...] = ()) -> Message:
    """A DefinedSet with these members, spelled as model/state/bgp.py says; ValueError for one that is none."""
    pb = generation.pb
    if key.type == "neighbor":
        return pb.DefinedSet(defined_type=generation.set_neighbor, name=key.name, list=[_network(member) for member in members])
    return pb.DefinedSet(defined_type=generation.set_prefix, name=key.name, prefixes=[_prefix(generation, member) for member in members])


def defined_set_of(generation: Generation, message: Message) -> tuple[DefinedSetKey, DefinedSet]:
    """A listed set; members named twice count once."""
    if message.defined_type == generation.set_neighbor:
        members = {canonical_network(text) for text in message.list}
        return DefinedSetKey("neighbor", message.name), DefinedSet(tuple(sorted(members)))
    spelled = {f"{canonical_network(p.ip_prefix)} {p.mask_length_min}..{p.mask_length_max}" for p in message.prefixes}
    return DefinedSetKey("prefix", message.name), DefinedSet(tuple(sorted(spelled)))


def statement(generation: Generation, value: Statement) -> Message:
    """A Statement."""
    pb = generation.pb
    conditions = pb.Conditions(
        prefix_set=pb.MatchSet(type=generation.match_any, name=value.prefix_set),
        neighbor_set=pb.MatchSet(type=generation.match_any, name=value.neighbor_set),
    )
    return pb.Statement(name=value.name, conditions=conditions, actions=pb.Actions(route_action=ACCEPT if value.accept else REJECT))


def statement_of(generation: Generation, message: Message) -> Statement:
    """A listed statement. One that matches in another way than ours bears that in its set's name, so that it equals none of ours."""
    return Statement(
        name=message.name,
        prefix_set=_any_of(generation, message.conditions.prefix_set),
        neighbor_set=_any_of(generation, message.conditions.neighbor_set),
        accept=message.actions.route_action == ACCEPT,
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
