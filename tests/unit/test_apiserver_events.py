"""Events on objects: counted together, kept to a rate, never in anybody's way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kube_router.apply.apiserver.events import EventSender, Limits
from kube_router.desired import Note
from kube_router.kit.apiserver import ApiError
from kube_router.model.objects import Kind, Name, Ref

WEB = Ref(Kind.SERVICE, Name("ns", "web"))
QUICK = Limits(waiting=5, burst=100, interval=0.001, repeat=0.0)


def note(about: Ref = WEB, message: str = "m", reason: str = "BadValue") -> Note:
    return Note(about, reason, message)


class Api:
    """Takes what is written; may refuse or hang."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, Any], str]] = []
        self.refuse: Callable[[str], int | None] = lambda method: None
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()

    def write(self, method: str, path: str, body: bytes, *, content_type: str, read_timeout: float) -> bytes:
        self.asked.set()
        assert self.open.wait(10)
        self.requests.append((method, path, json.loads(body), content_type))
        status = self.refuse(method)
        if status is not None:
            raise ApiError(status, "told to")
        return b"{}"

    @property
    def methods(self) -> list[str]:
        return [method for method, *_ in self.requests]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_note_becomes_an_event_on_its_object() -> None:
    api = Api()
    sender = EventSender(api, host="node-1", uid_of=lambda ref: f"uid of {ref}", wall=lambda: 1_700_000_000.0)
    sender.post(note(message="spec.externalIPs[0] is no address"))
    until(lambda: sender.sent == 1)
    ((method, path, event, content_type),) = api.requests
    assert (method, path, content_type) == ("POST", "/api/v1/namespaces/ns/events", "application/json")
    assert event.pop("metadata") == {"name": f"web.{1_700_000_000_000_000_001:x}", "namespace": "ns"}
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "involvedObject": {"apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "web", "uid": "uid of Service ns/web"},
        "type": "Warning",
        "reason": "BadValue",
        "message": "spec.externalIPs[0] is no address",
        "source": {"component": "kube-router", "host": "node-1"},
        "reportingComponent": "kube-router",
        "reportingInstance": "node-1",
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "count": 1,
    }
    sender.stop()


@pytest.mark.parametrize(
    ("ref", "namespace", "version"),
    [
        (Ref(Kind.NODE, Name("", "n1")), "default", "v1"),
        (Ref(Kind.NETWORK_POLICY, Name("ns", "p")), "ns", "networking.k8s.io/v1"),
        (Ref(Kind.ENDPOINT_SLICE, Name("ns", "s")), "ns", "discovery.k8s.io/v1"),
    ],
)
def test_an_event_lives_in_the_namespace_of_its_object(ref: Ref, namespace: str, version: str) -> None:
    api = Api()
    sender = EventSender(api, host="h")
    sender.post(note(ref))
    until(lambda: sender.sent == 1)
    ((_, path, event, _),) = api.requests
    assert path == f"/api/v1/namespaces/{namespace}/events"
    assert event["metadata"]["namespace"] == namespace
    assert event["involvedObject"]["apiVersion"] == version
    sender.stop()


def test_the_same_note_again_raises_a_count() -> None:
    api = Api()
    sender = EventSender(api, host="h", limits=QUICK)
    sender.post(note())
    until(lambda: sender.sent == 1)
    api.open.clear()
    sender.post(note(message="another, so that the next ones wait"))
    until(lambda: not sender._waiting)
    for _ in range(3):
        sender.post(note())
    api.open.set()
    until(lambda: sender.sent == 3)
    created, _, (method, path, patch, content_type) = api.requests
    assert (method, content_type) == ("PATCH", "application/merge-patch+json")
    assert path == f"{created[1]}/{created[2]['metadata']['name']}"
    assert patch["count"] == 4
    sender.stop()


def test_a_repeated_note_waits_for_its_time() -> None:
    api = Api()
    sender = EventSender(api, host="h", limits=Limits(repeat=0.3))
    began = time.monotonic()
    sender.post(note())
    until(lambda: sender.sent == 1)
    sender.post(note())
    sender.post(note(message="a new one does not"))
    until(lambda: sender.sent == 2)
    assert time.monotonic() - began < 0.3
    until(lambda: sender.sent == 3)
    assert time.monotonic() - began >= 0.3
    assert api.methods == ["POST", "POST", "PATCH"]
    sender.stop()


def test_an_event_that_the_server_has_forgotten_is_made_anew() -> None:
    api = Api()
    api.refuse = lambda method: 404 if method == "PATCH" else None
    sender = EventSender(api, host="h", limits=QUICK)
    sender.post(note())
    until(lambda: sender.sent == 1)
    sender.post(note())
    until(lambda: sender.sent == 2)
    assert api.methods == ["POST", "PATCH", "POST"]
    assert api.requests[-1][2]["count"] == 1
    sender.stop()


@pytest.mark.parametrize("status", [0, 403, 409, 500])
def test_refusals_are_counted_and_the_next_note_goes_on(status: int) -> None:
    api = Api()
    api.refuse = lambda method: status
    sender = EventSender(api, host="h", limits=QUICK)
    sender.post(note())
    until(lambda: sender.failed == 1)
    api.refuse = lambda method: None
    sender.post(note(message="next"))
    until(lambda: sender.sent == 1)
    assert sender.dropped == 0
    sender.stop()


def test_all_events_together_keep_to_a_rate() -> None:
    api = Api()
    sender = EventSender(api, host="h", limits=Limits(burst=3, interval=0.2))
    began = time.monotonic()
    for n in range(5):
        sender.post(note(message=str(n)))
    until(lambda: sender.sent == 3)
    assert sender.sent <= 3 + (time.monotonic() - began) / 0.2
    until(lambda: sender.sent == 5)
    assert time.monotonic() - began >= 0.35
    sender.stop()


def test_a_server_that_hangs_holds_up_nobody_and_the_queue_is_bounded() -> None:
    api = Api()
    api.open.clear()
    sender = EventSender(api, host="h", limits=QUICK)
    sender.post(note(message="first"))
    assert api.asked.wait(10)
    began = time.monotonic()
    for n in range(1000):
        sender.post(note(message=str(n)))
    assert time.monotonic() - began < 1.0
    assert len(sender._waiting) <= QUICK.waiting
    assert sender.dropped >= 990
    sender.stop()
    assert time.monotonic() - began < 2.5
    api.open.set()
    until(lambda: not any(thread.name == "events" for thread in threading.enumerate()))
    sender.post(note(message="too late"))
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    "ref", [Ref(Kind.INTERFACE, Name("", "eth0")), Ref(Kind.BEST_PATH, Name("", "10.0.0.0/8")), Ref(Kind.POD, Name("", ""))]
)
def test_what_the_api_has_no_object_for_gets_no_event(ref: Ref) -> None:
    sender = EventSender(Api(), host="h")
    sender.post(note(ref))
    assert sender._thread is None
    assert (sender.dropped, sender.failed) == (0, 0)


def test_long_messages_and_names_are_cut() -> None:
    api = Api()
    sender = EventSender(api, host="h")
    sender.post(note(Ref(Kind.POD, Name("ns", "p" * 253)), message="x" * 5000))
    until(lambda: sender.sent == 1)
    event = api.requests[0][2]
    assert len(event["message"]) == 1024
    assert len(event["metadata"]["name"]) <= 253
    assert event["involvedObject"]["name"] == "p" * 253
    sender.stop()
