"""One node of the cluster: its processes, its files, and what can be asked or done there."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lab.capture import Capture, Packet
from lab.echo import Listener
from lab.kubelet import Kubelet
from lab.probe import PATIENCE, Reply, Verdict
from lab.processes import Process, Speaker, router_daemon
from lab.space import Space, inside
from lab.topology import UPLINK, Topology
from lab.waiting import SLOWNESS, wait_for

HEALTH_PORT = 20244  # the daemon's default


class Surroundings(Protocol):
    """What a node sees of the cluster that it is part of (cluster.py)."""

    url: str
    work: Path
    topology: Topology

    def flags(self) -> tuple[str, ...]: ...

    def delete(self, word: str, name: str, namespace: str = ..., *, grace: int | None = ...) -> bool: ...

    def ask(self, place: str, target: str, *, on: str = ..., seconds: float = ...) -> Reply: ...

    def probe(self, place: str, target: str, *, on: str = ..., seconds: float = ...) -> Verdict: ...


class Node:
    """A node. ``speaker`` and ``daemon`` are processes that are started and ended from here."""

    def __init__(self, name: str, cluster: Surroundings, *, space: Space, kubelet: Kubelet, addresses: Sequence[str], speaker: str) -> None:
        self.name = name
        self.space = space
        self.kubelet = kubelet
        self.addresses = list(addresses)
        self._cluster = cluster
        self.speaker = Speaker(space, log=cluster.work / f"{name}-gobgpd.log", binary=speaker)
        self.daemon: Process = self._make_daemon(())

    @property
    def address(self) -> str:
        """The node's IPv4 address."""
        return self.addresses[0]

    # processes

    def _make_daemon(self, flags: Sequence[str], *, log: str = "kube-router") -> Process:
        return router_daemon(
            self.space,
            node=self.name,
            server=self._cluster.url,
            flags=[*self._cluster.flags(), *flags],
            log=self._cluster.work / f"{self.name}-{log}.log",
        )

    def start_daemon(self, *flags: str) -> Process:
        """Start the daemon with more flags; without any, those of the last time stay."""
        if flags or self.daemon.status is None:
            self.daemon = self._make_daemon(flags)
        self.daemon.start()
        return self.daemon

    def stop_daemon(self) -> int | None:
        """SIGTERM; its exit status."""
        return self.daemon.stop()

    def cleanup(self, *, under: Sequence[str] = ()) -> int:
        """Run the daemon with --cleanup-config to its end; the exit status. ``under`` is a command that runs it, such as strace."""
        process = self._make_daemon(["--cleanup-config"], log="cleanup")
        process.command[:0] = under
        return process.start().wait(60)

    def run(self, command: str | Sequence[str], *, text: str = "", check: bool = True, timeout: float = 120.0) -> str:
        """Run a command on the node and hand back what it said; CommandFailed unless it succeeds (or ``check`` is off)."""
        words = shlex.split(command) if isinstance(command, str) else command
        return self.space.run(words, text=text, check=check, timeout=timeout)

    def fetch(self, path: str, *, port: int = HEALTH_PORT) -> tuple[int, str]:
        """GET a page of the daemon from its own node: status and body; OSError when nobody serves it."""
        return self.space.call(_fetch, path, port)

    def wait_until_ready(self, *, seconds: float = 60.0) -> None:
        """Wait until every controller of the daemon has synced; NotYet with its own words and log when it has not."""

        def ready() -> bool:
            if not self.daemon.alive:
                raise RuntimeError(f"it ended with {self.daemon.status}")
            return self.fetch("/readyz")[0] == 200

        def so_far() -> str:
            said = "".join(self.fetch("/readyz")[1]) if self.daemon.alive else ""
            return f"{said}\n{self.daemon.said()[-2000:]}"

        wait_for(f"{self.name}: the daemon is ready", ready, seconds=seconds, so_far=so_far)

    def file(self, path: str) -> Path:
        """A file of the node, to be read or written from here."""
        return self.space.root / path.lstrip("/")

    # questions

    def probe(self, place: str, target: str, *, seconds: float = PATIENCE) -> Verdict:
        """Ask from "host" (this node) or from a pod, whether ``target`` answers."""
        return self._cluster.probe(place, target, on=self.name, seconds=seconds)

    def ask(self, place: str, target: str, *, seconds: float = PATIENCE) -> Reply:
        """Like ``probe``, with who answered and whom it saw."""
        return self._cluster.ask(place, target, on=self.name, seconds=seconds)

    def capture(self, link: str = UPLINK, *, keep: Callable[[Packet], bool] = lambda _: True) -> Capture:
        """Catch the packets that pass a link of this node."""
        return Capture(self.space, link, keep=keep)

    # switches

    def leave(self) -> bool:
        """Take the Node object out of the API, as an administrator would."""
        return self._cluster.delete("node", self.name)

    def join(self, *pod_cidrs: str) -> None:
        """Register the Node object (again); with ``pod_cidrs``, with these ranges."""
        self.kubelet.register(pod_cidrs=pod_cidrs)

    def unplug(self) -> None:
        """Pull the plug of the node's uplink."""
        self._cluster.topology.set_wire(self.name, up=False)

    def plug(self) -> None:
        self._cluster.topology.set_wire(self.name, up=True)


def _fetch(path: str, port: int) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=5 * SLOWNESS) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


def open_in(space: Space, network: str, ports: Sequence[str], families: Sequence[int]) -> list[socket.socket]:
    """Listening sockets at a place, on ports such as "80" or "53/udp"."""
    kinds = [socket.AF_INET if family == 4 else socket.AF_INET6 for family in families]
    wanted = [Listener(int(port), protocol or "tcp") for port, _, protocol in (text.partition("/") for text in ports)]

    def work() -> list[socket.socket]:
        with inside(network):
            return [made for listener in wanted for made in listener.open(kinds)]

    return space.call(work)
