"""The lab's API server over HTTP: what the official client, curl and a plain socket see."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store

ROOT = Path(__file__).parents[2]
MERGE = {"Content-Type": "application/merge-patch+json"}


class Client:
    """One connection that stays open, and JSON."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        self.connection.request(method, path, data, headers or {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def watch(self, path: str) -> Watcher:
        return Watcher(self.port, path)


class Watcher:
    """An open watch, read line by line."""

    def __init__(self, port: int, path: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connection.request("GET", path)
        self.response = self.connection.getresponse()

    def next(self) -> tuple[str, Any]:
        event = json.loads(self.response.readline())
        return event["type"], event["object"]

    def names(self, count: int) -> list[tuple[str, str]]:
        return [(word, thing["metadata"]["name"]) for word, thing in (self.next() for _ in range(count))]

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer(Store(), bookmark_every=0.2).start()
    yield server
    server.stop()


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    client = Client(server.listen(listening_socket))
    yield client
    client.connection.close()


def pod(name: str, *, node: str = "", app: str = "web") -> dict[str, Any]:
    spec = {"nodeName": node} if node else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "spec": spec,
    }


PODS = "/api/v1/namespaces/default/pods"


def test_a_connection_is_used_again_and_answers_in_order(client: Client) -> None:
    assert client.call("POST", PODS, pod("a"))[0] == 201
    first = client.connection.sock
    assert client.call("GET", f"{PODS}/a")[1]["metadata"]["name"] == "a"
    assert client.call("GET", f"{PODS}/b")[0] == 404
    assert client.connection.sock is first
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: raw.recv(65536), b""))
    assert received.index(b"ok") < received.index(b"gitVersion")


def test_a_chunked_body_in_small_pieces_is_understood(client: Client) -> None:
    body = json.dumps(pod("a")).encode()
    head = f"POST {PODS} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode()
    whole = head + b"%x\r\n%s\r\n" % (10, body[:10]) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) - 10, body[10:])
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        for start in range(0, len(whole), 50):
            raw.sendall(whole[start : start + 50])
        assert raw.recv(65536).startswith(b"HTTP/1.1 201 Created")


@pytest.mark.parametrize("junk", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"x" * 70_000])
def test_what_is_not_http_is_answered_and_closed(client: Client, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(junk)
        assert raw.recv(65536).startswith(b"HTTP/1.1 400")
    assert client.call("GET", "/version")[0] == 200


def test_a_list_has_a_version_and_items_without_kind(client: Client, server: ApiServer) -> None:
    client.call("POST", PODS, pod("a"))
    status, answer = client.call("GET", "/api/v1/pods")
    assert (status, answer["kind"], answer["apiVersion"]) == (200, "PodList", "v1")
    assert answer["metadata"]["resourceVersion"] == str(server.store.version)
    assert "kind" not in answer["items"][0]
    assert client.call("GET", f"{PODS}/a")[1]["kind"] == "Pod"


def test_pages_follow_one_another_to_the_end(client: Client, server: ApiServer) -> None:
    for number in range(25):
        Objects(server.store).create(pod(f"p{number:02}"))
    names, token, sizes = [], "", []
    while True:
        page = client.call("GET", f"/api/v1/pods?limit=10&continue={token}")[1]
        sizes.append((len(page["items"]), page["metadata"].get("remainingItemCount")))
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
        client.call("POST", PODS, pod(f"late{len(names)}"))
    assert names == [f"p{number:02}" for number in range(25)]
    assert sizes == [(10, 15), (10, 5), (5, None)]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("labelSelector=app%3Dweb", ["a", "b"]),
        ("labelSelector=app%20in%20(db)", ["c"]),
        ("labelSelector=!app", []),
        ("fieldSelector=spec.nodeName%3Dnode1", ["a", "c"]),
        ("fieldSelector=spec.nodeName%3Dnode1,metadata.name!%3Da", ["c"]),
        ("resourceVersion=0", ["a", "b", "c"]),
    ],
)
def test_a_list_is_narrowed_by_selectors(client: Client, query: str, names: list[str]) -> None:
    for thing in (pod("a", node="node1"), pod("b", node="node2"), pod("c", node="node1", app="db")):
        client.call("POST", PODS, thing)
    items = client.call("GET", f"/api/v1/pods?{query}")[1]["items"]
    assert [item["metadata"]["name"] for item in items] == names


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/api/v1/nothings", None, 404),
        ("GET", "/other", None, 404),
        ("GET", "/api/v1/pods?labelSelector=a%3Db%3Dc", None, 400),
        ("GET", "/api/v1/pods?fieldSelector=spec.image%3Dx", None, 400),
        ("GET", "/api/v1/pods?limit=x", None, 400),
        ("GET", "/api/v1/pods?continue=junk", None, 400),
        ("GET", "/api/v1/pods?resourceVersion=999999", None, 504),
        ("GET", "/api/v1/pods?watch=true&sendInitialEvents=true", None, 422),
        ("GET", f"{PODS}/a/log", None, 404),
        ("POST", PODS, {"kind": "Node", "metadata": {"name": "x"}}, 400),
        ("POST", PODS, {"metadata": {"name": "x", "namespace": "other"}}, 400),
        ("POST", PODS, [], 400),
        ("POST", "/api/v1/pods", {"metadata": {"name": "x", "namespace": "default"}}, 405),
        ("POST", "/api/v1/namespaces/nowhere/pods", {"metadata": {"name": "x"}}, 404),
        ("POST", f"{PODS}?dryRun=All", {"metadata": {"name": "x"}}, 400),
        ("PUT", f"{PODS}/a", {"metadata": {"name": "b"}}, 400),
        ("PATCH", f"{PODS}/a", {}, 415),
        ("OPTIONS", f"{PODS}/a", None, 405),
    ],
)
def test_a_wrong_request_gets_the_codes_of_the_api(client: Client, method: str, path: str, body: Any, code: int) -> None:
    client.call("POST", PODS, pod("a"))
    status, answer = client.call(method, path, body)
    assert (status, answer["kind"], answer["code"]) == (code, "Status", code)


def test_a_watch_continues_where_a_list_ended(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    version = client.call("GET", "/api/v1/pods")[1]["metadata"]["resourceVersion"]
    client.call("POST", PODS, pod("b"))
    watcher = client.watch(f"/api/v1/pods?watch=true&resourceVersion={version}")
    client.call("PATCH", f"{PODS}/a/status", {"status": {"phase": "Running"}}, MERGE)
    client.call("DELETE", f"{PODS}/b")
    assert watcher.names(3) == [("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]
    watcher.close()


def test_a_watch_without_version_starts_with_what_is_there(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    for version in ("", "&resourceVersion=0"):
        watcher = client.watch(f"/api/v1/pods?watch=1{version}")
        assert watcher.names(1) == [("ADDED", "a")]
        watcher.close()


def test_an_object_enters_and_leaves_a_narrowed_watch(client: Client) -> None:
    client.call("POST", PODS, pod("a", app="db"))
    version = client.call("GET", "/api/v1/pods")[1]["metadata"]["resourceVersion"]
    watcher = client.watch(f"/api/v1/pods?watch=true&labelSelector=app%3Dweb&resourceVersion={version}")
    changed = [client.call("PATCH", f"{PODS}/a", {"metadata": {"labels": {"app": app}}}, MERGE)[1] for app in ("web", "db")]
    (added, first), (deleted, last) = watcher.next(), watcher.next()
    assert (added, deleted) == ("ADDED", "DELETED")
    assert last["metadata"]["labels"] == {"app": "web"}
    assert [thing["metadata"]["resourceVersion"] for thing in (first, last)] == [thing["metadata"]["resourceVersion"] for thing in changed]
    watcher.close()


def test_bookmarks_come_by_themselves_and_at_the_end(client: Client, server: ApiServer) -> None:
    version = client.call("GET", "/api/v1/pods")[1]["metadata"]["resourceVersion"]
    watcher = client.watch(f"/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={version}")
    server.store.advance(5)
    words, versions = [], []
    while line := watcher.response.readline():
        event = json.loads(line)
        words.append(event["type"])
        versions.append(int(event["object"]["metadata"]["resourceVersion"]))
        assert event["object"]["kind"] == "Pod"
    assert set(words) == {"BOOKMARK"}
    assert len(words) >= 3
    assert versions[-1] == int(version) + 5
    watcher.close()


def test_a_watch_without_bookmarks_ends_in_silence(client: Client) -> None:
    watcher = client.watch("/api/v1/pods?watch=true&timeoutSeconds=1")
    assert watcher.response.readline() == b""
    watcher.close()


def test_a_watch_from_a_forgotten_version_says_gone(client: Client, server: ApiServer) -> None:
    client.call("POST", PODS, pod("a"))
    version = client.call("GET", "/api/v1/pods")[1]["metadata"]["resourceVersion"]
    client.call("DELETE", f"{PODS}/a")
    server.store.expire()
    watcher = client.watch(f"/api/v1/pods?watch=true&resourceVersion={version}")
    word, status = watcher.next()
    assert (watcher.response.status, word, status["code"], status["reason"]) == (200, "ERROR", 410, "Expired")
    watcher.close()


def test_a_slow_reader_costs_no_memory_and_is_told_when_it_is_too_late() -> None:
    server = ApiServer(Store(window=200)).start()
    client = Client(server.listen(listening_socket))
    client.call("POST", PODS, pod("a"))
    watcher = client.watch("/api/v1/pods?watch=true")
    assert watcher.names(1) == [("ADDED", "a")]
    objects, filling = Objects(server.store), "x" * 200_000
    for number in range(150):
        objects.patch("pod", "a", {"metadata": {"annotations": {"n": f"{number}{filling}"}}}, namespace="default")
        time.sleep(0.002)
    for number in range(300):
        objects.patch("pod", "a", {"metadata": {"annotations": {"n": str(number)}}}, namespace="default")
    words = [watcher.next()[0]]
    while words[-1] == "MODIFIED":
        words.append(watcher.next()[0])
    assert words[-1] == "ERROR"
    assert watcher.response.readline() == b""
    watcher.close()
    server.stop()


def test_leases_events_and_collections_work_as_everything_does(client: Client) -> None:
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    created = client.call("POST", leases, lease)[1]
    created["spec"]["holderIdentity"] = "b"
    assert client.call("PUT", f"{leases}/l", created)[0] == 200
    assert client.call("PUT", f"{leases}/l", created)[0] == 409
    events = "/apis/events.k8s.io/v1/namespaces/default/events"
    event = {"metadata": {"generateName": "e-"}, "reason": "R", "regarding": {"kind": "Node", "name": "node1"}}
    for _ in range(3):
        assert client.call("POST", events, event)[0] == 201
    assert len(client.call("GET", f"{events}?fieldSelector=regarding.name%3Dnode1")[1]["items"]) == 3
    assert client.call("DELETE", f"{events}?fieldSelector=reason%3DR")[0] == 200
    assert client.call("GET", events)[1]["items"] == []


def test_discovery_names_the_kinds(client: Client) -> None:
    assert client.call("GET", "/api")[1]["versions"] == ["v1"]
    groups = [group["name"] for group in client.call("GET", "/apis")[1]["groups"]]
    assert {"discovery.k8s.io", "networking.k8s.io", "coordination.k8s.io"} <= set(groups)
    resources = client.call("GET", "/api/v1")[1]["resources"]
    assert {"pods", "pods/status", "nodes", "nodes/status"} <= {resource["name"] for resource in resources}
    assert client.call("GET", "/apis/discovery.k8s.io/v1")[1]["resources"][0]["kind"] == "EndpointSlice"


def test_the_server_as_a_process_serves_a_loaded_cluster_to_curl(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.json"
    cluster.write_text(json.dumps({"kind": "List", "items": [pod("a"), pod("b")]}))
    arguments = [sys.executable, "-m", "lab.api", "--port", "0", "--load", str(cluster), "--bookmark-every", "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        listed = json.loads(subprocess.check_output(["curl", "-sS", f"{url}/api/v1/pods"], timeout=20))
        assert [item["metadata"]["name"] for item in listed["items"]] == ["a", "b"]
        watched = subprocess.run(
            ["curl", "-sSN", "-m", "10", f"{url}/api/v1/pods?watch=1&timeoutSeconds=1"],
            stdout=subprocess.PIPE,
            timeout=20,
            check=True,
        )
        assert watched.stdout.count(b'"type":"ADDED"') == 2
        big = json.dumps(pod("big") | {"metadata": {"name": "big", "annotations": {"x": "y" * 2_000_000}}})
        sent = subprocess.run(
            ["curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null", "--data-binary", "@-", f"{url}{PODS}"],
            input=big.encode(),
            stdout=subprocess.PIPE,
            timeout=20,
            check=True,
        )
        assert sent.stdout == b"201"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
