"""A node with Services in number, by the real controller and targets: what case_proxy.py measures.

Run as a module (`python -m bench.proxy_node SERVICES`) it fills a fresh node in a process of its own, with everything imported that
the daemon imports, and prints its resident memory in MiB.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.frame import tool
from bench.quiet import Quiet
from kube_router.app.targets import Targets
from kube_router.apply.kernel.netlink_socket import NetlinkTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle
from kube_router.control.draining import Draining, ending
from kube_router.control.marks import MarkBook
from kube_router.control.proxy import ProxyController
from kube_router.model.names import DUMMY
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Interface, Kind, Name, Node, Service, ServicePort

HERE: Final = "node0"
NODE_ADDRESS: Final = "192.168.50.50"
ENDPOINTS: Final = 4  # of each Service
_TARGET_PORT: Final = (EndpointPort("http", "TCP", 8080),)


def vip(number: int) -> str:
    """Cluster IP of a Service."""
    return f"10.96.{number >> 8}.{number & 255}"


def pod(number: int) -> str:
    """Address of a pod; 2**20 of them."""
    return f"10.{160 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def service(number: int) -> Service:
    """A Service with one TCP port."""
    name = Name("bench", f"service-{number}")
    return Service(name, created="2025", cluster_ips=(vip(number),), ports=(ServicePort("http", "TCP", 80),))


def endpoints(number: int, *, generation: int = 0) -> EndpointSlice:
    """Its endpoints; those of the next generation differ in one."""
    first = number * (ENDPOINTS + 1)
    chosen = [first + place for place in range(ENDPOINTS - 1)] + [first + ENDPOINTS - 1 + generation % 2]
    return EndpointSlice(
        Name("bench", f"service-{number}-x"),
        Name("bench", f"service-{number}"),
        tuple(Endpoint((pod(each),), node_name=f"node{each % 50}") for each in chosen),
        _TARGET_PORT,
    )


def many_endpoints(number: int, pods: Sequence[int]) -> list[EndpointSlice]:
    """Endpoints of a Service in slices of a hundred, as a control plane cuts them; a pod keeps its slice."""
    slices: dict[int, list[int]] = {}
    for each in pods:
        slices.setdefault(each % 1000 // 100, []).append(each)
    return [
        EndpointSlice(
            Name("bench", f"service-{number}-{place}"),
            Name("bench", f"service-{number}"),
            tuple(Endpoint((pod(each),), node_name=f"node{each % 50}") for each in chosen),
            _TARGET_PORT,
        )
        for place, chosen in slices.items()
    ]


class ProxyNode:
    """This node's proxy over real targets; made anew it is a restarted daemon. Its network namespace has its uplink by then.
    `draining`: with graceful termination."""

    def __init__(self, *, draining: bool = False) -> None:
        self.cache = Cache()
        self.options = defaults(node_name=HERE, ipvs_graceful_termination=draining, iptables_backend="nft")
        self._targets = Targets(self.options, self.cache.view)
        self.commands = self._targets.commands
        controller = ProxyController(self.options, kernel=(6, 1), marks=MarkBook(self._targets.found_marks))
        keeper = Draining(0.0, connections=self._targets.connections, ends=ending(self.cache.view)) if draining else None
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=self._targets.of(controller.writes),
            report=Quiet(),
            keeper=keeper,
        )
        self._loop = asyncio.new_event_loop()

    def list_all(self, services: int) -> None:
        """The first complete lists, as the watchers deliver them."""
        self.cache.replace(Kind.NODE, [Node(Name("", HERE), addresses=(NODE_ADDRESS,), pod_cidrs=("10.160.0.0/24",))])
        uplink = Interface(Name("", "up0"), index=2, mtu=1500, addresses=(f"{NODE_ADDRESS}/24",))
        self.cache.replace(Kind.INTERFACE, [uplink, Interface(Name("", "lo"), index=1, addresses=("127.0.0.1/8",))])
        self.cache.replace(Kind.SERVICE, map(service, range(services)))
        self.cache.replace(Kind.ENDPOINT_SLICE, map(endpoints, range(services)))

    def sync(self, *, audit: bool = False) -> int:
        """One pass; how many changes were written. Raises RuntimeError when it was not good."""
        outcome = self._loop.run_until_complete(self.cycle.sync(self.cycle.controller.writes if audit else ()))
        if not outcome.good:
            raise RuntimeError(f"a pass was not good: {outcome}")
        return outcome.written

    def messages(self) -> int:
        """Netlink messages sent so far to IPVS and for addresses."""
        return sum(target.sent for target in self._netlink())

    def close(self) -> None:
        """Let go of its sockets and its loop."""
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        for target in self._netlink():
            target.close()

    def _netlink(self) -> Iterator[NetlinkTarget]:
        for later in (self._targets.ipvs, self._targets.addresses):
            opened: object = later.opened
            if isinstance(opened, NetlinkTarget):
                yield opened


def clear() -> None:
    """Take away all that a node leaves in this network namespace."""
    tool("ipvsadm", "-C")
    for stem in ("iptables-nft", "ip6tables-nft"):
        for table in ("filter", "nat"):
            tool(stem, "-t", table, "-F")
            tool(stem, "-t", table, "-X")
    tool("ipset", "destroy")
    if f" {DUMMY}:" in tool("ip", "-o", "link", "show"):
        tool("ip", "link", "del", DUMMY)
        # Routes that carry the node's address as source outlive the address, not the link.


def check(services: int) -> None:
    """The kernel itself says that all is there."""
    found = {
        "IPVS lines": len(tool("ipvsadm", "-Sn").splitlines()),
        "addresses": tool("ip", "-o", "-4", "addr", "show", "dev", DUMMY).count("inet"),
        "local routes": tool("ip", "-4", "route", "show", "table", "local", "dev", DUMMY).count(f"src {NODE_ADDRESS}"),
        "set members": sum(line.startswith("add ") for line in tool("ipset", "save").splitlines()),
    }
    wanted = {"IPVS lines": services * (1 + ENDPOINTS), "addresses": services, "local routes": services, "set members": 2 * services + 2}
    if found != wanted:
        raise RuntimeError(f"the kernel holds {found} instead of {wanted}")


def main() -> None:
    """Fill a node, print what it weighs."""
    import kube_router.app.daemon
    import kube_router.apply.apiserver.events
    import kube_router.kit.apiserver  # noqa: F401  all for their weight

    node = ProxyNode()
    node.list_all(int(sys.argv[1]))
    node.sync()
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    print(int(resident.split()[1]) / 1024)


if __name__ == "__main__":
    main()
