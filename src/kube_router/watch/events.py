"""What watches tell: typed events, in batches, on the event loop.

The same for the API server, the links of this host and the speaker's best paths. `write` puts events into the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from kube_router.cache.cache import Cache, Feed
from kube_router.codec.objects_fault import Fault
from kube_router.model.objects import Kind, Name, Object, Ref


class Replaced(msgspec.Struct, frozen=True):
    """The complete list of a kind. `keep`: objects in it that could not be read and stay as they were."""

    kind: Kind
    objects: tuple[Object, ...]
    keep: frozenset[Name] = frozenset()


class Put(msgspec.Struct, frozen=True):
    """An object is new or has changed."""

    object: Object


class Removed(msgspec.Struct, frozen=True):
    """An object is gone."""

    ref: Ref


Event = Replaced | Put | Removed


class Batch(msgspec.Struct, frozen=True):
    """Events in the order in which they happened, and faults that have not been told before."""

    events: tuple[Event, ...]
    faults: tuple[Fault, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.events or self.faults)


Sink = Callable[[Batch], None]


def write(events: Iterable[Event], cache: Cache) -> list[Feed]:
    """Put events into the cache; returns the feeds that have something new, each once."""
    told: dict[int, Feed] = {}
    for event in events:
        match event:
            case Replaced(kind=kind, objects=objects, keep=keep):
                feeds = cache.replace(kind, objects, keep=keep)
            case Put(object=value):
                feeds = cache.put(value)
            case Removed(ref=ref):
                feeds = cache.remove(ref.kind, ref.name)
        told.update((id(feed), feed) for feed in feeds)
    return list(told.values())
