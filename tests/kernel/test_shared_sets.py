"""Services and policies come and go at the same time, in the same sets and tables: neither takes anything from the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from kube_router.control.controller import Controller
from kube_router.control.controller import Target as StateTarget
from kube_router.control.cycle import Cycle
from kube_router.control.netpol import NetpolController
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Interface,
    Kind,
    Name,
    NetworkPolicy,
    Node,
    Service,
    ServicePort,
)
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.netfilter import ChainKey, JumpKey, SetKey, SetMember
from lab.kernel_netns import Netns
from lab.probe import ALLOW, Target, Verdict, ask_all
from tests.engine import Recorder
from tests.fakes import FakeTarget, World
from tests.kernel.policy_network import NODES, PolicyNode, pod, policy_node
from tests.walk.paths import node_options

pytestmark = pytest.mark.needs("root", "veth", "bridge", "br_netfilter", "ipset", "xt_set", "iptables_nft", "nf_tables")

ROUNDS, PROBES = 200, 20
SERVICE, SLICE = Name("x", "shared"), Name("x", "shared-1")


class WithoutNat:
    """Rules but those of the table nat, which match what IPVS did, and this kernel may have no IPVS."""

    kinds: tuple[type[Key], ...] = (ChainKey, JumpKey)

    def __init__(self, inner: StateTarget) -> None:
        self._inner = inner
        self._nat: dict[Key, Value] = {}

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        return {**self._inner.observe({key: value for key, value in wanted.items() if not _is_nat(key)}), **self._nat}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        self._nat |= {change.key: change.after for change in changes if _is_nat(change.key) and change.after is not None}
        return self._inner.apply([change for change in changes if not _is_nat(change.key)])


def _is_nat(key: Key) -> bool:
    return isinstance(key, ChainKey | JumpKey) and key.table == "nat"


class Both:
    """Service proxy and network policy of one node as its daemon runs them: one loop, one cache, the same targets, in threads.

    There need be no IPVS: a process of the node that listens on every address stands in for endpoints.
    """

    def __init__(self, node: PolicyNode, threads: ThreadPoolExecutor) -> None:
        self._node, self._threads, self.cache = node, threads, node.cache
        options = node_options("n1", service_external_ip_range=("203.0.113.0/24",))
        proxy = ProxyController(options, kernel=(6, 1))
        fake = FakeTarget(World(), [kind for kind in proxy.writes if kind not in (SetKey, SetMember, ChainKey, JumpKey)])
        self.proxy = self._cycle(proxy, [node.sets, WithoutNat(node.rules), fake])
        # as if there were no proxy, for its rules about VIPs match what IPVS did
        self.policies = self._cycle(NetpolController(node_options("n1", run_service_proxy=False)), [node.sets, node.rules])
        self.cache.put(Node(Name("", "n1"), addresses=NODES["n1"], pod_cidrs=("10.0.1.0/24", "fd00:0:0:1::/64")))
        self.cache.put(Interface(Name("", "up0"), addresses=tuple(f"{one}/{64 if ':' in one else 24}" for one in NODES["n1"])))

    def _cycle(self, controller: Controller, targets: Sequence[StateTarget]) -> Cycle:
        feed = self.cache.feed(controller.reads)
        return Cycle(controller, feed=feed, view=self.cache.view, targets=targets, report=Recorder(), call=self._in_thread)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def serve(self, vip: str) -> None:
        """A Service with this external IP, and an endpoint."""
        ports, backends = (ServicePort("web", "TCP", 80),), (Endpoint(("10.0.2.14",), node_name="n2"),)
        self.cache.put(Service(SERVICE, created="2024", cluster_ips=("10.96.0.77",), external_ips=(vip,), ports=ports))
        self.cache.put(EndpointSlice(SLICE, SERVICE, backends, (EndpointPort("web", "TCP", 80),)))
        assert (await self.proxy.sync()).good

    async def forget(self) -> None:
        self.cache.remove(Kind.SERVICE, SERVICE)
        self.cache.remove(Kind.ENDPOINT_SLICE, SLICE)
        assert (await self.proxy.sync()).good

    async def shut_and_open(self, stop: asyncio.Event) -> int:
        """A policy and its pod come and go, one pass each; how often."""
        times = 0
        while not stop.is_set():
            self.cache.put(pod("b"))
            self.cache.put(NetworkPolicy(Name("x", "shut"), ingress=()))
            assert (await self.policies.sync()).good
            self.cache.remove(Kind.POD, Name("x", "b"))
            self.cache.remove(Kind.NETWORK_POLICY, Name("x", "shut"))
            assert (await self.policies.sync()).good
            times += 1
        return times

    async def probes(self, vip: str) -> list[Verdict]:
        """What comes of so many connections from outside, while the loop goes on."""
        return await self._in_thread(self._probe, vip)

    def _probe(self, vip: str) -> list[Verdict]:
        with self._node.beyond.entered():
            asked = [(Target(vip, 80), Target(vip, 80).open()) for _ in range(PROBES)]
        return [reply.verdict for reply in ask_all(asked)]


@contextmanager
def both(node: PolicyNode) -> Iterator[Both]:
    """Its threads live in the node's network namespace: they are started by one that does."""
    with node.node.entered(), ThreadPoolExecutor(4) as threads:
        list(threads.map(time.sleep, [0.05] * 4))
        yield Both(node, threads)


def test_u015_an_external_ip_that_was_served_once_is_never_refused_while_policies_come_and_go(namespaces: Callable[[], Netns]) -> None:
    async def run(node: Both) -> tuple[list[str], int]:
        stop = asyncio.Event()
        policies = asyncio.create_task(node.shut_and_open(stop))
        refused = []
        for turn in range(ROUNDS):
            vip = f"203.0.113.{turn + 1}"
            await node.serve(vip)
            verdicts = await node.probes(vip)
            refused += [f"{vip}: {verdict}" for verdict in verdicts if verdict is not ALLOW]
            await node.forget()
        stop.set()
        return refused, await policies

    with policy_node([pod("a")], "nft", namespaces) as made:
        made.node.run("ip addr add 203.0.113.0/24 dev lo")  # any of them is the node's
        made.node.run("iptables -A INPUT -d 203.0.113.0/24 -j REJECT")  # what our rules do not accept before
        made.beyond.run("ip route add 203.0.113.0/24 via 192.0.2.1")
        with both(made) as node:
            refused, times = asyncio.run(run(node))
    assert refused == []
    assert times > ROUNDS / 10
