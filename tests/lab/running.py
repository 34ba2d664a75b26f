"""Clusters whose daemons run, and what these daemons say about themselves: metrics, sessions of their speakers, probes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lab.cluster import Cluster
from lab.manifests import pod, policy
from lab.node import Node
from lab.processes import GOBGP_SOCKET
from lab.waiting import wait_for
from lab.walkthrough.picture import pod_ranges, route_to

METRICS_PORT = 8080
NO_PROXY = ("--run-service-proxy=false", f"--metrics-port={METRICS_PORT}")  # IPVS is what most machines' kernels lack
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$")
_LABEL = re.compile(r'="([^"]*)"')


@contextmanager
def running(*flags: str, nodes: int = 2, iptables: str = "nft", before: Callable[[Cluster], None] = lambda _: None) -> Iterator[Cluster]:
    """A cluster whose nodes have routes to each other; on node N runs pod-N, which a policy lets pods with its label reach.

    `before` is called while no daemon has started yet.
    """
    with Cluster(nodes=nodes, iptables=iptables) as cluster:
        before(cluster)
        cluster.start_daemons(*NO_PROXY, *flags)
        cluster.wait_for_nodes()
        for number, name in enumerate(cluster.nodes, start=1):
            cluster.apply(pod(f"pod-{number}", node=name, ports=["8080", "5000/udp"], labels={"app": "talk"}))
        friends = {"podSelector": {"matchLabels": {"app": "talk"}}}
        cluster.apply(policy("friends", pods={"app": "talk"}, ingress=[{"from": [friends]}], policyTypes=["Ingress"]))
        cluster.wait_for_pods()
        wait_until_routed(cluster)
        yield cluster
        assert cluster.problems() == []


def wait_until_routed(cluster: Cluster, *, seconds: float = 75.0) -> None:
    """Wait until daemons are ready and every node routes the pod ranges of every other. A session that went down as two ends dialled each
    other waits half a minute before gobgpd tries again: how quick it should be is the business of tests that say so."""
    for node in cluster.nodes.values():
        node.wait_until_ready()
    wait_for("every node routes all others' pods", lambda: not unrouted(cluster), seconds=seconds, so_far=lambda: unrouted(cluster))


def unrouted(cluster: Cluster) -> list[str]:
    """Ranges that a node has no route to, though another node has them."""
    return [
        f"{node.name}: {prefix}"
        for node in cluster.nodes.values()
        for other in cluster.nodes.values()
        if other is not node
        for prefix, gateway in zip(pod_ranges(cluster.objects, other.name), other.addresses, strict=True)
        if f"via {gateway} " not in route_to(node, prefix) + " "
    ]


def counted(node: Node, metric: str) -> dict[str, float]:
    """Samples of a metric that are not zero, by the values of their labels."""
    status, text = node.fetch("/metrics", port=METRICS_PORT)
    assert status == 200, text
    found = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample and sample[1].removeprefix("kube_router_") == metric and float(sample[3]):
            found[",".join(_LABEL.findall(sample[2] or ""))] = float(sample[3])
    return found


def written(node: Node) -> dict[str, float]:
    """What the daemon says it wrote since its start, by where to."""
    return counted(node, "kernel_writes_total")


def drift(node: Node) -> dict[str, float]:
    """What the daemon says it found changed by others since its start."""
    return counted(node, "drift_repaired_total")


# speakers


def neighbors(node: Node) -> list[dict[str, Any]]:
    """The speaker's peers, as its own tool tells them; CommandFailed while it does not answer."""
    found: list[dict[str, Any]] = json.loads(node.run(f"gobgp --target unix://{GOBGP_SOCKET} neighbor -j"))
    return found or []


def established_since(node: Node) -> dict[str, int]:
    """Since when each session stands (seconds of the epoch), by peer; sessions that do not stand are missing."""
    return {
        peer["state"]["neighbor_address"]: peer["timers"]["state"]["uptime"]["seconds"]
        for peer in neighbors(node)
        if peer["state"].get("session_state") == 6  # ESTABLISHED
    }


def wait_for_sessions(cluster: Cluster, *, seconds: float = 20.0) -> None:
    """Wait until every speaker has a session with every other node."""

    def sessions() -> dict[str, dict[str, int]]:
        return {name: established_since(node) for name, node in cluster.nodes.items()}

    def all_stand() -> bool:
        return all(len(found) == len(cluster.nodes) - 1 for found in sessions().values())

    wait_for("all sessions stand", all_stand, seconds=seconds, so_far=sessions)
