"""Steps 1 to 4: the bare nodes, the daemon's start, its links and its sets."""

from __future__ import annotations

from collections.abc import Sequence

from lab.api.kinds import Json
from lab.manifests import dns, pod, policy
from lab.probe import ALLOW
from lab.processes import CNI_FILE
from lab.topology import UPLINK
from lab.walkthrough.holds import all_hold, only_routes, ranges_routed
from lab.walkthrough.picture import (
    PREFIX,
    SETS,
    addresses,
    all_addresses,
    ip_sets,
    iptables,
    link,
    pod_ranges,
    route_to,
    routes,
    up_links,
)
from lab.walkthrough.stage import Stage

FIRST_FLAGS = ("--run-firewall=false", "--bgp-graceful-restart")
API_ADDRESS, DNS_ADDRESS = "10.233.0.1", "10.233.0.3"
KUBELET_CHAINS = {"KUBE-FIREWALL", "KUBE-KUBELET-CANARY"}
BARE_ROUTES = {"default", "192.168.50.0/24"}


def greeter(node: str) -> Json:
    """A pod on a node that says who it is."""
    return pod(f"hello-{node}", node=node, ports=["8080", "5000/udp"], labels={"app": "hello"})


def first_pods(nodes: Sequence[str]) -> list[Json]:
    """DNS, as every cluster has it, and a greeter on each node."""
    return [*dns(), *map(greeter, nodes)]


def before(stage: Stage) -> None:
    """The nodes are bare: no routes to pods, no links, no services, only what kubelet made."""
    cluster, node1 = stage.cluster, stage.node("node1")
    stage.do("Three nodes run a kubelet and nothing else. DNS and a pod for each node are asked for.")
    cluster.apply(*first_pods(list(cluster.nodes)))
    stage.show("node1", "ip route")
    stage.show("node1", "ip -br addr show up")
    stage.show("node1", "ipvsadm -Ln")
    rules = stage.show("node1", "iptables -S")
    for node in cluster.nodes.values():
        only_routes(stage, node, BARE_ROUTES, promise="its default and its connected route only")
        stage.memory[f"before-{node.name}"] = {family: iptables(node, family) for family in cluster.families}
    stage.hold("lo and the uplink are the only links that are up", lambda: up_links(node1) == {"lo", UPLINK})
    stage.hold("IPVS has no service", lambda: not node1.run(["ipvsadm", "-Sn"]).strip())
    chains = {line.split()[1] for line in rules.splitlines() if line.startswith("-N")}
    stage.hold("iptables holds what kubelet made, and nothing else", lambda: chains == KUBELET_CHAINS, seen=lambda: chains)
    nodes = stage.kubectl("nodes")
    stage.hold("every node is NotReady, for want of a network", lambda: nodes.count("NotReady") == len(cluster.nodes))
    stage.kubectl("pods")
    stage.hold(
        "every pod is Pending",
        lambda: {one["status"]["phase"] for one in cluster.objects.list("pods")} == {"Pending"},
    )


def start(stage: Stage) -> None:
    """The daemon starts everywhere: routes, the CNI configuration, Ready nodes, running pods."""
    cluster, node1 = stage.cluster, stage.node("node1")
    stage.do(f"gobgpd and kube-router start on every node, with {' '.join(FIRST_FLAGS)}.")
    cluster.start_daemons(*FIRST_FLAGS)
    for node in cluster.nodes.values():
        if node is not node1:
            ranges_routed(stage, node1, node, seconds=60)
    stage.hold("every node turns Ready", cluster.nodes_ready, seconds=60, seen=lambda: stage.kubectl("nodes"))
    stage.hold("every pod runs", cluster.pods_ready, seconds=60, seen=lambda: (stage.kubectl("pods"), cluster.problems()))
    stage.show("node1", "ip route")
    for family in cluster.families[1:]:
        stage.show("node1", f"ip -{family} route")
    own = pod_ranges(cluster.objects, "node1")
    stage.hold(
        "node1 has no route for its own range but the bridge's",
        lambda: all("kube-bridge" in (route_to(node1, prefix) or "kube-bridge") for prefix in own),
        seen=lambda: routes(node1),
    )
    config = stage.show("node1", f"cat {CNI_FILE}")
    stage.hold("the CNI configuration names node1's pod range", lambda: all(prefix in config for prefix in own))
    stage.kubectl("nodes")
    stage.kubectl("pods")


def links(stage: Stage) -> None:
    """The bridge for pods and the dummy that holds the addresses of Services."""
    stage.do("Two links have appeared on every node.")
    node1, wanted = stage.node("node1"), {f"{API_ADDRESS}/32", f"{DNS_ADDRESS}/32"}
    stage.hold(
        "the addresses of the Services are there",
        lambda: wanted <= addresses(node1, "kube-dummy-if"),
        seconds=30,
        seen=lambda: (addresses(node1, "kube-dummy-if"), node1.daemon.said()[-2000:]),
    )
    stage.show("node1", "ip -br link show up")
    stage.show("node1", "ip address show dev kube-dummy-if")
    for name in stage.cluster.nodes:
        _links_of(stage, name)


def _links_of(stage: Stage, name: str) -> None:
    node = stage.node(name)
    bridge, dummy = link(node, "kube-bridge"), link(node, "kube-dummy-if")
    text = node.run(["ip", "-4", "-o", "address", "show", "dev", "kube-dummy-if"])

    def holds(address: str) -> bool:
        return any(f"inet {address}/32 " in line and "scope link" in line for line in text.splitlines())

    all_hold(
        stage,
        [
            (
                f"on {name} kube-bridge is a bridge and up",
                bridge["linkinfo"]["info_kind"] == "bridge" and "UP" in bridge["flags"],
            ),
            (
                f"on {name} kube-dummy-if is a dummy, up, and speaks no ARP",
                dummy["linkinfo"]["info_kind"] == "dummy" and {"UP", "NOARP"} <= set(dummy["flags"]),
            ),
            *((f"on {name} it holds {one}/32, scope link", holds(one)) for one in (API_ADDRESS, DNS_ADDRESS)),
        ],
        seen=(bridge, dummy, text),
    )


def expected_members(stage: Stage) -> dict[str, set[str]]:
    """The members of the IPv4 sets of node1, but for the node's own addresses."""
    cluster = stage.cluster
    ranges = {pod_ranges(cluster.objects, name)[0] for name in cluster.nodes}
    ports = {f"{DNS_ADDRESS},{protocol}" for protocol in ("tcp:53", "udp:53", "tcp:9153")}
    return {
        "kube-router-pod-subnets": ranges,
        "kube-router-node-ips": {node.address for node in cluster.nodes.values()},
        "kube-router-service-ips": {API_ADDRESS, DNS_ADDRESS},
        "kube-router-ipvs-services": {f"{API_ADDRESS},tcp:443", *ports},
    }


def sets(stage: Stage) -> None:
    """With the firewall off there are five sets a family, none of a policy, and a policy has no effect."""
    cluster, node1 = stage.cluster, stage.node("node1")
    stage.do("A policy that forbids everything is made. The firewall is off.")
    cluster.apply(policy("deny-all", policyTypes=["Ingress", "Egress"]), policy("deny-all", namespace="kube-system"))
    stage.show("node1", "ipset list -n")
    names = {PREFIX[family] + name for family in cluster.families for name in SETS}
    stage.hold(
        "there are exactly five sets a family, and none belongs to a policy",
        lambda: set(ip_sets(node1)) == names,
        seconds=10,
        seen=lambda: sorted(ip_sets(node1)),
    )
    for name, members in expected_members(stage).items():
        _members(stage, name, members)
    found = ip_sets(node1)
    local = found["kube-router-local-ips"].members
    kinds = dict.fromkeys(SETS, "hash:ip") | {SETS[0]: "hash:net", SETS[4]: "hash:ip,port"}
    timeouts = all(
        one.timeouts and f"family {'inet6' if name.startswith('inet6:') else 'inet'} " in one.options for name, one in found.items()
    )
    all_hold(
        stage,
        [
            (
                "kube-router-local-ips: 127.0.0.1 and addresses of this node",
                {"127.0.0.1", node1.address} <= local <= all_addresses(node1),
            ),
            ("no address of a Service is among them", not any(one.startswith("10.233.0.") for one in local)),
            ("their kinds are hash:net, hash:ip and hash:ip,port", {name: found[name].kind for name in SETS} == kinds),
            ("they are of family inet (inet6 for the twins), and every entry has timeout 0", timeouts),
        ],
        seen=found,
    )
    stage.show("node1", "ipset list kube-router-ipvs-services")
    stage.hold(
        "the policy has no effect: pods of all nodes are reached",
        lambda: {cluster.probe("hello-node1", f"hello-{name}:8080") for name in cluster.nodes} == {ALLOW},
        seconds=5,
    )
    for namespace in ("default", "kube-system"):
        cluster.delete("netpol", "deny-all", namespace)


def _members(stage: Stage, name: str, members: set[str]) -> None:
    node1 = stage.node("node1")
    stage.hold(
        f"{name}: {' '.join(sorted(members))}",
        lambda: ip_sets(node1)[name].members == members,
        seconds=10,
        seen=lambda: ip_sets(node1)[name],
    )
