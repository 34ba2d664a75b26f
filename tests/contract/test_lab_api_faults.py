"""Faults of the lab's API server: each does what it says, to whom it says, as often as it says."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lab.api.faults import Fault
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer(Store()).start()
    for name in ("a", "b", "c"):
        Objects(server.store).create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield server
    server.stop()


@pytest.fixture
def url(server: ApiServer) -> str:
    return f"http://127.0.0.1:{server.listen(listening_socket)}"


def fetch(url: str, data: bytes | None = None, *, timeout: float = 10) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, (json.loads(error.read()), dict(error.headers))


def test_a_status_is_answered_as_often_as_asked_and_to_the_named_only(server: ApiServer, url: str) -> None:
    fault = server.faults.add(Fault("answer", verb="list", plural="nodes", status=429, seconds=3, times=2))
    assert fetch(f"{url}/api/v1/pods")[0] == 200
    assert fetch(f"{url}/api/v1/nodes/a")[0] == 200
    code, (status, headers) = fetch(f"{url}/api/v1/nodes")
    assert (code, status["reason"], headers["Retry-After"]) == (429, "TooManyRequests", "3")
    assert fetch(f"{url}/api/v1/nodes")[0] == 429
    assert fetch(f"{url}/api/v1/nodes")[0] == 200
    assert fault.hits == 2


def test_a_fault_can_hit_one_client(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("answer", client="192.0.2."))
    assert fetch(f"{url}/api/v1/nodes")[0] == 200
    server.faults.add(Fault("answer", client="127.0.0."))
    assert fetch(f"{url}/api/v1/nodes")[0] == 500


def test_a_removed_fault_hits_nobody(server: ApiServer, url: str) -> None:
    fault = server.faults.add(Fault("answer", path="/api/v1/nodes"))
    assert fetch(f"{url}/api/v1/nodes")[0] == 500
    server.faults.remove(fault)
    assert fetch(f"{url}/api/v1/nodes")[0] == 200


def test_a_delayed_answer_is_right_and_late(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("delay", seconds=0.3))
    start = time.monotonic()
    assert len(fetch(f"{url}/api/v1/nodes")[1]["items"]) == 3
    assert time.monotonic() - start >= 0.3


def test_a_stalled_request_gets_no_answer_and_others_do(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("stall", plural="nodes", times=1))
    with pytest.raises(TimeoutError):
        fetch(f"{url}/api/v1/nodes", timeout=0.3)
    assert fetch(f"{url}/api/v1/nodes")[0] == 200


def test_a_stalled_watch_is_silent(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("stall", verb="watch"))
    watch = urllib.request.urlopen(f"{url}/api/v1/nodes?watch=1&resourceVersion={server.store.version}", timeout=0.3)
    Objects(server.store).delete("node", "a")
    with pytest.raises(TimeoutError):
        watch.readline()


def test_a_cut_answer_breaks_in_the_middle(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("cut", verb="list"))
    with pytest.raises(http.client.IncompleteRead):
        fetch(f"{url}/api/v1/nodes")


def test_a_cut_watch_breaks_after_so_many_events(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("cut", verb="watch", keep=2))
    watch = urllib.request.urlopen(f"{url}/api/v1/nodes?watch=1", timeout=10)
    names = [json.loads(watch.readline())["object"]["metadata"]["name"] for _ in range(2)]
    assert names == ["a", "b"]
    with pytest.raises(http.client.IncompleteRead):
        watch.read()


@pytest.mark.parametrize("keep", [0, 2])
def test_a_short_list_looks_whole(server: ApiServer, url: str, keep: int) -> None:
    server.faults.add(Fault("short", verb="list", keep=keep))
    answer = fetch(f"{url}/api/v1/nodes")[1]
    assert len(answer["items"]) == keep
    assert answer["metadata"] == {"resourceVersion": str(server.store.version)}


def test_gone_is_a_status_for_a_list_and_an_event_for_a_watch(server: ApiServer, url: str) -> None:
    server.faults.add(Fault("gone"))
    assert fetch(f"{url}/api/v1/nodes?limit=1")[0] == 410
    with urllib.request.urlopen(f"{url}/api/v1/nodes?watch=1", timeout=10) as watch:
        event = json.loads(watch.read())
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_server_that_refuses_comes_back_on_the_same_address(server: ApiServer) -> None:
    port = server.listen(listening_socket)
    url = f"http://127.0.0.1:{server.listen(lambda: listening_socket(port, host='127.0.0.2'))}".replace("0.1", "0.2")
    watch = urllib.request.urlopen(f"{url}/api/v1/nodes?watch=1&resourceVersion={server.store.version}", timeout=10)
    server.refuse()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watch.read()
    with pytest.raises(urllib.error.URLError):
        fetch(f"{url}/api/v1/nodes")
    server.accept()
    assert fetch(f"{url}/api/v1/nodes")[0] == 200


def test_cut_breaks_all_watches_and_goes_on(server: ApiServer, url: str) -> None:
    watch = urllib.request.urlopen(f"{url}/api/v1/nodes?watch=1&resourceVersion={server.store.version}", timeout=10)
    assert server.watching() == 1
    server.cut()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watch.read()
    assert fetch(f"{url}/api/v1/nodes")[0] == 200


def test_an_unknown_fault_is_an_error() -> None:
    with pytest.raises(ValueError, match="explode"):
        Fault("explode")  # type: ignore[arg-type]


def test_the_switches_work_over_http(server: ApiServer, url: str) -> None:
    sent = json.dumps({"action": "answer", "verb": "list", "status": 503}).encode()
    assert fetch(f"{url}/lab/faults", sent)[0] == 201
    assert fetch(f"{url}/lab/faults", b'{"action": "explode"}')[0] == 400
    assert fetch(f"{url}/lab/faults", b'{"unknown": 1}')[0] == 400
    assert fetch(f"{url}/api/v1/nodes")[0] == 503
    assert [fault["hits"] for fault in fetch(f"{url}/lab/faults")[1]] == [1]
    urllib.request.urlopen(urllib.request.Request(f"{url}/lab/faults", method="DELETE"), timeout=10).close()
    page = fetch(f"{url}/api/v1/nodes?limit=1")[1]
    Objects(server.store).delete("node", "a")
    assert fetch(f"{url}/lab/expire", b"")[0] == 200
    assert fetch(f"{url}/api/v1/nodes?limit=1&continue={page['metadata']['continue']}")[0] == 410
    assert {"client": "127.0.0.1", "verb": "list", "plural": "nodes", "count": 3} in fetch(f"{url}/lab/seen")[1]
    assert fetch(f"{url}/lab/other")[0] == 404
