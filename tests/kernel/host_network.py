"""A node whose host side is kept by the real controller and targets, with pods, and a world beyond its uplink.

pods -- kube-bridge (node, 203.0.113.1 and 2001:db8::1 on up0) -- world (203.0.113.2, 2001:db8::2, and networks behind it)
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kube_router.apply.files.cni import CniFileTarget
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import Backend, installed
from kube_router.apply.kernel.links import LinkTarget
from kube_router.apply.kernel.sysctls import SysctlTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.absent import Absent
from kube_router.control.controller import Controller, Target
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.routing import RoutingController
from kube_router.model.objects import Interface, Name, Node
from kube_router.model.state import Key
from kube_router.watch.cni import describe, read
from lab.kernel_netns import Netns
from tests.engine import Recorder

OWN = Node(Name("", "node1"), addresses=("203.0.113.1", "2001:db8::1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"))
UPLINK = Interface(Name("", "up0"), index=2, mtu=1500, addresses=("203.0.113.1/24", "2001:db8::1/64"))
PODS = {4: "10.233.64.10", 6: "fd00:64::10"}
WORLD = {4: "203.0.113.2", 6: "2001:db8::2"}
PLUGINS = "/usr/lib/cni"


class HostNetwork:
    """The node's namespace and our part of it."""

    def __init__(self, make: Callable[[], Netns], folder: Path, backend: Backend = "nft") -> None:
        self.netns = make()
        self.file = folder / "10-kuberouter.conflist"
        self.cache = Cache()
        self.report = Recorder()
        self.sets, self.rules = SetTarget(), IptablesTarget(installed(Commands())[backend])
        with self.netns.entered():  # where its socket belongs
            links = LinkTarget()
        self.targets: list[Target] = [links, SysctlTarget(), self.sets, self.rules, CniFileTarget()]
        for sysctl in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.netns.run(f"sysctl -q -w {sysctl}=1")
        self._cycle: Cycle

    def start(self, *objects: Node | Interface, **options: Any) -> Outcome:
        """Our process starts, with these options, over whatever is there."""
        flags = {"node_name": "node1", "enable_ipv6": True, "cni_conf_file": str(self.file), "cni_bin_dir": PLUGINS, **options}
        self.options = defaults(**flags)
        for value in objects:
            self.cache.put(value)
        self._cycle = self._of(RoutingController(self.options))
        return self.sync()

    def cleanup(self) -> Outcome:
        """What `--cleanup-config` does with this part."""
        self._cycle = self._of(Absent(RoutingController.name, RoutingController.writes))
        return self._sync(())

    def sync(self, audit: Iterable[type[Key]] = ()) -> Outcome:
        """Look at the CNI file, and one pass in the node's namespace."""
        self.cache.put(describe(str(self.file), read(str(self.file)), folders=self.options.cni_folders))
        return self._sync(audit)

    def _sync(self, audit: Iterable[type[Key]]) -> Outcome:
        with self.netns.entered():
            return asyncio.run(self._cycle.sync(audit))

    def _of(self, controller: Controller) -> Cycle:
        return Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=self.targets,
            report=self.report,
        )

    def mtu_of_bridge(self) -> int:
        found: list[dict[str, Any]] = json.loads(self.netns.run("ip -j link show dev kube-bridge"))
        mtu: int = found[0]["mtu"]
        return mtu

    def sets_of_all(self) -> set[str]:
        return set(self.netns.run("ipset list -name").split())

    def members(self, name: str) -> set[str]:
        lines = self.netns.run(f"ipset save {name}").splitlines()
        return {line.split()[2] for line in lines if line.startswith("add ")}


def join(space: Netns, bridge: str, other: Netns, name: str, *addresses: str, gateways: Iterable[str] = ()) -> None:
    """Put another namespace on a bridge by a veth: its eth0 gets the addresses (with lengths)."""
    space.run(f"ip link add {name} type veth peer name eth0 netns {other.path}")
    space.run(f"ip link set {name} master {bridge} up")
    for address in addresses:
        other.run(["ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])])
    other.run("ip link set eth0 up")
    for gateway in gateways:
        other.run(f"ip route add default via {gateway}")


def heard(sender: Netns, receiver: Netns, address: str, *, seconds: float = 1.0, port: int = 7777) -> str:
    """The source address that a datagram to an address arrives with; "" when it does not. Sent again while it is waited for."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with receiver.entered():
        ear = socket.socket(family, socket.SOCK_DGRAM)
    with sender.entered():
        mouth = socket.socket(family, socket.SOCK_DGRAM)
    with ear, mouth:
        ear.bind((address, port))
        ear.settimeout(0.2)
        for _ in range(round(seconds / 0.2)):
            mouth.sendto(b"?", (address, port))
            try:
                return str(ear.recvfrom(16)[1][0])
            except TimeoutError:
                continue
    return ""
