"""Neighbours of a gobgpd: added, changed in place where it knows how to, else begun anew after saying so.

In place gobgpd changes BFD alone, and that from 4.5 on. Of all else it either ends the session itself to change it (UpdatePeer of an
AS number, addresses, ports, families, password, TTL, graceful restart) or takes it and goes on as before (hold time, cluster id); so
there the neighbour is removed and added, which it takes for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from kube_router.apply.gobgp.client import Client
from kube_router.codec.gobgp import speaker as codec
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import Neighbor, NeighborKey, Speaker

FEW: Final = 16  # neighbours that are asked for one by one; beyond, all are listed, which costs the speaker and us more

Call = Callable[..., None]
Tell = Callable[[str, str], None]  # an Event on our node: reason and message


def say_nothing(_reason: str, _message: str) -> None:
    """Where nobody listens."""


class Held(NamedTuple):
    """A neighbour as gobgpd has it, and whether its session is up."""

    neighbor: Neighbor
    established: bool


class NeighborBook:
    """Neighbours of one gobgpd. `call` makes a call that changes something."""

    def __init__(self, client: Client, call: Call, tell: Tell) -> None:
        self._client = client
        self._call = call
        self._tell = tell
        self._told: dict[NeighborKey, Neighbor] = {}

    def observe(self, wanted: Mapping[Key, Value], local_addresses: Collection[str]) -> dict[Key, Value]:
        """All neighbours. One that differs from a wanted one in nothing that we could put right is returned as wanted."""
        self._told = {key: self._as_wanted(held, wanted.get(key), local_addresses) for key, held in self._listed().items()}
        return {key: neighbor for key, neighbor in self._told.items()}  # noqa: C416  a dict of wider types

    def held(self, keys: Iterable[NeighborKey]) -> dict[NeighborKey, Held]:
        """Those of these that there are, perhaps among others."""
        addresses = [key.address for key in keys]
        return self._listed() if len(addresses) > FEW else self._listed(*addresses)

    def put(self, key: NeighborKey, after: Neighbor, held: Mapping[NeighborKey, Held], *, restarting: bool) -> None:
        """Make a neighbour be as wanted."""
        self._told[key] = after
        generation = self._client.generation()
        peer = codec.peer(generation, key, after, restarting=restarting)
        if after.bfd is not None and not generation.has_bfd:
            self._tell("NoBFD", f"BGP peer {key.address}: this speaker, gobgpd 3, has no BFD: the session goes without")
        if key not in held:
            self._call("AddPeer", peer=peer)
            return
        before, established = held[key]
        if not generation.has_bfd:
            before = msgspec.structs.replace(before, bfd=after.bfd)
        if before == after:
            return
        if generation.has_bfd and msgspec.structs.replace(before, bfd=after.bfd) == after:
            self._call("UpdatePeer", peer=peer)
            return
        if established:
            self._tell("SessionRestart", f"the session with BGP peer {key.address} starts anew for its {differences(before, after)}")
        self._call("DeletePeer", address=key.address)
        self._call("AddPeer", peer=peer)

    def delete(self, key: NeighborKey, held: Mapping[NeighborKey, Held]) -> None:
        """Remove a neighbour, if there is one."""
        if key in held:
            self._call("DeletePeer", address=key.address)

    def begin_anew(self, address: str, reason: str) -> None:
        """End a session and open it again. gobgpd's own reset would keep it down for half a minute (3.10)."""
        key = NeighborKey(address)
        held = self._listed(address)
        if key not in held:
            return
        self._tell("SessionRestart", f"the session with BGP peer {address} starts anew: {reason}")
        self._call("DeletePeer", address=address)
        self._call("AddPeer", peer=codec.peer(self._client.generation(), key, self._told.get(key, held[key].neighbor)))

    def _listed(self, *addresses: str) -> dict[NeighborKey, Held]:
        found = {}
        for fields in [{"address": address} for address in addresses] or [{}]:
            for reply in self._client.list("ListPeer", **fields):
                key, neighbor = codec.neighbor_of(reply.peer)
                found[key] = Held(neighbor, codec.status_of(reply.peer).established)
        return found

    def _as_wanted(self, held: Held, wish: Value | None, local_addresses: Collection[str]) -> Neighbor:
        listed = held.neighbor
        if not isinstance(wish, Neighbor):
            return listed
        alike = listed
        if not self._client.generation().has_bfd:
            alike = msgspec.structs.replace(alike, bfd=wish.bfd)
        if held.established and listed.local_address in local_addresses:
            # Of a session that the peer opened to another address of ours gobgpd tells that one, not what it was configured to.
            alike = msgspec.structs.replace(alike, local_address=wish.local_address)
        return wish if alike == wish else listed


_WORDS: Final = {"asn": "AS number", "bfd": "BFD settings"}
_SILENT: Final = frozenset({"password", "bfd"})


def differences(before: Neighbor | Speaker, after: Neighbor | Speaker) -> str:
    """What differs, for people: "hold time (90 to 30) and password". Passwords are named, never shown."""
    words = []
    for name in before.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            what = _WORDS.get(name, name.replace("_", " "))
            words.append(what if name in _SILENT else f"{what} ({_shown(old)} to {_shown(new)})")
    return " and ".join(words)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value) if value not in ("", 0) else "none"
