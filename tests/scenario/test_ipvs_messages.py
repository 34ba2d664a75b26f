"""From an event to IPVS's own messages: the real controller, cycle and target over an IPVS that counts what it is told."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from kube_router.apply.kernel.ipvs import IpvsTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.draining import Draining, ending
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Object, Service, ServicePort
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from tests.engine import Recorder, inline
from tests.fakes import FakeTarget, World
from tests.ipvs_kernel import FakeIpvs

GRACE, LOOK = 30.0, 5.0
SERVER = VirtualServerKey("10.233.0.9", 6, 80, family=4)


class Proxy:
    """One node's proxy; everything but IPVS is a fake that holds a mapping."""

    def __init__(self, folder: Path, **flags: bool) -> None:
        self.kernel = FakeIpvs(folder / "expire_nodest_conn")
        self.time = 0.0
        self.cache = Cache()
        options = defaults(node_name="node1", **flags)
        controller = ProxyController(options, kernel=(6, 1))
        ipvs = IpvsTarget(
            adopted=lambda: lambda _: False, flows=None, socket=self.kernel, table=self.kernel.text, expire=self.kernel.switch
        )
        world = World()
        others = tuple(kind for kind in controller.writes if kind not in ipvs.kinds)
        keeper = Draining(GRACE, connections=ipvs.connections, ends=ending(self.cache.view), now=lambda: self.time)
        self._cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=(FakeTarget(world, others), ipvs),
            report=Recorder(),
            call=inline,
            keeper=keeper if options.ipvs_graceful_termination else None,
        )
        self.feed(Node(Name("", "node1"), addresses=("192.168.50.50",)), Interface(Name("", "up0"), addresses=("192.168.50.50/24",)))

    def feed(self, *values: Object) -> Counter[str]:
        """What IPVS is told when these come."""
        for value in values:
            self.cache.put(value)
        return self.sync()

    def sync(self) -> Counter[str]:
        before = self.kernel.said.copy()
        outcome: Outcome = asyncio.run(self._cycle.sync())
        assert outcome.good, outcome
        return self.kernel.said - before


def service(scheduler: str = "rr") -> Service:
    annotations = {"kube-router.io/service.scheduler": scheduler}
    ports = (ServicePort("http", "TCP", 80),)
    return Service(Name("shop", "web"), created="2024", annotations=annotations, cluster_ips=("10.233.0.9",), ports=ports)


def endpoints(*last: int) -> EndpointSlice:
    pods = tuple(Endpoint((f"10.1.0.{n}",), node_name="node2") for n in last)
    return EndpointSlice(Name("shop", "web-1"), Name("shop", "web"), pods, (EndpointPort("http", "TCP", 8080),))


def pod(number: int) -> DestinationKey:
    return DestinationKey(SERVER, f"10.1.0.{number}", 8080)


def test_d05_one_endpoint_of_a_round_robin_service_is_one_message(tmp_path):
    proxy = Proxy(tmp_path)
    assert proxy.feed(service(), endpoints(1, 2)) == {"new service": 1, "new destination": 2}
    assert proxy.feed(endpoints(1, 2, 3)) == {"new destination": 1}
    assert proxy.feed(endpoints(1, 3)) == {"delete destination": 1}
    assert proxy.sync() == {}


def test_d05_d11_one_endpoint_is_two_messages_when_it_drains_however_often_it_is_looked_at(tmp_path):
    proxy = Proxy(tmp_path, ipvs_graceful_termination=True)
    proxy.feed(service(), endpoints(1, 2))
    proxy.kernel.open[pod(2)] = 3
    assert proxy.feed(endpoints(1)) == {"set destination": 1}
    for _ in range(4):
        proxy.time += LOOK
        assert proxy.sync() == {}
    assert proxy.kernel.open == {pod(2): 3}, "nothing was cut"
    del proxy.kernel.open[pod(2)]
    proxy.time += LOOK
    assert proxy.sync() == {"delete destination": 1}


def test_b13_a_whole_service_drains_and_is_two_messages_for_each_endpoint_and_one_for_itself(tmp_path):
    proxy = Proxy(tmp_path, ipvs_graceful_termination=True)
    proxy.feed(service(), endpoints(1, 2))
    proxy.kernel.open[pod(2)] = 1
    proxy.cache.remove(Kind.SERVICE, Name("shop", "web"))
    assert proxy.sync() == {"set destination": 2}
    proxy.time += LOOK
    assert proxy.sync() == {"delete destination": 1}, "the one without connections goes first"
    assert proxy.kernel.open == {pod(2): 1}
    proxy.time += GRACE
    assert proxy.sync() == {"delete destination": 1, "delete service": 1}


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_b24_a_rollout_of_a_service_that_hashes_keeps_order_and_connections(tmp_path, scheduler):
    proxy = Proxy(tmp_path)
    proxy.feed(service(scheduler), endpoints(3, 5, 7))
    proxy.kernel.open |= {pod(5): 1, pod(7): 1}
    proxy.feed(endpoints(4, 5, 7))
    assert proxy.kernel.order(SERVER) == ["10.1.0.7", "10.1.0.5", "10.1.0.4"]
    assert proxy.kernel.open == {pod(5): 1, pod(7): 1}
    assert proxy.sync() == {}
