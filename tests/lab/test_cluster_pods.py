"""The lab's kubelet and controller manager: pods through the real CNI plugins, without any daemon of ours."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.node import Node
from lab.probe import ALLOW, REFUSED
from lab.processes import CNI_FILE
from lab.space import CommandFailed
from lab.waiting import SLOWNESS, wait_for

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("root", "veth", "bridge", "iptables_nft")


def configure(node: Node, ranges: list[str]) -> None:
    """The CNI configuration that a network daemon would write."""
    plugins = [
        {
            "type": "bridge",
            "bridge": "kube-bridge",
            "isDefaultGateway": True,
            "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": one}] for one in ranges]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ]
    file = node.file(CNI_FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"cniVersion": "0.3.1", "name": "kubernetes", "plugins": plugins}))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a network by hand: each routes the other's pods."""
    with Cluster(nodes=2) as cluster:
        wait_for("ranges", lambda: all(ranges(cluster, name) for name in cluster.nodes), seconds=10)
        for name, node in cluster.nodes.items():
            configure(node, ranges(cluster, name))
            for other in cluster.nodes.values():
                if other is not node:
                    pairs = zip(ranges(cluster, name), node.addresses, strict=True)
                    other.space.ip([f"route add {prefix} via {gateway}" for prefix, gateway in pairs])
        cluster.wait_for_nodes()
        cluster.apply(pod("here", node="node1", ports=["8080", "5000/udp"]), pod("there", node="node2", ports=["8080", "5000/udp"]))
        cluster.wait_for_pods()
        yield cluster
        assert cluster.problems() == []


def ranges(cluster: Cluster, name: str) -> list[str]:
    return list(cluster.objects.get("nodes", name)["spec"].get("podCIDRs") or ())


def test_nodes_get_the_ranges_of_the_walkthrough(cluster: Cluster) -> None:
    assert ranges(cluster, "node1") == ["10.233.64.0/24", "fd00:64::/64"]
    assert ranges(cluster, "node2") == ["10.233.66.0/24", "fd00:66::/64"]


def test_a_node_is_ready_while_it_has_a_configuration() -> None:
    with Cluster(nodes=1, ipv6=False) as cluster:
        node = cluster.node("node1")
        cluster.apply(pod("early", node="node1"), pod("anywhere"))
        time.sleep(0.5 * SLOWNESS)
        assert not cluster.nodes_ready()
        assert [one["status"]["phase"] for one in cluster.objects.list("pods")] == ["Pending", "Pending"]
        configure(node, ["10.233.64.0/24"])
        cluster.wait_for_nodes()
        cluster.wait_for_pods()
        assert cluster.pod("anywhere")["spec"]["nodeName"] == "node1"
        node.file(CNI_FILE).unlink()
        wait_for("NotReady", lambda: not cluster.nodes_ready(), seconds=5)


def test_a_pod_has_addresses_of_both_families_and_a_name_for_ip_netns(cluster: Cluster) -> None:
    status = cluster.pod("there")["status"]
    assert [entry["ip"].rpartition(".")[0] or entry["ip"].rpartition(":")[0] for entry in status["podIPs"]] == [
        "10.233.66",
        "fd00:66:",
    ]
    assert status["hostIP"] == "192.168.50.51"
    node = cluster.node("node2")
    assert "default_there" in node.run("ip netns")
    assert "default_there" not in cluster.node("node1").run("ip netns")
    assert "eth0" in node.run("ip netns exec default_there ip -br link")


def test_pods_answer_with_who_they_are_and_whom_they_see(cluster: Cluster) -> None:
    for port in ("8080", "5000/udp"):
        reply = cluster.ask("here", f"there:{port}")
        assert (reply.verdict, reply.pod) == (ALLOW, "there")
        assert reply.source_address == cluster.pod_address("here")
        assert reply.to == f"{cluster.pod_address('there')}:{port.partition('/')[0]}"
    six = cluster.pod_address("there", 6)
    assert cluster.ask("here", f"[{six}]:5000/udp").source_address == cluster.pod_address("here", 6)
    assert cluster.node("node1").probe("host", "there:8080") is ALLOW
    assert cluster.probe("here", "there:8081") is REFUSED


def test_many_questions_take_as_long_as_one(cluster: Cluster) -> None:
    asked = [("here", "there:8080"), ("there", "here:8080"), ("here", "there:5000/udp")] * 20
    start = time.monotonic()
    replies = cluster.ask_all(asked)
    assert {reply.verdict for reply in replies} == {ALLOW}
    assert time.monotonic() - start < 1.5 * SLOWNESS


def test_a_stream_counts_what_is_lost(cluster: Cluster) -> None:
    stream = cluster.stream("here", "there:5000/udp")
    time.sleep(0.5 * SLOWNESS)
    node = cluster.node("node2")
    node.unplug()
    time.sleep(0.3 * SLOWNESS)
    node.plug()
    time.sleep(0.5 * SLOWNESS)
    tally = stream.stop()
    assert 0 < len(tally.lost) < tally.sent
    assert tally.answered_by == {"there"}
    again = cluster.stream("here", "there:5000/udp")
    time.sleep(0.3 * SLOWNESS)
    tally = again.stop()
    assert (list(tally.lost), tally.refused) == ([], 0)
    assert tally.sent > 0


def test_a_flow_stands_until_its_pod_ends(cluster: Cluster) -> None:
    cluster.apply(pod("short", node="node2"))
    cluster.wait_for_pods()
    flow = cluster.flow("here", "short:8080")
    assert flow.pod == "short"
    assert flow.works()
    cluster.delete("pod", "short")
    wait_for("the pod is gone", lambda: cluster.objects.find("pods", "short", "default") is None, seconds=10)
    assert not flow.works()
    flow.close()
    assert "default_short" not in cluster.node("node2").run("ip netns")


def test_a_lingering_pod_serves_on_and_its_endpoint_says_so(cluster: Cluster) -> None:
    cluster.apply(pod("slow", node="node2", annotations={"lab/linger": "2"}), service("slow"))
    cluster.wait_for_pods()
    wait_for("an endpoint", lambda: conditions(cluster, "slow") == [(True, True, False)], seconds=10)
    cluster.delete("pod", "slow")
    wait_for("it terminates", lambda: conditions(cluster, "slow") == [(False, True, True)], seconds=1.5)
    assert cluster.probe("here", "slow:8080") is ALLOW
    wait_for("it is gone", lambda: conditions(cluster, "slow") == [], seconds=10)
    cluster.delete("svc", "slow")
    wait_for("no slice is left", lambda: not cluster.objects.list("endpointslices", labels="kubernetes.io/service-name=slow"))


def conditions(cluster: Cluster, name: str) -> list[tuple[bool, bool, bool]]:
    slices = cluster.objects.list("endpointslices", labels=f"kubernetes.io/service-name={name}")
    return [
        (one["conditions"]["ready"], one["conditions"]["serving"], one["conditions"]["terminating"])
        for piece in slices
        for one in piece["endpoints"]
    ]


def test_an_unready_pod_is_no_ready_endpoint(cluster: Cluster) -> None:
    cluster.apply(pod("lame", node="node2", annotations={"lab/unready": "yes"}), service("lame"))
    wait_for("its endpoint", lambda: conditions(cluster, "lame") == [(False, False, False)], seconds=10)
    cluster.delete("pod", "lame", grace=0)
    cluster.delete("svc", "lame")


def test_a_pod_of_the_host_network_answers_at_the_node(cluster: Cluster) -> None:
    cluster.apply(pod("host", node="node2", ports=["9100"], host_network=True))
    cluster.wait_for_pods()
    assert cluster.pod("host")["status"]["podIP"] == "192.168.50.51"
    assert cluster.ask("here", "192.168.50.51:9100").pod in ("host", "")
    assert cluster.ask("node1", "192.168.50.51:9100").pod == "host"
    cluster.delete("pod", "host", grace=0)


def test_a_host_port_leads_into_the_pod(cluster: Cluster) -> None:
    thing = pod("mapped", node="node2", ports=["8080"])
    thing["spec"]["containers"][0]["ports"][0]["hostPort"] = 9180
    cluster.apply(thing)
    cluster.wait_for_pods()
    assert cluster.ask("node1", "192.168.50.51:9180").pod == "mapped"
    cluster.delete("pod", "mapped", grace=0)
    wait_for("the port is closed", lambda: cluster.probe("node1", "192.168.50.51:9180") is REFUSED, seconds=10)


def test_a_plugin_that_fails_is_told_in_an_event_and_tried_again() -> None:
    with Cluster(nodes=1, ipv6=False) as cluster:
        node = cluster.node("node1")
        node.run("ip link add kube-bridge type dummy", check=False)
        node.file(CNI_FILE).parent.mkdir(parents=True, exist_ok=True)
        node.file(CNI_FILE).write_text(json.dumps({"name": "x", "cniVersion": "0.3.1", "plugins": [{"type": "no-such-plugin"}]}))
        cluster.apply(pod("unlucky", node="node1"))
        wait_for("an Event", lambda: cluster.objects.list("events"), seconds=10)
        event = cluster.objects.list("events")[0]
        assert (event["reason"], event["involvedObject"]["name"]) == ("FailedCreatePodSandBox", "unlucky")
        assert "no-such-plugin" in event["message"]
        node.run("ip link del kube-bridge", check=False)
        configure(node, ["10.233.64.0/24"])
        cluster.wait_for_pods()
        assert cluster.problems() == []


def test_a_service_follows_its_pods(cluster: Cluster) -> None:
    cluster.apply(service("both", selector={"role": "web"}, ports=["80>8080"]))
    for number in (1, 2):
        cluster.apply(pod(f"web{number}", node=f"node{number}", labels={"role": "web"}))
    wait_for("two endpoints", lambda: conditions(cluster, "both") == [(True, True, False)] * 2, seconds=10)
    cluster.objects.patch("pods", "web1", {"metadata": {"labels": {"role": "other"}}}, namespace="default")
    wait_for("one endpoint", lambda: conditions(cluster, "both") == [(True, True, False)], seconds=10)
    cluster.delete("pod", "web2")
    wait_for("none", lambda: conditions(cluster, "both") == [], seconds=10)
    cluster.delete("pod", "web1")
    cluster.delete("svc", "both")


def test_a_deleted_namespace_is_emptied(cluster: Cluster) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    cluster.apply(pod("sold", namespace="shop", node="node1"), service("sold", namespace="shop"))
    cluster.wait_for_pods()
    assert cluster.probe("there", "shop/sold:8080") is ALLOW
    cluster.delete("ns", "shop")
    wait_for(
        "nothing is left",
        lambda: not any(cluster.objects.list(word, "shop") for word in ("pods", "services", "endpointslices")),
        seconds=10,
    )
    assert "shop_sold" not in cluster.node("node1").run("ip netns")


def test_a_node_leaves_and_joins_with_another_range(cluster: Cluster) -> None:
    node = cluster.node("node2")
    assert node.leave()
    assert cluster.objects.find("nodes", "node2") is None
    assert cluster.probe("here", "there:8080") is ALLOW
    node.join("10.233.70.0/24")
    assert ranges(cluster, "node2") == ["10.233.70.0/24"]
    cluster.wait_for_nodes()
    node.leave()
    node.join()
    wait_for("its own ranges", lambda: ranges(cluster, "node2") == ["10.233.66.0/24", "fd00:66::/64"], seconds=5)


def test_yaml_is_applied_too(cluster: Cluster) -> None:
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\ndata: {x: y}\n---\n")
    assert cluster.objects.get("cm", "a", "default")["data"] == {"x": "y"}


def test_objects_are_listed_made_and_deleted_from_a_node(cluster: Cluster) -> None:
    node = cluster.node("node1")

    def kubectl(*words: str) -> str:
        return node.run(["sh", "-c", f"cd {ROOT} && exec {sys.executable} -m lab.kubectl {' '.join(words)}"])

    assert kubectl("get", "nodes").splitlines()[1].split()[:2] == ["node1", "Ready"]
    node.file("/run/thing.json").write_text(json.dumps(service("made")))
    assert "created" in kubectl("apply", "-f", "/run/thing.json")
    assert "configured" in kubectl("apply", "-f", "/run/thing.json")
    assert json.loads(kubectl("get", "svc", "made", "-o", "json"))["spec"]["clusterIP"].startswith("10.233.0.")
    assert "deleted" in kubectl("delete", "svc", "made")
    with pytest.raises(CommandFailed, match="not found"):
        kubectl("get", "svc", "made")


@pytest.mark.needs("iptables_legacy")
def test_kubelets_may_speak_to_the_legacy_tables() -> None:
    with Cluster(nodes=1, ipv6=False, iptables="legacy") as cluster:
        node = cluster.node("node1")
        assert "KUBE-FIREWALL" in node.run("iptables-legacy -S")
        assert "KUBE-FIREWALL" not in node.run("iptables-nft -S")
        assert cluster.families == (4,)
