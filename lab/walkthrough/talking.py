"""Steps 9 to 11: a pod's network, who reaches whom, and policies."""

from __future__ import annotations

import ipaddress
import json

from lab.addresses import WORLD
from lab.manifests import pod, policy, service
from lab.node import Node
from lab.probe import ALLOW, REFUSED, Verdict
from lab.walkthrough.arrival import API_ADDRESS, DNS_ADDRESS
from lab.walkthrough.holds import all_hold, answers
from lab.walkthrough.picture import addresses, link, links, pod_ranges
from lab.walkthrough.stage import Stage

FIREWALL_FLAGS = ("--run-firewall=true", "--bgp-graceful-restart")
WEB_ADDRESS = "10.233.0.80"


def _veths(node: Node) -> dict[str, int]:
    """The node's veths that lead into pods, and their index; the uplink is one too, and no bridge's port."""
    return {one["ifname"]: one["ifindex"] for one in links(node, "type", "veth") if one.get("master") == "kube-bridge"}


def run_pod(stage: Stage) -> None:
    """A pod on node3: a veth on the bridge, eth0 with an address of the node's range, the bridge as gateway."""
    cluster, node3 = stage.cluster, stage.node("node3")
    before = set(_veths(node3))
    stage.do("A pod, web, is made on node3.")
    cluster.apply(pod("web", node="node3", ports=["8080", "8081", "5000/udp"]))
    cluster.wait_for_pods()
    space = cluster.network_of("web")
    names = stage.show("node3", "ip netns")
    stage.hold("ip netns lists the pod's namespace", lambda: space in names, seen=lambda: names)
    stage.show("node3", "ip -br link show master kube-bridge")
    stage.show("node3", f"ip netns exec {space} ip address show eth0")
    stage.show("node3", f"ip netns exec {space} ip route")
    new = {name: index for name, index in _veths(node3).items() if name not in before}
    stage.hold("one veth has come to kube-bridge", lambda: len(new) == 1, seen=lambda: new)
    (name, index), = new.items()  # fmt: skip
    inner = json.loads(node3.run(["ip", "-n", space, "-j", "link", "show", "eth0"]))[0]
    stage.hold(
        "its peer is eth0 in the pod",
        lambda: inner.get("link_index") == index and link(node3, name).get("link_index") == inner["ifindex"],
        seen=lambda: (inner, link(node3, name)),
    )
    for family, prefix in zip(cluster.families, pod_ranges(cluster.objects, "node3"), strict=True):
        _hold_address(stage, family, prefix)


def _hold_address(stage: Stage, family: int, prefix: str) -> None:
    cluster, node3, network = stage.cluster, stage.node("node3"), ipaddress.ip_network(prefix)
    address, gateway = cluster.pod_address("web", family), str(network[1])
    text = node3.run(["ip", "-n", cluster.network_of("web"), f"-{family}", "route"])
    bridge = addresses(node3, "kube-bridge")
    all_hold(
        stage,
        [
            (f"its address {address} is of {prefix}, which is node3's", ipaddress.ip_address(address) in network),
            (
                f"its gateway is {gateway}, which is the bridge",
                f"default via {gateway} dev eth0" in text and f"{gateway}/{network.prefixlen}" in bridge,
            ),
        ],
        seen=(text, bridge),
    )


def talk(stage: Stage) -> None:
    """Pods to pods, to Services and to the world; nodes to Services."""
    cluster = stage.cluster
    stage.do(f"A Service, web, is made at {WEB_ADDRESS}; its one endpoint is the pod web on node3. The world listens.")
    cluster.apply(service("web", ports=["http=80>8080", "udp=5000/udp"], address=WEB_ADDRESS))
    world = cluster.serve("world", "80")
    asker = cluster.network_of("hello-node1")
    answers(stage, "pod to pod on one node", "hello-node3", "web:8080", pod="web")
    answers(stage, "pod to pod across nodes", "hello-node1", "web:8080", pod="web")
    if 6 in cluster.families:
        target = f"[{cluster.pod_address('web', 6)}]:8080"
        answers(stage, "pod to pod across nodes over IPv6", "hello-node1", target, pod="web")
    seen_as = cluster.ask("hello-node1", "web:8080").source_address
    own = cluster.pod_address("hello-node1")
    stage.hold("a pod sees the address of the pod that asks, not of a node", lambda: seen_as == own, seen=lambda: seen_as)
    answers(stage, "pod to service address", "hello-node1", f"{WEB_ADDRESS}:80", pod="web")
    stage.show("node1", f"ip netns exec {asker} busybox nc -w 2 {WEB_ADDRESS} 80 </dev/null")
    stage.show("node1", "ipvsadm -Ln")
    _hold_services(stage)
    _hold_masquerade(stage)
    stage.show("node1", f"ip netns exec {asker} busybox nc -w 2 192.0.2.80 80 </dev/null")
    world.close()


def _hold_services(stage: Stage) -> None:
    for name in stage.cluster.nodes:
        for port in ("80/tcp", "5000/udp"):
            promise = f"{name} itself to the service address, port {port}"
            answers(stage, promise, "host", f"{WEB_ADDRESS}:{port}", pod="web", on=name)
        promise = f"a pod on {name} to the service address, though the backend is on node3"
        answers(stage, promise, f"hello-{name}", f"{WEB_ADDRESS}:80", pod="web")
    for port in ("53/udp", "53/tcp", "9153/tcp"):
        for place, word in (("hello-node2", "a pod"), ("host", "a node")):
            promise = f"DNS at {DNS_ADDRESS}, port {port}, from {word}"
            answers(stage, promise, place, f"{DNS_ADDRESS}:{port}", pod="coredns", on="node1")
    for place, word in (("hello-node1", "a pod"), ("host", "a node")):
        answers(stage, f"the API server at {API_ADDRESS}, from {word}", place, f"{API_ADDRESS}:443", on="node1")


def _hold_masquerade(stage: Stage) -> None:
    cluster = stage.cluster
    for family in cluster.families:
        target = f"{WORLD.address(4)}:80" if family == 4 else f"[{WORLD.address(6)}]:80"
        for name, node in cluster.nodes.items():
            _hold_seen_as(stage, name, target, node.addresses[cluster.families.index(family)], family=family)


def _hold_seen_as(stage: Stage, name: str, target: str, wanted: str, *, family: int) -> None:
    stage.hold(
        f"a pod on {name} to the world over IPv{family}, which sees the node, {wanted}",
        lambda: stage.cluster.ask(f"hello-{name}", target).source_address == wanted,
        seconds=5,
        seen=lambda: stage.cluster.ask(f"hello-{name}", target),
    )


def police(stage: Stage) -> None:
    """The firewall goes on: deny-all stops traffic, an allow rule opens just what it says, deleting both opens it again."""
    cluster, node3 = stage.cluster, stage.node("node3")
    stage.do(f"The daemons restart with {' '.join(FIREWALL_FLAGS)}; then a policy denies everything into the namespace.")
    cluster.stop_daemons()
    cluster.start_daemons(*FIREWALL_FLAGS)
    for node in cluster.nodes.values():
        node.wait_until_ready()
    cluster.apply(policy("deny-all", policyTypes=["Ingress"]))
    asked = [("hello-node1", "web:8080"), ("hello-node3", "web:8080"), ("hello-node1", "web:8081")]

    def verdicts() -> list[Verdict]:
        return [reply.verdict for reply in cluster.ask_all(asked)]

    stage.hold("deny-all stops traffic, on one node and across", lambda: verdicts() == [REFUSED] * 3, seconds=10, seen=verdicts)
    stage.hold("a probe by the pod's own node still passes", lambda: node3.probe("host", "web:8080") is ALLOW)
    stage.do("A second policy lets pods with app=hello reach web on port 8080.")
    cluster.apply(
        policy(
            "allow-web",
            pods={"app": "web"},
            ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "hello"}}}], "ports": [{"port": 8080}]}],
        )
    )
    stage.kubectl("networkpolicies")
    stage.hold(
        "port 8080 of web is open to them, port 8081 is not",
        lambda: verdicts() == [ALLOW, ALLOW, REFUSED],
        seconds=10,
        seen=verdicts,
    )
    stage.hold(
        "nothing else is open: hello-node2 to hello-node1, and DNS pods to web",
        lambda: (
            [reply.verdict for reply in cluster.ask_all([("hello-node2", "hello-node1:8080"), ("kube-system/coredns-1", "web:8080")])]
            == [REFUSED, REFUSED]
        ),
    )
    stage.show("node3", "iptables -S | grep -c KUBE-")
    stage.show("node3", "ipset list -n")
    stage.do("Both policies are deleted.")
    for name in ("deny-all", "allow-web"):
        cluster.delete("netpol", name)
    stage.hold("everything is open again", lambda: verdicts() == [ALLOW] * 3, seconds=10, seen=verdicts)
    stage.hold("a probe by the pod's own node passes, as ever", lambda: node3.probe("host", "web:8080") is ALLOW)
