"""Network policy in a large cluster: 10,000 pods, 110 of them here, 1,000 policies, by the real controller and targets.

Dual-stack. "Cold" is from caches listed to the last write acknowledged, against the C tools restoring the very state that it left.
Then what single changes cost, from the event to the kernel's answer, with processes and members counted; once more in a tenth of the
cluster, to see whether the cost grows with it; and the same number of policies when each names a fifth of all pods.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.frame import Row, median, progress, timed, tool
from bench.quiet import Quiet
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.controller import Target
from kube_router.control.cycle import Cycle
from kube_router.control.netpol import NetpolController
from kube_router.model.objects import (
    Kind,
    Name,
    Namespace,
    NetworkPolicy,
    Peer,
    Pod,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)
from kube_router.model.state.netfilter import SetMember

TITLE = "10,000 pods (110 here), 1,000 policies: rules, sets, and what one change costs"
NEEDS = frozenset({"root", "netns", "ipset", "iptables_nft", "xt_set"})

PODS: Final = 10_000
LOCAL: Final = 110
HERE: Final = "node0"
POLICIES: Final = 1_000
NAMESPACES: Final = 20
WIDE: Final = 5  # groups of pods; a wide policy names one of them
TIMES: Final = 21  # single changes of a kind


def label(key: str, value: str) -> Selector:
    """A selector of one label."""
    return Selector((Requirement(key, "In", (value,)),))


def pod(number: int, app: int, *, node: str = "") -> Pod:
    """A pod of an application, which also settles its namespace. The first `LOCAL` pods are of this node."""
    return Pod(
        Name(f"ns-{app % NAMESPACES}", f"pod-{number}"),
        labels={"app": f"app-{app}", "group": f"g{number % WIDE}", "pod-template-hash": f"{app:010x}"},
        node_name=node or (HERE if number < LOCAL else f"node{1 + number % 90}"),
        phase="Running",
        ips=(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"fd00:10::{number:x}"),
    )


def policy(app: int, peer: Peer, *, port: int = 80) -> NetworkPolicy:
    """Isolates an application, and lets in a peer."""
    rule = PolicyRule((peer,), (PolicyPort("TCP", port), PolicyPort("UDP", 53)))
    return NetworkPolicy(Name(f"ns-{app % NAMESPACES}", f"policy-{app}"), pods=label("app", f"app-{app}"), ingress=(rule,))


def narrow(app: int, apps: int) -> Peer:
    """The next application of its namespace."""
    return Peer(label("app", f"app-{(app + NAMESPACES) % apps}"))


def wide(app: int) -> Peer:
    """A fifth of all pods."""
    return Peer(label("group", f"g{app % WIDE}"), Selector())


class Node:
    """This node's policy controller over real targets."""

    def __init__(self, pods: int, policies: Sequence[NetworkPolicy]) -> None:
        self.apps = len(policies)
        self.cache = Cache()
        self.sets, self.rules = SetTarget(Commands()), IptablesTarget(installed(Commands())["nft"])
        controller = NetpolController(defaults(node_name=HERE, enable_ipv6=True, run_service_proxy=False))
        targets: list[Target] = [self.sets, self.rules]
        feed = self.cache.feed(controller.reads)
        self.cycle = Cycle(controller, feed=feed, view=self.cache.view, targets=targets, report=Quiet())
        self.cache.replace(Kind.NAMESPACE, [Namespace(Name("", f"ns-{n}"), {"team": f"t{n}"}) for n in range(NAMESPACES)])
        self.cache.replace(Kind.POD, [pod(n, n % self.apps) for n in range(pods)])
        self.cache.replace(Kind.NETWORK_POLICY, policies)

    def sync(self, *, audit: bool = False) -> int:
        """One pass; how many changes were written. Raises RuntimeError when it was not good."""
        outcome = asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))
        if not outcome.good:
            raise RuntimeError(f"a pass was not good: {outcome}")
        return outcome.written

    @property
    def forks(self) -> int:
        """Processes started so far."""
        return self.sets.forks + self.rules.forks

    def members(self) -> int:
        """Entries that the kernel holds."""
        return sum(isinstance(key, SetMember) for key in self.cycle.ledger.held)


def measure() -> Iterator[Row]:
    """All figures of the case."""
    progress("cold, narrow policies")
    cold, node = _cold(PODS, [policy(app, narrow(app, POLICIES)) for app in range(POLICIES)])
    floor = median(_floor, 3)
    yield Row(measure="cold start, narrow policies", ours=cold, unit="s", floor=floor, note=_size(node))
    yield Row(measure="memory of the process", ours=_resident(), unit="MiB", most=200)
    progress("single changes")
    yield from _single_changes(node, "", judged=True)
    yield from _audit(node)
    progress("single changes in a tenth of the cluster")
    tenth = POLICIES // 10
    _, node = _cold(PODS // 10, [policy(app, narrow(app, tenth)) for app in range(tenth)])
    yield from _single_changes(node, " (a tenth of the cluster)", judged=False)
    progress("cold, wide policies")
    cold, node = _cold(PODS, [policy(app, wide(app)) for app in range(POLICIES)])
    floor = median(_floor, 3)
    yield Row(measure="cold start, wide policies", ours=cold, unit="s", floor=floor, note=_size(node))
    yield Row(measure="memory of the process, wide policies", ours=_resident(), unit="MiB", most=200)
    yield Row(measure="one pod elsewhere, wide policies", ours=_comes_and_goes(node, pod(PODS, 0)), unit="ms", most=10)


def _cold(pods: int, policies: Sequence[NetworkPolicy]) -> tuple[float, Node]:
    """Seconds from listed caches to the last write acknowledged, and the node."""
    _clear()
    node = Node(pods, policies)
    return timed(node.sync) / 1000, node


def _floor() -> float:
    """Seconds that the C tools take for the state that is in the kernel now."""
    sets = tool("ipset", "save")
    rules = {name: tool(f"{name}-nft-save") for name in ("iptables", "ip6tables")}
    _clear()
    begin = time.perf_counter()
    tool("ipset", "restore", text=sets)
    for name, text in rules.items():
        tool(f"{name}-nft-restore", text=text)
    return time.perf_counter() - begin


def _single_changes(node: Node, where: str, *, judged: bool) -> Iterator[Row]:
    limit = 10.0 if judged else None
    fork = median(_one_entry, TIMES)
    newcomer = pod(PODS + 1, 3, node=HERE)
    forks, lines = node.forks, node.sets.lines
    node.cache.put(newcomer)
    written = node.sync()
    yield Row(measure=f"one pod in a known class{where}: members", ours=node.sets.lines - lines, unit="members", most=written)
    yield Row(measure=f"one pod in a known class{where}: processes", ours=node.forks - forks, unit="forks", most=1)
    node.cache.remove(Kind.POD, newcomer.name)
    node.sync()
    yield Row(measure=f"one pod in a known class{where}", ours=_comes_and_goes(node, newcomer), unit="ms", floor=fork, most=limit)
    yield Row(measure=f"one pod elsewhere{where}", ours=_comes_and_goes(node, pod(PODS, 3 + NAMESPACES)), unit="ms", floor=fork, most=limit)
    alone = policy(POLICIES, narrow(0, node.apps))
    node.cache.put(alone)
    node.sync()
    yield Row(
        measure=f"one pod in a new class{where}",
        ours=_comes_and_goes(node, pod(PODS + 2, POLICIES, node=HERE)),
        unit="ms",
        note="new rules",
    )
    node.cache.remove(Kind.NETWORK_POLICY, alone.name)
    restore = median(_one_chain, TIMES)
    limit = 50.0 + restore if judged else None
    yield Row(
        measure=f"one policy changes{where}",
        ours=_policy_changes(node),
        unit="ms",
        floor=restore,
        most=limit,
        note="budget: 50 ms and its own restore",
    )


def _comes_and_goes(node: Node, value: Pod) -> float:
    """Median milliseconds from a pod's event to the kernel's answer. RuntimeError when the pod is in no set."""
    times = []
    for _ in range(TIMES):
        node.cache.put(value)
        lines = node.sets.lines
        times.append(timed(node.sync))
        if node.sets.lines == lines:
            raise RuntimeError(f"{value.name} is in no set")
        node.cache.remove(Kind.POD, value.name)
        node.sync()
    return sorted(times)[TIMES // 2]


def _policy_changes(node: Node) -> float:
    """Median milliseconds from a policy's event to the kernel's answer: other peers, other ports."""
    times = []
    for turn in range(TIMES):
        node.cache.put(policy(3, narrow(turn, node.apps), port=1000 + turn))
        times.append(timed(node.sync))
    return sorted(times)[TIMES // 2]


def _one_entry() -> float:
    """Milliseconds of the one process that a member takes at least."""
    return timed(lambda: tool("ipset", "restore", text="add KUBE-POD-INGRESS 192.0.2.9 timeout 0\ndel KUBE-POD-INGRESS 192.0.2.9\n"))


def _one_chain() -> float:
    """Milliseconds of what a changed policy takes at least: a set made, one dropped, and its chain in both families."""
    chain = "*filter\n:KUBE-NWPLCY-BENCH - [0:0]\n-X KUBE-NWPLCY-BENCH\nCOMMIT\n"
    begin = time.perf_counter()
    tool("ipset", "restore", text="create KUBE-SRC-BENCH hash:ip timeout 0\n")
    for name in ("iptables", "ip6tables"):
        tool(f"{name}-nft-restore", "--noflush", text=chain)
    tool("ipset", "restore", text="destroy KUBE-SRC-BENCH\n")
    return (time.perf_counter() - begin) * 1000


def _audit(node: Node) -> Iterator[Row]:
    begin = time.process_time()
    wall = timed(lambda: node.sync(audit=True))
    busy = time.process_time() - begin
    yield Row(measure="an audit of everything", ours=wall, unit="ms", note=f"{busy * 1000:.0f} ms of processor of ours, every 5 minutes")


def _clear() -> None:
    for name in ("iptables", "ip6tables"):
        tool(f"{name}-nft", "-F")
        tool(f"{name}-nft", "-X")
    tool("ipset", "destroy")


def _size(node: Node) -> str:
    rules = sum(line.startswith("-A") for name in ("iptables", "ip6tables") for line in tool(f"{name}-nft-save").splitlines())
    return f"{node.members()} members, {rules} rules"


def _resident() -> float:
    """MiB of memory of this process now, which holds the objects too."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)
