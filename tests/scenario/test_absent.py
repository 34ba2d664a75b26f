"""A controller that is switched off leaves nothing of its own, and everything of everyone else's."""

from __future__ import annotations

from kube_router.control.absent import Absent
from kube_router.control.routing import RoutingController
from kube_router.model.state import Key, Value
from kube_router.model.state.links import CniConfig, FileKey, Link, LinkKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.engine import Node
from tests.fakes import World

OURS: dict[Key, Value] = {
    LinkKey("kube-bridge"): Link("bridge"),
    SetKey("kube-router-node-ips"): SetSpec("hash:ip", 4),
    SetMember("kube-router-node-ips", "10.0.0.1"): Member(),
    ChainKey(4, "nat", "KUBE-ROUTER-EGRESS"): Chain(("-m set --match-set kube-router-node-ips dst -j RETURN",)),
    JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-EGRESS"): Jump(first=False),
}
OTHERS: dict[Key, Value] = {
    LinkKey("br-vm"): Link("bridge"),
    SetKey("kube-router-service-ips"): SetSpec("hash:ip", 4),  # the proxy's, which runs
    ChainKey(4, "filter", "KUBE-ROUTER-SERVICES"): Chain(()),
    SetKey("theirs"): SetSpec("hash:ip", 4),
    FileKey("/etc/cni/net.d/10-kuberouter.conflist"): CniConfig(("10.233.64.0/24",)),
}


def test_one_pass_removes_what_is_ours_in_an_order_that_the_kernel_allows():
    node = Node(lambda: Absent(RoutingController.name, RoutingController.writes), World(OURS | OTHERS))
    node.settle()
    assert node.world.state == OTHERS
    assert node.report.rejections == []


def test_spared_kinds_stay():
    node = Node(lambda: Absent(RoutingController.name, RoutingController.writes, spare=(LinkKey,)), World(OURS | OTHERS))
    node.settle()
    assert node.world.state == {LinkKey("kube-bridge"): Link("bridge"), **OTHERS}


def test_it_resumes_after_failures_at_any_call():
    for n in range(8):
        world = World(OURS | OTHERS)
        node = Node(lambda: Absent(RoutingController.name, RoutingController.writes), world, fail_at=frozenset({n}))
        node.settle()
        assert world.state == OTHERS
