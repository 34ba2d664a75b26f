"""A thousand nodes join: their routes and set members, by the real controllers and targets, against `ip -batch` and `ipset restore`.

Dual-stack, so 2,000 routes and 4,000 members. "Cold" is from caches listed to the last write acknowledged. Afterwards: one node more,
one less, one with other addresses, each with its messages counted, and what an audit costs while nothing changes.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench import announcements, prefixes
from bench.frame import CORE, Row, median, progress, timed, tool
from bench.quiet import Quiet
from kube_router.apply.files.cni import CniFileTarget
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.fou import FouTarget
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.apply.kernel.links import LinkTarget
from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.policy_rules import RuleTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.apply.kernel.sysctls import SysctlTarget
from kube_router.apply.kernel.tunnels import TunnelTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.control.controller import Target
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.fib import FibController
from kube_router.control.routing import RoutingController
from kube_router.model.names import BRIDGE, NODE_IPS, POD_SUBNETS, ROUTE_PROTOCOL
from kube_router.model.objects import BestPath, Interface, Kind, Name, Node

TITLE = "1,000 nodes join a dual-stack cluster: routes, sets of nodes and pods; addresses of 5,000 Services; 100,000 prefixes from outside"
NEEDS = frozenset({"root", "netns", "veth", "bridge", "br_netfilter", "ipset", "iptables_nft", "xt_set"})

NODES: Final = 1000
SPARE: Final = NODES + 1  # the node that joins later
OWN: Final = 0
UPLINK: Final = """\
link add up0 type veth peer name up1
link set up0 addrgenmode none up
link set up1 addrgenmode none up
addr add 172.16.0.1/12 dev up0
addr add fd00:16::1/64 dev up0 nodad
"""


def node(number: int, *, moved: bool = False) -> Node:
    """A node with a pod range and an address of each family; `moved` gives it other addresses."""
    host = number + 1 + (0x4000 if moved else 0)
    return Node(
        Name("", f"node{number}"),
        pod_cidrs=(f"10.{number >> 8}.{number & 255}.0/24", f"fd00:10:0:{number:x}::/64" if number else "fd00:10::/64"),
        addresses=(f"172.16.{host >> 8}.{host & 255}", f"fd00:16::{host:x}"),
    )


def paths(of: Node) -> list[BestPath]:
    """What the speaker learned from a node."""
    return [BestPath(Name("", cidr), (address,)) for cidr, address in zip(of.pod_cidrs, of.addresses, strict=True)]


class Host:
    """This node's routing controllers over real targets; made anew it is a restarted daemon."""

    def __init__(self, folder: Path) -> None:
        self.cache = Cache()
        self.routes, self.sets = RouteTarget(), SetTarget()
        rules = IptablesTarget(installed(Commands())["nft"])
        options = defaults(node_name=f"node{OWN}", enable_ipv6=True, cni_conf_file=str(folder / "10-kuberouter.conflist"))
        overlay = (TunnelTarget(), NeighbourTarget(), RuleTarget(), FouTarget(Commands(), lambda: (options.overlay_encap_port,)))
        targets: tuple[Target, ...] = (LinkTarget(), SysctlTarget(), CniFileTarget(), self.sets, rules, self.routes, *overlay)
        self._cycles = [self._cycle(RoutingController(options), targets), self._cycle(FibController(options), targets)]
        self.options: Options = options

    def list_all(self) -> None:
        """The first complete lists, as the watchers deliver them."""
        nodes = [node(number) for number in range(NODES + 1)]
        uplink = Interface(Name("", "up0"), index=2, mtu=1500, addresses=("172.16.0.1/12", "fd00:16::1/64"))
        self.cache.replace(Kind.NODE, nodes)
        self.cache.replace(Kind.INTERFACE, [uplink])
        self.cache.replace(Kind.BEST_PATH, [path for number in range(1, NODES + 1) for path in paths(nodes[number])])

    def join(self, value: Node) -> None:
        """A node that is new or changed, and its paths."""
        self.cache.put(value)
        for path in paths(value):
            self.cache.put(path)

    def leave(self, value: Node) -> None:
        """A node that goes, and its paths."""
        self.cache.remove(Kind.NODE, value.name)
        for path in paths(value):
            self.cache.remove(Kind.BEST_PATH, path.name)

    def sync(self, *, audit: bool = False) -> int:
        """A pass of each controller; how many changes were written. Raises RuntimeError when one was not good."""
        return asyncio.run(self._sync(audit))

    async def _sync(self, audit: bool) -> int:
        outcomes: list[Outcome] = [await cycle.sync(cycle.controller.writes if audit else ()) for cycle in self._cycles]
        bad = [outcome for outcome in outcomes if not outcome.good]
        if bad:
            raise RuntimeError(f"a pass was not good: {bad[0]}")
        return sum(outcome.written for outcome in outcomes)

    def _cycle(self, controller: RoutingController | FibController, targets: Sequence[Target]) -> Cycle:
        mine = [target for target in targets if set(target.kinds) & set(controller.writes)]
        feed = self.cache.feed(controller.reads)
        return Cycle(controller, feed=feed, view=self.cache.view, targets=mine, report=Quiet())


def measure() -> Iterator[Row]:
    """All figures of the case."""
    tool("ip", "-batch", "-", text=UPLINK)
    floor = median(_floor, 3)
    with tempfile.TemporaryDirectory() as folder:
        cold, host = _cold(Path(folder))
        yield Row(measure=f"{NODES} nodes join at once: every route and member in place", ours=cold, unit="s", floor=floor, most=5)
        yield from _single_changes(host)
        yield from _audits(host)
        yield from _restart(Path(folder))
    yield from announcements.measure()
    progress("prefixes from outside; it takes about a minute")
    yield from prefixes.measure()


def _floor() -> float:
    """Seconds that the C tools need for the same routes, sets and members."""
    _clear()
    nodes = [node(number) for number in range(NODES + 1)]
    routes: dict[str, list[str]] = {"-4": [], "-6": []}
    lines = [
        f"create {prefix}{name} {kind} family {family} timeout 0"
        for prefix, family in (("", "inet"), ("inet6:", "inet6"))
        for name, kind in ((POD_SUBNETS, "hash:net"), (NODE_IPS, "hash:ip"))
    ]
    for each in nodes:
        for flag, prefix, cidr, address in zip(("-4", "-6"), ("", "inet6:"), each.pod_cidrs, each.addresses, strict=True):
            lines += [f"add {prefix}{POD_SUBNETS} {cidr} timeout 0", f"add {prefix}{NODE_IPS} {address} timeout 0"]
            if each is not nodes[OWN]:
                routes[flag].append(f"route add {cidr} via {address} proto {ROUTE_PROTOCOL}")
    begin = time.perf_counter()
    for flag, added in routes.items():
        tool("ip", flag, "-batch", "-", text="\n".join(added) + "\n")
    tool("ipset", "restore", text="\n".join(lines) + "\n")
    seconds = time.perf_counter() - begin
    _check(NODES)
    return seconds


def _cold(folder: Path) -> tuple[float, Host]:
    """Median of three cold starts in seconds, and the last host that was started."""
    times: list[float] = []
    for _ in range(3):
        _clear()
        (folder / "10-kuberouter.conflist").unlink(missing_ok=True)
        host = Host(folder)
        host.list_all()
        begin = time.perf_counter()
        host.sync()
        times.append(time.perf_counter() - begin)
        _check(NODES)
    return sorted(times)[1], host


def _single_changes(host: Host) -> Iterator[Row]:
    spare = node(SPARE)
    moved = node(7, moved=True)
    changes: tuple[tuple[str, Callable[[], None], int, int], ...] = (
        ("one node joins", lambda: host.join(spare), NODES + 1, 2),
        ("one node leaves", lambda: host.leave(spare), NODES, 2),
        # Two routes to replace, each after one look whether it is still ours.
        ("one node gets other addresses", lambda: host.join(moved), NODES, 4),
        ("and its old ones back", lambda: host.join(node(7)), NODES, 4),
    )
    for measure, change, nodes, messages in changes:
        before = (host.routes.sent, host.sets.restores, host.sets.lines)
        change()
        took = timed(host.sync)
        after = (host.routes.sent, host.sets.restores, host.sets.lines)
        sent, restores, lines = (new - old for new, old in zip(after, before, strict=True))
        _check(nodes)
        yield Row(measure=f"{measure}: event to kernel", ours=took, unit="ms")
        yield Row(measure=f"{measure}: netlink messages", ours=sent, unit="messages", most=messages)
        yield Row(measure=f"{measure}: `ipset restore` runs", ours=restores, unit="runs", most=1, note=f"{lines} lines")


def _audits(host: Host) -> Iterator[Row]:
    """What looking at everything costs, spread over the period in which it happens once."""
    if host.sync():
        raise RuntimeError("a settled node wrote something")
    begin = time.process_time()
    children = _children_time()
    written = host.sync(audit=True)
    spent = time.process_time() - begin + _children_time() - children
    if written:
        raise RuntimeError("an audit of a settled node wrote something")
    period = min(host.options.routes_sync_period, host.options.injected_routes_sync_period)
    yield Row(
        measure="processor while nothing changes, audits",
        ours=100 * spent / period,
        unit=CORE,
        most=0.5,
        note=f"{spent * 1000:.0f} ms every {period:.0f} s, children included",
    )


def _restart(folder: Path) -> Iterator[Row]:
    """A daemon that starts over what an earlier one left."""
    host = Host(folder)
    host.list_all()
    begin = time.perf_counter()
    written = host.sync()
    yield Row(measure="restart over it: observed and compared", ours=time.perf_counter() - begin, unit="s")
    yield Row(measure="restart over it: writes", ours=written, unit="writes", most=0)


def _check(nodes: int) -> None:
    """The kernel itself says that all is there."""
    for family, prefix in (("-4", ""), ("-6", "inet6:")):
        routes = tool("ip", family, "route", "show", "proto", str(ROUTE_PROTOCOL)).splitlines()
        members = [line for name in (POD_SUBNETS, NODE_IPS) for line in tool("ipset", "save", prefix + name).splitlines()]
        if len(routes) != nodes or len(members) != 2 * (nodes + 1) + 2:
            raise RuntimeError(f"{len(routes)} routes and {len(members)} lines of sets for {nodes} nodes")


def _clear() -> None:
    for family in ("-4", "-6"):
        tool("ip", family, "route", "flush", "proto", str(ROUTE_PROTOCOL))
    for stem in ("iptables-nft", "ip6tables-nft"):
        for table in ("filter", "nat"):
            tool(stem, "-t", table, "-F")
            tool(stem, "-t", table, "-X")
    tool("ipset", "destroy")
    if f" {BRIDGE}:" in tool("ip", "-o", "link", "show"):
        tool("ip", "link", "del", BRIDGE)


def _children_time() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
