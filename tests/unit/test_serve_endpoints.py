"""Probes and metrics on the addresses and ports of the flags."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from kube_router.config.options import defaults
from kube_router.kit.http import Response
from kube_router.serve.endpoints import ListenError, metrics_routes, start
from kube_router.telemetry.health import Health
from kube_router.telemetry.metrics import Registry, Sample


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def fetch(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


class Node:
    """A health state on a clock that stands still until moved, and metrics of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(lambda: self.now, grace=10)
        self.metrics = Registry()

    def answers(self, options: dict[str, Any], paths: list[str], between: Callable[[], None] = lambda: None) -> list[Any]:
        async def run() -> list[Any]:
            servers = await start(defaults(**options), health=self.health, metrics=self.metrics)
            found = []
            for path in paths:
                found.append(await asyncio.to_thread(fetch, path))
                between()
            for server in servers:
                await server.stop()
            return found

        return asyncio.run(run())


def test_alive_and_ready_are_answered_with_reasons() -> None:
    node = Node()
    node.health.expect("routes", period=60)
    node.health.expect("proxy", period=60)
    node.health.synced("proxy")
    (port,) = free_ports(1)
    base = f"http://127.0.0.1:{port}"

    def later() -> None:
        node.now += 100

    answers = node.answers(
        {"health_addr": "127.0.0.1", "health_port": port}, [f"{base}/healthz", f"{base}/readyz", f"{base}/healthz"], later
    )
    text = "text/plain; charset=utf-8"
    assert answers == [
        (200, text, "OK\n"),
        (503, text, "Not ready\nroutes: not synced yet\n"),
        (500, text, "Unhealthy\nroutes: no turn for 200 s, allowed are 70 s\nproxy: no turn for 200 s, allowed are 70 s\n"),
    ]


def test_ready_is_ok_once_all_have_synced() -> None:
    node = Node()
    node.health.expect("routes", period=60)
    node.health.synced("routes")
    (port,) = free_ports(1)
    (answer,) = node.answers({"health_port": port}, [f"http://127.0.0.1:{port}/readyz"])
    assert answer[0::2] == (200, "OK\n")


def test_metrics_are_on_their_own_address_port_and_path_and_read_off_the_event_loop() -> None:
    node = Node()
    node.metrics.expose(["proxy"])
    loops: list[bool] = []

    def read() -> list[Sample]:
        try:
            asyncio.get_running_loop()
            loops.append(True)
        except RuntimeError:
            loops.append(False)
        return [Sample("controller_ipvs_services", (), 3)]

    node.metrics.at_scrape("ipvs", read)
    health, metrics = free_ports(2)
    options = {"health_port": health, "metrics_addr": "[::1]", "metrics_port": metrics, "metrics_path": "/m"}
    paths = [f"http://[::1]:{metrics}/m", f"http://[::1]:{metrics}/metrics", f"http://127.0.0.1:{health}/m"]
    found, other_path, other_port = node.answers(options, paths)
    assert found[:2] == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "kube_router_controller_ipvs_services 3\n" in found[2]
    assert (other_path[0], other_port[0]) == (404, 404)
    assert loops == [False]


def test_u096_scrapes_side_by_side_are_all_answered_and_made_one_at_a_time() -> None:
    node = Node()
    node.metrics.expose(["proxy"])
    now: list[int] = [0]
    most: list[int] = []

    def read() -> list[Sample]:
        now[0] += 1
        most.append(now[0])
        time.sleep(0.02)
        now[0] -= 1
        return [Sample("controller_ipvs_services", (), 3)]

    node.metrics.at_scrape("ipvs", read)
    scrape = metrics_routes(node.metrics, "/metrics")["/metrics"]

    async def many() -> list[Response]:
        return list(await asyncio.gather(*(scrape() for _ in range(5))))

    answers = asyncio.run(many())
    assert all("kube_router_controller_ipvs_services 3\n" in answer.body for answer in answers)
    assert most == [1] * 5


@pytest.mark.parametrize(("health", "metrics", "servers"), [(0, 0, 0), (0, 65535, 0)])
def test_a_port_of_0_serves_nothing_and_metrics_are_off_at_65535_too(health: int, metrics: int, servers: int) -> None:
    node = Node()

    async def run() -> int:
        options = defaults(health_port=health, metrics_port=metrics)
        return len(await start(options, health=node.health, metrics=node.metrics))

    assert asyncio.run(run()) == servers


def test_every_port_that_is_taken_is_named_and_nothing_keeps_listening() -> None:
    node = Node()
    (free,) = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        both = {"health_port": port, "health_addr": "127.0.0.1", "metrics_port": port, "metrics_addr": "127.0.0.1"}
        with pytest.raises(ListenError) as caught:
            node.answers(both, [])
        assert [(fault.flag, fault.value) for fault in caught.value.faults] == [
            ("--health-port", str(port)), ("--metrics-port", str(port))
        ]  # fmt: skip
        with pytest.raises(ListenError, match=f"--metrics-port={port}: cannot listen on 127.0.0.1, port {port}"):
            node.answers(both | {"health_port": free}, [])
    socket.create_server(("127.0.0.1", free)).close()


def test_an_address_this_node_does_not_have_is_named() -> None:
    with pytest.raises(ListenError, match=r"--health-port=20244: cannot listen on 192\.0\.2\.1, port 20244: .*; free it"):
        Node().answers({"health_addr": "192.0.2.1"}, [])
