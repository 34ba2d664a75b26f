"""The objects of the cluster: every verb of the API, in process and thread-safe, without HTTP.

One global counter gives the resource versions, as etcd's revision does. A write that changes nothing makes no version.
Objects handed in are taken over (do not use them afterwards); objects are handed out as encoded ``Entry`` values.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from lab.api.defaults import fill_defaults
from lab.api.history import Change, Entry, History
from lab.api.kinds import BY_TYPE, KINDS, Json, Kind
from lab.api.names import check_names, generate_name
from lab.api.pages import Page, paged
from lab.api.patch import apply_patch
from lab.api.problem import Problem, not_found
from lab.api.selectors import EVERYTHING, Selector

Admission = Callable[[Json, Json | None], None]
"""Looks at an object (and its state before) and completes it in place, or raises a Problem."""

Listener = Callable[[Change], None]

FIRST_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_KEPT_METADATA = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace", "name")

encode = msgspec.json.encode
decode: Callable[[bytes], Json] = msgspec.json.decode


def timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


@dataclass(frozen=True, slots=True)
class Wish:
    """What the caller of a delete insists on; None asks for nothing."""

    grace: int | None = None
    uid: str | None = None
    version: str | None = None


class Store:
    """Objects of ``kinds``. ``window`` is how many changes a kind remembers; ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        *,
        kinds: Iterable[Kind] = KINDS,
        window: int = 20_000,
        clock: Callable[[], float] = time.time,
        admissions: Sequence[Admission] = (),
    ) -> None:
        self.lock = threading.RLock()
        self.version = 1
        self.admissions = list(admissions)
        self._clock = clock
        self._histories = {kind: History(kind, window=window) for kind in kinds}
        self._listeners: list[Listener] = []
        self._namespaces = BY_TYPE["v1", "Namespace"]
        for name in FIRST_NAMESPACES:
            self.create(self._namespaces, {"metadata": {"name": name}})

    # reading

    def history(self, kind: Kind) -> History:
        """The kind's history, to be read with ``lock`` held."""
        return self._histories[kind]

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every change, under the lock, so it must be quick; the answer ends that."""
        with self.lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def get(self, kind: Kind, namespace: str, name: str) -> Entry:
        """The present state; Problem 404 when there is none."""
        with self.lock:
            entry = self._histories[kind].entries.get((namespace, name))
        if entry is None:
            raise not_found(kind.plural, name)
        return entry

    def page(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        labels: Selector = EVERYTHING,
        fields: Selector = EVERYTHING,
        limit: int = 0,
        token: str = "",
        version: int | None = None,
    ) -> Page:
        """One page of a list. ``token`` continues a former page; ``version`` asks for the state of exactly then."""
        with self.lock:
            return paged(
                self._histories[kind],
                namespace,
                now=self.version,
                labels=labels,
                fields=fields,
                limit=limit,
                token=token,
                version=version,
            )

    # writing

    def create(self, kind: Kind, thing: Json) -> Entry:
        """Store a new object; Problem 409 when its name is taken, 404 when its namespace does not exist."""
        metadata = thing.setdefault("metadata", {})
        generate_name(metadata)
        check_names(kind, metadata)
        thing["kind"], thing["apiVersion"] = kind.name, kind.api_version
        fill_defaults(thing)
        with self.lock:
            namespace, name = metadata.get("namespace", ""), metadata["name"]
            if (namespace, name) in self._histories[kind].entries:
                details = {"name": name, "kind": kind.plural}
                raise Problem(409, f'{kind.plural} "{name}" already exists', reason="AlreadyExists", details=details)
            if kind.namespaced:
                self.get(self._namespaces, "", namespace)
            for admit in self.admissions:
                admit(thing, None)
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = timestamp(self._clock())
            return self._write(kind, thing, before=None)

    def update(self, kind: Kind, thing: Json, *, part: str = "") -> Entry:
        """Replace an object, or with ``part="status"`` everything of it but its spec.

        Problem 404 when it is not there, 409 when ``metadata.resourceVersion`` is given and is not the present one.
        """
        metadata = thing.get("metadata") or {}
        check_names(kind, metadata)
        with self.lock:
            before = self.get(kind, metadata.get("namespace", ""), metadata["name"])
            old = self._whole(kind, before)
            self._check_fresh(kind, metadata, old["metadata"])
            thing["kind"], thing["apiVersion"] = kind.name, kind.api_version
            kept = ("spec",) if part == "status" else ("status",) if kind.status else ()
            _keep(thing, old, kept)
            _keep(metadata, old["metadata"], _KEPT_METADATA)
            fill_defaults(thing)
            for admit in self.admissions:
                admit(thing, old)
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            if thing == old:
                return before
            if _is_finished(metadata):
                return self._remove(kind, before)
            return self._write(kind, thing, before=before)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Any, *, media_type: str, part: str = "") -> Entry:
        """Apply a patch to the present state; Problems as for ``update`` and ``apply_patch``."""
        with self.lock:
            old = self._whole(kind, self.get(kind, namespace, name))
            new = apply_patch(old, patch, media_type=media_type)
            if (new.get("metadata") or {}).get("name") != name:
                raise Problem(422, "the name of the object does not match the name on the URL")
            return self.update(kind, new, part=part)

    def delete(self, kind: Kind, namespace: str, name: str, wish: Wish = Wish()) -> Entry:
        """Delete, or mark as being deleted: a pod on a node waits for its kubelet, a finalizer for its owner."""
        with self.lock:
            before = self.get(kind, namespace, name)
            thing = self._whole(kind, before)
            metadata = thing["metadata"]
            if wish.uid not in (None, metadata["uid"]) or wish.version not in (None, metadata["resourceVersion"]):
                raise Problem(409, f'{kind.plural} "{name}" does not meet the preconditions of the delete')
            grace = _grace(kind, thing, wish.grace)
            if not grace and not metadata.get("finalizers"):
                return self._remove(kind, before)
            if "deletionTimestamp" in metadata and grace >= metadata["deletionGracePeriodSeconds"]:
                return before
            metadata["deletionTimestamp"] = timestamp(self._clock() + grace)
            metadata["deletionGracePeriodSeconds"] = grace
            return self._write(kind, thing, before=before)

    def expire(self, kind: Kind | None = None) -> None:
        """Forget the past: every watch or page that must reach back gets "410 Gone"."""
        with self.lock:
            for history in self._histories.values() if kind is None else (self._histories[kind],):
                history.forget(history.end)

    def advance(self, versions: int = 1) -> None:
        """Let the global version grow as other kinds' writes would."""
        with self.lock:
            self.version += versions

    # inside

    def _whole(self, kind: Kind, entry: Entry) -> Json:
        return {"kind": kind.name, "apiVersion": kind.api_version, **decode(entry.body)}

    def _check_fresh(self, kind: Kind, metadata: Json, present: Json) -> None:
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        if version not in (None, "", present["resourceVersion"]) or uid not in (None, "", present["uid"]):
            raise Problem(
                409,
                f'operation cannot be fulfilled on {kind.plural} "{metadata["name"]}": the object has been modified; '
                "apply the change to the latest version and try again",
                details={"name": metadata["name"], "kind": kind.plural},
            )

    def _entry(self, kind: Kind, thing: Json) -> Entry:
        self.version += 1
        metadata = thing["metadata"]
        metadata["resourceVersion"] = str(self.version)
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        fields = {"metadata.name": name, "metadata.namespace": namespace, **kind.fields(thing)}
        body = encode({key: value for key, value in thing.items() if key not in ("kind", "apiVersion")})
        return Entry(namespace, name, self.version, body, metadata.get("labels") or {}, fields)

    def _write(self, kind: Kind, thing: Json, *, before: Entry | None) -> Entry:
        entry = self._entry(kind, thing)
        self._record(Change(kind, entry.version, before, entry, entry))
        return entry

    def _remove(self, kind: Kind, before: Entry) -> Entry:
        last = self._entry(kind, self._whole(kind, before))
        self._record(Change(kind, last.version, before, None, last))
        return last

    def _record(self, change: Change) -> None:
        self._histories[change.kind].record(change)
        for listener in tuple(self._listeners):
            listener(change)


def _keep(new: Json, old: Json, names: Iterable[str]) -> None:
    for name in names:
        if name in old:
            new[name] = old[name]
        else:
            new.pop(name, None)


def _grace(kind: Kind, thing: Json, asked: int | None) -> int:
    """Seconds that a pod gets to end: none when no kubelet has it or it has ended already."""
    spec, status = thing.get("spec") or {}, thing.get("status") or {}
    if kind.name != "Pod" or not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    return int(spec.get("terminationGracePeriodSeconds", 30)) if asked is None else asked


def _is_finished(metadata: Json) -> bool:
    """Whether an object marked for deletion waits for nobody any more (a pod waits for a delete without grace)."""
    waits = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
    return "deletionTimestamp" in metadata and not waits
