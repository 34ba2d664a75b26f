"""Events as the API server takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from kube_router.apply.apiserver.events import EventSender, Limits
from kube_router.desired import Note
from kube_router.kit.apiserver import ApiClient
from kube_router.model.objects import Kind, Name, Ref
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store


@pytest.fixture
def server() -> Iterator[tuple[Objects, str]]:
    store = Store()
    api = ApiServer(store).start()
    port = api.listen(listening_socket)
    yield Objects(store), f"http://127.0.0.1:{port}"
    api.stop()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_events_are_made_counted_and_made_anew(server: tuple[Objects, str]) -> None:
    objects, url = server
    sender = EventSender(ApiClient.load(servers=[url]), host="node-1", limits=Limits(repeat=0.0))
    note = Note(Ref(Kind.POD, Name("default", "web")), "BadValue", "no address")
    for times in range(1, 4):
        sender.post(note)
        until(lambda times=times: sender.sent + sender.failed == times)
    assert sender.failed == 0
    (event,) = objects.list("events")
    assert (event["count"], event["reason"], event["involvedObject"]["name"]) == (3, "BadValue", "web")
    objects.delete("events", event["metadata"]["name"], "default")
    sender.post(note)
    until(lambda: sender.sent + sender.failed == 4)
    assert [event["count"] for event in objects.list("events")] == [1]
    sender.stop()
