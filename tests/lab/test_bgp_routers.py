"""Our nodes speak BGP with FRR and BIRD: what these see of us is the proof, in both generations of gobgpd.

node1 ── IPv4, TCP-MD5 ──────────────────────────── FRR, on the segment
node2 ── IPv6, TCP-MD5 ──────────────────────────── FRR
node1 ── from an address of its own, port 1790 ──── BIRD, two hops away
node2 ── port 1790 ──────────────────────────────── BIRD
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab import bgp
from lab.capture import Capture, Packet
from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.routers.model import Peering
from lab.waiting import SLOWNESS, NotYet, wait_for
from lab.walkthrough.picture import pod_ranges
from tests.lab.bgp_cluster import (
    ASN,
    FLAGS,
    GENERATIONS,
    Counted,
    annotate,
    binary,
    entry,
    established,
    events,
    frr_of,
    kernel_gateways,
    peer_with,
    until_gateways,
)
from tests.lab.notices import Notices
from tests.lab.running import wait_until_routed

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft")

SECRET, OTHER_SECRET = "k3rtuv", "w9zzq1"
BIRD_PORT = 1790
SECOND = "192.168.50.150"  # another address of node1, from which it speaks with BIRD
VIPS = ("203.0.113.9", "fd00:203::9")
TTL = 3
BFD_INTERVALS = {"desired_min_tx_interval": 300, "required_min_rx_interval": 300}  # milliseconds


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def cluster(generation: str) -> Iterator[Cluster]:
    with Cluster(nodes=2, routers={"frr": "a", "bird": "outside"}, speaker=binary(generation)) as made:
        frr, bird = made.routers["frr"], made.routers["bird"]
        bird.port = BIRD_PORT
        node1, node2 = made.nodes.values()
        node1.run(f"ip address add {SECOND}/24 dev eth0")
        # Routers wait for our speakers to dial. Where both dial at once, FRR takes the second connection of a peer with graceful restart
        # for its return from a restart, and ends the first.
        frr.peer(*(Peering(peer, ASN, password=SECRET, passive=True) for peer in (node1.address, node2.addresses[1])))
        bird.peer(Peering(SECOND, ASN, ttl=TTL, passive=True), Peering(node2.address, ASN, ttl=TTL, passive=True))
        frr.announce("198.18.5.0/24", "fd00:5::/48")
        frr.start()
        bird.start()
        peer_with(made, "node1", frr_entry(made), bird_entry(made, localip=SECOND))
        peer_with(made, "node2", frr_entry(made, 6), bird_entry(made))
        made.start_daemons(*FLAGS, "--bgp-graceful-restart", "--withdraw-on-cordon", f"--peer-router-multihop-ttl={TTL}")
        made.wait_for_nodes()
        made.apply(pod("web", node="node1"), vip_service())
        made.wait_for_pods()
        wait_until_routed(made)
        frr.until_established()
        bird.until_established()
        yield made
        assert made.problems() == []


def frr_entry(cluster: Cluster, family: int = 4, *, password: str = SECRET, **more: object) -> dict[str, object]:
    frr = cluster.routers["frr"]
    return entry(frr.address(family), frr.asn, password=password, **more)


def bird_entry(cluster: Cluster, **more: object) -> dict[str, object]:
    bird = cluster.routers["bird"]
    return entry(bird.address(), bird.asn, port=BIRD_PORT, **more)


def vip_service() -> dict[str, object]:
    announced = {"kube-router.io/service.advertise.externalip": "true"}
    return service("web", externalIPs=list(VIPS), annotations=announced, ipFamilyPolicy="PreferDualStack")


def of_node(cluster: Cluster, name: str) -> list[str]:
    """What a node announces to routers: its pod ranges and the VIPs."""
    return [*pod_ranges(cluster.objects, name), *(f"{vip}/{128 if ':' in vip else 32}" for vip in VIPS)]


def peers_of_frr(cluster: Cluster) -> tuple[str, str]:
    return cluster.node("node1").address, cluster.node("node2").addresses[1]


def test_sessions_stand_as_they_were_configured(cluster: Cluster) -> None:
    """TCP-MD5 in both families, multihop, a port and a local address of one peer alone; what our OPEN offers."""
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    first, second = peers_of_frr(cluster)
    told = {**frr.sessions(), **bird.sessions()}
    assert set(told) == {first, second, SECOND, cluster.node("node2").address}
    for peer, session in told.items():
        assert session.established
        assert (session.hold_time, session.families, session.restart_time) == (90, {4, 6}, 90)
        assert session.restart_families == {4, 6}
        assert session.host_name == ("node1" if peer in (first, SECOND) else "node2")


def test_routers_receive_our_ranges_and_vips_and_nothing_else(cluster: Cluster) -> None:
    """IPv6 next hops over IPv4 sessions and IPv4 next hops over IPv6 ones (RFC 4760); nothing of one peer goes to another."""
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    node1, node2 = cluster.nodes.values()
    for router, peer, node in ((frr, node1.address, node1), (frr, node2.addresses[1], node2), (bird, node2.address, node2)):
        found = router.until_received(peer, *of_node(cluster, node.name))
        for prefix, route in found.items():
            assert route.next_hop == node.addresses[1 if ":" in prefix else 0], (router.host.name, prefix)
            assert route.as_path == (ASN,)
            assert route.communities == frozenset()
    assert set(bird.until_received(SECOND, *of_node(cluster, "node1")))


def test_a_router_balances_a_vip_over_the_nodes(cluster: Cluster) -> None:
    frr = cluster.routers["frr"]
    for vip, number in zip(VIPS, (0, 1), strict=True):
        want = {node.addresses[number] for node in cluster.nodes.values()}
        wait_for(f"FRR reaches {vip} by both nodes", lambda vip=vip, want=want: frr.kernel_routes(vip) == want, seconds=10)  # type: ignore[misc]


def test_what_routers_announce_is_routed_in_both_families(cluster: Cluster) -> None:
    frr = cluster.routers["frr"]
    for node in cluster.nodes.values():
        for prefix, family in (("198.18.5.0/24", 4), ("fd00:5::/48", 6)):
            until_gateways(node, prefix, frr.address(family))
    frr.withdraw("198.18.5.0/24")
    for node in cluster.nodes.values():
        until_gateways(node, "198.18.5.0/24")
    frr.announce("198.18.5.0/24")
    until_gateways(cluster.node("node1"), "198.18.5.0/24", frr.address())


def test_r34_two_routers_of_one_prefix_are_one_multipath_route(cluster: Cluster) -> None:
    """FRR and BIRD (which names another router of the segment as next hop) announce the same; one that withdraws leaves the other."""
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    node = cluster.node("node1")
    for prefix, family in (("198.18.7.0/24", 4), ("fd00:7::/48", 6)):
        other = cluster.topology.hosts["peer"].address(family)
        frr.announce(prefix)
        bird.announce(prefix, next_hop=other)
        until_gateways(node, prefix, frr.address(family), other)
        family_word = "-6" if family == 6 else "-4"
        assert node.run(["ip", family_word, "route", "show", prefix]).count(f"{prefix} ") == 1
        with Notices(node) as notices:
            frr.withdraw(prefix)
            until_gateways(node, prefix, other)
        assert not [line for line in notices.about(prefix) if "Deleted" in line], "it was never without a way"
        bird.withdraw(prefix)
        until_gateways(node, prefix)


def test_communities_and_prepend_change_without_a_session_noticing(cluster: Cluster) -> None:
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    first, second = peers_of_frr(cluster)
    stay = [Counted(frr, (first, second)), Counted(bird, (SECOND,))]
    prefix = pod_ranges(cluster.objects, "node1")[0]

    def seen() -> set[tuple[tuple[int, ...], frozenset[str]]]:
        found = [frr.received(first)[prefix], bird.received(SECOND)[prefix], frr.received(first)[f"{VIPS[1]}/128"]]
        return {(route.as_path, route.communities) for route in found}

    steps = (
        (
            {"node.bgp.communities": "64512:7, no-peer", "path-prepend.as": "64999", "path-prepend.repeat-n": "2"},
            (64999, 64999, ASN),
            {"64512:7", "65535:65284"},
        ),
        ({"node.bgp.communities": "64512:8"}, (64999, 64999, ASN), {"64512:8"}),
        ({"path-prepend.as": None, "path-prepend.repeat-n": None, "node.bgp.communities": None}, (ASN,), set()),
    )
    for values, path, communities in steps:
        annotate(cluster, "node1", values)
        want = {(path, frozenset(communities))}
        wait_for(f"both routers see {want}", lambda want=want: seen() == want, seconds=5, so_far=seen)  # type: ignore[misc]
    for one in stay:
        one.assert_same()


def test_a_vip_is_withdrawn_with_its_service_and_comes_back(cluster: Cluster) -> None:
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    first, second = peers_of_frr(cluster)
    stay = [Counted(frr, (first, second)), Counted(bird, (SECOND,))]
    watched = ((frr, first, "node1"), (frr, second, "node2"), (bird, SECOND, "node1"))
    cluster.delete("service", "web")
    for router, peer, node in watched:
        router.until_received(peer, *pod_ranges(cluster.objects, node), seconds=5)
    cluster.apply(vip_service())
    for router, peer, node in watched:
        router.until_received(peer, *of_node(cluster, node), seconds=5)
    for one in stay:
        one.assert_same()


def test_u108_a_node_that_is_drained_takes_its_vips_back_first_and_keeps_sessions_and_ranges(cluster: Cluster) -> None:
    """By its label, and by a cordon where the flag asks for it; but never the last node that announces a VIP."""
    frr, bird = cluster.routers["frr"], cluster.routers["bird"]
    first, second = peers_of_frr(cluster)
    stay = [Counted(frr, (first, second)), Counted(bird, (SECOND,))]
    flow = cluster.flow("frr", "web:8080")

    def drain(node: str, change: dict[str, object]) -> None:
        cluster.objects.patch("nodes", node, change)

    def label(value: str | None) -> dict[str, object]:
        return {"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": value}}}

    for on, off in ((label("true"), label(None)), ({"spec": {"unschedulable": True}}, {"spec": {"unschedulable": None}})):
        drain("node1", on)
        for router, peer in ((frr, first), (bird, SECOND)):
            router.until_received(peer, *pod_ranges(cluster.objects, "node1"), seconds=2)
        assert set(frr.received(second)) == set(of_node(cluster, "node2"))
        assert flow.works()
        drain("node1", off)
        for router, peer in ((frr, first), (bird, SECOND)):
            router.until_received(peer, *of_node(cluster, "node1"), seconds=2)
    for name in cluster.nodes:
        drain(name, {"spec": {"unschedulable": True}})
    time.sleep(1.0 * SLOWNESS)
    assert {vip for peer in (first, second) for vip in frr.received(peer)} >= {f"{VIPS[0]}/32", f"{VIPS[1]}/128"}
    for name in cluster.nodes:
        drain(name, {"spec": {"unschedulable": None}})
    for peer, name in ((first, "node1"), (second, "node2")):
        frr.until_received(peer, *of_node(cluster, name), seconds=5)
    flow.close()
    for one in stay:
        one.assert_same()


def test_a_wrong_password_keeps_the_session_down_and_the_right_one_brings_it_back(cluster: Cluster) -> None:
    frr = frr_of(cluster)
    bird = cluster.routers["bird"]
    first, second = peers_of_frr(cluster)
    stay = [Counted(frr, (second,)), Counted(bird, (SECOND,))]
    others = bird_entry(cluster, localip=SECOND)
    peer_with(cluster, "node1", frr_entry(cluster, password=OTHER_SECRET), others)
    wait_for("the session is down", lambda: not frr.sessions()[first].established, seconds=10)
    with pytest.raises(NotYet):
        frr.until_established(first, seconds=3)
    wait_for("an Event tells of it", lambda: events(cluster, "SessionRestart", "node1"), seconds=5)
    told = "\n".join(events(cluster, "SessionRestart", "node1"))
    assert frr.address() in told
    assert SECRET not in told + cluster.node("node1").daemon.output()
    assert OTHER_SECRET not in told + cluster.node("node1").daemon.output()
    peer_with(cluster, "node1", frr_entry(cluster), others)
    frr.until_established(first, seconds=25)
    frr.until_received(first, *of_node(cluster, "node1"))
    for one in stay:
        one.assert_same()


def test_a_killed_speaker_loses_no_route_at_a_router_and_says_so_when_it_is_back(cluster: Cluster) -> None:
    """Graceful restart (RFC 4724) as FRR sees it; the OPEN and the UPDATE on the wire as in step 7 of the walkthrough."""
    frr = frr_of(cluster)
    node, peer = cluster.node("node1"), cluster.node("node1").address
    before = frr.until_received(peer, *of_node(cluster, "node1"))
    with Capture(frr.space, "eth0", keep=lambda packet: packet.has_port(bgp.PORT)) as capture:
        node.speaker.kill()
        wait_for("FRR sees it go", lambda: not frr.sessions()[peer].established, seconds=10)
        kept = frr.received(peer)
        assert kept.keys() == before.keys()
        assert all(route.stale for route in kept.values())
        node.speaker.start()
        while not frr.sessions()[peer].established:
            assert frr.received(peer).keys() == before.keys(), "routes stay all the while"
            time.sleep(0.1 * SLOWNESS)
        session = frr.sessions()[peer]
        assert session.restart_families == session.preserved == {4, 6}
        wait_for("routes are fresh", lambda: frr.received(peer) == before, seconds=10, so_far=lambda: frr.received(peer))
    assert_restarted(capture.packets, node.addresses, pod_ranges(cluster.objects, "node1"))


def assert_restarted(packets: list[Packet], addresses: list[str], ranges: list[str]) -> None:
    """The OPEN of a speaker that restarts, then its UPDATEs and both End-of-RIBs."""
    said = [bgp.messages(pieces) for pieces in bgp.streams(packets, source=addresses[0])]
    last = next(found for found in reversed(said) if any(isinstance(message.body, bgp.Update) for message in found))
    opened = last[0].body
    assert isinstance(opened, bgp.Open)
    assert (opened.version, opened.asn, opened.hold_time, opened.identifier) == (4, ASN, 90, addresses[0])
    assert (opened.four_octet_asn, opened.host_name) == (ASN, "node1")
    assert opened.families == {bgp.IPV4_UNICAST, bgp.IPV6_UNICAST}
    assert 2 in opened.capabilities, "route refresh"
    assert opened.graceful_restart == bgp.GracefulRestart(True, 90, {bgp.IPV4_UNICAST: True, bgp.IPV6_UNICAST: True})
    updates = [message.body for message in last if isinstance(message.body, bgp.Update)]
    for prefix in ranges:
        update = next(one for one in updates if prefix in one.announced)
        assert (update.origin, update.as_path, update.local_preference) == (0, (ASN,), None), "to an external peer"
        assert update.next_hop == addresses[1 if ":" in prefix else 0]
    assert {one.end_of_rib for one in updates if one.end_of_rib} == {bgp.IPV4_UNICAST, bgp.IPV6_UNICAST}


def test_a_router_that_restarts_gracefully_keeps_its_routes_in_our_kernels(cluster: Cluster) -> None:
    frr = frr_of(cluster)
    first, second = peers_of_frr(cluster)
    node = cluster.node("node1")
    for one in cluster.nodes.values():
        for prefix, family in (("198.18.5.0/24", 4), ("fd00:5::/48", 6)):
            until_gateways(one, prefix, frr.address(family), seconds=30)
    with Notices(*cluster.nodes.values()) as notices:
        frr.kill()
        time.sleep(1.0 * SLOWNESS)
        frr.start()
        frr.until_established(first, second, seconds=25)
        frr.until_received(first, *of_node(cluster, "node1"))
        time.sleep(1.0 * SLOWNESS)
    assert notices.about("198.18.5.0/24", "fd00:5::/48") == []
    assert kernel_gateways(node, "198.18.5.0/24") == {frr.address()}


def test_a_peer_that_bfd_finds_dead_is_given_up_within_a_second(cluster: Cluster, generation: str) -> None:
    """FRR's bfdd freezes while bgpd lives on: only BFD can tell, as the hold time is 90 s. gobgpd 3 has no BFD; an Event says so.

    BFD is added to a session that stands, and v4 does that in place.
    """
    frr = frr_of(cluster)
    node, peer = cluster.node("node2"), cluster.node("node2").addresses[1]
    frr.peer(Peering(peer, ASN, password=SECRET, passive=True, bfd=True))
    frr.until_established(peer, seconds=25)
    stay = Counted(frr, [peer])
    watched = {"enabled": True, "detection_multiplier": 3, **BFD_INTERVALS}
    peer_with(cluster, "node2", frr_entry(cluster, 6, bfd=watched), bird_entry(cluster))
    if generation == "v3":
        wait_for("an Event tells that there is no BFD", lambda: events(cluster, "NoBFD", "node2"), seconds=5)
        assert frr.address(6) in events(cluster, "NoBFD", "node2")[0]
        stay.assert_same()
        return
    wait_for("BFD is up", lambda: frr.bfd_up(peer), seconds=15, so_far=frr.output)
    stay.assert_same()
    frr.stop_bfd()
    began = time.monotonic()
    try:
        wait_for("our side gives it up", lambda: frr.address(6) not in established(node), seconds=5, every=0.02)
        assert time.monotonic() - began < 2.0 * SLOWNESS, "three packets of 300 ms"
    finally:
        frr.resume_bfd()
        peer_with(cluster, "node2", frr_entry(cluster, 6), bird_entry(cluster))
