"""The BGP speaker: nodes become its sessions, this node its own configuration and paths, Services paths."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from kube_router.cache.cache import Changes, View
from kube_router.codec.annotations import OF_PEERS
from kube_router.config.options import Options
from kube_router.desired import NOTHING, Desired, obstacles
from kube_router.desired.external_ips import ranges
from kube_router.desired.routing.external import external, external_peers
from kube_router.desired.routing.peers import neighbor
from kube_router.desired.routing.rules import memberships, rules, terms
from kube_router.desired.routing.speaker import identity, itself
from kube_router.desired.routing.vips import Announcer, announcer, drain_notes, vips
from kube_router.model.objects import EndpointSlice, Kind, Name, Node, Ref
from kube_router.model.state import Key
from kube_router.model.state.bgp import AssignmentKey, DefinedSetKey, DefinedSetMember, NeighborKey, PathKey, PolicyKey, SpeakerKey
from kube_router.plan import ownership
from kube_router.plan.ledger import Ledger

SELF: Final = ("speaker",)
RULES: Final = ("rules",)
EXTERNALS: Final = ("external peers",)
DRAIN: Final = ("drain",)


def peers_of(ledger: Ledger) -> frozenset[str] | None:
    """Addresses of the peers that the speaker is told to have; None while it has not been programmed in this life of ours."""
    if SpeakerKey() not in ledger.held:
        return None
    return frozenset(key.address for key in ledger.merged if isinstance(key, NeighborKey))


class SpeakerController:
    """Items: the speaker itself with its pod ranges, its rules, its sessions with external peers, one with every node, and what each
    Service has announced."""

    name = ownership.SPEAKER
    reads = frozenset({Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.INTERFACE})
    writes: tuple[type[Key], ...] = (SpeakerKey, DefinedSetKey, DefinedSetMember, PolicyKey, AssignmentKey, PathKey, NeighborKey)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._own = Name("", options.node_name)
        self._allowed = ranges(options)
        # Derived from the view and kept between passes: all Services depend on it, and nearly no change touches it.
        self._around: Announcer | None = None

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A node touches its session, and what claims addresses of it or its pods; ours touches all sessions, and all Services when it
        is another announcer than before. A Service touches itself, and a slice its Service."""
        if any(self._may_matter(ref) for ref in changes):
            yield from self._look_around(view)
        owners = [(ref, before) for ref, before in changes.items() if ref.kind in (Kind.NODE, Kind.INTERFACE)]
        yield from obstacles.concerned(((before, view.store(ref.kind).get(ref.name)) for ref, before in owners), view)
        for ref, before in changes.items():
            if ref.kind is Kind.NODE:
                yield from self._touched_by_node(ref, before if isinstance(before, Node) else None, view)
            elif ref.kind is Kind.SERVICE:
                yield ref
            elif ref.kind is Kind.ENDPOINT_SLICE:
                for piece in (before, view.slices.get(ref.name)):
                    if isinstance(piece, EndpointSlice):
                        yield Ref(Kind.SERVICE, piece.service)

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/{speaker,peers,rules,vips}.py."""
        own = view.nodes.get(self._own)
        if item == SELF:
            return itself(own, self._options)
        if own is None or identity(own, self._options) is None:
            return NOTHING
        if item == EXTERNALS:
            return external(own, self._options)
        if item == RULES:
            return rules(own, terms(own, self._options), self._options)
        if item == DRAIN:
            return Desired(notes=drain_notes(self._around, own, self._options))
        assert isinstance(item, Ref)
        if item.kind is Kind.SERVICE:
            return self._service(item.name, view)
        desired = neighbor(view.nodes.get(item.name), own, view.nodes, self._options)
        joined = memberships(desired.state, _externals(own, self._options))
        return msgspec.structs.replace(desired, state=desired.state | joined)

    def _service(self, name: Name, view: View) -> Desired:
        service = view.services.get(name)
        if service is None:
            return NOTHING
        return vips(
            service,
            view.slices.each("service", name),
            self._around,
            options=self._options,
            allowed=self._allowed,
            is_node=lambda address: view.nodes.has("address", address),
            obstacle=partial(obstacles.obstacle, own=self._own.name, view=view),
        )

    def _touched_by_node(self, ref: Ref, was: Node | None, view: View) -> Iterator[Hashable]:
        now = view.nodes.get(ref.name)
        if was is not None and now is not None and _facts(was, own=ref.name == self._own) == _facts(now, own=ref.name == self._own):
            return
        yield ref
        if ref.name == self._own:
            yield SELF
            yield RULES
            yield EXTERNALS
            if was is None or now is None or _of_sessions(was) != _of_sessions(now):
                yield from (Ref(Kind.NODE, name) for name in view.nodes)
                return
            for address in _externals(was, self._options) ^ _externals(now, self._options):
                yield from (Ref(Kind.NODE, node.name) for node in view.nodes.each("address", address))
            return
        for address in {*_session_addresses(was), *_session_addresses(now)}:
            yield from (Ref(Kind.NODE, node.name) for node in view.nodes.by("address", address))

    def _may_matter(self, ref: Ref) -> bool:
        """Whether what this node announces may depend on a change: of others it only does while this node is cordoned."""
        cordoned = self._around is not None and self._around.drain == "cordoned"
        return ref.kind is Kind.NODE and (ref.name == self._own or cordoned)

    def _look_around(self, view: View) -> Iterator[Hashable]:
        own = view.nodes.get(self._own)
        now = announcer(own, view.nodes.values, self._options) if identity(own, self._options) is not None else None
        if now != self._around:
            self._around = now
            yield DRAIN
            yield from (Ref(Kind.SERVICE, name) for name in view.services)


def _externals(own: Node, options: Options) -> frozenset[str]:
    return frozenset(peer.address for peer in external_peers(own, options))


def _session_addresses(node: Node | None) -> tuple[str, ...]:
    """Those that a session with the node may go to."""
    return (*node.addresses[:1], *node.datapath) if node else ()


def _of_sessions(node: Node) -> tuple[object, ...]:
    """What one end of a session between nodes brings to it."""
    return node.addresses, node.datapath, tuple(node.annotations.get(name) for name in OF_PEERS)


def _facts(node: Node, *, own: bool) -> tuple[object, ...]:
    said = (node.annotations, node.rejected) if own else ()
    return _of_sessions(node), node.pod_cidrs, node.created, said
