"""Pods that a change of their node's ranges left behind are told so, each once."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.control.netpol import NetpolController
from kube_router.control.stranded import StrandedController
from kube_router.desired.routing.stranded import stranded
from kube_router.model.objects import Kind, Name, Node, Pod, Ref
from kube_router.watch.sources import sources
from tests.engine import Node as LabNode

OWN = Node(Name("", "node1"), pod_cidrs=("10.233.64.0/24", "fd00:64::/64"))
OTHER = Node(Name("", "node2"), pod_cidrs=("10.233.65.0/24",))
DUAL = defaults(node_name="node1", enable_ipv6=True)


def pod(*ips: str, node: str = "node1", name: str = "web", **more: object) -> Pod:
    return Pod(Name("shop", name), node_name=node, ips=ips, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (pod("10.233.64.5", "fd00:64::5"), ""),
        (pod("10.233.99.5", "fd00:64::5"), "10.233.99.5 is in no pod range of node node1 (10.233.64.0/24, fd00:64::/64)"),
        (pod("10.233.99.5", "fd00:99::5"), "10.233.99.5, fd00:99::5 is in no pod range"),
        (pod("10.233.99.5", node="node2"), ""),
        (pod("192.168.50.50", host_network=True), ""),
        (pod("10.233.99.5", phase="Succeeded"), ""),
        (pod(), ""),
        (None, ""),
    ],
)
def test_a_pod_outside_the_ranges_of_its_node_is_told_to_be_made_anew(value, told):
    notes = stranded(value, OWN, (4, 6)).notes
    assert [(note.about, note.reason) for note in notes] == (
        [(Ref(Kind.POD, Name("shop", "web")), "AddressOutsidePodCIDR")] if told else []
    )
    assert all(told in note.message and "recreate the pod" in note.message for note in notes)


def test_a_node_without_a_range_of_the_family_says_nothing():
    assert stranded(pod("10.233.99.5"), Node(OWN.name, pod_cidrs=("fd00:64::/64",)), (4, 6)).notes == ()
    assert stranded(pod("10.233.99.5"), Node(OWN.name), (4, 6)).notes == ()
    assert stranded(pod("10.233.99.5"), OWN, (6,)).notes == ()


def test_a_changed_range_tells_all_pods_of_the_node_and_an_unchanged_one_none():
    node = LabNode(lambda: StrandedController(DUAL))
    for value in (OWN, OTHER, pod("10.233.64.5", name="a"), pod("10.233.64.6", name="b"), pod("10.233.65.5", name="c", node="node2")):
        node.feed(value)
    node.settle()
    assert node.report.notes == []
    node.feed(Node(OWN.name, pod_cidrs=OWN.pod_cidrs, labels={"changed": "yes"}))
    node.settle()
    assert node.report.notes == []
    node.feed(Node(OWN.name, pod_cidrs=("10.233.70.0/24",)))
    node.settle()
    node.settle()
    assert sorted(note.about.name.name for note in node.report.notes) == ["a", "b"]
    node.feed((Kind.POD, Name("shop", "a")))
    node.settle()
    assert [note.about.name.name for note in node.cycle.notes()] == ["b"]


def test_without_network_policy_only_pods_of_this_node_are_watched():
    assert [source.fields for source in sources(Kind.POD, pods_of="node1")] == ["spec.nodeName=node1"]
    assert [source.fields for source in sources(Kind.POD)] == [""]
    assert NetpolController.reads >= {Kind.POD, Kind.NETWORK_POLICY}, "app/watchers.py knows by this who needs all pods"
