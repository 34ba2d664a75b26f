"""The node's network follows the Node objects live: ranges that change, nodes that go and come, nodes that make no sense."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.addresses import pod_cidrs
from lab.api.kinds import Json
from lab.cluster import Cluster
from lab.manifests import pod
from lab.node import Node
from lab.probe import ALLOW
from lab.processes import CNI_FILE, GOBGP_SOCKET
from lab.waiting import SLOWNESS, wait_for
from lab.walkthrough.picture import addresses, ip_sets, pod_ranges, route_to
from tests.lab.notices import Notices
from tests.lab.running import established_since, running, wait_for_sessions, wait_until_routed
from tests.lab.state import changes, settled, state

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft", "nf_tables")

SOON = 2.0  # seconds from a change in the API to the kernel's routes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("--bgp-graceful-restart", nodes=3) as made:
        wait_for_sessions(made)
        yield made


@pytest.fixture(autouse=True)
def all_is_well(cluster: Cluster) -> None:
    wait_until_routed(cluster)


def announced(node: Node) -> set[str]:
    """Prefixes that the node's speaker has of its own."""
    found: set[str] = set()
    for family in ("ipv4", "ipv6"):
        table: dict[str, list[dict[str, Any]]] = json.loads(node.run(f"gobgp --target unix://{GOBGP_SOCKET} global rib -a {family} -j"))
        found |= {prefix for prefix, paths in table.items() for path in paths if path.get("source-id") in (None, "", "<nil>")}
    return found


def set_ranges(cluster: Cluster, name: str, *ranges: str) -> None:
    """Give a node other pod ranges, at once; a real API server wants the Node deleted and made anew."""
    thing = cluster.objects.get("nodes", name)
    thing["spec"] = {**thing["spec"], "podCIDR": ranges[0], "podCIDRs": list(ranges)}
    cluster.objects.update(thing)


def remake_pod(cluster: Cluster, name: str, node: str) -> None:
    cluster.delete("pod", name, grace=0)
    wait_for(f"{name} is gone", lambda: ("default", name) not in cluster.node(node).kubelet.running, seconds=20)
    cluster.apply(pod(name, node=node, ports=["8080", "5000/udp"], labels={"app": "talk"}))
    cluster.wait_for_pods()


@pytest.mark.parametrize("ranges", [("10.233.80.0/24", "fd00:80::/64"), pod_cidrs(3)], ids=["another range", "back again"])
def test_a_changed_range_of_this_node_is_followed_everywhere_without_a_restart(cluster: Cluster, ranges: tuple[str, str]) -> None:
    node3, others = cluster.node("node3"), [cluster.node("node1"), cluster.node("node2")]
    old, pid, sessions = pod_ranges(cluster.objects, "node3"), node3.daemon.pid, established_since(node3)
    undisturbed = cluster.stream("pod-1", "pod-2:5000/udp")
    set_ranges(cluster, "node3", *ranges)
    for node in others:
        for prefix, gateway in zip(ranges, node3.addresses, strict=True):
            wait_for(f"{node.name} routes {prefix}", lambda n=node, p=prefix, g=gateway: f"via {g} " in route_to(n, p), seconds=SOON)
        wait_for(f"{node.name} has no old route", lambda n=node: not any(route_to(n, prefix) for prefix in old), seconds=SOON)
    config = node3.file(CNI_FILE).read_text()
    assert (all(prefix in config for prefix in ranges), any(prefix in config for prefix in old)) == (True, False)
    assert announced(node3) == set(ranges)
    for node in cluster.nodes.values():
        four, six = (ip_sets(node)[name].members for name in ("kube-router-pod-subnets", "inet6:kube-router-pod-subnets"))
        assert (ranges[0] in four, old[0] in four, ranges[1] in six, old[1] in six) == (True, False, True, False)
    wait_for("the bridge gives the old addresses up", lambda: not strays(node3, ranges), seconds=5, so_far=lambda: strays(node3, ranges))
    remake_pod(cluster, "pod-3", "node3")
    assert cluster.pod_address("pod-3").startswith(ranges[0].removesuffix("0/24"))
    assert {one for one in addresses(node3, "kube-bridge") if not one.startswith("fe80")} == {
        ranges[0].replace(".0/24", ".1/24"),
        ranges[1].replace("::/64", "::1/64"),
    }
    assert cluster.probe("pod-1", "pod-3:8080") is ALLOW
    assert cluster.probe("pod-3", f"[{cluster.pod_address('pod-2', 6)}]:8080") is ALLOW
    assert (node3.daemon.alive, node3.daemon.pid) == (True, pid)
    assert established_since(node3) == sessions
    assert list(undisturbed.stop().lost) == []


def strays(node: Node, ranges: tuple[str, str]) -> set[str]:
    """Addresses of the bridge that are of none of these ranges."""
    begins = (ranges[0].removesuffix("0/24"), ranges[1].removesuffix("/64"), "fe80:")
    return {one for one in addresses(node, "kube-bridge") if not one.startswith(begins)}


def test_a_deleted_node_takes_its_routes_along_and_comes_back_with_them(cluster: Cluster) -> None:
    node1, node3 = cluster.node("node1"), cluster.node("node3")
    prefixes = pod_ranges(cluster.objects, "node3")
    stays = [prefix for name in ("node1", "node2") for prefix in pod_ranges(cluster.objects, name)]
    stream = cluster.stream("pod-1", "pod-2:5000/udp")
    with Notices(node1, cluster.node("node2")) as notices:
        node3.leave()
        for node in (node1, cluster.node("node2")):
            wait_for(f"{node.name} unroutes it", lambda node=node: not any(route_to(node, one) for one in prefixes), seconds=SOON)
        wait_for("its members are gone", lambda: prefixes[0] not in ip_sets(node1)["kube-router-pod-subnets"].members, seconds=SOON)
        assert node3.address not in ip_sets(node1)["kube-router-node-ips"].members
        assert node1.fetch("/readyz")[0] == 200
        node3.join()
        wait_until_routed(cluster)
        tally = stream.stop()
    assert list(tally.lost) == []
    assert notices.about(*stays) == []
    assert cluster.probe("pod-1", "pod-3:8080") is ALLOW


RANGE = ("10.233.90.0/24",)
ODD: dict[str, tuple[list[tuple[str, str]], tuple[str, ...]]] = {  # addresses with their types, and ranges
    "no addresses": ([], RANGE),
    "a host name only": ([("Hostname", "somewhere")], RANGE),
    "an external address only": ([("ExternalIP", "192.0.2.99")], RANGE),
    "an address that is none": ([("InternalIP", "not-an-address")], RANGE),
    "a range that is none": ([("InternalIP", "192.168.50.99")], ("10.233.90.0/99",)),
    "a range that is another's": ([("InternalIP", "192.168.50.99")], ("10.233.66.0/24", "fd00:66::/64")),
    "a range that holds another's": ([("InternalIP", "192.168.50.99")], ("10.233.64.0/18",)),
    "an address that is another's": ([("InternalIP", "192.168.50.51")], RANGE),
    "the address of the node that looks": ([("InternalIP", "192.168.50.50")], RANGE),
    "no range": ([("InternalIP", "192.168.50.99")], ()),
}
TOLD = {  # how the daemon speaks of it, where something is wrong for sure
    "no addresses": "NoAddress",
    "a host name only": "NoAddress",
    "an address that is none": "BadValue",
    "a range that is none": "BadValue",
    "an address that is another's": "DuplicateAddress",
    "the address of the node that looks": "DuplicateAddress",
}


def odd_node(name: str, case: str) -> Json:
    addresses, ranges = ODD[case]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": list(ranges)} if ranges else {},
        "status": {"addresses": [{"type": kind, "address": address} for kind, address in addresses]},
    }


def reasons(cluster: Cluster, name: str) -> set[str]:
    """Reasons of Events about an object."""
    return {event["reason"] for event in cluster.objects.list("events") if event["involvedObject"]["name"] == name}


@pytest.mark.parametrize("case", ODD)
def test_a_node_that_makes_no_sense_is_named_and_disturbs_nobody(cluster: Cluster, case: str) -> None:
    name = case.replace(" ", "-").replace("'", "")
    node1 = cluster.node("node1")
    before, sessions = settled(node1), established_since(node1)
    stream = cluster.stream("pod-1", "pod-2:5000/udp")
    stays = [prefix for node in cluster.nodes for prefix in pod_ranges(cluster.objects, node)]

    def said() -> list[str]:
        return [line for line in node1.daemon.output().splitlines() if name in line]

    with Notices(*cluster.nodes.values()) as notices:
        cluster.objects.create(odd_node(name, case))
        try:
            if reason := TOLD.get(case):
                wait_for("an Event names it", lambda: reason in reasons(cluster, name), seconds=5, so_far=lambda: reasons(cluster, name))
                assert said()
            time.sleep(0.5 * SLOWNESS)
            assert node1.fetch("/readyz")[0] == 200
        finally:
            cluster.delete("node", name)
        time.sleep(0.5 * SLOWNESS)
    assert list(stream.stop().lost) == []
    assert notices.about(*stays) == []
    assert established_since(node1) == sessions
    wait_for("nothing of it is left", lambda: not changes(before, state(node1)), seconds=5, so_far=lambda: changes(before, state(node1)))
    assert len(said()) <= 3, "a line for each thing that is wrong with it, not one for each pass"
