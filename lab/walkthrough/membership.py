"""Steps 5 to 8: a node goes and comes back, a speaker restarts, a daemon restarts."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Sequence

from lab import bgp
from lab.addresses import pod_cidrs
from lab.capture import Packet
from lab.node import Node
from lab.processes import CNI_FILE
from lab.route_notices import RouteNotices
from lab.topology import UPLINK
from lab.waiting import SLOWNESS
from lab.walkthrough.arrival import greeter
from lab.walkthrough.holds import all_hold, answers, ranges_routed
from lab.walkthrough.picture import addresses, ip_sets, pod_ranges, route_to, routes
from lab.walkthrough.stage import Stage

NEW_RANGES = ("10.233.70.0/24", "fd00:70::/64")
ASN, HOLD_TIME, RESTART_TIME = 64512, 90, 90
UNROUTED_WITHIN = 1.0  # seconds


def delete_node(stage: Stage) -> None:
    """A node that leaves the API takes its route along, at once, and nothing else."""
    cluster = stage.cluster
    ranges = pod_ranges(cluster.objects, "node3")
    others = [node for name, node in cluster.nodes.items() if name != "node3"]
    before = {node.name: _routes_but(stage, node, ranges) for node in others}
    stage.do("node3's Node object is deleted.")
    with contextlib.ExitStack() as stack:
        notices = {node.name: stack.enter_context(RouteNotices(node.space)) for node in others}
        deleted = time.monotonic()
        cluster.node("node3").leave()
        for node in others:
            _hold_unrouted(stage, node, ranges, notices=notices[node.name], since=deleted)
    stage.show("node1", "ip route")
    after = {node.name: _routes_but(stage, node, ranges) for node in others}
    stage.hold("every other route of node1 and node2 stays", lambda: after == before, seen=lambda: (before, after))
    answers(stage, "the others still reach one another", "hello-node1", "hello-node2:8080", pod="hello-node2")
    stage.kubectl("nodes")


def _routes_but(stage: Stage, node: Node, without: Sequence[str]) -> dict[str, str]:
    families = stage.cluster.families
    return {to: how for family in families for to, how in routes(node, family).items() if to not in without}


def _hold_unrouted(stage: Stage, node: Node, ranges: Sequence[str], *, notices: RouteNotices, since: float) -> None:
    def seconds() -> list[float]:
        return [round(notice.at - since, 2) for prefix in ranges if (notice := notices.gone(prefix))]

    stage.hold(
        f"{node.name} loses its route to {' and '.join(ranges)}",
        lambda: len(seconds()) == len(ranges) and not any(route_to(node, prefix) for prefix in ranges),
        seconds=10,
        seen=lambda: routes(node),
    )
    allowed = UNROUTED_WITHIN * SLOWNESS
    slow = f", which stands for {UNROUTED_WITHIN:g} s on this slow kernel" if SLOWNESS > 1 else ""
    took = max(seconds())
    all_hold(
        stage,
        [(f"by the kernel's own notice that was {took:.2f} s after the deletion; allowed are {allowed:g} s{slow}", took <= allowed)],
        seen=seconds(),
    )


def register_node(stage: Stage) -> None:
    """A node that comes back with another range is followed everywhere, without a restart."""
    cluster, node3 = stage.cluster, stage.node("node3")
    ranges = NEW_RANGES[: len(cluster.families)]
    old_ranges = pod_cidrs(3)
    old = {one for one in addresses(node3, "kube-bridge") if any(_is_in(one, prefix) for prefix in old_ranges)}
    pid = node3.daemon.pid
    stage.do(f"node3 registers again, with {' and '.join(ranges)}.")
    node3.join(*ranges)
    for name in ("node1", "node2"):
        ranges_routed(stage, stage.node(name), node3, seconds=10)
    _hold_config(stage, node3, ranges, old_ranges)
    _hold_subnets(stage, ranges[0], old_ranges[0])
    stage.hold(
        f"node3's bridge gives up {' and '.join(sorted(old)) or 'its old address'}",
        lambda: not old & addresses(node3, "kube-bridge"),
        seconds=10,
        seen=lambda: addresses(node3, "kube-bridge"),
    )
    stage.do("The pod that still has an address of the old range is made anew.")
    cluster.delete("pod", "hello-node3", grace=0)
    stage.hold("it is gone", lambda: ("default", "hello-node3") not in node3.kubelet.running, seconds=30)
    cluster.apply(greeter("node3"))
    cluster.wait_for_pods()
    stage.kubectl("pods", namespace="default")
    stage.hold(
        "its address is of the new range, and the bridge is its gateway",
        lambda: (
            _is_in(cluster.pod_address("hello-node3"), ranges[0]) and any(_is_in(one, ranges[0]) for one in addresses(node3, "kube-bridge"))
        ),
        seen=lambda: (cluster.pod_address("hello-node3"), addresses(node3, "kube-bridge")),
    )
    answers(stage, "it is reached from another node", "hello-node1", "hello-node3:8080", pod="hello-node3")
    stage.hold("the daemon on node3 is the same process as before", lambda: node3.daemon.alive and node3.daemon.pid == pid)


def _is_in(address: str, prefix: str) -> bool:
    found, network = ipaddress.ip_interface(address), ipaddress.ip_network(prefix)
    return found.version == network.version and found.ip in network


def _hold_config(stage: Stage, node: Node, ranges: Sequence[str], old: Sequence[str]) -> None:
    def text() -> str:
        return node.file(CNI_FILE).read_text()

    stage.hold(
        f"{node.name}'s CNI configuration has the new ranges and not the old",
        lambda: all(prefix in text() for prefix in ranges) and not any(prefix in text() for prefix in old),
        seconds=10,
        seen=text,
    )
    stage.show(node.name, f"cat {CNI_FILE}")


def _hold_subnets(stage: Stage, new: str, old: str) -> None:
    def members() -> list[frozenset[str]]:
        return [ip_sets(node)["kube-router-pod-subnets"].members for node in stage.cluster.nodes.values()]

    stage.hold(
        "the set of pod subnets has the new range on every node, and not the old",
        lambda: all(new in one and old not in one for one in members()),
        seconds=10,
        seen=members,
    )


# BGP


def _of_bgp(packet: Packet) -> bool:
    return packet.protocol == 6 and packet.has_port(bgp.PORT)


def _conversation(packets: list[Packet], source: str) -> list[bgp.Message]:
    """What a speaker said in the one connection in which it sent an OPEN and got as far as an UPDATE; [] for none yet."""
    for stream in reversed(bgp.streams(packets, source=source)):
        said = bgp.messages(stream)
        if said and said[0].kind == bgp.OPEN and any(message.kind == bgp.UPDATE for message in said):
            return said
    return []


def restart_speaker(stage: Stage) -> None:
    """The speaker of node3 dies and comes back: what it says to node1 is what the RFCs and the original say."""
    cluster, node1, node3 = stage.cluster, stage.node("node1"), stage.node("node3")
    ranges = pod_ranges(cluster.objects, "node3")
    stage.do("TCP port 179 is captured on node1; gobgpd on node3 is killed (SIGKILL) and started again.")
    with node1.capture(UPLINK, keep=_of_bgp) as capture:
        node3.speaker.kill()
        node3.speaker.start()

        def spoken() -> list[bgp.Message]:
            said = _conversation(capture.packets, node3.address)
            ended = any(isinstance(one.body, bgp.Update) and one.body.end_of_rib == bgp.IPV4_UNICAST for one in said)
            return said if ended else []

        stage.hold(
            "node3's speaker is programmed again, opens a session to node1 and ends its first table",
            spoken,
            seconds=60,
            seen=lambda: (len(capture.packets), node3.daemon.said()[-2000:]),
        )
        said = spoken()
    capture.save(node1.file("/run/bgp.pcap"))
    said_something = f"src host {node3.address} and tcp[tcpflags] & tcp-push != 0"
    stage.show("node1", f"tcpdump -Z root -Knn -v -r /run/bgp.pcap '{said_something}' 2>/dev/null | head -n 50")
    _hold_open(stage, said, node3.address)
    _hold_table(stage, said, node3.address, ranges[0])
    ranges_routed(stage, node1, node3, seconds=10)


def _hold_open(stage: Stage, said: list[bgp.Message], address: str) -> None:
    opened = said[0].body
    assert isinstance(opened, bgp.Open)
    restart = opened.graceful_restart
    fixed = (opened.version, opened.asn, opened.hold_time, opened.identifier)
    promises = {
        f"OPEN: version 4, AS {ASN}, hold time {HOLD_TIME} s, identifier {address}": fixed == (4, ASN, HOLD_TIME, address),
        "it can refresh routes (2)": 2 in opened.capabilities,
        "it says its name, node3 (73)": opened.host_name == "node3",
        "it speaks IPv4 unicast (1)": bgp.IPV4_UNICAST in opened.families,
        f"it has four-octet AS numbers, {ASN} (65)": opened.four_octet_asn == ASN,
        f"it restarts gracefully within {RESTART_TIME} s (64)": restart is not None and restart.time == RESTART_TIME,
        "as the side that restarts, with its IPv4 forwarding preserved": restart is not None
        and restart.restarting
        and restart.families.get(bgp.IPV4_UNICAST) is True,
        "it takes IPv4 routes with IPv6 next hops (5)": (1, 1, 2) in opened.extended_next_hops,
    }
    all_hold(stage, list(promises.items()), seen=opened)


def _hold_table(stage: Stage, said: list[bgp.Message], address: str, prefix: str) -> None:
    after = said[1:]
    updates = [message.body for message in after if isinstance(message.body, bgp.Update)]
    tables = [one for one in updates if any(":" not in announced for announced in one.announced)]
    ends = [number for number, one in enumerate(updates) if one.end_of_rib == bgp.IPV4_UNICAST]
    stage.hold("then KEEPALIVE", lambda: after[0].kind == bgp.KEEPALIVE, seen=lambda: [one.name for one in after])
    stage.hold(
        f"one UPDATE with IPv4 routes: origin IGP, no AS path, next hop {address}, local preference 100, {prefix}",
        lambda: (
            len(tables) == 1
            and (tables[0].origin, tables[0].as_path, tables[0].next_hop) == (0, (), address)
            and (tables[0].local_preference, tables[0].announced) == (100, (prefix,))
        ),
        seen=lambda: updates,
    )
    stage.hold("then End-of-RIB", lambda: bool(ends) and updates.index(tables[0]) < ends[0], seen=lambda: updates)


def restart_daemon(stage: Stage) -> None:
    """The daemon of node3 restarts while its speaker goes on: nothing is lost, nothing moves."""
    cluster, node1, node3 = stage.cluster, stage.node("node1"), stage.node("node3")
    stage.do("Datagrams go from hello-node1 to hello-node3 all the while; the daemon on node3 is killed and started.")
    before = {node.name: _routes_but(stage, node, ()) for node in cluster.nodes.values()}
    stream = cluster.stream("hello-node1", "hello-node3:5000/udp")
    with (
        node1.capture(UPLINK, keep=_of_bgp) as capture,
        RouteNotices(node1.space) as notices1,
        RouteNotices(node3.space) as notices3,
    ):
        node3.daemon.kill()
        node3.start_daemon()
        stage.hold("the daemon on node3 is ready again", lambda: node3.fetch("/readyz")[0] == 200, seconds=60)
        stage.show("node3", "busybox wget -q -O - http://127.0.0.1:20244/readyz")
        sessions = stage.show("node1", f"{node1.speaker.command_line_tool} neighbor")
        tally = stream.stop()
    moved = [*notices1.notices, *notices3.notices]
    kinds = {
        message.name
        for source in (node1.address, node3.address)
        for pieces in bgp.streams(capture.packets, source=source)
        for message in bgp.messages(pieces)
    }
    after = {node.name: _routes_but(stage, node, ()) for node in cluster.nodes.values()}
    all_hold(
        stage,
        [
            (f"no packet between the pods is lost: {tally.sent} sent, {len(tally.lost)} lost", tally.sent > 0 and not tally.lost),
            ("no session drops: no OPEN, no NOTIFICATION", not kinds & {"OPEN", "NOTIFICATION"}),
            ("no connection between speakers ends: no FIN, no RST", not bgp.endings(capture.packets)),
            ("no route moves on node1 and node3", not moved and not notices1.missed and not notices3.missed),
            ("node1's speaker has both sessions", sessions.count("Establ") == len(cluster.nodes) - 1),
            ("every node's routes are what they were", after == before),
        ],
        seen=(tally, kinds, moved, sessions, before, after),
    )
