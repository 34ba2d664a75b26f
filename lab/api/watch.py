"""One watch: a cursor into a kind's history, written out as fast as the client reads.

Nothing is queued per watcher: a slow client's cursor stays behind, and when the history has moved past it the watch ends with
"410 Gone", as with the real server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from lab.api.history import Change, Entry, event_frame
from lab.api.kinds import Kind
from lab.api.problem import Problem
from lab.api.selectors import Selector
from lab.api.store import Store, decode, encode
from lab.api.wire import Connection

BATCH = 500  # changes turned into one write


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is watched. ``version`` None asks for the present objects first, as a list would give them."""

    kind: Kind
    namespace: str
    labels: Selector
    fields: Selector
    version: int | None
    bookmarks: bool
    timeout: float | None  # seconds


def error_frame(problem: Problem) -> bytes:
    return b'{"type":"ERROR","object":%s}\n' % msgspec.json.encode(problem.status())


def bookmark_frame(kind: Kind, version: int) -> bytes:
    return event_frame(kind, "BOOKMARK", b'{"metadata":{"resourceVersion":"%d","creationTimestamp":null}}' % version)


def _left_frame(kind: Kind, before: Entry, version: int) -> bytes:
    """An object that stopped matching is shown as deleted: its last matching state, with the version of the change."""
    thing = decode(before.body)
    thing["metadata"]["resourceVersion"] = str(version)
    return event_frame(kind, "DELETED", encode(thing))


class Watch:
    """A stream for ``Connection``. ``closed`` is told when it has ended, for whatever reason."""

    def __init__(self, store: Store, request: WatchRequest, *, bookmark_every: float, closed: Callable[[Watch], None]) -> None:
        self._store = store
        self._request = request
        self._history = store.history(request.kind)
        self._bookmark_every = bookmark_every
        self._closed = closed
        self._connection: Connection | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self.stalled = False
        self.events_left: int | None = None  # a fault: break off after so many more events
        with store.lock:
            self._first: list[Entry] = []
            if request.version is None:
                self._first = [entry for entry in self._history.now(request.namespace) if self._wants(entry)]
                self._position = self._history.end
            else:
                self._position = self._history.position(request.version)
            self._version = max(request.version or 0, store.version)

    # a Stream

    def open(self, connection: Connection) -> None:
        self._connection = connection
        loop = asyncio.get_running_loop()
        if self._request.timeout is not None:
            self._timers.append(loop.call_later(self._request.timeout, self._end))
        if self._request.bookmarks:
            self._timers.append(loop.call_later(self._bookmark_every, self._bookmark, True))
        self._send([event_frame(self._request.kind, "ADDED", entry.body) for entry in self._first])
        self._first = []
        self.pump()

    def pump(self) -> None:
        """Write what has happened since, unless the client is slow or the stream is stalled on purpose."""
        while self._connection is not None and self._connection.writable and not self.stalled:
            try:
                with self._store.lock:
                    changes = self._history.since(self._position, most=BATCH)
                    if not changes:
                        self._version = self._store.version
                        return
            except Problem as problem:
                self.fail(problem)
                return
            self._position += len(changes)
            self._version = changes[-1].version
            self._send([frame for change in changes if (frame := self._frame(change)) is not None])

    def lost(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._connection = None
        self._closed(self)

    # switches

    def fail(self, problem: Problem) -> None:
        """End the watch with an error event."""
        if self._connection is not None:
            self._connection.write(error_frame(problem))
            self._connection.finish()

    def break_off(self) -> None:
        """Cut the connection in the middle."""
        if self._connection is not None:
            self._connection.abort()

    # inside

    def _wants(self, entry: Entry | None) -> bool:
        request = self._request
        return (
            entry is not None
            and (not request.namespace or entry.namespace == request.namespace)
            and request.labels.matches(entry.labels)
            and request.fields.matches(entry.fields)
        )

    def _frame(self, change: Change) -> bytes | None:
        wanted_before = self._wants(change.before)
        if change.after is None:
            return change.frame("DELETED") if wanted_before else None
        if self._wants(change.after):
            return change.frame("MODIFIED" if wanted_before else "ADDED")
        if wanted_before and change.before is not None:
            return _left_frame(change.kind, change.before, change.version)
        return None

    def _send(self, frames: list[bytes]) -> None:
        if self._connection is None or not frames:
            return
        if self.events_left is not None:
            frames = frames[: self.events_left]
            self.events_left -= len(frames)
        if frames:
            self._connection.write(b"".join(frames))
        if self.events_left == 0:
            # let what was written go out first
            asyncio.get_running_loop().call_soon(self.break_off)

    def _bookmark(self, again: bool) -> None:
        self.pump()
        if self._connection is None:
            return
        if self._connection.writable and not self.stalled:
            self._connection.write(bookmark_frame(self._request.kind, self._version))
        if again:
            self._timers.append(asyncio.get_running_loop().call_later(self._bookmark_every, self._bookmark, True))

    def _end(self) -> None:
        if self._request.bookmarks:
            self._bookmark(False)
        if self._connection is not None:
            self._connection.finish()


class Refusal:
    """A watch that cannot begin: like the real server's, its stream opens, says so in its first event, and ends."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def open(self, connection: Connection) -> None:
        connection.write(error_frame(self._problem))
        connection.finish()

    def pump(self) -> None:
        """Nothing follows the refusal."""

    def lost(self) -> None:
        """Nothing was held."""
