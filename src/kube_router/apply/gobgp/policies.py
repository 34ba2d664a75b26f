"""Defined sets, policies and assignments of a running gobgpd, read whole and written by difference.

How a change gets in without ever letting too much through:

- A set gets its new members first, and loses old ones last, after policies have changed and neighbours have gone: an emptied
  neighbour set would match every neighbour in the statements that still name it, and no rule would hold for one that left too early.
- A policy is never edited. Its successor, one number higher ("kube_router_export2"), refers to statements by name, takes
  its place in the assignment in one call, and then the old one goes with the statements that only it used.
- A statement that changes under its name goes by another one in a policy in between, for it cannot be replaced in place. Where another
  policy holds on to it (somebody else's), that one leaves its assignment for the moment, with the default of what is stricter.

Policies are listed before anything is done to them: gobgpd keeps duplicates, and answers what is already so with an error. Members of
sets are not: among ten thousand one comes or goes, and one that is named twice counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from kube_router.apply.gobgp.client import Client, Refused
from kube_router.codec.gobgp import policies as codec
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSet,
    DefinedSetKey,
    DefinedSetMember,
    Listed,
    PolicyKey,
    Statement,
)

_MEMBERS_A_CALL: Final = 2000  # some 100 KiB a message
_SET: Final = DefinedSet()
_LISTED: Final = Listed()
_NUMBERED: Final = re.compile(r"(kube_router_(?:import|export))([0-9]+)")


class Rules(msgspec.Struct, frozen=True):
    """Sets, policies and assignments under the speaker's own names, numbers included; statements of no policy too."""

    sets: dict[DefinedSetKey, frozenset[str]]
    policies: dict[str, tuple[Statement, ...]]
    assignments: dict[AssignmentKey, Assignment]
    statements: dict[str, Statement]

    def current(self, base: str) -> str:
        """The assigned policy of a base name, else the newest; "" if there is none."""
        numbered = {name for name in self.policies if _base(name) == base}
        assigned = [name for value in self.assignments.values() for name in value.policies if name in numbered]
        return assigned[0] if assigned else max(numbered, key=_number, default="")

    def successor(self, base: str) -> str:
        """A name for the next policy of a base name."""
        return f"{base}{max((_number(name) for name in self.policies if _base(name) == base), default=0) + 1}"


class RuleBook:
    """Reads and writes the rules of one gobgpd. `writes` counts calls that changed something."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.writes = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self) -> Rules:
        """All rules."""
        client, generation = self._client, self._client.generation()
        sets = {}
        for of in (generation.set_prefix, generation.set_neighbor):
            for reply in client.list("ListDefinedSet", defined_type=of):
                key, value = codec.defined_set_of(generation, reply.defined_set)
                sets[key] = value
        policies = {
            reply.policy.name: tuple(codec.statement_of(generation, entry) for entry in reply.policy.statements)
            for reply in client.list("ListPolicy")
        }
        statements = [codec.statement_of(generation, reply.statement) for reply in client.list("ListStatement")]
        assignments = dict(codec.assignment_of(reply.assignment) for reply in client.list("ListPolicyAssignment"))
        return Rules(sets, policies, assignments, {entry.name: entry for entry in statements})

    def observe(self) -> dict[Key, Value]:
        """All rules in the vocabulary of desired state: the number of a current policy is left out, others keep theirs."""
        rules = self.read()
        found: dict[Key, Value] = {}
        for of, members in rules.sets.items():
            found[of] = _SET
            found.update((DefinedSetMember(of.type, of.name, member), _LISTED) for member in members)
        plain = {}
        for name, statements in rules.policies.items():
            base = _base(name)
            plain[name] = base if base and rules.current(base) == name else name
            found[PolicyKey(plain[name])] = BgpPolicy(statements)
        for key, value in rules.assignments.items():
            if value.policies or not value.default_accept:
                found[key] = Assignment(tuple(plain.get(name, name) for name in value.policies), value.default_accept)
        return found

    # -- sets ---------------------------------------------------------------------------------------------------------

    def read_set(self, key: DefinedSetKey) -> frozenset[str] | None:
        """Members of one set as it is; None if there is none."""
        generation = self._client.generation()
        of = generation.set_neighbor if key.type == "neighbor" else generation.set_prefix
        listed = self._client.list("ListDefinedSet", defined_type=of, name=key.name)
        return next((codec.defined_set_of(generation, reply.defined_set)[1] for reply in listed), None)

    def members(self, key: DefinedSetKey) -> frozenset[str]:
        """Members of one set as it is; none if there is no such set."""
        return self.read_set(key) or frozenset()

    def put_set(self, key: DefinedSetKey) -> None:
        """Create the set, without members; the existing stays as it is."""
        if self.read_set(key) is None:
            self._send("AddDefinedSet", defined_set=codec.defined_set(self._client.generation(), key))

    def add_members(self, key: DefinedSetKey, members: Sequence[str]) -> None:
        """Give the set these members. It is not read before: a member that it has already is listed twice and counts once."""
        for some in _portions(members):
            self._send("AddDefinedSet", defined_set=codec.defined_set(self._client.generation(), key, some))

    def take_members(self, key: DefinedSetKey, members: Sequence[str]) -> None:
        """Take these members away. Refused for the last ones of a neighbour set that a policy still uses."""
        if key.type == "neighbor":
            held = self.read_set(key)
            if held is not None and held.issubset(members) and self._is_used(key.name):
                raise Refused(f"a policy still names {key.name}, which would match every neighbour when empty")
        for some in _portions(members):
            self._send("DeleteDefinedSet", defined_set=codec.defined_set(self._client.generation(), key, some))

    def delete_set(self, key: DefinedSetKey) -> None:
        """Remove the whole set; the speaker refuses while a policy names it. The absent is no error."""
        if self.read_set(key) is not None:
            self._send("DeleteDefinedSet", defined_set=codec.defined_set(self._client.generation(), key), all=True)

    # -- policies -----------------------------------------------------------------------------------------------------

    def put_policy(self, base: str, wanted: BgpPolicy) -> None:
        """Make the policy of this base name say what is wanted, assigned where it was.

        A statement that changes under its name goes by another one until the policy that held the old one is gone: at every moment
        a whole policy is in force.
        """
        rules = self.read()
        if any(_base(name) == base for name in rules.policies) and rules.policies[rules.current(base)] == wanted.statements:
            return
        self._check(wanted, rules)
        changed = self._changed(wanted, rules)
        if changed:
            meanwhile = (_under_another_name(entry) if entry.name in changed else entry for entry in wanted.statements)
            self._succeed(base, BgpPolicy(tuple(meanwhile)), rules)
            rules = self.read()
        self._succeed(base, wanted, rules)

    def _succeed(self, base: str, wanted: BgpPolicy, rules: Rules) -> None:
        """Put a new policy in the place of those of this base name."""
        old = [name for name in rules.policies if _base(name) == base]
        dropped, opened = self._free_statements(wanted, rules)
        known = self.read().statements if dropped else rules.statements
        generation = self._client.generation()
        for entry in wanted.statements:
            if entry.name not in known:
                self._send("AddStatement", statement=codec.statement(generation, entry))
        new = rules.successor(base)
        self._send("AddPolicy", policy=codec.policy(generation, new, wanted.statements), refer_existing_statements=True)
        for key, value in rules.assignments.items():
            renamed = (new if _base(name) == base else name for name in value.policies)
            names = tuple(name for name in dict.fromkeys(renamed) if name not in dropped)
            if names != value.policies or key in opened:
                self._assign(key, Assignment(names, value.default_accept))
        for name in old:
            if name not in dropped:
                self._drop_policy(name)

    def delete_policy(self, name: str) -> None:
        """Remove a policy by its base or full name, and the statements that only it used; the absent is no error."""
        for full in self.read().policies:
            if name in (full, _base(full)):
                self._drop_policy(full)

    def put_assignment(self, key: AssignmentKey, wanted: Assignment) -> None:
        """Assign policies by their base names, in one call."""
        rules = self.read()
        names = tuple(rules.current(name) or name for name in wanted.policies)
        if rules.assignments.get(key) != Assignment(names, wanted.default_accept):
            self._assign(key, Assignment(names, wanted.default_accept))

    def delete_assignment(self, key: AssignmentKey) -> None:
        """Back to no policy, everything accepted: what a speaker starts with."""
        self._assign(key, Assignment((), default_accept=True))

    def _check(self, wanted: BgpPolicy, rules: Rules) -> None:
        for entry in wanted.statements:
            neighbors = rules.sets.get(DefinedSetKey("neighbor", entry.neighbor_set))
            if not neighbors:
                raise Refused(f"neighbour set {entry.neighbor_set} of statement {entry.name} is empty and would match every neighbour")

    def _changed(self, wanted: BgpPolicy, rules: Rules) -> set[str]:
        return {entry.name for entry in wanted.statements if rules.statements.get(entry.name, entry) != entry}

    def _free_statements(self, wanted: BgpPolicy, rules: Rules) -> tuple[set[str], set[AssignmentKey]]:
        """Remove statements of wanted names that say something else; returns the policies and the assignments that lost by it."""
        edited = self._changed(wanted, rules)
        users = {name for name, statements in rules.policies.items() if edited.intersection(s.name for s in statements)}
        touched = set()
        for key, value in rules.assignments.items():
            if users.intersection(value.policies):
                left = tuple(name for name in value.policies if name not in users)
                self._assign(key, Assignment(left, default_accept=key.direction == "import" and value.default_accept))
                touched.add(key)
        for name in users:
            self._drop_policy(name)
        for name in edited.intersection(self.read().statements if edited else ()):
            entry = self._client.generation().pb.Statement(name=name)
            self._send("DeleteStatement", statement=entry, all=True)
        return users, touched

    def _assign(self, key: AssignmentKey, value: Assignment) -> None:
        self._send("SetPolicyAssignment", assignment=codec.assignment(self._client.generation(), key, value))

    def _drop_policy(self, name: str) -> None:
        self._send("DeletePolicy", policy=codec.policy(self._client.generation(), name), all=True)

    def _is_used(self, name: str) -> bool:
        used = (entry for statements in self.read().policies.values() for entry in statements)
        return any(entry.neighbor_set == name for entry in used)

    def _send(self, method: str, **fields: object) -> None:
        self._client.send(method, **fields)
        self.writes += 1


def _under_another_name(entry: Statement) -> Statement:
    return msgspec.structs.replace(entry, name=entry.name + "~")


def _portions(members: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for first in range(0, len(members), _MEMBERS_A_CALL):
        yield tuple(members[first : first + _MEMBERS_A_CALL])


def _base(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else ""


def _number(name: str) -> int:
    match = _NUMBERED.fullmatch(name)
    return int(match[2]) if match else 0
