"""Services in a cluster of two nodes: real daemons, real packets, both families."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.manifests import pod, service
from lab.probe import ALLOW, REFUSED, Reply
from lab.waiting import SLOWNESS, wait_for

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "dummy", "ip_vs", "ipset", "iptables_nft", "xt_set", "sctp")

PROTOCOLS = ("tcp", "udp", "sctp")
PORTS = ["web=8080", "dns=5353/udp", "sig=7000/sctp"]
ALL = ["web=80>web", "dns=53>dns/udp", "sig=70>sig/sctp"]
ON_PORT = {"tcp": 80, "udp": 53, "sctp": 70}
PLACES = ["here", "there", "host"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Pods "here" (node1) and "there" (node2) ask; "near" (node1) and "far" (node2) answer."""
    with Cluster(nodes=2) as made:
        made.start_daemons("--run-firewall=false")
        made.wait_for_nodes()
        for name, node in (("here", "node1"), ("there", "node2")):
            made.apply(pod(name, node=node))
        for name, node in (("near", "node1"), ("far", "node2")):
            made.apply(pod(name, node=node, ports=PORTS))
        made.wait_for_pods()
        yield made
        assert made.problems() == []


def addresses(cluster: Cluster, name: str) -> list[str]:
    """Cluster IPs of a Service, IPv6 in brackets."""
    found = cluster.objects.get("services", name, "default")["spec"]["clusterIPs"]
    return [f"[{ip}]" if ":" in ip else ip for ip in found]


def node_port(cluster: Cluster, name: str, port: str = "") -> int:
    ports = cluster.objects.get("services", name, "default")["spec"]["ports"]
    return int(next(each["nodePort"] for each in ports if each.get("name", "") == port))


def made(cluster: Cluster, name: str, *, of: str, ports: list[str] | None = None, **spec: object) -> None:
    """A dual-stack Service for the pods of an app, served on both nodes by the time this returns."""
    cluster.apply(service(name, ports=ports or ALL, selector={"app": of}, ipFamilyPolicy="RequireDualStack", **spec))
    vip = addresses(cluster, name)[0]
    for node in cluster.nodes.values():
        wait_for(f"{name} on {node.name}", lambda node=node: f"{vip}:" in node.run("ipvsadm -Sn") and f"{vip}/" in node.run("ip -o addr"))


def ask(cluster: Cluster, questions: list[tuple[str, str]]) -> dict[tuple[str, str], Reply]:
    return dict(zip(questions, cluster.ask_all(questions, on="node1"), strict=True))


@pytest.mark.parametrize("backend", ["near", "far"])
def test_every_place_reaches_every_protocol_wherever_the_backend_is(cluster, backend):
    made(cluster, f"all-{backend}", of=backend)
    vips = addresses(cluster, f"all-{backend}")
    assert len(vips) == 2
    answers = ask(cluster, [(place, f"{vip}:{ON_PORT[p]}/{p}") for place in PLACES for vip in vips for p in PROTOCOLS])
    assert {question: reply.verdict for question, reply in answers.items()} == dict.fromkeys(answers, ALLOW)
    assert {reply.pod for reply in answers.values()} == {backend}


def test_backends_see_pods_as_they_are_and_the_host_as_the_node(cluster):
    made(cluster, "seen", of="far")
    for family, vip in zip((4, 6), addresses(cluster, "seen"), strict=True):
        answers = ask(cluster, [("here", f"{vip}:80"), ("host", f"{vip}:80")])
        assert answers["here", f"{vip}:80"].source_address == cluster.pod_address("here", family)
        assert answers["host", f"{vip}:80"].source_address == cluster.node("node1").addresses[family // 6]


def test_a_node_port_reaches_any_backend_and_clients_are_known_only_to_local_ones(cluster):
    made(cluster, "ported", of="far", type="NodePort")
    port = node_port(cluster, "ported", "web")
    for family in (4, 6):
        node1, node2 = (cluster.node(name).addresses[family // 6] for name in ("node1", "node2"))
        bracketed = {address: f"[{address}]" if family == 6 else address for address in (node1, node2)}
        answers = ask(cluster, [("client", f"{bracketed[address]}:{port}") for address in (node1, node2)])
        through, local = answers.values()
        assert (through.verdict, through.pod, through.source_address) == (ALLOW, "far", node1)
        assert (local.verdict, local.pod) == (ALLOW, "far")
        assert local.source_address == cluster.topology.hosts["client"].address(family)


def test_node_ports_of_other_protocols_answer_too(cluster):
    made(cluster, "datagrams", of="near", type="NodePort")
    node = cluster.node("node2").address
    questions = [("client", f"{node}:{node_port(cluster, 'datagrams', name)}/{p}") for name, p in (("dns", "udp"), ("sig", "sctp"))]
    assert [reply.verdict for reply in ask(cluster, questions).values()] == [ALLOW, ALLOW]


def test_only_ports_of_services_answer_at_their_addresses_and_the_node_keeps_its_own(cluster):
    made(cluster, "guarded", of="far", type="NodePort")
    cluster.serve("node1", "2222")
    vip4, vip6 = addresses(cluster, "guarded")
    node = cluster.node("node1").address
    answers = ask(
        cluster,
        [
            *((place, f"{vip}:2222") for place in ("here", "client") for vip in (vip4,)),
            ("here", f"{vip6}:2222"),
            ("here", f"{node}:2222"),
            ("client", f"{node}:2222"),
        ],
    )
    verdicts = {question: reply.verdict for question, reply in answers.items()}
    assert verdicts.pop(("client", f"{vip4}:2222")) is not ALLOW  # no route leads there from outside
    assert verdicts == {
        ("here", f"{vip4}:2222"): REFUSED,
        ("here", f"{vip6}:2222"): REFUSED,
        ("here", f"{node}:2222"): ALLOW,
        ("client", f"{node}:2222"): ALLOW,
    }
    assert "1 received" in cluster.nodes["node1"].run(f"ping -c 1 -W 5 {vip4}")


def test_a_service_without_endpoints_refuses(cluster):
    made(cluster, "empty", of="nobody")
    questions = [("here", f"{vip}:{ON_PORT[p]}/{p}") for vip in addresses(cluster, "empty") for p in ("tcp", "udp")]
    assert {reply.verdict for reply in ask(cluster, questions).values()} == {REFUSED}


def test_internal_policy_local_is_refused_where_no_endpoint_is(cluster):
    made(cluster, "inner", of="far", internalTrafficPolicy="Local")
    vip = addresses(cluster, "inner")[0]
    answers = ask(cluster, [("here", f"{vip}:80"), ("there", f"{vip}:80")])
    assert answers["here", f"{vip}:80"].verdict is REFUSED
    assert answers["there", f"{vip}:80"].pod == "far"


def test_external_policy_local_keeps_clients_and_refuses_where_no_endpoint_is(cluster):
    made(cluster, "outer", of="far", type="NodePort", externalTrafficPolicy="Local")
    port = node_port(cluster, "outer", "web")
    node1, node2 = (cluster.node(name).address for name in ("node1", "node2"))
    answers = ask(cluster, [("client", f"{node1}:{port}"), ("client", f"{node2}:{port}")])
    assert answers["client", f"{node1}:{port}"].verdict is REFUSED
    local = answers["client", f"{node2}:{port}"]
    assert (local.verdict, local.source_address) == (ALLOW, cluster.topology.hosts["client"].address(4))
    vip = addresses(cluster, "outer")[0]
    assert cluster.probe("here", f"{vip}:80", on="node1") is ALLOW


def test_a_steady_udp_sender_moves_to_the_new_backend(cluster):
    for name in ("old", "new"):
        cluster.apply(pod(name, node="node2", ports=["5353/udp"]))
    cluster.wait_for_pods()
    made(cluster, "syslog", of="old", ports=["53>5353/udp"])
    vip = addresses(cluster, "syslog")[0]
    wait_for("old answers", lambda: cluster.ask("here", f"{vip}:53/udp", on="node1").pod == "old")
    stream = cluster.stream("here", f"{vip}:53/udp", every=0.01, on="node1")
    time.sleep(0.5 * SLOWNESS)
    cluster.apply(service("syslog", ports=["53>5353/udp"], selector={"app": "new"}, ipFamilyPolicy="RequireDualStack"))
    wait_for("new in place of old", lambda: f"-a -u {vip}:53 -r {cluster.pod_address('new')}:" in cluster.node("node1").run("ipvsadm -Sn"))
    swapped = stream.sent
    time.sleep(1.0 * SLOWNESS)
    tally = stream.stop()
    assert tally.answered_by == {"old", "new"}
    assert [number for number in tally.lost if number > swapped + 20] == [], "afterwards all arrive"
    assert len(tally.lost) <= 100, "at most a second of datagrams"


def test_what_another_made_on_the_nodes_address_stays_and_answers(cluster):
    node = cluster.node("node1")
    node.run(f"ipvsadm -A -t {node.address}:6443 -s wrr")
    node.run(f"ipvsadm -a -t {node.address}:6443 -r {cluster.pod_address('near')}:8080 -m -w 7")
    foreign = [line for line in node.run("ipvsadm -Sn").splitlines() if ":6443" in line]
    made(cluster, "beside", of="far", type="NodePort")
    node.stop_daemon()
    node.start_daemon()
    node.wait_until_ready()
    cluster.delete("service", "beside")
    wait_for("beside is gone", lambda: "beside" not in str(cluster.objects.list("services")))
    made(cluster, "after", of="far", type="NodePort")
    assert [line for line in node.run("ipvsadm -Sn").splitlines() if ":6443" in line] == foreign
    assert cluster.probe("there", f"{node.address}:6443", on="node2") is ALLOW
    node.run(f"ipvsadm -D -t {node.address}:6443")


def test_nothing_is_left_of_a_service_that_goes(cluster):
    made(cluster, "brief", of="far", type="NodePort")
    vip4, vip6 = (address.strip("[]") for address in addresses(cluster, "brief"))
    port = node_port(cluster, "brief", "web")
    node = cluster.node("node1")
    commands = ("ipvsadm -Sn", "ipset save", "ip addr", "ip route show table all", "ip -6 route show table all")

    def traces() -> list[str]:
        everything = "\n".join(node.run(command) for command in commands)
        return [line for line in everything.splitlines() if any(word in line for word in (vip4, vip6, f":{port} ", f":{port}\n"))]

    assert traces()
    cluster.delete("service", "brief")
    wait_for("nothing left of it", lambda: not traces(), so_far=traces)


def test_endpoints_share_connections_evenly(cluster):
    for n in range(3):
        cluster.apply(pod(f"even-{n}", node=f"node{n % 2 + 1}", labels={"app": "even"}))
    cluster.wait_for_pods()
    made(cluster, "even", of="even", ports=["80>8080"])
    vip = addresses(cluster, "even")[0]
    node = cluster.node("node1")
    wait_for("all endpoints", lambda: sum(f" {vip}:80 -r " in line for line in node.run("ipvsadm -Sn").splitlines()) == 3)
    pods = [reply.pod for reply in cluster.ask_all([("here", f"{vip}:80")] * 30, on="node1")]
    assert {name: pods.count(name) for name in set(pods)} == {f"even-{n}": 10 for n in range(3)}
