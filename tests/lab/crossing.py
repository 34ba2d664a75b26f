"""Four nodes on two segments, FRR on one and BIRD on the other: who reaches whom, and in which packets.

node1, node2, FRR ── segment a ── router ── segment b ── node3, node4, BIRD
"""

from __future__ import annotations

import ipaddress
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from lab.addresses import POD_CLUSTER_CIDRS
from lab.capture import Packet
from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.node import Node
from lab.probe import ALLOW
from lab.routers.model import Peering
from lab.waiting import wait_for
from tests.lab.bgp_cluster import ASN, entry, peer_with
from tests.lab.running import METRICS_PORT

SEGMENTS = {"node3": "b", "node4": "b"}
BESIDE = {"frr": ("node1", "node2"), "bird": ("node3", "node4")}  # routers, and the nodes on their segment
VIPS = ("203.0.113.9", "fd00:203::9")
PORTS = ("8080", "5000/udp")
FLAGS = (
    "--advertise-external-ip",
    "--service-external-ip-range=203.0.113.0/24",
    "--service-external-ip-range=fd00:203::/64",
    f"--metrics-port={METRICS_PORT}",
    "--run-firewall=false",
    "--bgp-graceful-restart",
)
IPIP, IP6IP6, UDP = 4, 41, 17
FOU_PORT, VXLAN_PORT = 5555, 4789
PODS = tuple(ipaddress.ip_network(cidr) for cidr in POD_CLUSTER_CIDRS)


@contextmanager
def four_nodes(speaker: str) -> Iterator[Cluster]:
    """The cluster with its routers running; no daemon yet, and no pods."""
    routers = {"frr": "a", "bird": "b"}
    with Cluster(nodes=4, segments=SEGMENTS, routers=routers, speaker=speaker) as cluster:
        for name, router in cluster.routers.items():
            router.peer(*(Peering(cluster.node(node).address, ASN, passive=True) for node in BESIDE[name]))
            router.start()
            for node in BESIDE[name]:
                peer_with(cluster, node, entry(router.address(), router.asn))
        yield cluster
        assert cluster.problems() == []


def settle(cluster: Cluster, *flags: str) -> None:
    """(Re)start every daemon with these flags and wait until all is routed and announced."""
    for node in cluster.nodes.values():
        if node.daemon.alive:
            node.stop_daemon()
    cluster.start_daemons(*flags)
    cluster.wait_for_nodes()
    for node in cluster.nodes.values():
        node.wait_until_ready()
    for number, name in enumerate(cluster.nodes, start=1):
        cluster.apply(pod(f"pod-{number}", node=name, ports=PORTS, labels={"app": "web"}))
    cluster.apply(service("web", externalIPs=list(VIPS), ipFamilyPolicy="PreferDualStack"))
    cluster.wait_for_pods()
    for router in cluster.routers.values():
        router.until_established()
    wait_for(
        "all pods reach each other",
        lambda: not unreached(cluster, pairs(cluster)),
        seconds=30,
        so_far=lambda: unreached(cluster, pairs(cluster)),
    )


def pairs(cluster: Cluster) -> list[tuple[str, str]]:
    """Every pod to every other, in both families."""
    names = [f"pod-{number}" for number in range(1, len(cluster.nodes) + 1)]
    return [
        (here, f"{address}:8080")
        for here, there in itertools.permutations(names, 2)
        for address in (cluster.pod_address(there), f"[{cluster.pod_address(there, 6)}]")
    ]


def unreached(cluster: Cluster, questions: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of these questions that are not answered."""
    replies = cluster.ask_all(questions)
    return [question for question, reply in zip(questions, replies, strict=True) if reply.verdict is not ALLOW]


@dataclass(frozen=True, slots=True)
class Crossing:
    """A packet between two pods' nodes: how it was wrapped ("" for not at all), and whether these nodes are on one segment."""

    wrapped: str
    family: int
    one_segment: bool


class Observed:
    """What leaves the nodes by their uplinks while this context lasts, as far as it is between pods or in a tunnel."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._owner = {address: node for node in cluster.nodes.values() for address in node.addresses}
        self._pods = {
            cluster.pod_address(f"pod-{number}", family): node
            for number, node in enumerate(cluster.nodes.values(), start=1)
            for family in (4, 6)
        }
        self._stack = ExitStack()
        self.crossings: set[Crossing] = set()

    def __enter__(self) -> Observed:
        self._captures = [
            self._stack.enter_context(node.capture(keep=lambda packet: packet.outgoing)) for node in self._cluster.nodes.values()
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        found = (self._crossing(packet) for capture in self._captures for packet in capture.packets)
        self.crossings = {crossing for crossing in found if crossing is not None}

    def _crossing(self, packet: Packet) -> Crossing | None:
        family = 6 if ":" in packet.source else 4
        if packet.source in self._pods and packet.target in self._pods:
            return Crossing("", family, self._one_segment(self._pods[packet.source], self._pods[packet.target]))
        if packet.source in self._owner and packet.target in self._owner and (wrapped := _wrapping(packet)):
            return Crossing(wrapped, family, self._one_segment(self._owner[packet.source], self._owner[packet.target]))
        return None

    def _one_segment(self, here: Node, there: Node) -> bool:
        hosts = self._cluster.topology.hosts
        return hosts[here.name].segment is hosts[there.name].segment


def _wrapping(packet: Packet) -> str:
    if packet.protocol in (IPIP, IP6IP6):
        return "ipip"
    return {FOU_PORT: "fou", VXLAN_PORT: "vxlan"}.get(packet.target_port, "") if packet.protocol == UDP else ""


def full_size(cluster: Cluster, here: int, there: int, family: int, *, more: int = 0) -> str:
    """What ping says of one packet as large as the pod's own MTU (and `more`) allows, which nobody may cut; "" when it is answered."""
    node = cluster.node(f"node{here}")
    network = cluster.network_of(f"pod-{here}")
    told = json.loads(node.run(["ip", "-n", network, "-j", "link", "show", "dev", "eth0"]))
    size = told[0]["mtu"] - (28 if family == 4 else 48) + more  # IP and ICMP headers
    address = cluster.pod_address(f"pod-{there}", family)
    command = ["ip", "netns", "exec", network, "ping", "-n", "-M", "do", "-c", "1", "-W", "5", "-s", str(size), address]
    said = node.run(command, check=False)
    return "" if " 0% packet loss" in said else said


def assert_wrapped_only_across(cluster: Cluster, encapsulation: str) -> None:
    with Observed(cluster) as observed:
        assert unreached(cluster, pairs(cluster)) == []
    families = (4, 6)
    wrapped = {one for one in observed.crossings if one.wrapped}
    assert {one.family for one in observed.crossings if not one.wrapped} == set(families)
    assert {(one.wrapped, one.one_segment) for one in wrapped} == {(encapsulation, False)}
    assert {Crossing("", family, True) for family in families} == observed.crossings - wrapped, "bare only on one segment"


def assert_full_size_passes(cluster: Cluster) -> None:
    """The largest packet that a pod may send arrives in one piece on a node of either segment; a larger one never leaves the pod."""
    for there, family in itertools.product((2, 3), (4, 6)):
        assert full_size(cluster, 1, there, family) == ""
    assert "+1 errors" in full_size(cluster, 1, 3, 4, more=1)
