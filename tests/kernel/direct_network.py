"""Two nodes that are directors and hold pods, and a client beyond, all kept by the real controller and targets.

pod a (10.242.0.5), pod c (10.242.0.6) -- node1 10.0.0.1 --+
                        pod b (10.242.1.7) -- node2 10.0.0.2 --+-- lan -- client 10.0.0.9, which sends Services' packets to node1

Servers and clients are sockets of this process: a socket stays where it was made.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kube_router.app.controllers import kernel_version
from kube_router.app.targets import Targets
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.absent import Absent
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.marks import MarkBook
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Object, Service, ServicePort
from lab.kernel_netns import Netns
from tests.engine import Recorder
from tests.kernel.pods import pod

NODES = {"node1": ("10.0.0.1", "fd00:1::1"), "node2": ("10.0.0.2", "fd00:1::2")}
RANGES = {"node1": ("10.242.0", "fd00:242"), "node2": ("10.242.1", "fd00:242:0:1")}
CLIENT = {4: "10.0.0.9", 6: "fd00:1::9"}
PODS = {"a": ("node1", 5), "c": ("node1", 6), "b": ("node2", 7)}
VIP = {4: "203.0.113.80", 6: "2001:db8:e::80"}
NODES_AS_OBJECTS = [
    Node(Name("", name), addresses=addresses, pod_cidrs=(f"{RANGES[name][0]}.0/24", f"{RANGES[name][1]}::/64"))
    for name, addresses in NODES.items()
]


def address_of(name: str, family: int) -> str:
    """The address of a pod."""
    node, last = PODS[name]
    four, six = RANGES[node]
    return f"{four}.{last}" if family == 4 else str(socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, f"{six}::{last}")))


def bridge_addresses(node: str) -> tuple[str, ...]:
    """Addresses of a node's bridge, with lengths."""
    return tuple(f"{prefix}{last}" for prefix, last in zip(RANGES[node], (".1/24", "::1/64"), strict=True))


def service(name: str, port: int, *, protocol: str = "TCP", direct: bool = True, **fields: Any) -> Service:
    """A dual-stack Service at the direct addresses."""
    annotations = {"kube-router.io/service.dsr": "tunnel"} if direct else {}
    last = port % 250 + 1
    ips = f"10.96.0.{last}", f"fd00:96::{last:x}"
    return Service(
        Name("shop", name),
        created=name,
        annotations=annotations,
        cluster_ips=ips,
        external_ips=tuple(VIP.values()),
        ports=(ServicePort("http", protocol, port),),
        **fields,
    )


def slices(name: str, port: int, *pods: str, protocol: str = "TCP") -> list[EndpointSlice]:
    """Both families of a Service's endpoints."""
    return [
        EndpointSlice(
            Name("shop", f"{name}-{family}"),
            Name("shop", name),
            tuple(Endpoint((address_of(one, family),), node_name=PODS[one][0]) for one in pods),
            (EndpointPort("http", protocol, port),),
        )
        for family in (4, 6)
    ]


class Director:
    """A node's namespace and our part of it."""

    def __init__(self, name: str, netns: Netns, **options: Any) -> None:
        self.name, self.netns = name, netns
        self.options = defaults(
            node_name=name,
            enable_ipv6=True,
            service_external_ip_range=("203.0.113.0/24", "2001:db8:e::/64"),
            service_cluster_ip_range=("10.96.0.0/16", "fd00:96::/112"),
            **options,
        )
        self.start()

    def start(self) -> None:
        """Our process starts, over whatever is there."""
        self.cache, self.report = Cache(), Recorder()
        for kind in (Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.INTERFACE):
            self.cache.replace(kind, ())
        with self.netns.entered():
            self.targets = Targets(self.options, self.cache.view)
        controller = ProxyController(self.options, kernel=kernel_version(), marks=MarkBook(self.targets.found_marks))
        self._cycle = self._of(controller)
        four, six = NODES[self.name]
        for value in NODES_AS_OBJECTS:
            self.cache.put(value)
        self.cache.put(Interface(Name("", "eth0"), mtu=1500, addresses=(f"{four}/24", f"{six}/64")))
        self.cache.put(Interface(Name("", "kube-bridge"), mtu=1500, addresses=bridge_addresses(self.name)))

    def feed(self, *values: Object) -> Outcome:
        """These objects are there, or changed."""
        for value in values:
            self.cache.put(value)
        return self.sync()

    def forget(self, *names: str) -> Outcome:
        """Services are gone, with their slices."""
        for name in names:
            self.cache.remove(Kind.SERVICE, Name("shop", name))
            for family in (4, 6):
                self.cache.remove(Kind.ENDPOINT_SLICE, Name("shop", f"{name}-{family}"))
        return self.sync()

    def sync(self, audit: bool = False) -> Outcome:
        """One pass, from inside; with its rejections told when it is not good."""
        with self.netns.entered():
            outcome = asyncio.run(self._cycle.sync(self._cycle.controller.writes if audit else ()))
        assert outcome.good, (outcome, self.report.rejections, self.report.failures, self.report.faults)
        return outcome

    def cleanup(self) -> Outcome:
        """What `--cleanup-config` does with this part."""
        self._cycle = self._of(Absent(ProxyController.name, ProxyController.writes))
        return self.sync()

    def _of(self, controller: Any) -> Cycle:
        feed = self.cache.feed(controller.reads)
        targets = self.targets.of(controller.writes)
        return Cycle(controller, feed=feed, view=self.cache.view, targets=targets, report=self.report, call=asyncio.to_thread)


class DirectNetwork:
    """Everything of the picture above."""

    def __init__(self, nodes: dict[str, Director], client: Netns, pods: dict[str, Netns]) -> None:
        self.nodes, self.client, self.pods = nodes, client, pods

    def feed(self, *values: Object) -> None:
        """On both nodes."""
        for director in self.nodes.values():
            director.feed(*values)


@contextmanager
def direct_network(new: Callable[[], Netns]) -> Iterator[DirectNetwork]:
    """Made, and let go in the end. Addresses are there at once: nobody else can have them."""

    def make() -> Netns:
        made = new()
        made.run("sysctl -q -w net.ipv6.conf.default.accept_dad=0")
        return made

    with ExitStack() as stack:
        lan, client = make(), make()
        lan.run("ip link add lan type bridge")
        lan.run("ip link set lan up")
        members = {"client": client, **{name: make() for name in NODES}}
        for name, member in members.items():
            lan.run(["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", member.path])
            lan.run(["ip", "link", "set", name, "up", "master", "lan"])
            four, six = NODES.get(name, (CLIENT[4], CLIENT[6]))
            _batch(member, f"address add {four}/24 dev eth0", f"address add {six}/64 dev eth0 nodad", "link set eth0 up")
        routes = []
        for name, (four, six) in NODES.items():
            routes += [f"route add {RANGES[name][0]}.0/24 via {four}", f"route add {RANGES[name][1]}::/64 via {six}"]
        node1 = NODES["node1"]
        _batch(client, *routes, f"route add {VIP[4]} via {node1[0]}", f"route add {VIP[6]} via {node1[1]}")
        for name in NODES:
            netns = members[name]
            netns.run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
            netns.run("ip link add kube-bridge type bridge")
            four, six = RANGES[name]
            _batch(
                netns,
                f"address add {four}.1/24 dev kube-bridge",
                f"address add {six}::1/64 dev kube-bridge nodad",
                "link set kube-bridge up",
                f"route add default via {CLIENT[4]}",
                f"route add default via {CLIENT[6]}",
            )
        _batch(members["node1"], *routes[2:])
        _batch(members["node2"], *routes[:2])
        pods = {}
        for name, (node, _) in PODS.items():
            four, six = address_of(name, 4), address_of(name, 6)
            made = pod(members[node], make, name, f"{four}/24", f"{six}/64", to=("master", "kube-bridge"))
            pods[name] = stack.enter_context(made)
            _batch(pods[name], f"route add default via {RANGES[node][0]}.1", f"route add default via {RANGES[node][1]}::1")
        yield DirectNetwork({name: Director(name, members[name]) for name in NODES}, client, pods)


def listen(netns: Netns, port: int, family: int, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A server's socket in a namespace, at all its addresses."""
    with netns.entered():
        made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(("", port))
        if kind is socket.SOCK_STREAM:
            made.listen(16)
    return made


def connect(netns: Netns, address: str, port: int, timeout: float = 5.0, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A client's connection out of a namespace. Raises OSError when it is refused or nobody answers."""
    with netns.entered():
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(timeout)
    try:
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


def accept(listeners: Iterable[socket.socket], timeout: float = 5.0) -> tuple[socket.socket, socket.socket]:
    """The listener that somebody connected to, and the connection."""
    ready, _, _ = select.select(list(listeners), [], [], timeout)
    assert ready, "nobody came"
    connection, _ = ready[0].accept()
    connection.settimeout(timeout)
    return ready[0], connection


def _batch(netns: Netns, *lines: str) -> None:
    netns.run(["ip", "-batch", "-"], text="\n".join(lines) + "\n")
