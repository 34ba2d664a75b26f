"""The API server's objects as events on the event loop.

One daemonic thread per source lists, watches and decodes (stream.py); here their results are merged into kinds, in the
order in which each thread heard them, and handed to one sink, on the loop. A thread that is ahead of the loop by
`_AHEAD` deliveries waits, so nothing grows while the loop is busy.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import random
from typing import Final

import msgspec

from kube_router.codec.objects import Decoded, Signal
from kube_router.codec.objects_fault import Fault
from kube_router.model.objects import Kind
from kube_router.watch.events import Batch, Event, Sink
from kube_router.watch.faultbook import FaultBook
from kube_router.watch.gate import Gate
from kube_router.watch.merge import merger
from kube_router.watch.sources import Source, sources
from kube_router.watch.stream import Client, Stream, Timing

_AHEAD: Final = 8  # deliveries under way per source
_DEFAULT_TIMING: Final = Timing()
_LONGEST_STOP: Final = 1.0  # seconds; a thread that waits for a connection outlives it, and is daemonic


class KindStatus(msgspec.Struct, frozen=True):
    """How a kind does. `listed`: once in full. `error` "" while all is well; `since`: monotonic seconds of the last change."""

    listed: bool
    error: str
    since: float


class ApiWatch:
    """Watches kinds of object. `start` once, `stop` once; all methods belong to the event loop's thread."""

    def __init__(
        self,
        client: Client,
        kinds: Iterable[Kind],
        *,
        own_node: str,
        own_pods_only: bool = False,
        timing: Timing = _DEFAULT_TIMING,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random,
    ) -> None:
        self._gate = Gate(timing.backoff, clock=clock, random=chance)
        self._feeds: list[_KindFeed] = []
        for kind in sorted(set(kinds), key=lambda kind: kind.value):
            places = sources(kind, pods_of=own_node if own_pods_only else "")
            feed = _KindFeed(kind, places, linger=timing.linger)
            for number, source in enumerate(places):
                feed.streams.append(
                    Stream(
                        source,
                        number,
                        client=client,
                        gate=self._gate,
                        audience=feed,
                        own_node=own_node,
                        timing=timing,
                        clock=clock,
                        random=chance,
                    )
                )
            self._feeds.append(feed)
        self._threads: list[threading.Thread] = []

    def start(self, loop: asyncio.AbstractEventLoop, sink: Sink, failed: Callable[[Exception], None]) -> None:
        """Begin. `sink` gets every batch on the loop; `failed` the exception of a thread that ended by a bug, on the loop."""
        for feed in self._feeds:
            feed.connect(loop, sink)
            for stream in feed.streams:
                name = f"watch {feed.kind.value} {stream.number}"
                thread = threading.Thread(target=_run, args=(stream, loop, failed), name=name, daemon=True)
                self._threads.append(thread)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all threads; returns within a second. Nothing reaches the sink afterwards."""
        for feed in self._feeds:
            feed.disconnect()
        self._gate.close()
        for feed in self._feeds:
            for stream in feed.streams:
                stream.stop()
        deadline = time.monotonic() + _LONGEST_STOP
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def status(self) -> Mapping[Kind, KindStatus]:
        """How each kind does; a kind with an error keeps what was last heard."""
        return {feed.kind: feed.status() for feed in self._feeds}

    def faults(self) -> Sequence[Fault]:
        """What is wrong with objects at present."""
        return [fault for feed in self._feeds for fault in feed.faults]


def _run(stream: Stream, loop: asyncio.AbstractEventLoop, failed: Callable[[Exception], None]) -> None:
    try:
        stream.run()
    except Exception as bug:  # noqa: BLE001  a thread's exception would vanish with it; the loop's owner ends the process
        _call(loop, failed, bug)


class _KindFeed:
    """From the threads of one kind to the sink."""

    def __init__(self, kind: Kind, kind_sources: Sequence[Source], *, linger: float) -> None:
        self.kind = kind
        self.streams: list[Stream] = []
        self.faults = FaultBook()
        self._merger = merger(kind, len(kind_sources))
        self._linger = linger
        self._slots = [threading.BoundedSemaphore(_AHEAD) for _ in kind_sources]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sink: Sink | None = None

    def connect(self, loop: asyncio.AbstractEventLoop, sink: Sink) -> None:
        """From now on, deliver there."""
        self._loop, self._sink = loop, sink

    def disconnect(self) -> None:
        """Deliver nothing more."""
        self._sink = None

    def status(self) -> KindStatus:
        """Listed when every source is; the error of the first that has one."""
        all_ = [stream.status for stream in self.streams]
        error = next((status.error for status in all_ if status.error), "")
        return KindStatus(all(status.listed for status in all_), error, max(status.since for status in all_))

    # -- in the streams' threads ------------------------------------------------------------------------------------------------

    def listed(self, source: int, items: Sequence[Decoded]) -> bool:
        """As in Audience."""
        return self._deliver(source, self._on_list, items)

    def changed(self, source: int, signals: Sequence[Signal]) -> bool:
        """As in Audience."""
        return self._deliver(source, self._on_change, signals)

    def _deliver(self, source: int, receive: Callable[..., None], what: Sequence[object]) -> bool:
        while not self._slots[source].acquire(timeout=0.2):
            if self._sink is None:
                return False
        return self._loop is not None and self._sink is not None and _call(self._loop, receive, source, what)

    # -- on the loop ----------------------------------------------------------------------------------------------------------

    def _on_list(self, source: int, items: Sequence[Decoded]) -> None:
        self._slots[source].release()
        self._send(self._merger.listed(source, items), self.faults.listed(source, items))

    def _on_change(self, source: int, signals: Sequence[Signal]) -> None:
        self._slots[source].release()
        events: list[Event] = []
        faults: list[Fault] = []
        for signal in signals:
            item = signal.decoded
            if item is None:
                continue
            if signal.type == "DELETED":
                events += self._merger.removed(source, item.ref)
                self.faults.gone(source, item.ref)
            else:
                events += self._merger.put(source, item)
                faults += self.faults.heard(source, item)
        self._send(events, faults)

    def _send(self, events: list[Event], faults: list[Fault]) -> None:
        batch = Batch(tuple(events), tuple(faults))
        if self._sink is not None and batch:
            self._sink(batch)
        if self._merger.lingering and self._loop is not None:
            self._loop.call_later(self._linger, self._expire, self._merger.lingering)

    def _expire(self, epoch: int) -> None:
        batch = Batch(tuple(self._merger.expire(epoch)))
        if self._sink is not None and batch:
            self._sink(batch)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> bool:
    """Call on the loop; False when the loop is closed, which happens when the program ends."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        return False
    return True
