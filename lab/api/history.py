"""All objects of one kind and the changes that led to them: the part of the store that lists and watches read.

Objects are kept as encoded bytes and shared between the present, the past and every answer; nothing here decodes them.
Not thread-safe: the store's lock is held by every caller.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.api.kinds import Kind
from lab.api.problem import gone

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One state of one object. ``body`` is its JSON without ``kind`` and ``apiVersion``."""

    namespace: str
    name: str
    version: int
    body: bytes
    labels: Mapping[str, str]
    fields: Mapping[str, str]

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


@dataclass(slots=True)
class Change:
    """One step of history. ``last`` is what a watcher is shown: the new state, or the final one with the version of its end."""

    kind: Kind
    version: int
    before: Entry | None
    after: Entry | None
    last: Entry
    _frames: dict[str, bytes] = field(default_factory=dict)

    @property
    def word(self) -> str:
        if self.before is None:
            return "ADDED"
        return "DELETED" if self.after is None else "MODIFIED"

    def frame(self, word: str) -> bytes:
        """The watch event with the given type, as one line of JSON; made once, however many watch."""
        made = self._frames.get(word)
        if made is None:
            made = self._frames[word] = event_frame(self.kind, word, self.last.body)
        return made


def event_frame(kind: Kind, word: str, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s%s}\n' % (word.encode(), kind.type_meta, body[1:])


class History:
    """The present as a sorted table, the recent past as a log of at most ``window`` changes (at least half of that)."""

    def __init__(self, kind: Kind, *, window: int) -> None:
        self.kind = kind
        self.entries: dict[Key, Entry] = {}
        self._keys: list[Key] = []
        self._log: list[Change] = []
        self._dropped = 0  # changes that left the log
        self._floor = 0  # version of the newest change that left the log
        self._window = window
        self._past: tuple[int, list[Entry]] | None = None  # the last reconstructed state: pages ask for it in a row

    @property
    def end(self) -> int:
        """The position behind the newest change."""
        return self._dropped + len(self._log)

    def record(self, change: Change) -> None:
        key = change.last.key
        if change.after is None:
            del self.entries[key]
            del self._keys[bisect_left(self._keys, key)]
        else:
            if key not in self.entries:
                insort(self._keys, key)
            self.entries[key] = change.after
        self._log.append(change)
        if len(self._log) > self._window:
            self.forget(len(self._log) - self._window // 2)

    def forget(self, count: int) -> None:
        """Drop the oldest ``count`` changes: watches and pages from before them get "410 Gone"."""
        count = min(count, len(self._log))
        if count:
            self._floor = self._log[count - 1].version
            del self._log[:count]
            self._dropped += count
            self._past = None

    def position(self, version: int) -> int:
        """Where to read on after ``version``; Problem 410 when the log does not reach back that far."""
        if version < self._floor:
            raise gone(version, self._floor)
        return self._dropped + bisect_right(self._log, version, key=lambda change: change.version)

    def since(self, position: int, *, most: int) -> list[Change]:
        """Up to ``most`` changes from a position on; Problem 410 when they have left the log."""
        start = position - self._dropped
        if start < 0:
            raise gone(position, self._floor)
        return self._log[start : start + most]

    def now(self, namespace: str, *, after: Key | None = None) -> list[Entry]:
        """Present entries in order, of one namespace or ("") of all, behind the key ``after``."""
        low = bisect_left(self._keys, (namespace, "")) if namespace else 0
        high = bisect_left(self._keys, (namespace + "\0", "")) if namespace else len(self._keys)
        if after is not None:
            low = max(low, bisect_right(self._keys, after))
        return [self.entries[key] for key in self._keys[low:high]]

    def at(self, version: int, namespace: str, *, after: Key | None = None) -> list[Entry]:
        """Like ``now`` as it was when the global version was ``version``; Problem 410 when that is forgotten."""
        if self.position(version) == self.end:
            return self.now(namespace, after=after)
        if self._past is None or self._past[0] != version:
            entries = dict(self.entries)
            for change in reversed(self._log[self.position(version) - self._dropped :]):
                if change.before is None:
                    del entries[change.last.key]
                else:
                    entries[change.last.key] = change.before
            self._past = (version, [entries[key] for key in sorted(entries)])
        return [
            entry for entry in self._past[1] if (not namespace or entry.namespace == namespace) and (after is None or entry.key > after)
        ]
