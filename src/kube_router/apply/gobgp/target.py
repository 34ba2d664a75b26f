"""gobgpd as a target: its global configuration, rules, own paths and neighbours.

It outlives us, so everything is read back from it: a running speaker that already holds what is wanted gets no call that
writes. What it does beside obeying:

- A speaker that is not started is started, and what was said to it before counts for nothing (Stale: plan anew).
- ASN, identifier, port and listen addresses cannot change while it runs: it is stopped, which ends every session, and with
  v4 the process is of no more use until its supervisor restarts it. A speaker that nobody wants stays as it is, empty.
- Sessions that start anew for a change (neighbors.py), and the speaker itself, are told of before, as Events.
- Neighbours are told that we restarted (R and F bits, RFC 4724) only when they are added in the pass that started the speaker
  and `preserved()` says that the kernel still has our routes. It is called in a worker thread.
- After rules have changed under existing sessions, routes follow by soft reset, of those sessions that the change concerns. A v3 speaker
  does not withdraw what is rejected now: there a session to which something must be taken back starts anew.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final, TypeVar

from kube_router.apply.gobgp.client import Client, Refused
from kube_router.apply.gobgp.neighbors import NeighborBook, Tell, differences, say_nothing
from kube_router.apply.gobgp.paths import PathBook
from kube_router.apply.gobgp.policies import RuleBook
from kube_router.apply.gobgp.resets import Doubt, Reset, doubts, reset_after
from kube_router.codec.gobgp import speaker as codec
from kube_router.codec.gobgp.speaker import PeerStatus, status_of
from kube_router.kit.errors import Busy, Stale
from kube_router.kit.net import family_of
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.bgp import (
    AssignmentKey,
    DefinedSetKey,
    DefinedSetMember,
    NeighborKey,
    PathKey,
    PolicyKey,
    Speaker,
    SpeakerKey,
)

_KINDS: Final = (SpeakerKey, DefinedSetKey, DefinedSetMember, PolicyKey, AssignmentKey, PathKey, NeighborKey)

K = TypeVar("K", bound=Key)
G = TypeVar("G")


class GobgpTarget:
    """One gobgpd. `calls` counts the calls that changed something in it, by method."""

    def __init__(self, client: Client, *, preserved: Callable[[], bool] = lambda: False, tell: Tell = say_nothing) -> None:
        self._client = client
        self._preserved = preserved
        self._tell = tell
        self._neighbors = NeighborBook(client, self._call, tell)
        self._rules = RuleBook(client)
        self._paths = PathBook(client, self._call, self._pour)
        self._lock = threading.Lock()
        self._restarting = False
        self._fresh = False
        self._doubted: frozenset[Doubt] = frozenset()  # routes that are still to be judged anew, should a pass have broken off
        self.calls: Counter[str] = Counter()

    @property
    def kinds(self) -> tuple[type[Key], ...]:
        """Everything of the speaker."""
        return _KINDS

    @property
    def writes(self) -> int:
        """Calls that changed something in the speaker."""
        return self._rules.writes + sum(self.calls.values())

    # -- observing ----------------------------------------------------------------------------------------------------

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """All that the speaker holds; nothing while it is not started."""
        with self._lock:
            speaker = self._speaker()
            if speaker is None:
                self._doubted = frozenset()
                return {}
            if self._doubted:
                self._judge_anew(self._sessions())
            found: dict[Key, Value] = {SpeakerKey(): speaker} if SpeakerKey() in wanted else {}
            found.update(self._rules.observe())
            found.update(self._paths.observe())
            found.update(self._neighbors.observe(wanted, speaker.addresses))
            return found

    def _speaker(self) -> Speaker | None:
        try:
            return codec.speaker_of(self._client.send("GetBgp"))
        except Refused as refusal:
            raise Busy(f"gobgpd does not tell its configuration: {refusal}") from None

    # -- applying -----------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make all changes; see the module's text for what it does beside. Raises Busy, Stale."""
        with self._lock:
            try:
                return self._apply(changes)
            except Refused as refusal:
                raise Busy(f"gobgpd refused to answer: {refusal}") from None

    def _apply(self, changes: Sequence[Change]) -> dict[Key, str]:
        start = next((change for change in changes if isinstance(change.key, SpeakerKey) and change.after is not None), None)
        if start is not None:
            self._start(start.before, start.after)
        elif self._speaker() is None:
            raise Stale("BGP is not started in gobgpd: it has been restarted")
        steps = _Steps(changes)
        if not self._fresh:
            self._doubted |= doubts(changes)
        sessions = self._sessions() if self._doubted else []
        book = self._neighbors
        peers = [change.key for change in changes if isinstance(change.key, NeighborKey)]
        held = book.held(peers) if peers else {}
        steps.delete(NeighborKey, lambda key, _: book.delete(key, held))
        self._put_rules(steps)
        steps.put_together(PathKey, _all, lambda _, some: self._paths.announce(some))
        steps.put(NeighborKey, lambda key, _, after: book.put(key, after, held, restarting=self._restarting))
        steps.delete_together(PathKey, _all, lambda _, some: self._paths.withdraw(some))
        self._delete_rules(steps)
        self._judge_anew(sessions)
        self._restarting = self._fresh = False
        return steps.rejected

    def _start(self, believed: Speaker | None, wanted: Speaker) -> None:
        held = self._speaker()
        if held == wanted:
            return
        request = codec.start_request(self._client.generation(), wanted)
        restarting = self._preserved()
        if held is not None:
            self._tell("SessionRestart", f"the BGP speaker and all its sessions start anew for its {differences(held, wanted)}")
            with self._client.silence():
                self._call("StopBgp")
        try:
            self._call("StartBgp", **{"global": getattr(request, "global")})
        except Refused as refusal:
            raise Busy(f"gobgpd cannot start BGP as AS {wanted.asn} on {', '.join(wanted.addresses)}: {refusal}") from None
        self._fresh, self._restarting = True, restarting
        self._doubted = frozenset()
        if held is None and believed is not None:
            raise Stale("BGP had been stopped: what gobgpd is believed to hold is gone")
        if held is not None:
            raise Stale("BGP was stopped and started for its new configuration: everything else in it is gone")

    def _put_rules(self, steps: _Steps) -> None:
        rules = self._rules
        steps.put(DefinedSetKey, lambda key, _, __: rules.put_set(key))
        steps.put_together(DefinedSetMember, _set_of, lambda of, some: rules.add_members(of, _members(some)))
        steps.put(PolicyKey, lambda key, _, after: rules.put_policy(key.name, after))
        steps.put(AssignmentKey, lambda key, _, after: rules.put_assignment(key, after))

    def _delete_rules(self, steps: _Steps) -> None:
        rules = self._rules
        steps.delete(AssignmentKey, lambda key, _: rules.delete_assignment(key))
        steps.delete(PolicyKey, lambda key, _: rules.delete_policy(key.name))
        steps.delete_together(DefinedSetMember, _set_of, lambda of, some: rules.take_members(of, _members(some)))
        steps.delete(DefinedSetKey, lambda key, _: rules.delete_set(key))

    def _sessions(self) -> list[PeerStatus]:
        return [status_of(reply.peer) for reply in self._client.list("ListPeer")]

    def _has_routes(self, prefix: str) -> bool:
        generation = self._client.generation()
        inside = generation.pb.TableLookupPrefix(prefix=prefix, type=generation.longer_prefixes)
        of = codec.family(generation, family_of(prefix))
        return bool(self._client.list("ListPath", table_type=generation.table_global, family=of, prefixes=[inside]))

    def _judge_anew(self, sessions: Sequence[PeerStatus]) -> None:
        if self._doubted:
            soft = self._client.generation().withdraws_softly
            self._reset(reset_after(self._doubted, sessions, _Asked(self._rules, self._has_routes), soft_withdraws=soft))
            self._doubted = frozenset()

    def _reset(self, reset: Reset) -> None:
        generation = self._client.generation()
        for address in reset.received:
            self._try_reset(address=address, soft=True, direction=generation.reset_in)
        for address in reset.sent:
            self._try_reset(address=address, soft=True, direction=generation.reset_out)
        for address in reset.hard:
            self._neighbors.begin_anew(
                address, "it must take back routes that are no longer let out to it, and this speaker, gobgpd 3, cannot"
            )

    def _try_reset(self, **fields: object) -> None:
        try:
            self._call("ResetPeer", **fields)
        except Refused:
            return  # the neighbour went in the meantime: nothing of it is left to judge anew

    def _pour(self, method: str, messages: Iterable[Mapping[str, object]]) -> None:
        self._client.pour(method, messages)
        self.calls[method] += 1

    def _call(self, method: str, **fields: object) -> None:
        self._client.send(method, **fields)
        self.calls[method] += 1


class _Asked:
    """Answers of the speaker, asked for once each."""

    def __init__(self, rules: RuleBook, has_routes: Callable[[str], bool]) -> None:
        self.members = cache(rules.members)
        self.has_routes = cache(has_routes)


def _set_of(key: DefinedSetMember) -> DefinedSetKey:
    return DefinedSetKey(key.type, key.name)


def _members(changes: Iterable[Change]) -> list[str]:
    return [change.key.member for change in changes if isinstance(change.key, DefinedSetMember)]


def _all(_: Key) -> None:
    return None


class _Steps:
    """The changes of one pass, done kind by kind; a refusal is kept with its key, and nothing more is tried on that key."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self.rejected: dict[Key, str] = {}

    def put(self, kind: type[K], do: Callable[[K, Any, Any], None]) -> None:
        """Every creation and update of the kind, in order: `do(key, before, after)`."""
        for change in self._changes:
            if isinstance(change.key, kind) and change.after is not None:
                self._try(change.key, partial(do, change.key, change.before, change.after))

    def delete(self, kind: type[K], do: Callable[[K, Any], None]) -> None:
        """Every removal of the kind, in order: `do(key, before)`."""
        for change in self._changes:
            if isinstance(change.key, kind) and change.after is None:
                self._try(change.key, partial(do, change.key, change.before))

    def put_together(self, kind: type[K], group: Callable[[K], G], do: Callable[[G, list[Change]], None]) -> None:
        """Creations and updates of the kind by group: `do(group, changes)`. Where that is refused they are tried one by one."""
        self._together([change for change in self._changes if isinstance(change.key, kind) and change.after is not None], group, do)

    def delete_together(self, kind: type[K], group: Callable[[K], G], do: Callable[[G, list[Change]], None]) -> None:
        """Removals of the kind by group, likewise."""
        self._together([change for change in self._changes if isinstance(change.key, kind) and change.after is None], group, do)

    def _together(self, changes: list[Change], group: Callable[[Any], G], do: Callable[[G, list[Change]], None]) -> None:
        groups: dict[G, list[Change]] = {}
        for change in changes:
            groups.setdefault(group(change.key), []).append(change)
        for of, some in groups.items():
            try:
                do(of, some)
            except (Refused, ValueError):
                for change in some:
                    self._try(change.key, partial(do, of, [change]))

    def _try(self, key: Key, do: Callable[[], None]) -> None:
        if key in self.rejected:
            return
        try:
            do()
        except (Refused, ValueError) as refusal:
            self.rejected[key] = str(refusal)
