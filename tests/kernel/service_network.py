"""One node that serves Services, kept by the real controller and targets; pods behind it, clients before it.

client 10.0.0.9, .11 ... .18 -- eth0 10.0.0.1 [node] kube-bridge 10.242.0.1 -- pods 10.242.0.5 ... .8, all in one namespace

Servers and clients are sockets of this process: a socket stays where it was made. Time is the test's where connections drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kube_router.app.controllers import kernel_version
from kube_router.app.targets import Targets
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.draining import Draining, ending
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Object, Service, ServicePort
from lab.kernel_netns import Netns
from tests.engine import Recorder

NODE = {4: "10.0.0.1", 6: "fd00:1::1"}
CLIENTS = {4: ("10.0.0.9", *(f"10.0.0.{n}" for n in range(11, 19))), 6: ("fd00:1::9",)}
LOOK, GRACE = 5.0, 30.0


def pod(number: int, family: int = 4) -> str:
    """The address of a pod, numbers 5 to 8."""
    return f"10.242.0.{number}" if family == 4 else f"fd00:242::{number}"


def vip(number: int, family: int = 4) -> str:
    """The cluster IP of a Service."""
    return f"10.96.0.{number}" if family == 4 else f"fd00:96::{number:x}"


def service(name: str, number: int, *, protocol: str = "TCP", scheduler: str = "") -> Service:
    """A dual-stack Service with the port 80."""
    annotations = {"kube-router.io/service.scheduler": scheduler} if scheduler else {}
    addresses = (vip(number), vip(number, 6))
    ports = (ServicePort("it", protocol, 80),)
    return Service(Name("shop", name), created=name, annotations=annotations, cluster_ips=addresses, ports=ports)


def slices(name: str, *pods: int, protocol: str = "TCP", port: int = 8080) -> list[EndpointSlice]:
    """Both families of a Service's endpoints."""
    ports = (EndpointPort("it", protocol, port),)
    return [
        EndpointSlice(
            Name("shop", f"{name}-{family}"),
            Name("shop", name),
            tuple(Endpoint((pod(number, family),), node_name="node1") for number in pods),
            ports,
        )
        for family in (4, 6)
    ]


class ServiceNode:
    """The node, and `client` and `pods` around it. `time` is what draining takes for the time."""

    def __init__(self, node: Netns, client: Netns, pods: Netns, **options: Any) -> None:
        self.netns, self.client, self.pods = node, client, pods
        self.time = 0.0
        self.options = defaults(node_name="node1", enable_ipv6=True, service_cluster_ip_range=("10.96.0.0/16", "fd00:96::/112"), **options)
        self.start()

    def start(self) -> None:
        """Our process starts, over whatever is there."""
        self.cache, self.report = Cache(), Recorder()
        controller = ProxyController(self.options, kernel=kernel_version())
        for kind in controller.reads:
            self.cache.replace(kind, ())
        self.cache.put(Node(Name("", "node1"), addresses=tuple(NODE.values()), pod_cidrs=("10.242.0.0/24", "fd00:242::/64")))
        self.cache.put(Interface(Name("", "eth0"), mtu=1500, addresses=(f"{NODE[4]}/24", f"{NODE[6]}/64")))
        self.cache.put(Interface(Name("", "kube-bridge"), mtu=1500, addresses=("10.242.0.1/24", "fd00:242::1/64")))
        with self.netns.entered():
            self.targets = Targets(self.options, self.cache.view)
        keeper = Draining(GRACE, connections=self.targets.connections, ends=ending(self.cache.view), now=lambda: self.time)
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=self.targets.of(controller.writes),
            report=self.report,
            keeper=keeper if self.options.ipvs_graceful_termination else None,
        )

    def feed(self, *values: Object) -> Outcome:
        """These objects are there, or changed."""
        for value in values:
            self.cache.put(value)
        return self.sync()

    def forget(self, name: str) -> Outcome:
        """A Service is gone, with its slices."""
        self.cache.remove(Kind.SERVICE, Name("shop", name))
        for family in (4, 6):
            self.cache.remove(Kind.ENDPOINT_SLICE, Name("shop", f"{name}-{family}"))
        return self.sync()

    def sync(self, *, audit: bool = False) -> Outcome:
        """One pass, from inside: threads that it starts are there, too."""
        with self.netns.entered():
            outcome = asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))
        assert outcome.good, (outcome, self.report.rejections, self.report.failures, self.report.faults)
        return outcome

    def run(self, command: str) -> str:
        """A command on the node."""
        return self.netns.run(command)


@contextmanager
def service_node(make: Callable[[], Netns], **options: Any) -> Iterator[ServiceNode]:
    """The node of the picture above, without a Service."""
    node, client, pods = make(), make(), make()
    for name, inner, addresses in (
        ("eth0", client, [f"{one}/24" for one in CLIENTS[4]] + [f"{one}/64" for one in CLIENTS[6]]),
        ("kube-bridge", pods, [f"{pod(n, family)}/{24 if family == 4 else 64}" for n in range(5, 9) for family in (4, 6)]),
    ):
        node.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", inner.path])
        _addresses(inner, "eth0", addresses)
    _addresses(node, "eth0", [f"{NODE[4]}/24", f"{NODE[6]}/64"])
    _addresses(node, "kube-bridge", ["10.242.0.1/24", "fd00:242::1/64"])
    node.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    for inner, four, six in ((client, NODE[4], NODE[6]), (pods, "10.242.0.1", "fd00:242::1")):
        inner.run(f"ip route add default via {four}")
        inner.run(f"ip -6 route add default via {six}")
    yield ServiceNode(node, client, pods, **options)


def _addresses(netns: Netns, link: str, prefixes: list[str]) -> None:
    lines = [f"address add {prefix} dev {link}{' nodad' if ':' in prefix else ''}" for prefix in prefixes]
    netns.run(["ip", "-batch", "-"], text="\n".join([*lines, f"link set {link} up"]) + "\n")
