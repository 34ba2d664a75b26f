"""Health check node ports of two nodes, from the Service to the answer over HTTP: what a load balancer sees as the cluster changes."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Iterable, Iterator

import msgspec
import pytest

from kube_router.apply.listeners.health_ports import HealthPortTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Object, Service, ServicePort
from kube_router.model.state.listeners import HealthPortKey
from tests.engine import Recorder, inline
from tests.fakes import FakeTarget, World

WEB = Name("shop", "web")
ADDRESSES = {"n1": "127.0.0.1", "n2": "127.0.0.2"}
CLOSED = 0


class Proxy:
    """One node's proxy; its health check ports are real, the rest of its kernel is not."""

    def __init__(self, name: str, objects: Iterable[Object]) -> None:
        self.address = ADDRESSES[name]
        self.health = HealthPortTarget(lambda: True, address=self.address)
        self.cache = Cache()
        self.report = Recorder()
        controller = ProxyController(defaults(node_name=name, enable_ipv6=True), kernel=(6, 1))
        others = FakeTarget(World(), [kind for kind in controller.writes if kind is not HealthPortKey])
        self.cache.put(Interface(Name("", "eth0"), index=2, up=True, mtu=1500, addresses=(f"{self.address}/8",)))
        for thing in objects:
            self.cache.put(thing)
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=[others, self.health],
            report=self.report,
            call=inline,
        )

    def sync(self) -> Outcome:
        return asyncio.run(self.cycle.sync())

    def ask(self, port: int) -> tuple[int, int]:
        """Status, or CLOSED; and the number of endpoints."""
        try:
            connection = http.client.HTTPConnection(self.address, port, timeout=5)
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
        except ConnectionRefusedError:
            return CLOSED, 0
        return answer.status, json.loads(answer.read())["localEndpoints"]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def service(port: int, policy: str = "Local", vips: tuple[str, ...] = ("10.96.0.1",)) -> Service:
    return Service(
        WEB,
        type="LoadBalancer",
        cluster_ips=vips,
        ports=(ServicePort("http", "TCP", 80), ServicePort("tls", "TCP", 443)),
        external_policy=policy,
        # The API server clears the number when the policy is no longer Local, and gives it again.
        health_check_node_port=port if policy == "Local" else 0,
    )


def slices(ready: int = 1, ending: int = 0, families: tuple[int, ...] = (4, 6)) -> Iterator[EndpointSlice]:
    """Endpoints on n1, in each family."""
    for family in families:
        prefix = "10.1.0." if family == 4 else "fd00:1::"
        endpoints = [Endpoint((f"{prefix}{n}",), node_name="n1") for n in range(1, ready + 1)]
        endpoints += [Endpoint((f"{prefix}e{n}" if family == 6 else f"{prefix}{200 + n}",), False, True, True, "n1") for n in range(ending)]
        ports = (EndpointPort("http", "TCP", 8080), EndpointPort("tls", "TCP", 8443))
        yield EndpointSlice(Name("shop", f"web-{family}"), WEB, tuple(endpoints), ports)


@pytest.fixture
def proxies(port: int) -> Iterator[dict[str, Proxy]]:
    nodes = [Node(Name("", name), addresses=(address,), pod_cidrs=()) for name, address in ADDRESSES.items()]
    made = {name: Proxy(name, [*nodes, service(port), *slices()]) for name in ADDRESSES}
    yield made
    for proxy in made.values():
        proxy.health.close()


def seen(proxies: dict[str, Proxy], port: int, *changes: Object) -> list[tuple[int, int]]:
    """What both nodes answer once they have heard of changes; one pass each is all that it may take."""
    for proxy in proxies.values():
        for change in changes:
            proxy.cache.put(change)
        assert proxy.sync().good
    return [proxy.ask(port) for proxy in proxies.values()]


@pytest.mark.parametrize("vips", [("10.96.0.1",), ("fd00:96::1",), ("10.96.0.1", "fd00:96::1"), ("fd00:96::1", "10.96.0.1")], ids=",".join)
def test_u021_the_port_follows_the_policy_back_and_forth(proxies, port, vips):
    for _ in range(2):
        assert seen(proxies, port, service(port, "Local", vips)) == [(200, 1), (503, 0)]
        assert seen(proxies, port, service(port, "Cluster", vips)) == [(CLOSED, 0)] * 2


def test_ready_pods_count_once_whatever_their_ports_and_families_and_ending_ones_do_not(proxies, port):
    both = service(port, vips=("10.96.0.1", "fd00:96::1"))
    assert seen(proxies, port, both, *slices(ready=3, ending=2)) == [(200, 3), (503, 0)]
    assert seen(proxies, port, *slices(ready=0, ending=2)) == [(503, 0), (503, 0)], "no new clients, though those here are still served"
    assert seen(proxies, port, *slices(ready=200)) == [(200, 200), (503, 0)]


def test_a11_a_port_outlives_the_removal_of_the_service_port_that_came_first(proxies, port):
    assert seen(proxies, port) == [(200, 1), (503, 0)]
    less = msgspec.structs.replace(service(port), ports=(ServicePort("tls", "TCP", 443),))
    assert seen(proxies, port, less) == [(200, 1), (503, 0)]


def test_a11_a_port_that_another_service_takes_over_answers_for_that_one(proxies, port):
    seen(proxies, port)
    other = msgspec.structs.replace(service(port), name=Name("shop", "other"), cluster_ips=("10.96.0.2",))
    for proxy in proxies.values():
        proxy.cache.remove(Kind.SERVICE, WEB)
    assert seen(proxies, port, other) == [(503, 0), (503, 0)]
    assert [value.name for value in proxies["n1"].health.observe({}).values()] == ["other"]


def test_a11_a_port_that_is_taken_is_told_and_opened_by_a_later_pass(proxies, port):
    proxy = proxies["n1"]
    with socket.create_server((proxy.address, port)):
        outcome = proxy.sync()
        assert outcome.refused == 1
        assert not outcome.good, "so it is tried again"
        ((key, reason),) = proxy.report.rejections
        assert key == HealthPortKey(port)
        assert "in use" in reason
    assert proxy.sync().good
    assert proxy.ask(port) == (200, 1)


def test_nothing_listens_once_the_service_is_gone(proxies, port):
    seen(proxies, port)
    for proxy in proxies.values():
        proxy.cache.remove(Kind.SERVICE, WEB)
    assert seen(proxies, port) == [(CLOSED, 0)] * 2
