"""The calls that gobgpd gets, in both generations: when all is new, when a node joins and leaves, and when a range moves."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle
from kube_router.control.speaker import SpeakerController
from kube_router.model.objects import Kind, Name, Node
from tests.conftest import Golden
from tests.engine import Recorder, inline
from tests.gobgpd import FakeGobgpd

OPTIONS = defaults(node_name="node1", enable_ipv6=True, bgp_graceful_restart=True)


def node(name: str, *addresses: str, cidrs: tuple[str, ...]) -> Node:
    return Node(Name("", name), addresses=addresses, pod_cidrs=cidrs)


@pytest.mark.parametrize("generation", ["v3", "v4"])
def test_calls_to_gobgpd(generation: str, golden: Golden) -> None:
    gobgpd = FakeGobgpd(generation)
    controller, cache = SpeakerController(OPTIONS), Cache()
    cycle = Cycle(
        controller,
        feed=cache.feed(controller.reads),
        view=cache.view,
        targets=[GobgpTarget(cast(Client, gobgpd), preserved=lambda: True)],
        report=Recorder(),
        call=inline,
    )
    steps: list[str] = []

    def step(title: str) -> None:
        gobgpd.calls.clear()
        outcome = asyncio.run(cycle.sync())
        assert outcome.good, outcome
        steps.append("\n".join([f"## {title}", *gobgpd.calls, ""]))

    cache.put(node("node1", "192.168.50.50", "fd00:50::50", cidrs=("10.233.64.0/24", "fd00:64::/64")))
    cache.put(node("node2", "192.168.50.51", "fd00:50::51", cidrs=("10.233.66.0/24", "fd00:66::/64")))
    step("a speaker that has just been started, while the kernel still routes")
    cache.put(node("node3", "192.168.60.52", cidrs=("10.233.65.0/24",)))
    step("node3 joins, with IPv4 only")
    cache.put(node("node3", "192.168.60.52", "fd00:60::52", cidrs=("10.233.65.0/24",)))
    step("node3 gets an IPv6 address: its session needs another family")
    cache.put(node("node1", "192.168.50.50", "fd00:50::50", cidrs=("10.233.69.0/24", "fd00:64::/64")))
    step("this node gets another IPv4 range")
    cache.remove(Kind.NODE, Name("", "node3"))
    step("node3 leaves")
    cache.put(node("node2", "192.168.50.51", "fd00:50::51", cidrs=("10.233.67.0/24",)))
    step("node2 gets another range: no call at all")
    golden(f"gobgp_calls_{generation}.txt", "\n".join(steps))
