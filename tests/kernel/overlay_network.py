"""Nodes on two segments with a router between them, whose routes and tunnels the real controller writes through the real targets.

    n1 (192.168.50.50) --+
                         +-- router -- n3 (192.168.60.52)
    n2 (192.168.50.51) --+

Each node has a pod: a namespace behind kube-bridge. Paths are told as the speaker would. The router can be told what to let through.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.fou import FouTarget
from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.policy_rules import RuleTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.apply.kernel.tunnels import TunnelTarget
from kube_router.cache.cache import Cache
from kube_router.codec.notices import dump_addresses, dump_links, parse
from kube_router.config.options import Options, defaults
from kube_router.control.absent import Absent
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.fib import FibController
from kube_router.desired.routing.mtu import pod_mtu
from kube_router.kit.net import family_of
from kube_router.model.objects import BestPath, Interface, Kind, Name, Node
from kube_router.model.state import Change, Key
from kube_router.model.state.tunnels import Tunnel
from kube_router.watch.linktable import LinkTable
from lab.kernel_netns import Netns
from lab.waiting import SLOWNESS, wait_for
from tests.engine import Recorder, inline

PODS = {"n1": ("10.233.64.2", "fd00:64::2"), "n2": ("10.233.66.2", "fd00:66::2"), "n3": ("10.233.65.2", "fd00:65::2")}
NODES = {
    "n1": Node(Name("", "n1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"), addresses=("192.168.50.50", "fd00:50::50")),
    "n2": Node(Name("", "n2"), pod_cidrs=("10.233.66.0/24", "fd00:66::/64"), addresses=("192.168.50.51", "fd00:50::51")),
    "n3": Node(Name("", "n3"), pod_cidrs=("10.233.65.0/24", "fd00:65::/64"), addresses=("192.168.60.52", "fd00:60::52")),
}
SEGMENT = {"n1": "50", "n2": "50", "n3": "60"}
# What an encapsulated packet looks like to a router, as words for iptables of each family.
OUTER = {"ipip": {4: "-p 4", 6: "-p 41"}, "fou": dict.fromkeys((4, 6), "-p udp --dport 5555"), "vxlan": {4: "-p udp --dport 4789", 6: ""}}


class Written(Recorder):
    """Keeps what was written, too."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []

    def wrote(self, controller: str, target: object, changes: Sequence[Change]) -> None:
        self.changes += changes


class Host:
    """A node with a pod, and its controller."""

    def __init__(self, name: str, make: Callable[[], Netns], router: Netns) -> None:
        self.name, self.node = name, NODES[name]
        self.space, self.pod = make(), make()
        forward(self.space)  # before there are links: they take their defaults from what is then
        segment = SEGMENT[name]
        four, six = self.node.addresses
        self.space.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", router.path])
        self.space.run(["ip", "link", "add", "veth0", "type", "veth", "peer", "name", "eth0", "netns", self.pod.path])
        gateway4, gateway6 = (cidr.replace("0/24", "1/24").replace("::/64", "::1/64") for cidr in self.node.pod_cidrs)
        lines = f"""
            link add kube-bridge type bridge forward_delay 0
            link set kube-bridge up
            link set veth0 master kube-bridge up
            link set eth0 up
            addr add {four}/24 dev eth0
            addr add {six}/64 dev eth0 nodad
            addr add {gateway4} dev kube-bridge
            addr add {gateway6} dev kube-bridge nodad
            route add default via 192.168.{segment}.1
            route add default via fd00:{segment}::1
        """
        batch(self.space, lines)
        pod4, pod6 = PODS[name]
        batch(
            self.pod,
            f"""
            link set eth0 up
            addr add {pod4}/24 dev eth0
            addr add {pod6}/64 dev eth0 nodad
            route add default via {gateway4.partition("/")[0]}
            route add default via {gateway6.partition("/")[0]}
            """,
        )
        self.report = Written()
        self._targets: list[Any] = []

    def start(self, options: Options) -> None:
        """A daemon that has just started with these flags: no memory, targets of its own."""
        self.stop()
        cache = Cache()
        with self.space.entered():
            tunnels = TunnelTarget()
            self._targets = [RouteTarget(), tunnels, NeighbourTarget(), RuleTarget()]
            self._targets.append(FouTarget(Commands(), lambda: _ports(tunnels, options)))
        self.controller = FibController(options)
        feed = cache.feed(self.controller.reads)
        self.cache, self.report = cache, Written()
        self.cycle = Cycle(self.controller, feed=feed, view=cache.view, targets=self._targets, report=self.report, call=inline)
        for node in NODES.values():
            cache.put(node)
            if node.name != self.node.name:
                for cidr, address in zip(node.pod_cidrs, node.addresses, strict=True):
                    cache.put(BestPath(Name("", cidr), (address,)))
        self.look()
        mtu = pod_mtu(self.node, tuple(cache.view.interfaces.values()), options)
        batch(self.space, f"link set kube-bridge mtu {mtu}\nlink set veth0 mtu {mtu}")
        batch(self.pod, f"link set eth0 mtu {mtu}")
        self.mtu = mtu

    def look(self) -> None:
        """The links of the node, as its watch would tell."""
        table = LinkTable()
        with self.space.entered():
            netlink = RouteTarget()
            found = netlink._socket.dump(dump_links()) + netlink._socket.dump(dump_addresses())
            netlink.close()
        table.replace(told for one in found if (told := parse(one.type, one.payload)) is not None)
        links = [link for link in table.complete().objects if isinstance(link, Interface)]
        self.cache.replace(Kind.INTERFACE, links)

    def sync(self, audit: Iterable[type[Key]] = ()) -> Outcome:
        """One pass."""
        with self.space.entered():
            return asyncio.run(self.cycle.sync(audit))

    def settle(self) -> None:
        """Passes until nothing is left to do."""
        for _ in range(5):
            outcome = self.sync()
            if outcome.good and not outcome.written:
                return
        raise AssertionError(f"{self.name} does not settle: {outcome}, {self.report.rejections}, {self.report.failures}")

    def clean(self) -> None:
        """What `--cleanup-config` does about routes and the overlay."""
        feed = Cache().feed(())
        absent = Absent(FibController.name, FibController.writes)
        self.cycle = Cycle(absent, feed=feed, view=Cache().view, targets=self._targets, report=self.report, call=inline)
        self.settle()

    def stop(self) -> None:
        """The daemon ends; the kernel keeps what it wrote."""
        for target in self._targets:
            target.close()
        self._targets = []

    def ping(self, address: str, *, full: bool = False, source: str = "pod") -> bool:
        """Whether an echo comes back within two tries; `full`: as large as the pod's MTU allows, never to be cut."""
        size = self.mtu - (28 if family_of(address) == 4 else 48)
        words = ["ping", "-c", "1", "-W", "2", *(["-M", "do", "-s", str(size)] if full else []), address]
        space = self.pod if source == "pod" else self.space
        return any("1 received" in space.run(words, check=False) for _ in range(2))


class Network:
    """All of it. `only` lets nothing but one kind of packet through the router."""

    def __init__(self, make: Callable[[], Netns]) -> None:
        self.router = make()
        forward(self.router)
        # The segments are its bridges: what stays on one is none of its business.
        self.router.run(["sysctl", "-qew", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-ip6tables=0"])
        self.hosts = {name: Host(name, make, self.router) for name in NODES}
        batch(
            self.router,
            """
            link add seg50 type bridge forward_delay 0
            link add seg60 type bridge forward_delay 0
            link set seg50 up
            link set seg60 up
            addr add 192.168.50.1/24 dev seg50
            addr add fd00:50::1/64 dev seg50 nodad
            addr add 192.168.60.1/24 dev seg60
            addr add fd00:60::1/64 dev seg60 nodad
            """
            + "\n".join(f"link set {name} master seg{SEGMENT[name]} up" for name in NODES),
        )

    def start(self, *names: str, **flags: Any) -> None:
        """Daemons start with these flags, and do their work."""
        options = {name: defaults(node_name=name, enable_ipv6=True, **flags) for name in names or NODES}
        for name, given in options.items():
            self.hosts[name].start(given)
            self.hosts[name].settle()

    def open(self) -> None:
        """All packets pass again."""
        for space in (self.router, *(host.space for host in self.hosts.values())):
            for tool in ("iptables", "ip6tables"):
                for words in ("-P FORWARD ACCEPT", "-F", "-t raw -F"):
                    space.run(f"{tool} -w {words}")

    def only(self, encap: str) -> None:
        """Nothing but packets of this encapsulation passes the router."""
        for family, tool in ((4, "iptables"), (6, "ip6tables")):
            self.router.run(f"{tool} -w -P FORWARD DROP")
            self.router.run(f"{tool} -w -F FORWARD")
            if OUTER[encap][family]:
                self.router.run(f"{tool} -w -A FORWARD {OUTER[encap][family]} -j ACCEPT")

    def drop(self, words: str) -> None:
        """Such packets do not pass the router."""
        for tool in ("iptables", "ip6tables"):
            self.router.run(f"{tool} -w -I FORWARD {words} -j DROP")

    def close(self) -> None:
        for host in self.hosts.values():
            host.stop()


class Stream:
    """Echoes from a pod to another, `rate` a second, for as long as the context lasts; `sent` and `lost` afterwards.

    It begins with the first answer and ends with an answer to an echo sent after the end was asked for: what is on its
    way when the tool stops is not counted as lost, and what never comes back is.
    """

    def __init__(self, host: Host, address: str, *, rate: int = 100) -> None:
        self._words = ["ping", "-n", "-i", str(1 / rate), "-W", "1", address]
        self._host = host
        self._answered: list[int] = []
        self.sent = self.lost = self._told = 0

    def __enter__(self) -> Stream:
        assert self._host.ping(self._words[-1]), "not reached at all"
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", *self._host.pod.command(self._words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for("an echo is answered", lambda: self._answered, seconds=5)
        return self

    def __exit__(self, *_: object) -> None:
        known = max(self._answered)
        time.sleep(0.3)
        deadline = time.monotonic() + 5 * SLOWNESS
        while max(self._answered) <= known + 10 and time.monotonic() < deadline:
            time.sleep(0.05)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self._reader.join(30)
        last = max(self._answered)
        self.sent = last if last > known + 10 else self._told
        self.lost = self.sent - len(set(self._answered))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if answer := re.search(r"icmp_seq=(\d+) ttl=", line):
                self._answered.append(int(answer[1]))
            elif total := re.search(r"(\d+) packets transmitted", line):
                self._told = int(total[1])


def batch(space: Netns, lines: str) -> None:
    """Lines of `ip -batch`."""
    space.run(["ip", "-batch", "-"], text="\n".join(line.strip() for line in lines.strip().splitlines()) + "\n")


def forward(space: Netns) -> None:
    """Let a namespace forward packets."""
    names = (
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    )
    space.run(["sysctl", "-qw", *names])


def _ports(tunnels: TunnelTarget, options: Options) -> set[int]:
    found = (value for value in tunnels.observe({}).values() if isinstance(value, Tunnel) and value.kind != "vxlan")
    return {options.overlay_encap_port, *(tunnel.port for tunnel in found if tunnel.port)}
