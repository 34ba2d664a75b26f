"""Step 12: the daemon takes everything of its own away, and nothing else."""

from __future__ import annotations

from lab.node import Node
from lab.topology import UPLINK
from lab.walkthrough.arrival import BARE_ROUTES
from lab.walkthrough.holds import all_hold, only_routes
from lab.walkthrough.picture import ip_sets, iptables, up_links
from lab.walkthrough.stage import Stage

FOREIGN_ROUTE, FOREIGN_SET, FOREIGN_SERVICE = "198.18.0.0/24", "others-set", "198.18.1.1:80"
FOREIGN_CHAIN = "OTHERS"
FOREIGN_RULES = f"""*filter
:{FOREIGN_CHAIN} - [0:0]
-A FORWARD -j {FOREIGN_CHAIN}
-A {FOREIGN_CHAIN} -s 198.18.0.9/32 -j DROP
COMMIT
"""


def _make_foreign_state(node: Node) -> None:
    """What another tool has put there: a chain with a rule, a set, a route, an IPVS service."""
    node.run(["ipset", "create", FOREIGN_SET, "hash:ip"])
    node.run(["ipset", "add", FOREIGN_SET, "198.18.0.7"])
    node.run(["iptables-restore", "--noflush"], text=FOREIGN_RULES)
    node.run(["ip", "route", "add", FOREIGN_ROUTE, "via", "192.168.50.1", "proto", "static"])
    node.run(["ipvsadm", "-A", "-t", FOREIGN_SERVICE, "-s", "rr"])


def clean(stage: Stage) -> None:
    """Links, sets, chains, services and routes of ours go; step 1's picture is back, and others' state stays."""
    cluster, node1 = stage.cluster, stage.node("node1")
    stage.do("Another tool has left a chain, a set, a route and an IPVS service on node1.")
    _make_foreign_state(node1)
    stage.do("All pods are deleted, the daemons and their speakers stop, and kube-router runs with --cleanup-config.")
    for one in cluster.objects.list("pods"):
        cluster.delete("pod", one["metadata"]["name"], one["metadata"]["namespace"], grace=0)
    stage.hold("no pod is left", lambda: not any(node.kubelet.running for node in cluster.nodes.values()), seconds=60)
    statuses = {node.name: node.stop_daemon() for node in cluster.nodes.values()}
    stage.hold("the daemons end with status 0", lambda: set(statuses.values()) == {0}, seen=lambda: statuses)
    for node in cluster.nodes.values():
        node.speaker.stop()
    cleaned = {node.name: node.cleanup() for node in cluster.nodes.values()}
    stage.hold("the cleanups end with status 0", lambda: set(cleaned.values()) == {0}, seen=lambda: cleaned)
    stage.show("node1", "ip route")
    stage.show("node1", "ip -br addr show up")
    stage.show("node1", "ipset list -n")
    stage.show("node1", "ipvsadm -Ln")
    stage.show("node1", "iptables -S")
    for node in cluster.nodes.values():
        _hold_bare(stage, node, foreign=node is node1)


def _hold_bare(stage: Stage, node: Node, *, foreign: bool) -> None:
    """Step 1's picture is back on a node, beside the other tool's state where that was."""
    name, but = node.name, ", beside the other tool's" if foreign else ""
    extra = {FOREIGN_ROUTE} if foreign else set()
    only_routes(stage, node, BARE_ROUTES | extra, promise=f"its default and its connected route only{but}")
    sets, up, services = set(ip_sets(node)), up_links(node), node.run(["ipvsadm", "-Sn"]).split("\n")
    all_hold(
        stage,
        [
            (f"{name} has lo and the uplink only", up == {"lo", UPLINK}),
            (f"{name} has no set{but}", sets == ({FOREIGN_SET} if foreign else set())),
            (
                f"{name} has no IPVS service{but}",
                [line.strip() for line in services if line] == ([f"-A -t {FOREIGN_SERVICE} -s rr"] if foreign else []),
            ),
        ],
        seen=(up, sets, services),
    )
    for family in stage.cluster.families:
        before = _used(stage.memory[f"before-{name}"][family].splitlines())
        lines = _used(iptables(node, family).splitlines())
        others = [line for line in lines if FOREIGN_CHAIN in line]
        ours = [line for line in lines if FOREIGN_CHAIN not in line]
        wanted = 3 if foreign and family == 4 else 0
        all_hold(
            stage,
            [
                (f"{name}'s IPv{family} rules are what they were before the daemon{but}", ours == before),
                *([(f"the other tool's {wanted} lines are there", len(others) == wanted)] if wanted else []),
            ],
            seen=sorted(set(lines) ^ set(before)),
        )


def _used(lines: list[str]) -> list[str]:
    """Without empty built-in chains of policy ACCEPT, and without tables that hold nothing else: looking makes those."""
    built_in = {f":{chain} ACCEPT" for chain in ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")}
    kept: list[str] = []
    for line in lines:
        if line in built_in:
            continue
        if line.startswith("*") and kept and kept[-1].startswith("*"):
            kept.pop()
        kept.append(line)
    if kept and kept[-1].startswith("*"):
        kept.pop()
    return kept
