"""Daemon and speaker restart, one by one and together, and somebody edits the speaker: FRR and BIRD, the other node and the kernels
notice nothing that they need not, in both generations of gobgpd. The firewall is on, so that open moments would show.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from lab import bgp
from lab.capture import Capture
from lab.cluster import Cluster
from lab.manifests import pod, policy, service
from lab.node import Node
from lab.routers.model import Peering, Router
from lab.waiting import SLOWNESS, wait_for
from lab.walkthrough.picture import pod_ranges, route_to
from tests.lab.bgp_cluster import ASN, GENERATIONS, Counted, annotate, binary, entry, established, frr_of, observed, peer_with
from tests.lab.notices import Notices
from tests.lab.running import METRICS_PORT, drift, wait_until_routed

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft")

CONVERGED = {"v3": 10.0, "v4": 5.0}  # seconds from a speaker's return until all is as before
# Seconds that it is away, as a container that restarts is. Its peers' gobgpds take no connection for five seconds after they lost one
# (their idle hold time), so that after half a second v4 takes six from its return.
AWAY = 3.0
AUDIT = 3.0  # seconds between complete passes
VIPS = ("203.0.113.9", "fd00:203::9")
LEARNED = ("198.18.5.0/24", "fd00:5::/48")
FLAGS = (
    "--run-service-proxy=false",
    f"--metrics-port={METRICS_PORT}",
    "--bgp-graceful-restart",
    "--advertise-external-ip",
    "--service-external-ip-range=203.0.113.0/24",
    "--service-external-ip-range=fd00:203::/64",
    f"--routes-sync-period={AUDIT:g}s",
)


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def cluster(generation: str) -> Iterator[Cluster]:
    with Cluster(nodes=2, routers={"frr": "a", "bird": "a"}, speaker=binary(generation)) as made:
        routers = made.routers.values()
        for router in routers:
            # v4 dials soon; where FRR dials as well, it takes the second connection of two for another restart
            router.peer(*(Peering(node.address, ASN, passive=generation == "v4") for node in made.nodes.values()))
            router.start()
        made.routers["frr"].announce(*LEARNED)
        for name in made.nodes:
            peer_with(made, name, *(entry(router.address(), router.asn) for router in routers))
        made.start_daemons(*FLAGS)
        made.wait_for_nodes()
        for number, name in enumerate(made.nodes, start=1):
            made.apply(pod(f"pod-{number}", node=name, ports=["8080", "5000/udp"], labels={"app": "talk"}))
        made.apply(pod("closed", node="node1", ports=["5000/udp"]), policy("closed", pods={"app": "closed"}, policyTypes=["Ingress"]))
        made.apply(service("talk", externalIPs=list(VIPS), ipFamilyPolicy="PreferDualStack"))
        made.wait_for_pods()
        wait_until_routed(made)
        yield made
        assert made.problems() == []


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """The node whose processes end. All is well, and has been told to all, before a test begins."""
    wait_until_routed(cluster)
    wait_until_settled(cluster)
    return cluster.node("node1")


def announced(cluster: Cluster, name: str) -> set[str]:
    return {*pod_ranges(cluster.objects, name), *(f"{vip}/{128 if ':' in vip else 32}" for vip in VIPS)}


def trouble(cluster: Cluster, *names: str) -> list[str]:
    """What differs from the settled state of these nodes, or all: sessions that do not stand, routes missing, stale or too many."""
    found: list[str] = []
    nodes = {name: node for name, node in cluster.nodes.items() if name in names or not names}
    for router in cluster.routers.values():
        sessions = router.sessions()
        for name, node in nodes.items():
            if not sessions[node.address].established:
                found.append(f"{router.host.name} has no session with {name}")
            routes = router.received(node.address)
            if set(routes) != announced(cluster, name):
                found.append(f"{router.host.name} has {set(routes)} of {name}")
            found += [f"{router.host.name}: {prefix} of {name} is stale" for prefix, route in routes.items() if route.stale]
    found += [f"{name} has no route to {prefix}" for name, node in nodes.items() for prefix in LEARNED if not route_to(node, prefix)]
    peers = 1 + len(cluster.routers)
    found += [f"{name} has not all sessions" for name, node in nodes.items() if len(established(node)) != peers]
    return found


def wait_until_settled(cluster: Cluster, *names: str, seconds: float = 30.0) -> None:
    wait_for("all is as it should be", lambda: not trouble(cluster, *names), seconds=seconds, so_far=lambda: trouble(cluster, *names))


class Steady:
    """Asks routers all the time whether they still have all that a node announces. What was missing is in `gaps`."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self.gaps: list[str] = []
        self.asked = 0
        self._running = True
        self._thread = threading.Thread(target=self._run, args=(cluster, node), daemon=True)

    def _run(self, cluster: Cluster, node: Node) -> None:
        want = announced(cluster, node.name)
        while self._running:
            for router in cluster.routers.values():
                lacking = want - set(router.received(node.address))
                self.gaps += [f"{router.host.name} lacks {prefix}" for prefix in sorted(lacking)]
            self.asked += 1
            time.sleep(0.1 * SLOWNESS)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join(timeout=30)


@contextmanager
def undisturbed(cluster: Cluster, node: Node) -> Iterator[None]:
    """While it lasts: no packet between pods is lost, no closed pod is reached, no route of a kernel moves, no router lacks anything."""
    prefixes = [*LEARNED, *(prefix for name in cluster.nodes for prefix in pod_ranges(cluster.objects, name))]
    six = f"[{cluster.pod_address('pod-1', 6)}]"
    streams = [cluster.stream(*way, every=0.005) for way in (("pod-1", "pod-2:5000/udp"), ("pod-2", f"{six}:5000/udp"))]
    streams.append(cluster.stream("frr", "pod-1:5000/udp", every=0.005))
    denied = cluster.stream("pod-2", "closed:5000/udp", every=0.01)
    with Notices(*cluster.nodes.values()) as notices, Steady(cluster, node) as steady:
        yield
    tallies = [stream.stop() for stream in streams]
    assert [(list(tally.lost), tally.refused) for tally in tallies] == [([], 0)] * 3
    assert all(tally.sent > 50 for tally in tallies)
    assert denied.stop(patience=0.1).answered_by == frozenset()
    assert notices.about(*prefixes) == []
    assert steady.asked
    assert steady.gaps == []


def edit(node: Node) -> Callable[[str], str]:
    """The speaker's own command, as somebody at a terminal would use it."""
    return lambda words: node.run(f"{node.speaker.command_line_tool} {words}")


def test_a_daemon_that_restarts_changes_what_was_changed_meanwhile_and_nothing_else(cluster: Cluster, node: Node) -> None:
    """Case 1: the speaker lives. Communities are new; sessions, routes and everything else are as they were."""
    frr = frr_of(cluster)
    routers = list(cluster.routers.values())
    stay = [Counted(router, [one.address for one in cluster.nodes.values()]) for router in routers]
    before = observed(node)
    with undisturbed(cluster, node), Capture(frr.space, "eth0", keep=lambda packet: packet.has_port(bgp.PORT)) as capture:
        node.daemon.kill()
        node.start_daemon()
        node.wait_until_ready()
        time.sleep(1.0 * SLOWNESS)
        assert observed(node) == before
        node.daemon.kill()
        annotate(cluster, node.name, {"node.bgp.communities": "64512:77"})
        node.start_daemon()
        node.wait_until_ready()
        wait_for("routers see the community", lambda: all(seen(router, node) == {"64512:77"} for router in routers), seconds=5)
    kinds = {one.name for pieces in bgp.streams(capture.packets, source=node.address) for one in bgp.messages(pieces)}
    assert not kinds & {"OPEN", "NOTIFICATION"}
    for one in stay:
        one.assert_same()
    annotate(cluster, node.name, {"node.bgp.communities": None})
    wait_for("all is as before", lambda: observed(node) == before and seen(frr, node) == set(), seconds=5)


def seen(router: Router, node: Node) -> set[str]:
    """Communities that a router sees on any route of a node."""
    return {community for route in router.received(node.address).values() for community in route.communities}


def test_a_speaker_that_restarts_is_as_before_within_seconds_and_no_route_is_lost(
    cluster: Cluster, node: Node, generation: str, record_property: Callable[[str, object], None]
) -> None:
    """Case 2: the daemon lives."""
    before, took = observed(node), list[float]()
    while not took or (took[-1] >= CONVERGED[generation] * SLOWNESS and len(took) < 2):  # who is busy may be late once
        with undisturbed(cluster, node):
            node.speaker.kill()
            time.sleep(AWAY * SLOWNESS)
            took.append(seconds_until_settled(cluster, node))
    record_property("seconds until converged", [round(one, 1) for one in took])
    assert min(took) < CONVERGED[generation] * SLOWNESS
    assert observed(node) == before


def seconds_until_settled(cluster: Cluster, node: Node) -> float:
    """Start a speaker, and take the time from its first answer until all sessions stand and every route is fresh."""
    node.speaker.start()
    node.speaker.wait_until_listening()
    began = time.monotonic()
    wait_until_settled(cluster, node.name)
    return time.monotonic() - began


def test_what_somebody_edits_in_the_speaker_is_put_back_by_the_next_audit(cluster: Cluster, node: Node) -> None:
    """Case 4: a path, a peer and a set member gone, a path and a peer that nobody asked for, everything let out."""
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    range4 = pod_ranges(cluster.objects, node.name)[0]
    before = observed(node)
    stay = Counted(frr, [node.address])
    tell = edit(node)
    tell(f"global rib del {range4} nexthop {node.address}")
    tell("global rib add 198.18.66.0/24")
    tell("neighbor add 192.168.50.99 as 64999")
    tell(f"neighbor del {bird.address()}")
    tell(f"policy prefix del podcidrdefinedset {range4} 24..24")
    tell("policy prefix add servicevipsdefinedset 198.18.77.0/24 24..24")
    wait_for(
        "the speaker is as before", lambda: observed(node) == before, seconds=AUDIT + 3, so_far=lambda: differences(before, observed(node))
    )
    wait_until_settled(cluster, seconds=20)
    stay.assert_same()
    assert sum(drift(node).values()) >= 5


def differences(before: Mapping[object, object], after: Mapping[object, object]) -> list[object]:
    return [(key, before.get(key), after.get(key)) for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def test_u087_daemon_and_speaker_restart_together_node_by_node_and_nothing_is_lost(cluster: Cluster, node: Node) -> None:
    """Case 3, as a rollout does it: the speaker is ended as the sidecar's wrapper ends it, the daemon by SIGTERM; on node2 by SIGKILL."""
    for one in (cluster.node("node2"), node):
        before = observed(one)
        with undisturbed(cluster, one):
            if one is node:
                assert one.stop_daemon() == 0
            one.daemon.kill()
            one.speaker.kill()
            time.sleep(1.0 * SLOWNESS)
            one.speaker.start()
            one.start_daemon()
            one.wait_until_ready()
            wait_until_settled(cluster)
        assert observed(one) == before
