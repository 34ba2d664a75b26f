"""Why hot paths pack their netlink messages by hand: the same thousand things by us, by the C tool, and through pyroute2.

Routes of both families, entries of a VXLAN link, VIP addresses, and IPVS: two hundred services with four destinations each. The figures of
docs/adr/0007-batched-netlink.md.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.frame import Row, median, progress, timed, tool
from kube_router.apply.kernel.addresses import AddressTarget
from kube_router.apply.kernel.ipvs import IpvsTarget
from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.control.controller import Target
from kube_router.kit.net import Family
from kube_router.model.names import DUMMY, ROUTE_PROTOCOL, VXLAN_LINK
from kube_router.model.state import Change
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey, Route, RouteKey, through
from kube_router.model.state.tunnels import Fdb, FdbKey
from lab import kernel_features

TITLE = "a thousand things to the kernel: hand-packed batches, C tools, pyroute2"
NEEDS = frozenset({"root", "netns", "veth"})  # the rest only where it is: --lab-kernel measures everything

COUNT: Final = 1000
SERVICES: Final = COUNT // 5
BACKENDS: Final = 4  # destinations of each service
TIMES: Final = 3
WORLD: Final = """\
link add up0 type veth peer name up1
link set up0 addrgenmode none up
link set up1 addrgenmode none up
addr add 172.16.0.1/12 dev up0
addr add fd00:16::1/64 dev up0 nodad
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of thing, made in three ways; `clear` takes away what was made, `library_look` reads it back through pyroute2."""

    name: str
    target: Target
    changes: list[Change]
    tool: Callable[[], object]
    library: Callable[[], object]
    clear: Callable[[], object]
    library_look: Callable[[], object] | None = None


def measure() -> Iterator[Row]:
    """All figures of the case."""
    tool("ip", "-batch", "-", text=WORLD)
    for trial in _trials():
        by_library = _took(trial, trial.library, 1)  # once: under emulation it takes minutes
        by_tool = _took(trial, trial.tool, TIMES)
        by_hand = _took(trial, partial(_write, trial), TIMES)
        looked = median(partial(_look, trial), TIMES)
        looked_by_library = timed(trial.library_look) if trial.library_look is not None else 0.0
        trial.clear()
        yield Row(measure=f"{trial.name}, by hand", ours=by_hand, unit="ms", floor=by_tool, most_ratio=1.5)
        yield Row(measure=f"{trial.name}, through pyroute2", ours=by_library, unit="ms", floor=by_tool)
        yield Row(measure=f"{trial.name}, read back by hand", ours=looked, unit="ms")
        if trial.library_look is not None:
            yield Row(measure=f"{trial.name}, read back through pyroute2", ours=looked_by_library, unit="ms")


def _trials() -> Iterator[Trial]:
    yield _routes(4)
    yield _routes(6)
    if not kernel_features.missing(frozenset({"vxlan"})):
        yield _forwarding()
    missing = kernel_features.missing(frozenset({"dummy", "ip_vs"}))
    if missing:
        progress(f"without {', '.join(sorted(missing))} only routes and forwarding entries are measured; --lab-kernel measures everything")
        return
    tool("ip", "link", "add", DUMMY, "type", "dummy")
    tool("ip", "link", "set", DUMMY, "up")
    yield _addresses()
    yield _services()


def _took(trial: Trial, make: Callable[[], object], times: int) -> float:
    def once() -> float:
        trial.clear()
        return timed(make)

    return median(once, times)


def _look(trial: Trial) -> float:
    return timed(lambda: trial.target.observe({}))


def _write(trial: Trial) -> None:
    refused = trial.target.apply(trial.changes)
    if refused:
        raise RuntimeError(f"refused: {next(iter(refused.items()))}")


def _routes(family: Family) -> Trial:
    from pyroute2 import IPRoute

    library = IPRoute()
    if family == 4:
        routes = [(f"10.{n >> 8}.{n & 255}.0/24", f"172.16.{(n + 2) >> 8}.{(n + 2) & 255}") for n in range(COUNT)]
    else:
        routes = [(f"fd01:0:0:{n + 1:x}::/64", f"fd00:16::{n + 2:x}") for n in range(COUNT)]
    number = socket.AF_INET if family == 4 else socket.AF_INET6
    text = "".join(f"route add {prefix} via {gateway} proto {ROUTE_PROTOCOL}\n" for prefix, gateway in routes)

    def by_library() -> None:
        for prefix, gateway in routes:
            library.route("add", dst=prefix, gateway=gateway, proto=ROUTE_PROTOCOL, family=number)

    return Trial(
        f"{COUNT} IPv{family} routes",
        RouteTarget(),
        [Change(RouteKey(prefix), None, Route(through(gateway))) for prefix, gateway in routes],
        lambda: tool("ip", f"-{family}", "-batch", "-", text=text),
        by_library,
        lambda: tool("ip", f"-{family}", "route", "flush", "proto", str(ROUTE_PROTOCOL)),
        lambda: list(library.get_routes(family=number, proto=ROUTE_PROTOCOL)),
    )


def _forwarding() -> Trial:
    from pyroute2 import IPRoute

    tool("ip", "link", "add", VXLAN_LINK, "type", "vxlan", "id", "77", "dstport", "4789", "local", "172.16.0.1", "nolearning")
    tool("ip", "link", "set", VXLAN_LINK, "up")
    library, link, target = IPRoute(), socket.if_nametoindex(VXLAN_LINK), NeighbourTarget()
    ends = [(f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", f"172.17.{n >> 8}.{n & 255}") for n in range(1, COUNT + 1)]
    text = "".join(f"fdb add {mac} dev {VXLAN_LINK} dst {remote} self permanent\n" for mac, remote in ends)

    def by_library() -> None:
        for mac, remote in ends:
            library.fdb("add", ifindex=link, lladdr=mac, dst=remote)

    return Trial(
        f"{COUNT} VXLAN forwarding entries",
        target,
        [Change(FdbKey(VXLAN_LINK, mac), None, Fdb(remote)) for mac, remote in ends],
        lambda: tool("bridge", "-batch", "-", text=text),
        by_library,
        lambda: target.apply([Change(key, value, None) for key, value in target.observe({}).items()]),
        lambda: list(library.fdb("dump")),
    )


def _addresses() -> Trial:
    from pyroute2 import IPRoute

    library = IPRoute()
    link = socket.if_nametoindex(DUMMY)
    addresses = [f"10.96.{n >> 8}.{n & 255}" for n in range(1, COUNT + 1)]
    text = "".join(f"addr add {address}/32 dev {DUMMY} scope link\n" for address in addresses)

    def by_library() -> None:
        for address in addresses:
            library.addr("add", index=link, address=address, prefixlen=32, scope=253)

    return Trial(
        f"{COUNT} VIP addresses",
        AddressTarget(),
        [Change(AddressKey(DUMMY, f"{address}/32"), None, Address()) for address in addresses],
        lambda: tool("ip", "-batch", "-", text=text),
        by_library,
        lambda: tool("ip", "addr", "flush", "dev", DUMMY),
    )


def _services() -> Trial:
    from pyroute2 import IPVS, IPVSDest, IPVSService

    library = IPVS()
    backends = [f"10.244.0.{n}" for n in range(1, BACKENDS + 1)]
    addresses = [f"10.96.{n >> 8}.{n & 255}" for n in range(1, SERVICES + 1)]
    changes: list[Change] = []
    lines: list[str] = []
    for address in addresses:
        key = VirtualServerKey(address, socket.IPPROTO_TCP, 80)
        changes.append(Change(key, None, VirtualServer()))
        changes += [Change(DestinationKey(key, backend, 8080), None, Destination()) for backend in backends]
        lines.append(f"-A -t {address}:80 -s rr\n")
        lines += [f"-a -t {address}:80 -r {backend}:8080 -m\n" for backend in backends]

    def by_library() -> None:
        for address in addresses:
            service = IPVSService(addr=address, port=80, protocol=socket.IPPROTO_TCP)
            library.service("add", service=service)
            for backend in backends:
                library.dest("add", service=service, dest=IPVSDest(addr=backend, port=8080))

    return Trial(
        f"{SERVICES} services x {BACKENDS} destinations",
        IpvsTarget(adopted=lambda: _everything, flows=None),
        changes,
        lambda: tool("ipvsadm", "-R", text="".join(lines)),
        by_library,
        lambda: tool("ipvsadm", "-C"),
    )


def _everything(key: VirtualServerKey) -> bool:
    """All services are ours: nobody else is in this namespace."""
    return bool(key)
