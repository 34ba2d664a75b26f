"""What is ours goes when it must, with --cleanup-config or with a function that is switched off; others' state stays to the byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.cluster import IPV6_FLAGS, Cluster
from lab.manifests import policy
from lab.node import Node
from lab.probe import ALLOW, REFUSED
from lab.processes import CNI_FILE
from lab.waiting import wait_for
from lab.walkthrough.picture import ip_sets, pod_ranges
from tests.lab.foreign import plant
from tests.lab.notices import Notices
from tests.lab.running import running, wait_until_routed
from tests.lab.state import State, changes, settled, state
from tests.lab.trace import STRACE, writes

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft", "iptables_legacy", "nf_tables")

OF_POLICIES = ("KUBE-POD-", "KUBE-NWPLCY-", "KUBE-SRC-", "KUBE-DST-", "KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT")
OF_ROUTING = ("kube-router-pod-subnets", "kube-router-node-ips", "KUBE-ROUTER-PODS", "KUBE-ROUTER-EGRESS")
OF_OTHERS = re.compile(r"(KUBE-POD-FW|KUBE-ROUTER-FORWARD-2|kube-router-node-ips-2)(?![-\w])")  # foreign.py
FLAGS = "--run-service-proxy=false"
STAYS = (CNI_FILE,)  # without a configuration the runtime could not take down the pods that still run


@pytest.fixture(scope="module")
def bare() -> dict[str, State]:
    """The state of nodes before the daemons started, filled by `cluster`."""
    return {}


@pytest.fixture(scope="module")
def cluster(bare: dict[str, State]) -> Iterator[Cluster]:
    def before(made: Cluster) -> None:
        plant(made.node("node1"))
        bare.update((name, settled(node)) for name, node in made.nodes.items())

    with running(before=before) as made:
        yield made


@pytest.fixture
def node(cluster: Cluster) -> Node:
    wait_until_routed(cluster)
    return cluster.node("node1")


def rules(node: Node, family: int) -> list[str]:
    """Chains and rules of a family, without counters."""
    text = node.run("iptables-nft-save" if family == 4 else "ip6tables-nft-save", check=False)
    return [line.partition(" [")[0] for line in text.splitlines()]


def left(node: Node, words: tuple[str, ...], *, family: int = 0) -> list[str]:
    """Sets, chains and rules with a name of ours in them; of one family, or of both."""
    sets = [name for name in ip_sets(node) if family == 0 or name.startswith("inet6:") == (family == 6)]
    found = [*sets, *(line for of in (4, 6) if family in (0, of) for line in rules(node, of))]
    return [line for line in found if any(word in line for word in words) and not OF_OTHERS.search(line)]


def of_routing_alone(node: Node) -> list[str]:
    """What is of routing; rules of policies name its sets too."""
    return [line for line in left(node, OF_ROUTING) if not any(word in line for word in OF_POLICIES)]


def test_a_firewall_that_is_switched_off_takes_its_rules_along_and_nothing_else(cluster: Cluster, node: Node) -> None:
    cluster.apply(policy("deny-all", policyTypes=["Ingress", "Egress"]))
    wait_for("the policy denies", lambda: cluster.probe("node1", "pod-2:8080") is REFUSED, seconds=10)
    assert left(node, OF_POLICIES)
    routing = of_routing_alone(node)
    cluster.stop_daemons()
    assert cluster.probe("node1", "pod-2:8080") is REFUSED, "a policy outlives the daemon"
    for one in cluster.nodes.values():
        one.start_daemon(FLAGS, "--run-firewall=false")
    for one in cluster.nodes.values():
        wait_for(f"no policy on {one.name}", lambda one=one: not left(one, OF_POLICIES), seconds=10, so_far=lambda: left(node, OF_POLICIES))
    assert cluster.probe("node1", "pod-2:8080") is ALLOW
    assert of_routing_alone(node) == routing
    cluster.delete("netpol", "deny-all")


def test_a_router_that_is_switched_off_leaves_pods_their_bridge_and_policies_in_force(cluster: Cluster, node: Node) -> None:
    node.stop_daemon()
    node.start_daemon(FLAGS, "--run-router=false")
    node.wait_until_ready()
    wait_for("no routing state", lambda: not left(node, OF_ROUTING), seconds=10, so_far=lambda: left(node, OF_ROUTING))
    assert "proto 17" not in node.run("ip route") + node.run("ip -6 route")
    assert left(node, OF_POLICIES)
    assert node.run("ip link show kube-bridge")
    assert cluster.probe("host", "pod-1:8080", on="node1") is ALLOW
    node.stop_daemon()
    node.start_daemon(FLAGS)


def test_a_family_that_is_switched_off_leaves_nothing(cluster: Cluster, node: Node) -> None:
    prefix = pod_ranges(cluster.objects, "node2")[1]
    assert prefix in node.run("ip -6 route")
    node.stop_daemon()
    whole = node.daemon.command
    node.daemon.command = [word for word in whole if word not in IPV6_FLAGS]
    node.start_daemon()
    node.daemon.command = whole
    node.wait_until_ready()

    def of_ipv6() -> list[str]:
        return left(node, (*OF_POLICIES, *OF_ROUTING), family=6)

    wait_for("nothing of IPv6", lambda: not of_ipv6(), seconds=10, so_far=of_ipv6)
    wait_for("no route", lambda: prefix not in node.run("ip -6 route"), seconds=5, so_far=lambda: node.run("ip -6 route"))
    assert left(node, OF_ROUTING, family=4)
    # families are a capability of BGP's OPEN: a change ends the session, and without graceful restart the route until it is back
    wait_for("pods talk by IPv4", lambda: cluster.probe("pod-1", "pod-2:8080") is ALLOW, seconds=15)
    node.stop_daemon()
    node.start_daemon()


def test_cleanup_takes_all_of_ours_and_leaves_what_others_made_to_the_byte(cluster: Cluster, bare: dict[str, State]) -> None:
    """Last, for it ends the cluster: no API server can be reached."""
    assert changes(bare["node1"], settled(cluster.node("node1")))
    for name in ("pod-1", "pod-2"):
        cluster.delete("pod", name, grace=0)
    wait_for("no pod is left", lambda: not any(one.kubelet.running for one in cluster.nodes.values()), seconds=30)
    cluster.stop_daemons()
    cluster.api.refuse()
    for name, one in cluster.nodes.items():
        one.speaker.kill()
        assert one.cleanup() == 0, (cluster.work / f"{name}-cleanup.log").read_text()
    node1 = cluster.node("node1")
    assert changes(bare["node1"], state(node1), but=STAYS) == []
    with Notices(node1) as notices:
        assert node1.cleanup(under=STRACE) == 0
    assert writes(node1) == {}
    assert notices.lines == []
    assert changes(bare["node1"], state(node1), but=STAYS) == []
