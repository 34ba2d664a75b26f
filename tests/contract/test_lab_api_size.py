"""The lab's API server is fast enough to stand for a large cluster. Times are processor time: other work does not count."""

from __future__ import annotations

import http.client
import json
import resource
import time
from typing import Any

from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store

PODS = 10_000


def pod(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{number}", "namespace": "default", "labels": {"app": f"a{number % 100}"}},
        "spec": {"nodeName": f"n{number % 91}", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
        "status": {"podIP": f"10.{number // 62500}.{number // 250 % 250}.{number % 250}", "phase": "Running"},
    }


def test_ten_thousand_pods_are_made_listed_and_watched_quickly() -> None:
    server = ApiServer(Store(window=4 * PODS)).start()
    try:
        objects = Objects(server.store)
        start = time.process_time()
        for number in range(PODS):
            objects.create(pod(number))
        creating = time.process_time() - start
        assert PODS / creating > 2_000, f"{PODS / creating:.0f} objects made per second"

        connection = http.client.HTTPConnection("127.0.0.1", server.listen(listening_socket), timeout=60)
        start = time.process_time()
        token, count = "", 0
        while True:
            connection.request("GET", f"/api/v1/pods?limit=500&continue={token}")
            page = json.loads(connection.getresponse().read())
            count += len(page["items"])
            token = page["metadata"].get("continue", "")
            if not token:
                break
        listing = time.process_time() - start
        assert count == PODS
        assert listing < 4.0, f"{listing:.2f} s for a list in pages, decoding included"

        version = page["metadata"]["resourceVersion"]
        watching = http.client.HTTPConnection("127.0.0.1", connection.port, timeout=60)
        watching.request("GET", f"/api/v1/pods?watch=1&resourceVersion={version}")
        response = watching.getresponse()
        start = time.process_time()
        for number in range(PODS):
            objects.patch("pod", f"p{number}", {"status": {"phase": "Failed"}}, namespace="default", part="status")
        for _ in range(PODS):
            assert json.loads(response.readline())["type"] == "MODIFIED"
        changing = time.process_time() - start
        assert PODS / changing > 1_000, f"{PODS / changing:.0f} changes per second from write to watcher"
        watching.close()
        connection.close()
    finally:
        server.stop()


def test_a_pod_costs_the_store_little_memory() -> None:
    objects = Objects(Store(window=100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(PODS):
        objects.create(pod(number))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown / PODS < 6_000, f"{grown / PODS:.0f} bytes a pod"
