"""Nodes with real gobgpd speakers on one segment: each in a namespace of its own, driven by the real controller, target and watch.

    node n: 192.168.50.(49+n) and fd00:50::(49+n) on up0 -- segment (a bridge in a namespace of its own)

The daemon's part runs in the test's process and reaches each gobgpd by its unix socket.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.feed import Feed
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.speaker import SpeakerController, peers_of
from kube_router.model.objects import BestPath, Kind, Name, Node, Object
from kube_router.watch.events import Batch, write
from kube_router.watch.speaker import SpeakerWatch
from kube_router.watch.speaker_paths import LearnedPaths
from lab.kernel_netns import Netns
from tests.engine import Recorder
from tests.speakers import Speaker


def node(number: int, *, families: tuple[int, ...] = (4, 6), third: int = 0) -> Node:
    """Node object number n, with a pod range per family; `third` changes the ranges. The first family is the primary one."""
    host, block = 49 + number, 63 + number + third
    addresses = {4: f"192.168.50.{host}", 6: f"fd00:50::{host}"}
    cidrs = {4: f"10.233.{block}.0/24", 6: f"fd00:{block}::/64"}
    return Node(
        Name("", f"node{number}"),
        addresses=tuple(addresses[family] for family in families),
        pod_cidrs=tuple(cidrs[family] for family in sorted(families)),
    )


class Host:
    """A node: a gobgpd in a namespace on the segment, and our part of it, which may be restarted alone."""

    def __init__(self, number: int, speaker: Speaker, segment: Netns, options: Options) -> None:
        self.number, self.speaker, self.options = number, speaker, options
        self.netns = speaker.netns
        self.objects: dict[Name, Object] = {}
        self.preserved = False
        port = f"p{number}"
        segment.run(f"ip link add {port} type veth peer name up0 netns {self.netns.path}")
        segment.run(f"ip link set {port} master br0 up")
        self.netns.run(f"ip addr add 192.168.50.{49 + number}/24 dev up0")
        self.netns.run(f"ip addr add fd00:50::{49 + number}/64 dev up0 nodad")
        self.netns.run("ip link set up0 up")

    def start(self, *, kernel: tuple[BestPath, ...] = ()) -> None:
        """Our process starts; `kernel`: the routes that the kernel has."""
        self.cache = Cache()
        controller = SpeakerController(self.options)
        self.client = Client(self.speaker.target)
        self.told: list[tuple[str, str]] = []
        self.target = GobgpTarget(
            self.client, preserved=lambda: self.preserved, tell=lambda reason, message: self.told.append((reason, message))
        )
        self.report = Recorder()
        self.cycle = Cycle(
            controller, feed=self.cache.feed(controller.reads), view=self.cache.view, targets=[self.target], report=self.report
        )
        self.heard: list[str] = []
        self.watch = SpeakerWatch(
            Feed(Client(self.speaker.target)),
            self._sink,
            wanted=lambda: peers_of(self.cycle.ledger),
            held=lambda: kernel,
            returned=lambda: self.heard.append("returned"),
            lost=lambda: self.heard.append("lost"),
            paths=LearnedPaths(settle=6.0),
        )
        self.changes: list[dict[str, tuple[str, ...]]] = []
        for value in self.objects.values():
            self.cache.put(value)
        self.task = asyncio.get_running_loop().create_task(self.watch.run())

    async def end(self) -> None:
        """Our process dies; gobgpd lives on."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self.client.close()

    def know(self, *objects: Object) -> None:
        for value in objects:
            self.objects[value.name] = value
            self.cache.put(value)

    def forget(self, name: Name) -> None:
        del self.objects[name]
        self.cache.remove(Kind.NODE, name)

    async def sync(self, *, audit: bool = False) -> Outcome:
        return await self.cycle.sync(self.cycle.controller.writes if audit else ())

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        return {name.name: path.next_hops for name, path in self.cache.view.paths.items()}

    @property
    def established(self) -> list[str]:
        return [peer.address for peer in self.watch.peers if peer.established]

    def _sink(self, batch: Batch) -> None:
        write(batch.events, self.cache)
        self.changes.append(self.routes)


class Mesh:
    """Nodes on one segment. Made inside a running event loop; ended with `end`."""

    def __init__(self, generation: str, folder: Path, namespaces: Callable[[], Netns], size: int, **flags: Any) -> None:
        self.segment = namespaces()
        self.segment.run("ip link add br0 type bridge")
        self.segment.run("ip link set br0 up")
        self.hosts: list[Host] = []
        for number in range(1, size + 1):
            home = folder / f"node{number}"
            home.mkdir()
            options = defaults(node_name=f"node{number}", **{"enable_ipv6": True, **flags})
            self.hosts.append(Host(number, Speaker(generation, home, namespaces()), self.segment, options))

    async def up(self, *objects: Object) -> None:
        """Every speaker runs, every daemon knows these nodes (and Services, and slices) and has programmed its own."""
        for host in self.hosts:
            host.speaker.start()
            host.start()
            host.know(*objects)
            assert (await host.sync()).good, (host.report.failures, host.report.rejections)

    async def end(self) -> None:
        for host in self.hosts:
            await host.end()
            host.speaker.stop()


async def until(holds: Callable[[], Any], seconds: float) -> float:
    """Wait until it holds; returns how long that took. AssertionError when it does not in time."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not holds():
        assert loop.time() < began + seconds, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return loop.time() - began


class Listener(threading.Thread):
    """A BGP peer that only listens: takes one connection on port 179 of an address in a namespace, and keeps what it is sent."""

    def __init__(self, netns: Netns, address: str, *, seconds: float = 30.0) -> None:
        super().__init__(daemon=True)
        self.received = b""
        with netns.entered():
            self._socket = socket.create_server((address, 179), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._socket.settimeout(seconds)
        self.start()

    def run(self) -> None:
        connection, _ = self._socket.accept()
        connection.settimeout(10)
        with connection:
            while len(self.received) < 19 or len(self.received) < int.from_bytes(self.received[16:18]):
                self.received += connection.recv(4096)
        self._socket.close()
