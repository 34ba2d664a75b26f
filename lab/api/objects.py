"""The store for people and tests in the same process: objects as plain dictionaries, named by word ("pods", "svc")."""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator
from typing import Any

from lab.api.history import Change, Entry
from lab.api.kinds import BY_WORD, Json, Kind, kind_of
from lab.api.problem import Problem
from lab.api.selectors import field_selector, label_selector
from lab.api.store import Store, Wish, decode

MERGE = "application/merge-patch+json"


def whole(kind: Kind, entry: Entry) -> Json:
    """An object as a dictionary of the caller's own."""
    return {"apiVersion": kind.api_version, "kind": kind.name, **decode(entry.body)}


class Feed:
    """The present objects of some kinds and then every change, in order, each seen once; read by one thread."""

    def __init__(self, store: Store, kinds: tuple[Kind, ...]) -> None:
        self._queue: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._kinds = frozenset(kinds)
        with store.lock:
            for kind in kinds:
                for entry in store.history(kind).now(""):
                    self._queue.put(Change(kind, entry.version, None, entry, entry))
            self._unlisten = store.listen(self._take)

    def _take(self, change: Change) -> None:
        if change.kind in self._kinds:
            self._queue.put(change)

    def next(self, timeout: float | None = None) -> Change | None:
        """The next change; None when the time (seconds) is over or ``close`` was called."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the feed and wake its reader."""
        self._unlisten()
        self._queue.put(None)


class Objects:
    """Verbs over a store. Everything handed in or out is a copy."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def kind(self, word: str) -> Kind:
        """The kind behind a word as kubectl takes it; KeyError when there is none."""
        return BY_WORD[word.lower()]

    def create(self, thing: Json) -> Json:
        kind = kind_of(thing)
        return whole(kind, self.store.create(kind, copy.deepcopy(thing)))

    def apply(self, thing: Json) -> Json:
        """Create the object, or make spec, data, labels and (when given) status equal to it; other metadata stays."""
        kind = kind_of(thing)
        wanted = copy.deepcopy(thing)
        metadata = wanted.setdefault("metadata", {})
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        with self.store.lock:
            old = self.find(kind.plural, metadata["name"], metadata.get("namespace", ""), kind=kind)
            if old is None:
                return whole(kind, self.store.create(kind, wanted))
            status = wanted.pop("status", None)
            _carry_over(wanted, old)
            entry = self.store.update(kind, wanted)
            if status is not None and kind.status:
                present = whole(kind, entry) | {"status": copy.deepcopy(status)}
                entry = self.store.update(kind, present, part="status")
            return whole(kind, entry)

    def update(self, thing: Json, *, part: str = "") -> Json:
        kind = kind_of(thing)
        return whole(kind, self.store.update(kind, copy.deepcopy(thing), part=part))

    def patch(self, word: str, name: str, patch: Any, *, namespace: str = "", part: str = "") -> Json:
        """Merge-patch an object."""
        kind = self.kind(word)
        return whole(kind, self.store.patch(kind, namespace, name, copy.deepcopy(patch), media_type=MERGE, part=part))

    def get(self, word: str, name: str, namespace: str = "") -> Json:
        kind = self.kind(word)
        return whole(kind, self.store.get(kind, namespace, name))

    def find(self, word: str, name: str, namespace: str = "", *, kind: Kind | None = None) -> Json | None:
        """Like ``get``, but None when the object is not there."""
        kind = kind or self.kind(word)
        entry = self.store.history(kind).entries.get((namespace, name))
        return None if entry is None else whole(kind, entry)

    def list(self, word: str, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Json]:
        kind = self.kind(word)
        known = frozenset({"metadata.name", "metadata.namespace", *kind.fields({})})
        page = self.store.page(kind, namespace, labels=label_selector(labels), fields=field_selector(fields, known=known))
        return [whole(kind, entry) for entry in page.entries]

    def delete(self, word: str, name: str, namespace: str = "", *, grace: int | None = None) -> bool:
        """Delete, or mark for deletion; False when the object is not there."""
        try:
            self.store.delete(self.kind(word), namespace, name, Wish(grace=grace))
        except Problem as problem:
            if problem.code != 404:
                raise
            return False
        return True

    def load(self, things: Iterator[Json]) -> int:
        """Apply many objects, making the namespaces that they name; the count is answered."""
        count = 0
        for thing in things:
            namespace = (thing.get("metadata") or {}).get("namespace")
            if namespace and self.find("ns", namespace) is None:
                self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            self.apply(thing)
            count += 1
        return count

    def feed(self, *words: str) -> Feed:
        return Feed(self.store, tuple(self.kind(word) for word in words))


def _carry_over(wanted: Json, old: Json) -> None:
    """Keep what the one who applies did not speak of: the server's defaults in the spec, annotations of others."""
    for name, value in (old.get("spec") or {}).items():
        if name in ("clusterIP", "clusterIPs", "nodeName", "podCIDR", "podCIDRs"):
            wanted.setdefault("spec", {}).setdefault(name, value)
    metadata = wanted["metadata"]
    metadata.setdefault("annotations", old["metadata"].get("annotations"))
    if metadata["annotations"] is None:
        del metadata["annotations"]
