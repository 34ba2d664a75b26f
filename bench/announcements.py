"""Ten thousand addresses of five thousand Services, announced by the real controller to a real gobgpd, and one of them that changes.

The floor is one stream of the same paths, said to the same gobgpd without a thought.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.frame import Row, median, progress, timed, tool
from bench.quiet import Quiet
from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.paths import path
from kube_router.config.options import Options, defaults
from kube_router.control.cycle import Cycle
from kube_router.control.speaker import SpeakerController
from kube_router.model.objects import Endpoint, EndpointSlice, Kind, Name, Node, Service
from kube_router.model.state.bgp import Path as OwnPath
from kube_router.model.state.bgp import PathKey
from lab.waiting import wait_for

SERVICES: Final = 5000
OWN: Final = Node(Name("", "node0"), addresses=("127.0.0.1",), pod_cidrs=("10.0.0.0/24",))
OPTIONS: Final[Options] = defaults(
    node_name="node0",
    bgp_port=1790,
    advertise_cluster_ip=True,
    advertise_external_ip=True,
    strict_external_ip_validation=False,
    peer_router_ips=("127.0.0.2",),
    peer_router_asns=(65001,),
)
_EVENT: Final = 10.0  # ms, design: one change among many


def service(number: int, *, external: bool = True) -> Service:
    """A Service with a cluster IP and an external IP."""
    where = f"{number // 250}.{number % 250}"
    return Service(Name("bench", f"s{number}"), cluster_ips=(f"10.96.{where}",), external_ips=(f"203.0.{where}",) if external else ())


def ends(number: int) -> EndpointSlice:
    """Its one endpoint, on this node."""
    return EndpointSlice(Name("bench", f"s{number}"), Name("bench", f"s{number}"), (Endpoint(("10.0.0.9",), node_name="node0"),))


class Announcing:
    """This node's speaker controller over a gobgpd; made anew it is a restarted daemon."""

    def __init__(self, target: str) -> None:
        self.cache, controller = Cache(), SpeakerController(OPTIONS)
        self.target = GobgpTarget(Client(target))
        feed = self.cache.feed(controller.reads)
        self._cycle = Cycle(controller, feed=feed, view=self.cache.view, targets=[self.target], report=Quiet())
        self.cache.replace(Kind.NODE, [OWN])
        self.cache.replace(Kind.SERVICE, map(service, range(SERVICES)))
        self.cache.replace(Kind.ENDPOINT_SLICE, map(ends, range(SERVICES)))

    def sync(self) -> int:
        """A pass; how many calls wrote. RuntimeError when it was not good."""
        before = self.target.writes
        outcome = asyncio.run(self._cycle.sync())
        if not outcome.good:
            raise RuntimeError(f"a pass was not good: {outcome}")
        return self.target.writes - before

    def announced(self) -> int:
        """Paths that gobgpd has of us, by its own account."""
        return sum(isinstance(key, PathKey) for key in self.target.observe({}))


def measure() -> Iterator[Row]:
    """All figures."""
    progress(f"{2 * SERVICES} addresses are announced")
    tool("ip", "link", "set", "lo", "up")
    with gobgpd() as target:
        floor = _floor(target)
    with gobgpd() as target:
        node = Announcing(target)
        begin = time.perf_counter()
        node.sync()
        cold = time.perf_counter() - begin
        _check(node, 2 * SERVICES + 1)
        yield Row(measure=f"{2 * SERVICES} addresses of Services announced, cold", ours=cold, unit="s", floor=floor)
        yield from _one_changes(node)
        node = Announcing(target)
        begin = time.perf_counter()
        written = node.sync()
        yield Row(measure="restart over them: observed and compared", ours=time.perf_counter() - begin, unit="s")
        yield Row(measure="restart over them: calls that write", ours=written, unit="calls", most=0)


def _one_changes(node: Announcing) -> Iterator[Row]:
    steps = (
        ("one address goes", service(7, external=False), 2 * SERVICES),
        ("one address comes", service(7), 2 * SERVICES + 1),
    )
    for measure, change, left in steps:
        calls = 0

        def go(change: Service = change) -> None:
            nonlocal calls
            node.cache.put(change)
            calls = node.sync()

        took = timed(go)
        _check(node, left)
        yield Row(measure=f"{measure}: event to speaker", ours=took, unit="ms", most=_EVENT)
        yield Row(measure=f"{measure}: calls, its path and its set member", ours=calls, unit="calls", most=2)

    def back_and_forth() -> float:
        node.cache.put(service(8, external=False))
        went = timed(node.sync)
        node.cache.put(service(8))
        return (went + timed(node.sync)) / 2

    yield Row(measure="one of them, median of nine", ours=median(back_and_forth, 9), unit="ms", most=_EVENT)


def _floor(target: str) -> float:
    """Seconds for one stream of the same paths."""
    client = Client(target)
    pb = client.generation().pb
    settings = pb.Global(asn=64512, router_id="127.0.0.1", listen_port=1790, listen_addresses=["127.0.0.1"])
    client.send("StartBgp", **{"global": settings})
    services = [service(number) for number in range(SERVICES)]
    prefixes = [f"{address}/32" for each in services for address in each.addresses()]
    begin = time.perf_counter()
    paths = [path(client.generation(), PathKey(prefix), OwnPath("127.0.0.1")) for prefix in prefixes]
    client.pour("AddPathStream", [{"table_type": client.generation().table_global, "paths": paths}])
    seconds = time.perf_counter() - begin
    client.close()
    return seconds


def _check(node: Announcing, number: int) -> None:
    found = node.announced()
    if found != number:
        raise RuntimeError(f"{found} paths are announced, not {number}")


@contextmanager
def gobgpd() -> Iterator[str]:
    """A gobgpd, and where its API is. RuntimeError when none is installed."""
    binary = shutil.which("gobgpd", path="/usr/bin:/usr/sbin")
    if binary is None:
        raise RuntimeError("gobgpd is not installed")
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "gobgp.sock"
        command = [binary, "--api-hosts", f"unix://{socket}", "--pprof-disable", "--log-level=error"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for("gobgpd answers", socket.exists, seconds=60)
            yield f"unix://{socket}"
        finally:
            process.kill()
            process.wait()
