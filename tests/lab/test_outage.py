"""The API server is away, slow, or talks nonsense: the node's network goes on, probes say what is the matter, nothing is swept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.api.faults import Fault
from lab.cluster import Cluster
from lab.manifests import policy
from lab.node import Node
from lab.probe import ALLOW, REFUSED
from lab.waiting import SLOWNESS, wait_for
from lab.walkthrough.picture import ip_sets, pod_ranges, route_to
from tests.lab.notices import Notices
from tests.lab.running import drift, running, wait_until_routed, written
from tests.lab.state import changes, settled, state, without_handles

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft", "nf_tables")

OUTAGE = 3.0  # seconds; long enough for two looks at how the watches do
BACK = 15.0  # seconds: the longest wait between two knocks, spread, and a look

FRESH_SERVER = (  # what an API server says that has come up with an empty store
    Fault("short", verb="list", keep=0),
    Fault("answer", verb="get", plural="nodes", status=404),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("--bgp-graceful-restart") as made:
        yield made


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Node]:
    wait_until_routed(cluster)
    yield cluster.node("node1")
    cluster.api.faults.clear()


@contextmanager
def outage(cluster: Cluster) -> Iterator[None]:
    """The API server is away while this context lasts."""
    cluster.api.refuse()
    try:
        yield
    finally:
        cluster.api.accept()


def why_not_ready(node: Node) -> str:
    """The reasons that /readyz gives; "" when it is ready. /healthz must be 200 all the while."""
    assert node.fetch("/healthz")[0] == 200
    status, text = node.fetch("/readyz")
    assert status in (200, 503)
    return text if status == 503 else ""


def wait_until_back(node: Node) -> None:
    wait_for("it is ready again", lambda: not why_not_ready(node), seconds=BACK, so_far=lambda: why_not_ready(node))


def test_an_outage_shows_in_readiness_changes_nothing_and_what_happened_meanwhile_is_applied(cluster: Cluster, node: Node) -> None:
    before = settled(node)
    stream = cluster.stream("pod-1", "pod-2:5000/udp")
    with Notices(*cluster.nodes.values()) as notices, outage(cluster):
        why = wait_for("it is not ready", lambda: why_not_ready(node), seconds=6)
        assert "api: " in why
        assert "refused" in why
        cluster.apply(policy("deny-all", policyTypes=["Egress"]))
        time.sleep(OUTAGE * SLOWNESS)
        assert why_not_ready(node)
        assert cluster.probe("pod-2", "pod-1:8080") is ALLOW
        tally = stream.stop()
        assert changes(before, state(node)) == []
    wait_until_back(node)
    assert notices.about("10.233.", "fd00:6", "Deleted") == []
    assert list(tally.lost) == []
    wait_for("the policy is in force", lambda: cluster.probe("pod-2", "pod-1:8080") is REFUSED, seconds=BACK)
    cluster.delete("netpol", "deny-all")
    wait_for("it is gone", lambda: cluster.probe("pod-2", "pod-1:8080") is ALLOW, seconds=5)


def test_a_daemon_that_starts_in_an_outage_sweeps_nothing_and_writes_nothing_when_it_is_over(cluster: Cluster, node: Node) -> None:
    before = settled(node)
    node.daemon.kill()
    with Notices(node) as notices:
        with outage(cluster):
            node.start_daemon()
            wait_for("it serves its probes", lambda: node.fetch("/healthz")[0] == 200, seconds=20)
            wait_for("it says why", lambda: "routing: waiting for the first list of" in why_not_ready(node), seconds=6)
            time.sleep(OUTAGE * SLOWNESS)
            assert "refused" in why_not_ready(node)
            assert cluster.probe("pod-2", "pod-1:8080") is ALLOW
        wait_until_back(node)
        time.sleep(1.0 * SLOWNESS)
    assert notices.lines == []
    assert changes(before, state(node)) == []
    assert written(node) == {}


def test_what_others_remove_during_an_outage_is_put_back_at_once(cluster: Cluster, node: Node) -> None:
    prefix4, prefix6 = pod_ranges(cluster.objects, "node2")
    before = settled(node)
    with outage(cluster):
        wait_for("it is not ready", lambda: why_not_ready(node), seconds=6)
        node.run(f"ip route del {prefix4}")
        node.run(f"ip -6 route del {prefix6}")
        wait_for("routes are back", lambda: route_to(node, prefix4) and route_to(node, prefix6), seconds=2)
        assert changes(without_handles(before), without_handles(state(node))) == []
        assert drift(node)["Route"] == 2
    wait_until_back(node)


@pytest.mark.parametrize("running_already", [True, False], ids=["a running daemon", "a starting daemon"])
def test_empty_lists_of_a_server_that_does_not_know_this_node_sweep_nothing(cluster: Cluster, node: Node, running_already: bool) -> None:
    before = settled(node)
    if not running_already:
        node.daemon.kill()
    for fault in FRESH_SERVER:
        cluster.api.faults.add(fault)
    cluster.api.faults.add(Fault("gone", verb="watch"))  # what was seen before means nothing to it: list anew
    with Notices(node) as notices:
        if running_already:
            cluster.api.cut()
        else:
            node.start_daemon()
            wait_for("it serves its probes", lambda: node.fetch("/healthz")[0] == 200, seconds=20)
        wait_for("it says why", lambda: "a list of 0 Nodes without this one (node1)" in why_not_ready(node), seconds=10)
        time.sleep(OUTAGE * SLOWNESS)
        assert why_not_ready(node)
        cluster.api.faults.clear()
        wait_until_back(node)
        time.sleep(0.5 * SLOWNESS)
    assert notices.lines == []
    assert changes(before, state(node)) == []
    wait_until_routed(cluster)


def test_one_kind_that_cannot_be_listed_keeps_only_those_waiting_who_need_it(cluster: Cluster, node: Node) -> None:
    before = settled(node)
    node.daemon.kill()
    node.run("ipset del kube-router-node-ips 192.168.50.51")
    cluster.api.faults.add(Fault("answer", verb="list", plural="networkpolicies", status=403))
    node.start_daemon()
    wait_for("routing works", lambda: "192.168.50.51" in ip_sets(node)["kube-router-node-ips"].members, seconds=20)
    why = wait_for("it says why", lambda: "netpol: waiting" in (why := why_not_ready(node)) and why, seconds=10)
    assert "NetworkPolicy" in why
    assert "403" in why
    assert changes(without_handles(before), without_handles(state(node))) == []
    cluster.api.faults.clear()
    wait_until_back(node)
    assert set(written(node)) == {"set"}


def test_a_daemon_stops_in_time_while_the_api_server_does_not_answer(cluster: Cluster, node: Node) -> None:
    before = settled(node)
    node.stop_daemon()
    cluster.api.faults.add(Fault("stall"))
    node.start_daemon()
    wait_for("it serves its probes", lambda: node.fetch("/healthz")[0] == 200, seconds=20)
    time.sleep(1.0 * SLOWNESS)
    assert "waiting for the first list" in why_not_ready(node)
    began = time.monotonic()
    assert node.stop_daemon() == 0
    assert time.monotonic() - began < 5 * SLOWNESS
    cluster.api.faults.clear()
    assert changes(before, state(node)) == []
    node.start_daemon()
