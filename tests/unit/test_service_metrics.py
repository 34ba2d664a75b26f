"""What a scrape says about Services: counters of the kernel, by the Service that wants them, whatever it is known by."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from kube_router.app.service_metrics import meter_services
from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.desired import Note
from kube_router.model.names import CLUSTER_MARKS, IPV6_SET_PREFIX, SERVICE_MARKS
from kube_router.model.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    Interface,
    Kind,
    Name,
    Node,
    Ref,
    Service,
    ServicePort,
)
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.netfilter import Member, SetMember
from kube_router.plan.ledger import Ledger
from kube_router.telemetry.exposition import render
from kube_router.telemetry.metrics import Registry
from tests.engine import Node as Engine
from tests.ipvs_dump import service_reply

WEB = Ref(Kind.SERVICE, Name("shop", "web"))
STATS = tuple(range(11, 21))
NUMBERS = (
    "total_connections",
    "packets_in",
    "packets_out",
    "bytes_in",
    "bytes_out",
    "cps",
    "pps_in",
    "pps_out",
    "bps_in",
    "bps_out",
)


class Part(NamedTuple):
    """An item that is a part of a Service, as a pod behind it is."""

    about: Ref


class Scraped:
    """Scrapes over a ledger and a dump that the test may change in between."""

    def __init__(self, ledger: Ledger | None = None, notes: tuple[Note, ...] = ()) -> None:
        self.ledger = ledger or Ledger()
        self.dump: list = []
        self.registry = Registry()
        self.registry.expose(["proxy"])
        cycle = SimpleNamespace(ledger=self.ledger, notes=lambda: iter(notes))
        meter_services(cycle, metrics=self.registry, dump=lambda: self.dump)  # type: ignore[arg-type]

    def text(self) -> str:
        return render(self.registry.collect())

    def series(self, metric: str = "service_total_connections") -> dict[tuple[str, ...], int]:
        """Values by namespace, name, address, protocol and port."""
        (family,) = [f for f in self.registry.collect() if f.metric.name == metric] or [SimpleNamespace(series={})]
        return dict(family.series)


def by_address(address: str, protocol: int = 6, port: int = 80) -> VirtualServerKey:
    return VirtualServerKey(address, protocol, port, 0, 6 if ":" in address else 4)


def by_mark(mark: int, family: int = 4) -> VirtualServerKey:
    return VirtualServerKey("", 0, 0, mark, family)


def test_every_number_of_the_original_is_there_under_its_name():
    scraped = Scraped()
    scraped.ledger.want(WEB, {by_address("10.96.0.1"): VirtualServer()})
    scraped.dump = [service_reply(by_address("10.96.0.1"), STATS), service_reply(by_address("192.0.2.1"), STATS)]
    text = scraped.text()
    labels = '{svc_namespace="shop",service_name="web",service_vip="10.96.0.1",protocol="tcp",port="80"}'
    for name, value in zip(NUMBERS, STATS, strict=True):
        assert f"kube_router_service_{name}{labels} {value}\n" in text
    assert "kube_router_controller_ipvs_services 2\n" in text, "foreign ones are counted too"
    assert "192.0.2.1" not in text
    assert "kube_router_controller_ipvs_metrics_export_time_count 1\n" in text


OBJECTS = (
    Node(Name("", "n1"), addresses=("192.0.2.11", "2001:db8::11"), pod_cidrs=("10.1.0.0/24",)),
    Interface(Name("", "eth0"), index=2, up=True, mtu=1500, addresses=("192.0.2.11/24", "198.51.100.11/24", "2001:db8::11/64")),
    Service(
        WEB.name,
        type="LoadBalancer",
        cluster_ips=("10.96.0.1", "fd00:96::1"),
        external_ips=("203.0.113.1",),
        ingress=(Ingress("203.0.113.2"),),
        ports=(ServicePort("http", "TCP", 80, 30080),),
    ),
    EndpointSlice(Name("shop", "web-4"), WEB.name, (Endpoint(("10.1.0.5",), node_name="n1"),), (EndpointPort("http", "TCP", 8080),)),
    EndpointSlice(Name("shop", "web-6"), WEB.name, (Endpoint(("fd00:1::5",), node_name="n1"),), (EndpointPort("http", "TCP", 8080),)),
)


@pytest.mark.parametrize("everywhere", [False, True])
def test_b18_every_address_has_series_load_balancer_and_secondary_ones_too(everywhere):
    options = defaults(
        node_name="n1", enable_ipv6=True, strict_external_ip_validation=False, nodeport_bindon_all_ip=everywhere, run_service_proxy=True
    )
    node = Engine(lambda: ProxyController(options, kernel=(6, 1)), objects=OBJECTS)
    node.settle()
    scraped = Scraped(node.cycle.ledger)
    scraped.dump = [service_reply(key, STATS) for key in node.world.state if isinstance(key, VirtualServerKey) and not key.mark]
    found = {(labels[2], labels[4]) for labels in scraped.series()}
    vips = {(vip, "80") for vip in ("10.96.0.1", "fd00:96::1", "203.0.113.1", "203.0.113.2")}
    nodes = {("192.0.2.11", "30080"), ("2001:db8::11", "30080")}
    assert found >= vips | nodes
    assert (("198.51.100.11", "30080") in found) == everywhere
    node.feed((Kind.SERVICE, WEB.name))
    node.settle()
    assert scraped.series() == {}, "series of a Service that went vanish with the next scrape, whatever the kernel still holds"


@pytest.mark.parametrize(("vip", "family"), [("203.0.113.1", 4), ("2001:db8:1::1", 6)])
def test_direct_server_return_has_series_and_what_is_counted_apart_adds_up(vip, family):
    prefix = IPV6_SET_PREFIX if family == 6 else ""
    scraped = Scraped()
    direct, cluster = by_mark(0x2AB, family), by_mark(0x202AB, family)
    scraped.ledger.want(
        WEB,
        {
            direct: VirtualServer(),
            cluster: VirtualServer(),
            by_address(vip, port=443): VirtualServer(),
            SetMember(prefix + SERVICE_MARKS, f"{vip},tcp:80"): Member(mark=0x2AB),
            SetMember(prefix + CLUSTER_MARKS, f"{vip},tcp:443"): Member(mark=0x202AB),
        },
    )
    scraped.ledger.want(Part(WEB), {direct: VirtualServer()})
    scraped.dump = [service_reply(key, STATS) for key in (direct, cluster, by_address(vip, port=443), by_mark(0x7, family))]
    assert scraped.series() == {("shop", "web", vip, "tcp", "80"): 11, ("shop", "web", vip, "tcp", "443"): 22}


def test_u096_values_are_read_when_asked_for_and_series_of_services_that_went_vanish():
    scraped = Scraped()
    server = by_address("10.96.0.1", 17, 53)
    scraped.ledger.want(WEB, {server: VirtualServer()})
    for count in (1, 7):
        scraped.dump = [service_reply(server, (count,) * 10)]
        assert scraped.series() == {("shop", "web", "10.96.0.1", "udp", "53"): count}
    scraped.ledger.want(WEB, {})
    assert scraped.series() == {}
    scraped.ledger.want(("draining", server), {server: VirtualServer()})
    assert scraped.series() == {}, "what only drains belongs to no Service any more"


def many(ledger: Ledger, services: int) -> list[VirtualServerKey]:
    keys = [by_address(f"10.{96 + (n >> 16)}.{n >> 8 & 255}.{n & 255}") for n in range(services)]
    for n, key in enumerate(keys):
        ledger.want(Ref(Kind.SERVICE, Name("shop", f"web-{n}")), {key: VirtualServer()})
    return keys


def test_u096_a_scrape_of_5000_services_takes_less_than_a_second():
    scraped = Scraped()
    scraped.dump = [service_reply(key, STATS) for key in many(scraped.ledger, 5_000)]
    began = time.thread_time()
    text = scraped.text()
    assert time.thread_time() - began < 1.0
    assert text.count("\nkube_router_service_") == 5_000 * len(NUMBERS)


def test_u096_scrapes_side_by_side_and_during_a_pass_lose_nothing():
    scraped = Scraped()
    keys = many(scraped.ledger, 300)
    scraped.dump = [service_reply(key, STATS) for key in keys]
    seen: list[int] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            seen.append(len(scraped.series()))

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    changes = 0
    while len(seen) < 12 and time.monotonic() < until:
        key = keys[changes % 300]
        owner = Ref(Kind.SERVICE, Name("shop", f"web-{changes % 300}"))
        extra = {DestinationKey(key, f"10.9.{changes >> 8 & 255}.{changes & 255}", 80): Destination(weight=changes % 2)}
        scraped.ledger.want(owner, {key: VirtualServer(), **extra})
        scraped.ledger.want(("draining", key), {key: VirtualServer()}, (9,))
        scraped.ledger.want(("draining", key), {})
        changes += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert len(seen) >= 12
    assert set(seen) == {300}
    assert "scrape_errors_total{" not in scraped.text()


def test_draining_destinations_and_refused_addresses_are_counted():
    notes = [Note(WEB, reason, "why") for reason in ("VIPRefused", "VIPRefused", "PortTaken", "BadValue")]
    scraped = Scraped(notes=tuple(notes))
    server = by_address("10.96.0.1")
    backends = {DestinationKey(server, f"10.1.0.{n}", 80): Destination(weight=n % 2) for n in range(5)}
    scraped.ledger.want(WEB, {server: VirtualServer(), **backends})
    text = scraped.text()
    assert "kube_router_draining_destinations 3\n" in text
    assert 'kube_router_refused_vips{reason="VIPRefused"} 2\n' in text
    assert 'kube_router_refused_vips{reason="PortTaken"} 1\n' in text
    assert 'refused_vips{reason="PortTaken"} 0\n' in Scraped().text(), "none is 0, not absent"


def test_a_kernel_that_cannot_be_read_costs_only_these_series():
    scraped = Scraped()
    scraped.dump = [service_reply(by_address("10.96.0.1"), STATS)._replace(payload=memoryview(bytes(4)))]
    text = scraped.text()
    assert "controller_ipvs_services " not in text
    assert 'kube_router_scrape_errors_total{part="ipvs"} 1\n' in text
    assert "kube_router_draining_destinations 0\n" in text
