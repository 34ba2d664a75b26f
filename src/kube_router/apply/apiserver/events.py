"""Kubernetes Events: what the owner of an object should know, put where `kubectl describe` shows it.

`post` returns at once and never fails: it leaves the note for one daemonic thread, which is started with the first. The same
note again raises the count of the Event that it made, at most once in `Limits.repeat` seconds; all Events together keep to a rate; what
does not fit the queue, and what the API server refuses, is counted and forgotten. An Event is a courtesy: logs and metrics
have said it already, and no part of the node's network may wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from kube_router.desired import Note
from kube_router.kit.apiserver import ApiError
from kube_router.model.objects import Kind, Ref

COMPONENT: Final = "kube-router"
MOST_REMEMBERED: Final = 1024  # Events whose count can still be raised
LONGEST_MESSAGE: Final = 1024  # the API's bound (core/v1 validation: NoteLengthLimit)
LONGEST_NAME: Final = 200  # of the object in the Event's own name, which may have 253 characters
_TIMEOUT: Final = 10.0
_LONGEST_STOP: Final = 1.0

_API_VERSIONS: Final[dict[Kind, str]] = {
    Kind.NODE: "v1",
    Kind.POD: "v1",
    Kind.SERVICE: "v1",
    Kind.NAMESPACE: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.NETWORK_POLICY: "networking.k8s.io/v1",
}


class Limits(NamedTuple):
    """`waiting` notes at most; a `burst` of Events and then one each `interval` seconds; one write per note in `repeat` seconds."""

    waiting: int = 256
    burst: int = 25
    interval: float = 5.0
    repeat: float = 60.0


class Writer(Protocol):
    """Writes to the API server: see kit/apiserver.py."""

    def write(self, method: str, path: str, body: bytes, *, content_type: str, read_timeout: float) -> bytes:
        """POST or PATCH; raises ApiError."""


class _Waiting(msgspec.Struct):
    """A note that is to be written, and how often it came since the last time."""

    note: Note
    uid: str
    times: int
    first: float
    last: float


class _Sent(NamedTuple):
    """The Event that a note became."""

    path: str
    times: int
    at: float


_DEFAULT_LIMITS: Final = Limits()


class EventSender:
    """Sends notes as Events. `post` may be called from any thread; `uid_of` is called in it, and "" is a good answer."""

    def __init__(
        self,
        client: Writer,
        *,
        host: str,
        uid_of: Callable[[Ref], str] = lambda _ref: "",
        limits: Limits = _DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.sent = self.failed = self.dropped = 0  # counters, for metrics
        self._client = client
        self._host = host
        self._uid_of = uid_of
        self._limits = limits
        self._clock = clock
        self._wall = wall
        self._changed = threading.Condition()
        self._waiting: dict[Note, _Waiting] = {}
        self._written: OrderedDict[Note, _Sent] = OrderedDict()
        self._tokens = float(limits.burst)
        self._counted = clock()
        self._made = 0
        self._thread: threading.Thread | None = None
        self._stopped = False

    def post(self, note: Note) -> None:
        """Leave a note to be sent."""
        if note.about.kind not in _API_VERSIONS or not note.about.name.name:
            return  # links and paths are no objects of the API, and what has no name cannot be pointed at
        now = self._wall()
        with self._changed:
            waiting = self._waiting.get(note)
            if waiting is not None:
                waiting.times += 1
                waiting.last = now
            elif self._stopped or len(self._waiting) >= self._limits.waiting:
                self.dropped += 1
            else:
                self._waiting[note] = _Waiting(note, self._uid_of(note.about), 1, now, now)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                    self._thread.start()
                self._changed.notify()

    def stop(self) -> None:
        """End the thread; returns within a second. Notes that still wait are forgotten."""
        with self._changed:
            self._stopped = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_LONGEST_STOP)

    # -- in the thread --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            try:
                self._send(waiting)
            except ApiError:
                self.failed += 1
            else:
                self.sent += 1

    def _next(self) -> _Waiting | None:
        """The next note whose time has come; None when stopped."""
        with self._changed:
            while not self._stopped:
                now = self._clock()
                self._tokens = min(self._limits.burst, self._tokens + (now - self._counted) / self._limits.interval)
                self._counted = now
                due = min(((self._due(note), n, note) for n, note in enumerate(self._waiting)), default=None)
                wait = None if due is None else max(due[0] - now, (1.0 - self._tokens) * self._limits.interval)
                if due is not None and wait is not None and wait <= 0:
                    self._tokens -= 1.0
                    return self._waiting.pop(due[2])
                self._changed.wait(wait)
            return None

    def _due(self, note: Note) -> float:
        sent = self._written.get(note)
        return float("-inf") if sent is None else sent.at + self._limits.repeat

    def _send(self, waiting: _Waiting) -> None:
        sent = self._written.pop(waiting.note, None)
        if sent is not None:
            count = sent.times + waiting.times
            patch = {"count": count, "lastTimestamp": _timestamp(waiting.last)}
            try:
                self._write("PATCH", sent.path, patch, "application/merge-patch+json")
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                self._remember(waiting.note, _Sent(sent.path, count, self._clock()))
                return
        # New, or the API server has forgotten it, as it does after an hour.
        about = waiting.note.about
        collection = f"/api/v1/namespaces/{about.name.namespace or 'default'}/events"
        self._made += 1  # two notes about one object may come at the same moment
        name = f"{about.name.name[:LONGEST_NAME]}.{int(waiting.last * 1e9) + self._made:x}"
        self._write("POST", collection, self._event(name, waiting), "application/json")
        self._remember(waiting.note, _Sent(f"{collection}/{name}", waiting.times, self._clock()))

    def _remember(self, note: Note, sent: _Sent) -> None:
        self._written[note] = sent
        if len(self._written) > MOST_REMEMBERED:
            self._written.popitem(last=False)

    def _write(self, method: str, path: str, body: object, content_type: str) -> None:
        self._client.write(method, path, msgspec.json.encode(body), content_type=content_type, read_timeout=_TIMEOUT)

    def _event(self, name: str, waiting: _Waiting) -> dict[str, object]:
        """core/v1 Event. One about an object without a namespace lives in "default"."""
        note = waiting.note
        namespace, own_name = note.about.name
        involved = {
            "apiVersion": _API_VERSIONS[note.about.kind],
            "kind": note.about.kind.value,
            "name": own_name,
            "namespace": namespace,
            "uid": waiting.uid,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace or "default"},
            "involvedObject": {key: value for key, value in involved.items() if value},
            "type": "Warning",
            "reason": note.reason,
            "message": note.message if len(note.message) <= LONGEST_MESSAGE else note.message[: LONGEST_MESSAGE - 3] + "...",
            "source": {"component": COMPONENT, "host": self._host},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._host,
            "firstTimestamp": _timestamp(waiting.first),
            "lastTimestamp": _timestamp(waiting.last),
            "count": waiting.times,
        }


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
