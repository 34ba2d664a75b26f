"""The daemon or the BGP speaker of a node dies and comes back: traffic, sessions and routes do not notice.

Everything but IPVS, which the kernels of most machines lack; `test_services_outlive.py` has the same for Services.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from lab import bgp
from lab.capture import Packet
from lab.cluster import Cluster
from lab.node import Node
from lab.probe import REFUSED
from lab.waiting import SLOWNESS, wait_for
from lab.walkthrough.picture import pod_ranges
from tests.lab.notices import Notices
from tests.lab.running import drift, established_since, neighbors, running, wait_for_sessions, wait_until_routed, written
from tests.lab.state import changes, settled, state, without_handles
from tests.lab.trace import start_traced, writes

pytestmark = pytest.mark.needs("root", "veth", "bridge", "ipset", "xt_set", "iptables_nft", "nf_tables")

SETTLING = 1.0  # seconds after readiness in which a second thought of the daemon would show


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("--bgp-graceful-restart") as made:
        yield made


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """The node whose processes die; the other one looks on. All is well before the test begins."""
    wait_until_routed(cluster)
    wait_for_sessions(cluster)
    return cluster.node("node1")


def of_bgp(packet: Packet) -> bool:
    return packet.protocol == 6 and packet.has_port(bgp.PORT)


def said(cluster: Cluster, packets: list[Packet]) -> set[str]:
    """Kinds of BGP messages that nodes sent."""
    sources = [address for node in cluster.nodes.values() for address in node.addresses]
    return {one.name for source in sources for pieces in bgp.streams(packets, source=source) for one in bgp.messages(pieces)}


def test_a_killed_daemon_comes_back_without_a_lost_packet_a_dropped_session_or_a_write(cluster: Cluster, node: Node) -> None:
    other = cluster.node("node2")
    six = f"[{cluster.pod_address('pod-2', 6)}]"
    before, sessions = settled(node), established_since(node)
    with node.capture(keep=of_bgp) as capture, Notices(node, other) as notices:
        streams = [cluster.stream("pod-1", target) for target in ("pod-2:5000/udp", f"{six}:5000/udp")]
        streams.append(cluster.stream("pod-2", "pod-1:5000/udp"))
        flow = cluster.flow("pod-2", "pod-1:8080")
        time.sleep(0.3 * SLOWNESS)
        node.daemon.kill()
        time.sleep(0.5 * SLOWNESS)
        start_traced(node)
        node.wait_until_ready()
        time.sleep(SETTLING * SLOWNESS)
        tallies = [stream.stop() for stream in streams]
    assert [(list(tally.lost), tally.refused) for tally in tallies] == [([], 0)] * 3
    assert all(tally.sent > 50 for tally in tallies)
    assert flow.works()
    flow.close()
    assert established_since(node) == sessions
    assert not said(cluster, capture.packets) & {"OPEN", "NOTIFICATION", "UPDATE"}
    assert notices.lines == []
    assert changes(before, state(node)) == []
    assert writes(node) == {}
    assert written(node) == {}
    assert drift(node) == {}


@pytest.mark.needs("iptables_legacy")
def test_a_restart_writes_nothing_into_legacy_iptables_either() -> None:
    """Of which no notice ever tells: the kernel is handed whole tables as a socket option."""
    with running(nodes=1, iptables="legacy") as made:
        only = made.node("node1")
        before = settled(only)
        assert "KUBE-ROUTER-FORWARD" in before["iptables-legacy-save"]
        assert "KUBE-ROUTER" not in before["iptables-nft-save"] + before["nft -a list ruleset"]
        only.daemon.kill()
        start_traced(only)
        only.wait_until_ready()
        time.sleep(SETTLING * SLOWNESS)
        assert writes(only) == {}
        assert changes(before, state(only)) == []
        only.daemon.kill()
        only.run("iptables-legacy -D FORWARD -j KUBE-ROUTER-PODS")
        start_traced(only)
        only.wait_until_ready()
        wait_for("the jump is back", lambda: not changes(before, state(only)), seconds=10)
        assert writes(only) == {"IPT_SO_SET_REPLACE": 1}


def test_what_vanished_while_the_daemon_was_dead_is_put_back_and_nothing_else(cluster: Cluster, node: Node) -> None:
    prefix4, prefix6 = pod_ranges(cluster.objects, "node2")
    before = settled(node)
    node.daemon.kill()
    node.run(f"ip route del {prefix4}")
    node.run(f"ip -6 route del {prefix6}")
    node.run(f"ipset del kube-router-pod-subnets {prefix4}")
    node.run("iptables -D FORWARD -j KUBE-ROUTER-PODS")
    node.run("ip6tables -t nat -F KUBE-ROUTER-EGRESS")
    start_traced(node)
    node.wait_until_ready()
    wait_for("routes are back", lambda: changes(without_handles(before), without_handles(state(node))) == [], seconds=10)
    time.sleep(SETTLING * SLOWNESS)
    assert changes(without_handles(before), without_handles(state(node))) == []
    assert written(node) == {"route": 2, "set": 1, "iptables": 2}
    found = writes(node)
    assert found.pop("RTM_NEWROUTE") == 2
    assert found.pop("IPSET_CMD_ADD") == 1
    rules = {kind: found.pop(kind) for kind in list(found) if kind.startswith("NFT_MSG_")}
    assert rules.pop("NFT_MSG_NEWRULE") == 2
    assert set(rules) <= {"NFT_MSG_NEWCHAIN", "NFT_MSG_DELRULE"}, "the chain is named, and emptied before it is filled"
    assert found == {}


def test_what_others_put_among_ours_goes_and_what_is_theirs_stays(cluster: Cluster, node: Node) -> None:
    before = settled(node)
    node.daemon.kill()
    node.run("ip route add 10.233.99.0/24 via 192.168.50.51 proto 17")  # as if a node had left meanwhile
    node.run("ipset add kube-router-node-ips 192.168.50.99")
    node.run("iptables -A KUBE-ROUTER-PODS -s 198.18.0.1 -j DROP")
    node.run("ip route add 198.18.7.0/24 via 192.168.50.1 proto static")
    node.run("iptables -A FORWARD -s 198.18.0.2 -j DROP")
    node.start_daemon()
    node.wait_until_ready()
    theirs = ("198.18.7.0/24", "198.18.0.2")
    wait_for("ours is right", lambda: changes(without_handles(before), without_handles(state(node)), but=theirs) == [], seconds=10)
    assert "198.18.7.0/24 via 192.168.50.1" in node.run("ip route")
    assert "-A FORWARD -s 198.18.0.2/32 -j DROP" in node.run("iptables -S FORWARD")
    node.run("ip route del 198.18.7.0/24")
    node.run("iptables -D FORWARD -s 198.18.0.2 -j DROP")


def test_a_stopped_daemon_ends_with_status_0_within_five_seconds_and_leaves_all_as_it_is(cluster: Cluster, node: Node) -> None:
    before, sessions = settled(node), established_since(node)
    with Notices(node) as notices:
        began = time.monotonic()
        node.daemon.signal(signal.SIGTERM)
        status = node.daemon.wait(5)
        seconds = time.monotonic() - began
        time.sleep(0.3 * SLOWNESS)
    assert (status, seconds < 5 * SLOWNESS) == (0, True)
    assert notices.lines == []
    assert changes(before, state(node)) == []
    assert established_since(node) == sessions
    node.start_daemon()


@pytest.mark.parametrize("moment", ["at once", "while it waits for the API server", "while it waits for the speaker"])
def test_a_daemon_that_is_still_starting_stops_as_well(cluster: Cluster, node: Node, moment: str) -> None:
    before = settled(node)
    node.stop_daemon()
    if moment == "while it waits for the API server":
        cluster.api.refuse()
    if moment == "while it waits for the speaker":
        node.speaker.pause()
    try:
        node.start_daemon()
        if moment != "at once":
            wait_for("it serves its probes", lambda: node.fetch("/healthz")[0] == 200, seconds=20)
            time.sleep(1.0 * SLOWNESS)
            assert node.fetch("/readyz")[0] == 503
            began = time.monotonic()
            assert node.stop_daemon() == 0
            assert time.monotonic() - began < 5 * SLOWNESS
        else:
            time.sleep(0.05)
            assert node.daemon.stop(5) in (0, -signal.SIGTERM)  # before there is anybody to hear it, the signal's own doing
    finally:
        node.speaker.resume()
        if moment == "while it waits for the API server":
            cluster.api.accept()
    assert changes(before, state(node)) == []
    node.start_daemon()


@pytest.mark.parametrize(("port", "flag"), [("20244", "--health-port"), ("8080", "--metrics-port")])
def test_a_daemon_whose_port_is_taken_says_so_and_ends(cluster: Cluster, node: Node, port: str, flag: str) -> None:
    node.stop_daemon()
    server = cluster.serve("node1", port)
    try:
        told = len(node.daemon.output())
        node.start_daemon()
        assert node.daemon.wait(20) == 1
        text = node.daemon.output()[told:]
        assert flag in text
        assert f"port {port}: Address already in use" in text
    finally:
        server.close()
    node.start_daemon()


def test_a_killed_speaker_is_programmed_again_within_three_seconds_and_no_route_moves(cluster: Cluster, node: Node) -> None:
    stream = cluster.stream("pod-1", "pod-2:5000/udp")
    prefixes = [prefix for name in cluster.nodes for prefix in pod_ranges(cluster.objects, name)]
    with Notices(*cluster.nodes.values()) as notices:
        node.speaker.kill()
        time.sleep(0.5 * SLOWNESS)
        node.speaker.start()
        took = seconds_until_programmed(node)
        wait_for_sessions(cluster, seconds=10)
        time.sleep(SETTLING * SLOWNESS)
        tally = stream.stop()
    assert took < 3 * SLOWNESS
    assert notices.about(*prefixes) == []
    assert list(tally.lost) == []
    assert drift(node) == {}, "a speaker that begins anew is no drift"
    wait_until_routed(cluster)


def seconds_until_programmed(node: Node) -> float:
    """From the speaker's first answer to its being programmed; a session is the last thing that it is given."""
    wait_for("it answers", lambda: neighbors(node) is not None, seconds=20, every=0.02)
    began = time.monotonic()
    wait_for("it has its peer", lambda: len(neighbors(node)) == 1, seconds=20, every=0.02)
    return time.monotonic() - began


def test_a_daemon_waits_for_a_speaker_that_comes_late(cluster: Cluster, node: Node) -> None:
    prefixes = [prefix for name in cluster.nodes for prefix in pod_ranges(cluster.objects, name)]
    node.daemon.kill()
    node.speaker.kill()
    with Notices(*cluster.nodes.values()) as notices:
        node.start_daemon()
        wait_for("it serves its probes", lambda: node.fetch("/healthz")[0] == 200, seconds=20)
        wait_for("it says that it waits for gobgpd", lambda: "no gobgpd answers" in why_not_ready(node, "speaker"), seconds=10)
        time.sleep(1.0 * SLOWNESS)
        assert node.fetch("/healthz")[0] == 200
        assert node.daemon.alive
        node.speaker.start()
        took = seconds_until_programmed(node)
        node.wait_until_ready(seconds=10)
        wait_for_sessions(cluster, seconds=75)  # how quick: test_bgp_restarts.py
        time.sleep(SETTLING * SLOWNESS)
    assert took < 3 * SLOWNESS
    assert notices.about(*prefixes) == []
    wait_until_routed(cluster)


def why_not_ready(node: Node, loop: str) -> str:
    """What the daemon says of one of its loops while it is not ready."""
    status, text = node.fetch("/readyz")
    return "\n".join(line for line in text.splitlines() if line.startswith(f"{loop}: ")) if status == 503 else ""


@pytest.mark.needs("iptables_legacy")
def test_rules_move_to_the_other_backend_without_an_open_moment(cluster: Cluster, node: Node) -> None:
    """An earlier run wrote to the legacy tables; the node now uses nft. What judges packets goes once its successor stands."""
    closed = ("node2", "pod-1:8080")
    assert cluster.probe(*closed) is REFUSED
    node.stop_daemon()
    for tool in ("iptables", "ip6tables"):
        rules = node.run(f"{tool}-nft-save", check=False)
        ours = "\n".join(line for line in rules.splitlines() if not line.startswith(("#", ":KUBE-KUBELET", ":KUBE-IPTABLES")))
        node.run(f"{tool}-legacy-restore", text=ours + "\n")
        node.run(f"{tool}-nft-restore", text="*filter\nCOMMIT\n*nat\nCOMMIT\n")
    assert cluster.probe(*closed) is REFUSED, "the legacy tables judge"
    # One datagram that passes opens its flow for all that follow, so no open moment is missed.
    streams = [cluster.stream("node2", target) for target in ("pod-1:5000/udp", f"[{cluster.pod_address('pod-1', 6)}]:5000/udp")]
    node.start_daemon()

    def in_legacy() -> list[str]:
        saved = node.run("iptables-legacy-save") + node.run("ip6tables-legacy-save")
        return [line for line in saved.splitlines() if "KUBE-ROUTER" in line or "KUBE-POD-FW" in line]

    wait_for("nothing of ours in the legacy tables", lambda: not in_legacy(), seconds=20, so_far=in_legacy)
    tallies = [stream.stop() for stream in streams]
    assert [tally.answered_by for tally in tallies] == [frozenset()] * 2
    assert all(tally.sent > 20 for tally in tallies)
    assert cluster.probe(*closed) is REFUSED
    assert "KUBE-POD-FW" in node.run("iptables-nft-save")
