"""A real daemon with a real BGP speaker and the lab's API server, in the network namespace that the bench runs in."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kube_router.model.names import BRIDGE
from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store

HEALTH: Final = "http://127.0.0.1:20244/readyz"
_PATIENCE: Final = 60.0  # seconds that a start may take natively before the bench gives up; the lab kernel gets 20 times as much
_NOTICES: Final = 0x1  # RTMGRP_LINK


class Broken(Exception):
    """What was started ended, or did not come up; the message has the end of what it said."""


def program() -> list[str]:
    """The command line by which people start it."""
    script = Path(sys.executable).with_name("kube-router")
    return [str(script)] if script.exists() else [sys.executable, "-m", "kube_router.app.main"]


class Daemon:
    """One run of the daemon. Times are seconds since its start."""

    def __init__(self, folder: Path, server: str, flags: Sequence[str]) -> None:
        self._log = folder / "daemon.log"
        self._notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self._notices.bind((0, _NOTICES))
        places = (f"--gobgp-api=unix://{folder}/gobgp.sock", f"--state-dir={folder}")
        command = [*program(), f"--master={server}", *places, *flags]
        environment = os.environ | {"NODE_NAME": "node1", "KUBE_ROUTER_CNI_CONF_FILE": str(folder / "10-kuberouter.conflist")}
        self._begin = time.monotonic()
        with self._log.open("w") as output:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def first_write(self) -> float:
        """When the kernel told of the bridge: an upper bound, since of sets and rules, which may come before, it tells nobody."""
        while True:
            ready, _, _ = select.select([self._notices], [], [], 0.5)
            if ready and BRIDGE.encode() + b"\0" in self._notices.recv(65536):
                return time.monotonic() - self._begin
            self._check()

    def ready(self) -> float:
        """When /readyz said that every controller had synced."""
        while True:
            self._check()
            try:
                with urllib.request.urlopen(HEALTH, timeout=5):
                    return time.monotonic() - self._begin
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)

    def memory(self) -> float:
        """MiB resident now."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

    def processor(self) -> float:
        """Seconds of processor that it and the tools that it ran have used; its own by the nanosecond, the tools' by the tick."""
        own = sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{self.process.pid}/task").iterdir())
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return own / 1e9 + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """SIGTERM; raises Broken when it does not end well."""
        self._notices.close()
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise Broken(f"the daemon ended with {self.process.returncode}: {self._said()}")

    def _check(self) -> None:
        if self.process.poll() is not None:
            raise Broken(f"the daemon ended with {self.process.returncode}: {self._said()}")
        if time.monotonic() - self._begin > _PATIENCE * (20 if "LAB_KERNEL" in os.environ else 1):
            raise Broken(f"the daemon does not get ready: {self._said()}")

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@dataclass(frozen=True, slots=True)
class World:
    """The API server's address, and its objects, to be changed."""

    url: str
    objects: Objects


@contextmanager
def surroundings(folder: Path, objects: Sequence[Json]) -> Iterator[World]:
    """The API server and gobgpd, while it lasts."""
    binary = shutil.which("gobgpd")
    if binary is None:
        raise Broken("gobgpd is not installed")
    store = Store()
    kept = Objects(store)
    kept.load(iter(objects))
    server = ApiServer(store).start()
    port = server.listen(lambda: listening_socket(0))
    command = [binary, "--api-hosts", f"unix://{folder}/gobgp.sock", "--pprof-disable"]
    with (folder / "gobgpd.log").open("w") as output:
        speaker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield World(f"http://127.0.0.1:{port}", kept)
    finally:
        speaker.kill()
        speaker.wait()
        server.stop()
