"""A gobgpd in memory, in either generation, behind the interface of apply/gobgp/client.py.

It behaves as the real ones were measured to (tests/contract/test_gobgp.py runs the same suite on them): it refuses what exists and
what is in use, keeps members that are named twice and policies that it refused, lets an empty neighbour set match everyone, and
knows nothing after a restart.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf import text_format

from kube_router.apply.gobgp.client import Refused
from kube_router.codec.gobgp.generation import ACCEPT, EXPORT, IMPORT, Generation, load
from kube_router.codec.gobgp.paths import update_of
from kube_router.kit.errors import Busy, Stale

_LISTS = ("ListPeer", "ListPath", "ListDefinedSet", "ListStatement", "ListPolicy", "ListPolicyAssignment")


class FakeGobgpd:
    """The process. `calls`: every call that changes something, as text. `fail_at`: numbers of calls (reads count too) that get no
    answer; a failing call that writes has done its work all the same when its number is even."""

    def __init__(self, generation: str) -> None:
        self.api: Generation = load(generation)
        self.calls: list[str] = []
        self.asked = 0
        self.sessions = 0  # that were begun
        self.fail_at: frozenset[int] = frozenset()
        self.reachable = False  # neighbours: whether their sessions come up
        self.before_call: Callable[[str], None] = lambda method: None
        self.restart()

    def restart(self) -> None:
        """The process ends and comes back."""
        self.settings: Any = None
        self.dead = False
        self.peers: dict[str, Any] = {}
        self.paths: dict[str, Any] = {}
        self.sets: dict[tuple[int, str], Any] = {}
        self.statements: dict[str, Any] = {}
        self.policies: dict[str, Any] = {}
        self.assignments = {IMPORT: ((), ACCEPT), EXPORT: ((), ACCEPT)}
        self.sent: dict[str, dict[str, str]] = {}  # neighbour whose session is up -> prefix -> what was done to its path

    # -- the client's interface ---------------------------------------------------------------------------------------

    def generation(self) -> Generation:
        return self.api

    def send(self, method: str, **fields: Any) -> Any:
        request = getattr(self.api.pb, f"{method}Request")(**fields)
        fails = self._ask(method)
        if fails and self.asked % 2:
            raise Busy("told to give no answer")
        reply = getattr(self, f"_{_snake(method)}")(request)
        if method != "GetBgp":
            text = text_format.MessageToString(request, as_one_line=True)
            self.calls.append(f"{method} {text}".rstrip())
        if fails:
            raise Busy("told to give no answer")
        return reply

    def pour(self, method: str, messages: Iterable[dict[str, Any]]) -> None:
        """One failure may come after some messages."""
        for fields in messages:
            self.send(method, **fields)

    def list(self, method: str, **fields: Any) -> list[Any]:
        assert method in _LISTS
        request = getattr(self.api.pb, f"{method}Request")(**fields)
        if self._ask(method):
            raise Busy("told to give no answer")
        return list(getattr(self, f"_{_snake(method)}")(request))

    @contextmanager
    def silence(self) -> Iterator[None]:
        yield

    def _ask(self, method: str) -> bool:
        self.before_call(method)
        self.asked += 1
        if self.dead:
            raise Busy("BGP is stopped for good")
        return self.asked - 1 in self.fail_at

    def _active(self) -> None:
        if self.settings is None:
            raise Stale("BGP is not started in gobgpd")

    # -- the speaker --------------------------------------------------------------------------------------------------

    def _get_bgp(self, request: Any) -> Any:
        return self.api.pb.GetBgpResponse(**({"global": self.settings} if self.settings is not None else {}))

    def _start_bgp(self, request: Any) -> None:
        if self.settings is not None:
            raise Refused("listen tcp4: address already in use")
        self.settings = getattr(request, "global")

    def _stop_bgp(self, request: Any) -> None:
        self.restart()
        self.dead = self.api.name == "v4"

    def _add_peer(self, request: Any) -> None:
        self._active()
        address = request.peer.conf.neighbor_address
        if address in self.peers:
            raise Refused(f"can't overwrite the existing peer: {address}")
        self.peers[address] = peer = type(request.peer)()
        peer.CopyFrom(request.peer)
        peer.conf.local_asn = self.settings.asn
        self.sessions += 1
        peer.state.session_state = 6 if self.reachable else 3
        if self.reachable:
            self.sent[address] = self.to_send(address)

    def _update_peer(self, request: Any) -> None:
        """In place BFD alone changes, where it exists; for all else the session starts anew, or keeps what it had."""
        self._active()
        held = self.peers.get(request.peer.conf.neighbor_address)
        if held is None:
            raise Refused(f"neighbor that has {request.peer.conf.neighbor_address} doesn't exist")
        held.bfd.CopyFrom(request.peer.bfd)

    def _delete_peer(self, request: Any) -> None:
        self._active()
        if self.peers.pop(request.address, None) is None:
            raise Refused(f"can't delete a peer configuration for {request.address}")
        self.sent.pop(request.address, None)

    def _list_peer(self, request: Any) -> Iterator[Any]:
        for address, peer in self.peers.items():
            if request.address in ("", address):
                yield self.api.pb.ListPeerResponse(peer=peer)

    def _reset_peer(self, request: Any) -> None:
        self._active()
        if request.address not in self.peers:
            raise Refused(f"neighbor that has {request.address} doesn't exist")
        if request.address not in self.sent or (request.soft and request.direction == self.api.reset_in):
            return
        judged = self.to_send(request.address)
        # Softly the third generation sends what is accepted now, and leaves with the neighbour what no longer is.
        kept = self.sent[request.address] if request.soft and not self.api.withdraws_softly else {}
        self.sent[request.address] = kept | judged

    # -- paths --------------------------------------------------------------------------------------------------------

    def _add_path(self, request: Any) -> None:
        self._active()
        self._come(request.path)

    def _add_path_stream(self, request: Any) -> None:
        self._active()
        for path in request.paths:
            if path.is_withdraw:
                self._go(path)
            else:
                self._come(path)

    def _delete_path(self, request: Any) -> None:
        self._active()
        if not request.HasField("path"):
            self.paths.clear()
        elif not request.path.pattrs:
            raise Refused("nexthop not found")
        else:
            self._go(request.path)

    def _come(self, path: Any) -> None:
        self.paths[str(path.nlri)] = path
        for address, sent in self.sent.items():
            accepted, done = self._decide(EXPORT, self._prefix(path), address, "local")
            if accepted:
                sent[self._prefix(path)] = done
            else:
                sent.pop(self._prefix(path), None)

    def _go(self, path: Any) -> None:
        self.paths.pop(str(path.nlri), None)
        for sent in self.sent.values():
            sent.pop(self._prefix(path), None)

    def _prefix(self, path: Any) -> str:
        update = update_of(self.api, path)
        return update.prefix if update is not None else ""

    def _list_path(self, request: Any) -> Iterator[Any]:
        self._active()
        for path in self.paths.values():
            if path.family.afi == request.family.afi and all(_is_inside(self.api, path, asked) for asked in request.prefixes):
                listed = type(path)()
                listed.CopyFrom(path)
                listed.best, listed.neighbor_ip = True, "<nil>" if self.api.name == "v3" else ""
                yield self.api.pb.ListPathResponse(destination=self.api.pb.Destination(paths=[listed]))

    # -- rules --------------------------------------------------------------------------------------------------------

    def _add_defined_set(self, request: Any) -> None:
        if self.settings is None:
            raise Refused("invalid defined-set type")
        new = request.defined_set
        held = self.sets.setdefault((new.defined_type, new.name), type(new)(defined_type=new.defined_type, name=new.name))
        held.list.extend(new.list)
        held.prefixes.extend(new.prefixes)

    def _delete_defined_set(self, request: Any) -> None:
        gone = request.defined_set
        held = self.sets.get((gone.defined_type, gone.name))
        if held is None:
            raise Refused(f"not found defined-set: {gone.name}")
        if request.all:
            if any(gone.name in _sets_of(s) for p in self.policies.values() for s in p):
                raise Refused(f"can't delete. defined-set {gone.name} is in use")
            del self.sets[gone.defined_type, gone.name]
            return
        left = [member for member in held.list if member not in gone.list]
        prefixes = [prefix for prefix in held.prefixes if prefix not in gone.prefixes]
        del held.list[:], held.prefixes[:]
        held.list.extend(left)
        held.prefixes.extend(prefixes)

    def _list_defined_set(self, request: Any) -> Iterator[Any]:
        for (of, name), held in self.sets.items():
            if of == request.defined_type and request.name in ("", name):
                yield self.api.pb.ListDefinedSetResponse(defined_set=held)

    def _add_statement(self, request: Any) -> None:
        new = request.statement
        if new.name in self.statements:
            raise Refused("condition 0 is already set")
        for name in filter(None, _sets_of(new)):
            if name not in {known for _, known in self.sets}:
                raise Refused(f"not found set {name}")
        self.statements[new.name] = new

    def _delete_statement(self, request: Any) -> None:
        name = request.statement.name
        if any(name == s.name for p in self.policies.values() for s in p):
            raise Refused(f"can't delete. statement {name} is in use")
        if self.statements.pop(name, None) is None:
            raise Refused(f"not found statement: {name}")

    def _list_statement(self, request: Any) -> Iterator[Any]:
        for held in self.statements.values():
            yield self.api.pb.ListStatementResponse(statement=held)

    def _add_policy(self, request: Any) -> None:
        assert request.refer_existing_statements, "statements of their own are refused when they exist"
        name, named = request.policy.name, list(request.policy.statements)
        missing = [entry.name for entry in named if entry.name not in self.statements]
        filled = named if missing else [self.statements[entry.name] for entry in named]
        if name in self.policies:  # extended, whatever is missing
            self.policies[name].extend(filled)
            return
        self.policies[name] = filled  # kept even when refused
        if missing:
            raise Refused(f"not found statement {missing[0]}")

    def _delete_policy(self, request: Any) -> None:
        name = request.policy.name
        if name not in self.policies:
            raise Refused(f"not found policy: {name}")
        if name in self.assignments[EXPORT][0]:
            raise Refused(f"can't delete. policy {name} is in use")
        gone = self.policies.pop(name)
        for entry in gone:
            if not request.preserve_statements and not any(entry.name == s.name for p in self.policies.values() for s in p):
                self.statements.pop(entry.name, None)

    def _list_policy(self, request: Any) -> Iterator[Any]:
        for name, statements in self.policies.items():
            if request.name in ("", name):
                yield self.api.pb.ListPolicyResponse(policy=self.api.pb.Policy(name=name, statements=statements))

    def _set_policy_assignment(self, request: Any) -> None:
        new = request.assignment
        assert new.name == "global"
        names = tuple(policy.name for policy in new.policies)
        for name in names:
            if name not in self.policies:
                raise Refused(f"not found policy {name}")
        self.assignments[new.direction] = (names, new.default_action)

    def _list_policy_assignment(self, request: Any) -> Iterator[Any]:
        pb = self.api.pb
        for direction, (names, default) in self.assignments.items():
            policies = [pb.Policy(name=name) for name in names]
            value = pb.PolicyAssignment(name="global", direction=direction, policies=policies, default_action=default)
            yield pb.ListPolicyAssignmentResponse(assignment=value)

    # -- what would go to whom ----------------------------------------------------------------------------------------

    def judges(self, direction: int, prefix: str, neighbor: str, source: str = "local") -> bool:
        """Whether the assigned policies let a prefix through, to or from a neighbour, as gobgpd decides it. `source`: internal,
        external or local, as where the route was learned."""
        return self._decide(direction, prefix, neighbor, source)[0]

    def to_send(self, neighbor: str) -> dict[str, str]:
        """Prefixes of our paths that policies let out to a neighbour, and what they do to them."""
        judged = {self._prefix(path): self._decide(EXPORT, self._prefix(path), neighbor, "local") for path in self.paths.values()}
        return {prefix: done for prefix, (accepted, done) in judged.items() if accepted}

    def _decide(self, direction: int, prefix: str, neighbor: str, source: str) -> tuple[bool, str]:
        names, default = self.assignments[direction]
        for name in names:
            for entry in self.policies[name]:
                of = entry.conditions.route_type
                if of and of != ("", "internal", "external", "local").index(source):
                    continue
                if self._prefix_matches(entry, prefix) and self._neighbor_matches(entry, neighbor):
                    return bool(entry.actions.route_action == ACCEPT), str(entry.actions)
        return bool(default == ACCEPT), ""

    def _prefix_matches(self, entry: Any, prefix: str) -> bool:
        name = entry.conditions.prefix_set.name
        return not name or any(_covers(member, prefix) for member in self.sets[self.api.set_prefix, name].prefixes)

    def _neighbor_matches(self, entry: Any, neighbor: str) -> bool:
        held = self.sets[self.api.set_neighbor, entry.conditions.neighbor_set.name]
        return not held.list or any(member.partition("/")[0] == neighbor for member in held.list)


def _is_inside(api: Generation, path: Any, asked: Any) -> bool:
    assert asked.type == api.longer_prefixes
    update = update_of(api, path)
    assert update is not None
    inner = ipaddress.ip_network(update.prefix)
    return inner.subnet_of(ipaddress.ip_network(asked.prefix))  # type: ignore[arg-type]


def _covers(member: Any, prefix: str) -> bool:
    inner, outer = ipaddress.ip_network(prefix), ipaddress.ip_network(member.ip_prefix)
    if inner.version != outer.version or not member.mask_length_min <= inner.prefixlen <= member.mask_length_max:
        return False
    return inner.subnet_of(outer)  # type: ignore[arg-type]


def _sets_of(statement: Any) -> tuple[str, str]:
    return statement.conditions.prefix_set.name, statement.conditions.neighbor_set.name


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
