"""Paths and what the speaker tells of them.

The third generation wraps NLRI and attributes in google.protobuf.Any, the fourth in messages with one field per kind.
IPv4 unicast carries its next hop as NEXT_HOP (RFC 4271 5.1.3), IPv6 in MP_REACH_NLRI (RFC 4760 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from kube_router.codec.gobgp.generation import Generation, Message
from kube_router.codec.gobgp.speaker import PeerStatus, family, status_of
from kube_router.kit.net import canonical_address, canonical_network, family_of
from kube_router.model.state.bgp import Path, PathKey

_ANY: Final = "type.googleapis.com/apipb."
_IGP: Final = 0  # ORIGIN (RFC 4271 5.1.1)
_UNICAST: Final = 1


class PathUpdate(msgspec.Struct, frozen=True):
    """A best path of a prefix, or that it has none any more. `local`: we originate it ourselves, so it leads nowhere.

    `source`: the neighbour that it was learned from.
    """

    prefix: str
    next_hop: str = ""
    local: bool = False
    withdrawn: bool = False
    source: str = ""


class Paths(msgspec.Struct, frozen=True):
    """An event: best paths changed; the first after `PeersListed` holds all that the speaker has then.

    Of the equal paths of a prefix the third generation tells all whenever one changes; from the fourth only those that came, changed
    or went (`delta`).
    """

    updates: tuple[PathUpdate, ...]
    delta: bool = False


class PeersListed(msgspec.Struct, frozen=True):
    """An event: every peer that existed when the watch began has been named. Comes even from a speaker that is not started."""


Event = Paths | PeersListed | PeerStatus


def path(generation: Generation, key: PathKey, value: Path) -> Message:
    """A path of our own: origin IGP and the next hop, which must be of the prefix's family."""
    if canonical_network(key.prefix) != key.prefix or canonical_address(value.next_hop) != value.next_hop:
        raise ValueError(f"{key.prefix!r} via {value.next_hop!r} is not in canonical form")
    of = family_of(key.prefix)
    if family_of(value.next_hop) != of:
        raise ValueError(f"next hop {value.next_hop} is of another family than {key.prefix}")
    pb = generation.pb
    origin = pb.OriginAttribute(origin=_IGP)
    message = prefix(generation, key)
    if of == 4:
        message.pattrs.extend([_attribute(generation, "origin", origin)])
        message.pattrs.extend([_attribute(generation, "next_hop", pb.NextHopAttribute(next_hop=value.next_hop))])
        return message
    reach = pb.MpReachNLRIAttribute(family=family(generation, of), next_hops=[value.next_hop], nlris=[message.nlri])
    message.pattrs.extend([_attribute(generation, "origin", origin), _attribute(generation, "mp_reach", reach)])
    return message


def prefix(generation: Generation, key: PathKey) -> Message:
    """A path's destination alone."""
    address, _, length = key.prefix.partition("/")
    pb = generation.pb
    nlri = pb.IPAddressPrefix(prefix=address, prefix_len=int(length))
    wrapped = _packed(nlri) if generation.name == "v3" else pb.NLRI(prefix=nlri)
    return pb.Path(nlri=wrapped, family=family(generation, family_of(key.prefix)))


def own_paths(generation: Generation, destination: Message) -> Iterator[tuple[PathKey, Path]]:
    """Those paths of a listed destination that were originated here."""
    for message in destination.paths:
        update = update_of(generation, message)
        if update is not None and update.local and not update.withdrawn:
            yield PathKey(update.prefix), Path(update.next_hop)


def best_of(generation: Generation, destination: Message) -> Iterator[PathUpdate]:
    """The best paths of a listed destination."""
    for message in destination.paths:
        if message.best:
            update = update_of(generation, message)
            if update is not None:
                yield update


def update_of(generation: Generation, message: Message) -> PathUpdate | None:
    """One path; None for what is not unicast or cannot be read."""
    if message.family.safi != _UNICAST or message.family.afi not in (1, 2):
        return None
    nlri = _nlri(generation, message)
    if nlri is None:
        return None
    try:
        where = canonical_network(f"{nlri.prefix}/{nlri.prefix_len}")
        hop = canonical_address(_next_hop(generation, message)) if not message.is_withdraw else ""
    except ValueError:
        return None
    source = message.neighbor_ip if _is_address(message.neighbor_ip) else ""
    return PathUpdate(where, hop, local=not source, withdrawn=message.is_withdraw, source=source)


def event_of(generation: Generation, message: Message) -> Event | None:
    """What an event of the watch stream says; None when nothing that we follow."""
    which = message.WhichOneof("event")
    if which == "table":
        read = (update_of(generation, entry) for entry in message.table.paths)
        return Paths(tuple(update for update in read if update is not None), delta=generation.tells_deltas)
    if which == "peer":
        return PeersListed() if message.peer.type == 2 else status_of(message.peer.peer)
    return None


def _packed(message: Message) -> Message:
    from google.protobuf.any_pb2 import Any

    wrapped = Any()
    wrapped.Pack(message)
    return wrapped


def _attribute(generation: Generation, kind: str, message: Message) -> Message:
    return _packed(message) if generation.name == "v3" else generation.pb.Attribute(**{kind: message})


def _nlri(generation: Generation, message: Message) -> Message | None:
    if generation.name == "v3":
        if message.nlri.type_url != _ANY + "IPAddressPrefix":
            return None
        return generation.pb.IPAddressPrefix.FromString(message.nlri.value)
    return message.nlri.prefix if message.nlri.WhichOneof("nlri") == "prefix" else None


def _next_hop(generation: Generation, message: Message) -> str:
    pb = generation.pb
    for attribute in message.pattrs:
        if generation.name == "v3":
            if attribute.type_url == _ANY + "NextHopAttribute":
                return str(pb.NextHopAttribute.FromString(attribute.value).next_hop)
            if attribute.type_url == _ANY + "MpReachNLRIAttribute":
                return _first(pb.MpReachNLRIAttribute.FromString(attribute.value).next_hops)
        elif attribute.WhichOneof("attr") == "next_hop":
            return str(attribute.next_hop.next_hop)
        elif attribute.WhichOneof("attr") == "mp_reach":
            return _first(attribute.mp_reach.next_hops)
    return ""


def _first(hops: Message) -> str:
    return str(hops[0]) if hops else ""


def _is_address(text: str) -> bool:
    try:
        canonical_address(text)
    except ValueError:
        return False
    return True
