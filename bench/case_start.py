"""Starting: `--help`, imports, the first write on a small cluster; then what a daemon costs that has nothing to do.

A small cluster is three nodes, twenty Services with two endpoints each, thirty pods and two policies. Where the kernel has no IPVS
the daemon runs without its service proxy, and the table says so.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.daemon import Daemon, program, surroundings
from bench.frame import CORE, Row, median, progress, timed, tool
from lab import kernel_features, manifests
from lab.api.kinds import Json

TITLE = "start and rest of the daemon on a small cluster"
NEEDS = frozenset({"root", "netns", "veth", "bridge", "br_netfilter", "ipset", "xt_set"})

STARTS: Final = 3
IDLE: Final = 20.0  # seconds
OFTEN: Final = 4.0  # seconds between audits in the run that tells what audits cost
RARELY: Final = 60.0  # the shortest period of audits that is the default (--injected-routes-sync-period)
UPLINK: Final = """\
link add up0 type veth peer name up1
link set up0 addrgenmode none up
link set up1 addrgenmode none up
addr add 192.168.50.50/24 dev up0
route add default via 192.168.50.1
"""


def small_cluster() -> list[Json]:
    """Objects of the API server."""
    objects: list[Json] = [manifests.namespace("shop", {"team": "shop"}), *(_node(number) for number in range(3))]
    for number in range(30):
        pod = manifests.pod(f"pod{number}", namespace="shop", node=f"node{number % 3 + 1}", labels={"app": f"app{number % 20}"})
        address = f"10.233.{64 + number % 3}.{10 + number}"
        objects.append({**pod, "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}})
    for number in range(20):
        objects.append(manifests.service(f"app{number}", namespace="shop", address=f"10.233.0.{10 + number}"))
        objects.append(_slice(number))
    allowed = [{"from": [{"podSelector": {"matchLabels": {"app": "app2"}}}], "ports": [{"port": 8080, "protocol": "TCP"}]}]
    objects.append(manifests.policy("deny", namespace="shop", pods={"app": "app0"}, policyTypes=["Ingress"]))
    objects.append(manifests.policy("allow", namespace="shop", pods={"app": "app1"}, ingress=allowed, policyTypes=["Ingress"]))
    return objects


def measure() -> Iterator[Row]:
    """All figures of the case."""
    yield Row(measure="kube-router --help", ours=median(_help) / 1000, unit="s", most=0.3, note="median of 5")
    yield from _imports()
    tool("ip", "-batch", "-", text=UPLINK)
    serves = kernel_features.here() >= {"ip_vs", "dummy"}
    flags = [] if serves else ["--run-service-proxy=false"]
    note = "" if serves else "no IPVS here: without the service proxy"
    with tempfile.TemporaryDirectory() as name, surroundings(Path(name), small_cluster()) as world:
        folder = Path(name)
        yield from _starts(folder, world.url, flags, note)
        yield from _rest(folder, world.url, flags, note)


def _help() -> float:
    return timed(lambda: subprocess.run([*program(), "--help"], check=True, capture_output=True))


def _imports() -> Iterator[Row]:
    bare = median(lambda: timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
    command = [sys.executable, "-c", "import kube_router.app.daemon"]
    ours = median(lambda: timed(lambda: subprocess.run(command, check=True)))
    yield Row(measure="import of the daemon, beyond a bare Python", ours=ours - bare, unit="ms", note=f"a bare Python takes {bare:.0f} ms")


def _starts(folder: Path, server: str, flags: list[str], note: str) -> Iterator[Row]:
    first: list[float] = []
    ready: list[float] = []
    for _ in range(STARTS):
        _clean(folder, flags)
        daemon = Daemon(folder, server, flags)
        first.append(daemon.first_write())
        ready.append(daemon.ready())
        daemon.stop()
    middle = STARTS // 2
    yield Row(measure="process start to first write", ours=sorted(first)[middle], unit="s", most=2, note=note)
    yield Row(measure="process start to every controller synced", ours=sorted(ready)[middle], unit="s", note=note)


def _rest(folder: Path, server: str, flags: list[str], note: str) -> Iterator[Row]:
    progress(f"letting it idle for {IDLE:.0f} s, twice")
    resting, memory = _idle(folder, server, flags)
    periods = ("routes", "injected-routes", "iptables", "ipvs")
    auditing, _ = _idle(folder, server, [*flags, *(f"--{period}-sync-period={OFTEN:.0f}s" for period in periods)])
    audits = max(auditing - resting, 0.0) * OFTEN / RARELY
    yield Row(measure="memory, idle", ours=memory, unit="MiB", most=90, note=note)
    yield Row(
        measure="processor, idle, audits included",
        ours=100 * (resting + audits),
        unit=CORE,
        most=0.5,
        note=f"{100 * resting:.2f} % at rest, {100 * audits:.2f} % for audits every {RARELY:.0f} s",
    )


def _idle(folder: Path, server: str, flags: list[str]) -> tuple[float, float]:
    """Share of a core that it uses, and MiB that it holds at the end."""
    daemon = Daemon(folder, server, flags)
    daemon.ready()
    time.sleep(3)  # what a start leaves to be done
    before = daemon.processor()
    begin = time.monotonic()
    time.sleep(IDLE)
    used = (daemon.processor() - before) / (time.monotonic() - begin)
    memory = daemon.memory()
    daemon.stop()
    return used, memory


def _clean(folder: Path, flags: list[str]) -> None:
    """Nothing of an earlier run is left."""
    (folder / "10-kuberouter.conflist").unlink(missing_ok=True)
    tool(*program(), "--cleanup-config", *flags)


def _node(number: int) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node{number + 1}"},
        "spec": {"podCIDR": f"10.233.{64 + number}.0/24", "podCIDRs": [f"10.233.{64 + number}.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.50.{50 + number}"}]},
    }


def _slice(number: int) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"app{number}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": f"app{number}"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [f"10.233.{64 + (number + other) % 3}.{10 + number}"], "conditions": {"ready": True}} for other in range(2)
        ],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
