"""Many prefixes from outside: a router that announces 100,000 of them, while other controllers have work of their own.

The real daemon, a real gobgpd, and BIRD as the router, which speaks as another node would. Told are the time from the session to the
last route in the kernel, the daemon's memory then, and how long a node that joins in the middle of it waits for its set members.
"""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from bench.daemon import Daemon, surroundings
from bench.frame import Row, progress, tool
from kube_router.model.names import NODE_IPS
from lab.api.kinds import Json
from lab.api.objects import Objects
from lab.kernel_netns import Netns
from lab.waiting import wait_for

PREFIXES: Final = 100_000
MOST_MEMORY: Final = 200  # MiB
OWN, ROUTER = "192.168.60.50", "192.168.60.2"
ASN: Final = 64512  # the default of --cluster-asn
_PATIENCE: Final = 180.0  # seconds
_JOINERS: Final = 12

BIRD: Final = f"""\
router id {ROUTER};
protocol device {{}}
protocol static many {{
  ipv4;
include "prefixes.conf";
}}
protocol bgp node {{
  local {ROUTER} as {ASN};
  neighbor {OWN} as {ASN};
  ipv4 {{ import none; export all; next hop self; }};
}}
"""


def measure() -> Iterator[Row]:
    """All figures; called in a namespace of its own."""
    router = Netns()
    try:
        tool("ip", "link", "add", "many0", "type", "veth", "peer", "name", "many1", "netns", router.path)
        tool("ip", "addr", "add", f"{OWN}/24", "dev", "many0")
        tool("ip", "link", "set", "many0", "up")
        router.run(f"ip addr add {ROUTER}/24 dev many1")
        router.run("ip link set many1 up")
        objects = [_node(1, OWN), _node(2, ROUTER)]
        with tempfile.TemporaryDirectory() as name, surroundings(Path(name), objects) as world:
            yield from _received(Path(name), world.url, world.objects, router)
    finally:
        tool("ip", "link", "del", "many0")
        router.close()


def _received(folder: Path, server: str, objects: Objects, router: Netns) -> Iterator[Row]:
    flags = ("--run-service-proxy=false", "--enable-overlay=false", f"--cluster-asn={ASN}")
    daemon = Daemon(folder, server, flags)
    try:
        daemon.ready()
        before, processor = daemon.memory(), daemon.processor()
        with _bird(folder, router):
            wait_for("the first route", lambda: _routes() > 0, seconds=_PATIENCE)
            begin = time.monotonic()
            waits: list[float] = []
            joining = threading.Thread(target=lambda: waits.extend(_join(objects)))
            joining.start()
            wait_for("the last route", lambda: _routes() == PREFIXES, seconds=_PATIENCE, every=0.5, so_far=_routes)
            took = time.monotonic() - begin
            joining.join()
            memory, processor = daemon.memory(), daemon.processor() - processor
    finally:
        daemon.stop()
    progress(f"waits of the nodes that joined, in ms: {', '.join(f'{1000 * wait:.0f}' for wait in waits)}")
    yield Row(
        measure=f"{PREFIXES:,} prefixes received: first to last route", ours=took, unit="s", note=f"{processor:.1f} s of processor of ours"
    )
    note = f"{before:.0f} MiB before"
    yield Row(measure=f"{PREFIXES:,} prefixes received: memory", ours=memory, unit="MiB", most=MOST_MEMORY, note=note)
    yield Row(measure="a node that joins meanwhile: longest wait", ours=1000 * max(waits), unit="ms", most=1000)


def _join(objects: Objects) -> list[float]:
    """Nodes join one after the other; seconds until the kernel has each one's address in its set."""
    waits: list[float] = []
    for number in range(3, 3 + _JOINERS):
        address = f"192.168.60.{100 + number}"
        objects.apply(_node(number, address))
        begin = time.monotonic()
        wait_for(f"node {number} in {NODE_IPS}", partial(_is_member, address), seconds=_PATIENCE, every=0.01)
        waits.append(time.monotonic() - begin)
        time.sleep(0.2)
    return waits


def _routes() -> int:
    with Path("/proc/thread-self/net/route").open() as table:
        return sum(1 for line in table if line.startswith("many0\t") and line.split()[3] == "0003")


def _is_member(address: str) -> bool:
    return subprocess.run(["ipset", "test", "-q", NODE_IPS, address], capture_output=True, check=False).returncode == 0


@contextmanager
def _bird(folder: Path, router: Netns) -> Iterator[None]:
    prefixes = (f"route 20.{number >> 8 & 255}.{number & 255}.0/24 blackhole;" for number in range(1 << 16))
    more = (f"route 21.{number >> 8 & 255}.{number & 255}.0/24 blackhole;" for number in range(PREFIXES - (1 << 16)))
    (folder / "prefixes.conf").write_text("\n".join([*prefixes, *more]) + "\n")
    (folder / "bird.conf").write_text(BIRD)
    process = router.start(["bird", "-f", "-c", str(folder / "bird.conf"), "-s", str(folder / "bird.ctl"), "-P", str(folder / "bird.pid")])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _node(number: int, address: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node{number}"},
        "spec": {"podCIDR": f"10.233.{63 + number}.0/24", "podCIDRs": [f"10.233.{63 + number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }
