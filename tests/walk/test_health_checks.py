"""Health checks that a load balancer sends to its own address pass the rules of Services; nothing else to that address does."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Ingress, Interface, Kind, Name, Node, Service, ServicePort
from tests.engine import Node as Engine
from tests.walk.walker import FELL_THROUGH, Packet, Walker

WEB = Name("shop", "web")
VIPS = {4: "203.0.113.2", 6: "2001:db8:1::2"}
CLIENTS = {4: "198.51.100.9", 6: "2001:db8:9::9"}
NODES = {4: "192.0.2.11", 6: "2001:db8::11"}
LB = Service(
    WEB,
    type="LoadBalancer",
    cluster_ips=("10.96.0.1", "fd00:96::1"),
    ingress=tuple(Ingress(vip) for vip in VIPS.values()),
    ports=(ServicePort("http", "TCP", 80),),
    external_policy="Local",
    health_check_node_port=32000,
)
OBJECTS = (
    Node(Name("", "n1"), addresses=tuple(NODES.values())),
    Interface(Name("", "eth0"), index=2, up=True, mtu=1500, addresses=("192.0.2.11/24", "2001:db8::11/64")),
    LB,
)


@pytest.fixture(scope="module")
def node() -> Engine:
    options = defaults(node_name="n1", enable_ipv6=True, strict_external_ip_validation=False)
    made = Engine(lambda: ProxyController(options, kernel=(6, 1)), objects=OBJECTS)
    made.settle()
    return made


@pytest.mark.parametrize("family", [4, 6])
def test_a_health_check_at_the_balancers_address_passes_and_nothing_else_does(node, family):
    walker = Walker(node.world.state, family, frozenset({NODES[family]}))

    def verdict(destination: str, port: int, protocol: str = "tcp") -> str:
        return walker.run("INPUT", Packet(CLIENTS[family], destination, protocol, port))

    assert verdict(VIPS[family], 32000) == "ACCEPT"
    assert verdict(VIPS[family], 80) == "ACCEPT"
    assert [verdict(VIPS[family], port) for port in (22, 31999, 10250)] == ["REJECT"] * 3
    assert verdict(VIPS[family], 32000, "udp") == "REJECT"
    assert verdict(LB.cluster_ips[family == 6], 32000) == "REJECT", "nobody checks the node at a cluster IP"
    assert verdict(NODES[family], 32000) == FELL_THROUGH


def test_nothing_of_it_is_left_once_no_service_has_such_a_port(node):
    def traces() -> list[str]:
        return [str(key) for key in node.world.state if "health" in str(key).lower()]

    assert traces()
    node.feed((Kind.SERVICE, WEB))
    node.settle()
    assert traces() == []
