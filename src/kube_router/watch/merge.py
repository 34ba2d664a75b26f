"""From what single sources hear to events of a kind. Pure: no clock, no thread.

A kind with one source passes through. With several, an object is there while one of them holds it, and when it moves from
one to another (somebody changes its label) the removal here and the arrival there come over two connections in either
order. So a removal *lingers* until the caller says that the other source had its time (`expire`); an arrival meanwhile
cancels it, and nothing that the object stands for in the kernel goes and comes back. While two sources hold an object, the later
version counts (versions of one collection grow, KEP-5504).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kube_router.codec.objects import Decoded
from kube_router.model.objects import Kind, Name, Object, Ref
from kube_router.watch.events import Event, Put, Removed, Replaced


class Merger(Protocol):
    """Takes what sources 0..n-1 of a kind hear; returns what the kind comes to."""

    @property
    def lingering(self) -> int:
        """Greatest epoch of a removal that lingers; 0 when none does."""

    def listed(self, source: int, items: Sequence[Decoded], /) -> list[Event]:
        """The source's complete list. Nothing comes of it before every source has listed once."""

    def put(self, source: int, item: Decoded, /) -> list[Event]:
        """The source has an object, new or changed. An unreadable one leaves what was there."""

    def removed(self, source: int, ref: Ref, /) -> list[Event]:
        """The source has an object no more."""

    def expire(self, epoch: int, /) -> list[Event]:
        """Removals up to this epoch have lingered long enough."""


def merger(kind: Kind, sources: int) -> Merger:
    """For a kind with so many sources."""
    return Single(kind) if sources == 1 else Several(kind, sources)


def unreadable(items: Sequence[Decoded]) -> frozenset[Name]:
    """Names of items that exist but could not be read."""
    return frozenset(item.ref.name for item in items if item.object is None)


class Single:
    """One source; remembers nothing."""

    lingering = 0

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def listed(self, _source: int, items: Sequence[Decoded]) -> list[Event]:
        """As in Merger."""
        objects = tuple(item.object for item in items if item.object is not None)
        return [Replaced(self._kind, objects, unreadable(items))]

    def put(self, _source: int, item: Decoded) -> list[Event]:
        """As in Merger."""
        return [] if item.object is None else [Put(item.object)]

    def removed(self, _source: int, ref: Ref) -> list[Event]:
        """As in Merger."""
        return [Removed(ref)]

    def expire(self, _epoch: int) -> list[Event]:
        """As in Merger."""
        return []


class _Held(NamedTuple):
    version: int
    object: Object


class Several:
    """Several sources; remembers who holds what, by reference."""

    def __init__(self, kind: Kind, sources: int) -> None:
        self._kind = kind
        self._held: list[dict[Name, _Held]] = [{} for _ in range(sources)]
        self._unread: list[set[Name]] = [set() for _ in range(sources)]  # there, and never readable
        self._unlisted = set(range(sources))
        self._lingering: dict[Name, tuple[int, _Held]] = {}
        self._epoch = 0

    @property
    def lingering(self) -> int:
        """As in Merger."""
        return self._epoch if self._lingering else 0

    def listed(self, source: int, items: Sequence[Decoded]) -> list[Event]:
        """As in Merger."""
        before = self._held[source]
        after = {item.ref.name: _held(item, item.object) for item in items if item.object is not None}
        keep = unreadable(items)
        after.update((name, held) for name in keep if (held := self._last_good(name)) is not None)
        self._held[source] = after
        self._unread[source] = set(keep - after.keys())
        for name in after:
            self._lingering.pop(name, None)
        self._linger({name: before[name] for name in before.keys() - after.keys()})
        self._unlisted.discard(source)
        if self._unlisted:
            return []
        there = {name: self._winner(name) for held in self._held for name in held}
        objects = [held.object for held in there.values() if held is not None]
        objects.extend(held.object for _, held in self._lingering.values())
        return [Replaced(self._kind, tuple(objects), frozenset().union(*self._unread) - there.keys())]

    def put(self, source: int, item: Decoded) -> list[Event]:
        """As in Merger."""
        name = item.ref.name
        held = _held(item, item.object) if item.object is not None else self._last_good(name)
        if held is None:
            self._unread[source].add(name)
            return []
        self._unread[source].discard(name)
        self._held[source][name] = held
        self._lingering.pop(name, None)
        return self._now(name)

    def removed(self, source: int, ref: Ref) -> list[Event]:
        """As in Merger."""
        before = self._held[source].pop(ref.name, None)
        self._unread[source].discard(ref.name)
        if before is None:
            return []
        self._linger({ref.name: before})
        return self._now(ref.name)

    def expire(self, epoch: int) -> list[Event]:
        """As in Merger."""
        gone = [name for name, (since, _) in self._lingering.items() if since <= epoch]
        for name in gone:
            del self._lingering[name]
        return [Removed(Ref(self._kind, name)) for name in sorted(gone)]

    def _winner(self, name: Name) -> _Held | None:
        return max((held[name] for held in self._held if name in held), key=lambda entry: entry.version, default=None)

    def _last_good(self, name: Name) -> _Held | None:
        return self._winner(name) or self._lingering.get(name, (0, None))[1]

    def _now(self, name: Name) -> list[Event]:
        winner = self._winner(name)
        return [] if winner is None or self._unlisted else [Put(winner.object)]

    def _linger(self, vanished: dict[Name, _Held]) -> None:
        self._epoch += 1
        self._lingering.update((name, (self._epoch, held)) for name, held in vanished.items() if self._winner(name) is None)


def _held(item: Decoded, value: Object) -> _Held:
    return _Held(int(item.version) if item.version.isdecimal() else 0, value)
