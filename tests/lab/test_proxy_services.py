"""Services in a cluster of two nodes: real daemons, real packets, both families."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.cluster import Cluster
from lab.controller_manager import ZONE
from lab.manifests import pod, service
from lab.probe import ALLOW, REFUSED, SILENT, Reply
from lab.waiting import SLOWNESS, wait_for
from tests.lab.held import Churn
from tests.lab.notices import Notices
from tests.lab.proxy_matrix import BACKENDS, CELLS, ENDPOINTS, ROWS, Cell, Matrix, backend
from tests.lab.running import wait_until_routed
from tests.lab.served import joined, servers, unserved

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "dummy", "ip_vs", "ipset", "iptables_nft", "xt_set", "sctp")

PROTOCOLS = ("tcp", "udp", "sctp")
PORTS = ["web=8080", "dns=5353/udp", "sig=7000/sctp"]
ALL = ["web=80>web", "dns=53>dns/udp", "sig=70>sig/sctp"]
ON_PORT = {"tcp": 80, "udp": 53, "sctp": 70}
PLACES = ["here", "there", "host"]
RANGE = "203.0.113"
TURNS = 20 if SLOWNESS == 1 else 8  # how often something comes and goes; in the lab kernel each time takes seconds


FLAGS = (
    "--run-firewall=false",
    "--service-external-ip-range=203.0.113.0/24,fd00:203::/64",
    "--loadbalancer-ip-range=198.51.100.0/24,fd00:198::/64",
)
FROM_OUTSIDE = ("203.0.113.0/24", "198.51.100.0/24", "10.233.0.0/18", "fd00:203::/64", "fd00:198::/64", "fd00:233::/112")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Pods "here" (node1) and "there" (node2) ask, and "client" from outside; "near" (node1) and "far" (node2) answer.

    Packets from outside to addresses of Services come to node1.
    """
    with Cluster(nodes=2) as made:
        for prefix in FROM_OUTSIDE:
            made.topology.lead(prefix, "node1")
        for name, zone in (("node1", "z1"), ("node2", "z2")):
            made.objects.patch("nodes", name, {"metadata": {"labels": {ZONE: zone}}})
        for node in made.nodes.values():
            # A node refuses a few packets a second only, per sender; here many are refused at once.
            node.space.sysctl({"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0})
        made.start_daemons(*FLAGS)
        made.wait_for_nodes()
        for name, home in (("here", "node1"), ("there", "node2")):
            made.apply(pod(name, node=home))
        for name, home in BACKENDS.items():
            made.apply(backend(name, home, ports=PORTS))
        made.wait_for_pods()
        wait_until_routed(made)
        made.serve("node1", "2222")
        made.serve("node2", "2222")
        yield made
        assert made.problems() == []


@pytest.fixture(scope="module")
def matrix(cluster: Cluster) -> Matrix:
    made = Matrix(cluster)
    made.build()
    return made


@pytest.fixture(scope="module")
def answers(matrix: Matrix) -> dict[Cell, Reply]:
    """A packet for every cell of the matrix, all on their way at once."""
    return matrix.ask()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_policy_matrix_holds_for_every_client_in_both_families(matrix, answers, row):
    asked = [cell for cell in CELLS if cell.row is row]
    assert len(asked) == 8
    faults = {f"{cell.place} IPv{cell.family}": matrix.fault(cell, answers[cell]) for cell in asked}
    assert {where: fault for where, fault in faults.items() if fault} == {}


def own_addresses(cluster: Cluster, name: str) -> list[str]:
    """Cluster IPs of a Service."""
    return list(cluster.objects.get("services", name, "default")["spec"]["clusterIPs"])


def addresses(cluster: Cluster, name: str) -> list[str]:
    """Cluster IPs of a Service, IPv6 in brackets."""
    return [f"[{ip}]" if ":" in ip else ip for ip in own_addresses(cluster, name)]


def node_port(cluster: Cluster, name: str, port: str = "") -> int:
    ports = cluster.objects.get("services", name, "default")["spec"]["ports"]
    return int(next(each["nodePort"] for each in ports if each.get("name", "") == port))


def made(cluster: Cluster, name: str, *, of: str, ports: list[str] | None = None, balanced: tuple[str, ...] = (), **spec: Any) -> None:
    """A dual-stack Service for the pods of an app (or with a label), served on both nodes by the time this returns."""
    spec.setdefault("selector", {"app": of} if of not in ENDPOINTS else {of: "yes"})
    cluster.apply(service(name, ports=ports or ALL, ipFamilyPolicy="RequireDualStack", **spec))
    if balanced:
        cluster.balance(name, *balanced)
    vips = [*own_addresses(cluster, name), *spec.get("externalIPs", ()), *(entry for entry in balanced if "=" not in entry)]

    everywhere = not {"internalTrafficPolicy", "trafficDistribution"} & set(spec)

    def missing() -> list[str]:
        pieces = cluster.objects.list("endpointslices", "default", labels=f"kubernetes.io/service-name={name}")
        wanted = {one["addresses"][0] for piece in pieces for one in piece["endpoints"]}
        found = [] if pieces else ["slices"]
        for node in cluster.nodes.values():
            served = servers(node)
            own = {joined(vip, 0)[:-1] for vip in own_addresses(cluster, name)}
            ends = {end for server, backends in served.items() for end in backends if server.rpartition(":")[0] + ":" in own}
            known = {end.rpartition(":")[0].strip("[]") for end in ends}
            found += [f"{node.name}: {vip}" for vip in (*unserved(node, vips, served), *(wanted - known if everywhere else ()))]
        return found

    wait_for(f"{name} on every node", lambda: not missing(), every=0.1, so_far=lambda: (missing(), words(cluster)))


def words(cluster: Cluster) -> str:
    """The last words of every daemon."""
    return "\n".join(f"{node.name}: {node.daemon.said()[-1500:]}" for node in cluster.nodes.values())


def ask(cluster: Cluster, questions: list[tuple[str, str]]) -> dict[tuple[str, str], Reply]:
    return dict(zip(questions, cluster.ask_all(questions, on="node1"), strict=True))


def test_200_connections_stand_while_daemons_restart_and_other_services_change(cluster):
    external = [f"{RANGE}.90", "fd00:203::90"]
    made(cluster, "steady", of="local", ports=["80>8080"], type="NodePort", externalIPs=external)
    port, node1 = node_port(cluster, "steady"), cluster.node("node1").addresses
    own = [f"{vip}:80" for vip in addresses(cluster, "steady")]
    ends = [(place, vip) for place in PLACES for vip in own]
    ends += [("client", target) for target in (*(joined(vip, 80) for vip in external), *(joined(address, port) for address in node1))]
    flows = cluster.hold(ends * 20, on="node1", patience=10)
    assert (len(flows.pods), set(flows.pods)) == (200, {"near", "far"})
    with Churn(cluster) as churn:
        restarts = 0
        for turn in range(10):
            for node in cluster.nodes.values():
                (node.daemon.kill if turn % 2 else node.daemon.stop)()
                node.start_daemon()
                restarts += 1
            # ended again in every phase of its start, and now and then after it
            if turn % 5 == 4:
                for node in cluster.nodes.values():
                    node.wait_until_ready()
            else:
                time.sleep(0.06 * (turn + 1) * SLOWNESS)
        for node in cluster.nodes.values():
            node.wait_until_ready()
        before = churn.changes
        time.sleep(1.0 * SLOWNESS)
        assert churn.changes - before > 25, "they change all the while"
    assert churn.trouble == []
    assert restarts == 20
    assert flows.stop() == []
    assert flows.words > 3


@pytest.mark.parametrize("backend", ["near", "far"])
def test_every_place_reaches_every_protocol_wherever_the_backend_is(cluster, backend):
    made(cluster, f"all-{backend}", of=backend)
    vips = addresses(cluster, f"all-{backend}")
    assert len(vips) == 2
    answers = ask(cluster, [(place, f"{vip}:{ON_PORT[p]}/{p}") for place in PLACES for vip in vips for p in PROTOCOLS])
    assert {question: reply.verdict for question, reply in answers.items()} == dict.fromkeys(answers, ALLOW)
    assert {reply.pod for reply in answers.values()} == {backend}


def test_node_ports_of_other_protocols_answer_too(cluster):
    made(cluster, "datagrams", of="near", type="NodePort")
    node = cluster.node("node2").address
    questions = [("client", f"{node}:{node_port(cluster, 'datagrams', name)}/{p}") for name, p in (("dns", "udp"), ("sig", "sctp"))]
    assert [reply.verdict for reply in ask(cluster, questions).values()] == [ALLOW, ALLOW]


def test_a_service_without_endpoints_refuses(cluster):
    made(cluster, "empty", of="nobody")
    questions = [("here", f"{vip}:{ON_PORT[p]}/{p}") for vip in addresses(cluster, "empty") for p in ("tcp", "udp")]
    assert {reply.verdict for reply in ask(cluster, questions).values()} == {REFUSED}


def test_a_steady_udp_sender_moves_to_the_new_backend(cluster):
    for name in ("old", "new"):
        cluster.apply(pod(name, node="node2", ports=["5353/udp"]))
    cluster.wait_for_pods()
    made(cluster, "syslog", of="old", ports=["53>5353/udp"])
    vip, node = addresses(cluster, "syslog")[0], cluster.node("node1")
    wait_for("old answers", lambda: cluster.ask("here", f"{vip}:53/udp", on="node1").pod == "old")
    stream = cluster.stream("here", f"{vip}:53/udp", every=0.01, on="node1")
    time.sleep(0.5 * SLOWNESS)
    cluster.apply(service("syslog", ports=["53>5353/udp"], selector={"app": "new"}, ipFamilyPolicy="RequireDualStack"))
    wait_for("new in place of old", lambda: joined(cluster.pod_address("new"), 5353) in servers(node).get(f"{vip}:53/udp", ()))
    swapped = stream.sent
    time.sleep(1.0 * SLOWNESS)
    tally = stream.stop()
    assert tally.answered_by == {"old", "new"}
    assert [number for number in tally.lost if number > swapped + 20] == [], "afterwards all arrive"
    assert len(tally.lost) <= 100, "at most a second of datagrams"


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
    wait_for("all endpoints", lambda: len(servers(node)[f"{vip}:80/tcp"]) == 3)
    pods = [reply.pod for reply in cluster.ask_all([("here", f"{vip}:80")] * 30, on="node1")]
    assert {name: pods.count(name) for name in set(pods)} == {f"even-{n}": 10 for n in range(3)}


# Reports of users of the original (U numbers) and its faults (letters), as packets.


def test_u009_external_policy_by_annotation_leaves_the_cluster_ip_alone(cluster):
    """The traffic policies themselves are in the matrix."""
    made(cluster, "u009", of="far", type="NodePort", annotations={"kube-router.io/service.local": "true"})
    port = node_port(cluster, "u009", "web")
    node1, node2 = (cluster.node(name).address for name in ("node1", "node2"))
    inside = [("here", f"{vip}:80") for vip in addresses(cluster, "u009")]
    answers = ask(cluster, [*inside, ("client", f"{node1}:{port}"), ("client", f"{node2}:{port}")])
    assert [answers[question].pod for question in inside] == ["far", "far"]
    assert answers["client", f"{node1}:{port}"].verdict is REFUSED
    direct = answers["client", f"{node2}:{port}"]
    assert (direct.pod, direct.source_address) == ("far", cluster.topology.hosts["client"].address(4))


def test_u010_an_external_ip_turned_local_serves_pods_and_host_of_a_node_without_endpoints(cluster):
    vips = [f"{RANGE}.9", "fd00:203::9"]
    made(cluster, "u010", of="far", ports=["80>8080"], externalIPs=vips)
    inside = [(place, joined(vip, 80)) for place in ("here", "host") for vip in vips]
    outside = [("client", joined(vip, 80)) for vip in vips]
    assert {reply.pod for reply in ask(cluster, inside + outside).values()} == {"far"}
    made(cluster, "u010", of="far", ports=["80>8080"], externalIPs=vips, externalTrafficPolicy="Local")
    wait_for("outside is refused", lambda: {reply.verdict for reply in ask(cluster, outside).values()} == {REFUSED})
    answers = cluster.ask_all(inside * 5, on="node1")
    assert {(reply.verdict, reply.pod) for reply in answers} == {(ALLOW, "far")}


@pytest.mark.parametrize(
    ("number", "annotations", "kinds", "endpoints"),
    [
        (61, {"hairpin": ""}, ("cluster",), ("self",)),
        (62, {"hairpin": "", "hairpin.externalips": ""}, ("cluster", "external"), ("self",)),
        (63, {"hairpin": ""}, ("cluster",), ("self", "twin")),
        (64, {}, ("cluster", "external"), ("self",)),
    ],
)
def test_u011_a_pod_reaches_itself_through_its_service(cluster, number, annotations, kinds, endpoints):
    for name, labels in (("self", {"one": "yes", "two": "yes"}), ("twin", {"two": "yes"})):
        cluster.apply(pod(name, node="node1", labels={"app": name, **labels}))
    cluster.wait_for_pods()
    external = [f"{RANGE}.{number}", f"fd00:203::{number}"]
    prefixed = {f"kube-router.io/service.{name}": value for name, value in annotations.items()}
    selector = {"two" if "twin" in endpoints else "one": "yes"}
    made(cluster, f"selves-{number}", of="", selector=selector, ports=["80>8080"], annotations=prefixed, externalIPs=external)
    targets = [*(own_addresses(cluster, f"selves-{number}") if "cluster" in kinds else ()), *(external if "external" in kinds else ())]
    questions = [("self", joined(vip, 80)) for vip in targets for _ in range(20)]
    replies = cluster.ask_all(questions, on="node1")
    assert {(reply.verdict, reply.pod) for reply in replies} == {(ALLOW, name) for name in endpoints}
    node = cluster.node("node1")
    for (_, target), reply in zip(questions, replies, strict=True):
        vip = target.rpartition(":")[0].strip("[]")
        own = vip if annotations else node.addresses[":" in vip]
        seen = own if reply.pod == "self" else cluster.pod_address("self", 6 if ":" in vip else 4)
        assert (vip, reply.source_address) == (vip, seen)


def test_u013_a_balanced_address_leaves_the_nodes_own_and_what_others_serve_there_alone(cluster):
    node = cluster.node("node1")
    own = [joined(address, 6443) for address in node.addresses]
    for address, family in zip(own, (4, 6), strict=True):
        node.run(f"ipvsadm -A -t {address} -s wrr")
        node.run(f"ipvsadm -a -t {address} -r {joined(cluster.pod_address('near', family), 8080)} -m -w 7")
    foreign = [line for line in node.run("ipvsadm -Sn").splitlines() if ":6443" in line]
    balanced = ("198.51.100.13", "fd00:198::13")
    made(cluster, "u013", of="far", ports=["1337>8080"], type="LoadBalancer", balanced=balanced)
    node.stop_daemon()
    node.start_daemon()
    node.wait_until_ready()
    allowed = [(place, joined(vip, 1337)) for place in ("here", "client") for vip in balanced]
    allowed += [("client", joined(address, port)) for address in node.addresses for port in (2222, 6443)]
    refused = [(place, joined(vip, 2222)) for place in ("here", "client") for vip in balanced]
    verdicts = {question: reply.verdict for question, reply in ask(cluster, [*allowed, *refused]).items()}
    assert verdicts == dict.fromkeys(allowed, ALLOW) | dict.fromkeys(refused, REFUSED)
    cluster.delete("service", "u013")
    wait_for("it is gone", lambda: unserved(node, balanced) == list(balanced))
    assert [line for line in node.run("ipvsadm -Sn").splitlines() if ":6443" in line] == foreign
    for address in own:
        node.run(f"ipvsadm -D -t {address}")


def test_u014_host_daemons_are_not_reachable_through_addresses_of_services(cluster):
    external = [f"{RANGE}.11", "fd00:203::11"]
    made(cluster, "u014", of="far", externalIPs=external)
    vips = [address.strip("[]") for address in addresses(cluster, "u014")] + external
    node = cluster.node("node1")
    allowed = [(place, joined(vip, 80)) for place in ("here", "client") for vip in vips]
    allowed += [(place, joined(address, 2222)) for place in ("here", "client") for address in node.addresses]
    refused = [(place, joined(vip, 2222)) for place in ("here", "client") for vip in vips]
    verdicts = {question: reply.verdict for question, reply in ask(cluster, [*allowed, *refused]).items()}
    assert verdicts == dict.fromkeys(allowed, ALLOW) | dict.fromkeys(refused, REFUSED)
    outside = cluster.topology.spaces["client"]
    for vip in (vips[0], vips[2], vips[3]):
        assert "1 received" in outside.run(["ping", "-c", "1", "-W", "5", vip])
    cluster.delete("service", "u014")
    held = ("ip -o addr", "ipset save", "iptables-save", "ip6tables-save")

    def traces() -> list[str]:
        everything = "".join(node.run(command) for command in held)
        return [vip for vip in vips if f"{vip}/" in everything or f"{vip}," in everything]

    wait_for("no trace of it", lambda: not traces(), so_far=traces)


def test_u019_a_shared_external_ip_outlives_each_of_its_services(cluster):
    vip = f"{RANGE}.22"
    made(cluster, "u019-stays", of="near", ports=["9090>5353/udp"], externalIPs=[vip])
    node = cluster.node("node1")

    def served() -> bool:
        return f"{vip}:8080/tcp" in servers(node)

    stream = cluster.stream("client", f"{vip}:9090/udp", every=0.05)
    with Notices(node) as notices:
        for turn in range(TURNS):
            sharing = service("u019-goes", ports=["8080"], selector={"app": "near"}, externalIPs=[vip])
            cluster.apply(sharing)
            wait_for("both share it", served)
            if turn % 3 == 0:
                cluster.delete("service", "u019-goes")
            elif turn % 3 == 1:
                cluster.apply(service("u019-goes", ports=["8080"], selector={"app": "near"}))
            else:
                cluster.apply({**sharing, "spec": {"type": "ExternalName", "externalName": "example.org"}})
            wait_for("one has it", lambda: not served())
            cluster.delete("service", "u019-goes")
    tally = stream.stop()
    assert (tally.sent > 20, list(tally.lost), tally.refused) == (True, [], 0)
    assert notices.about(vip) == []


def test_u021_pods_in_the_network_of_their_node_serve_every_client(cluster):
    cluster.apply(pod("hosted", node="node2", ports=["9099"], host_network=True))
    cluster.wait_for_pods()
    made(cluster, "u021", of="hosted", ports=["80>9099"], type="NodePort")
    port, node1 = node_port(cluster, "u021"), cluster.node("node1").addresses
    questions = [(place, f"{vip}:80") for place in PLACES for vip in addresses(cluster, "u021")]
    questions += [("client", joined(address, port)) for address in node1]
    assert {(reply.verdict, reply.pod) for reply in ask(cluster, questions).values()} == {(ALLOW, "hosted")}


def test_u021_health_check_ports_follow_the_policy(cluster):
    def flip(policy: str) -> int:
        cluster.apply(service("flipped", selector={"app": "near"}, type="LoadBalancer", externalTrafficPolicy=policy))
        return int(cluster.objects.get("services", "flipped", "default")["spec"].get("healthCheckNodePort", 0))

    def statuses(port: int) -> list[int]:
        found = []
        for node in cluster.nodes.values():
            try:
                found.append(node.fetch("/healthz", port=port)[0])
            except OSError:
                found.append(0)
        return found

    for _ in range(2):
        port = flip("Local")
        wait_for("one node has an endpoint, the other has none", lambda port=port: statuses(port) == [200, 503], seconds=5)
        flip("Cluster")
        wait_for("nobody listens", lambda port=port: statuses(port) == [0, 0], seconds=5)


def test_u022_addresses_that_a_balancer_keeps_for_itself_lead_out_of_the_node(cluster):
    proxied, plain, said = "198.51.100.30", "198.51.100.31", "198.51.100.32"
    cluster.topology.lead(f"{proxied}/32", "client")
    cluster.topology.spaces["client"].ip([f"address add {proxied}/32 dev lo"])
    cluster.serve("client", "80")
    made(cluster, "u022", of="far", type="LoadBalancer", balanced=(f"{proxied}=Proxy", plain, f"{said}=VIP"))
    node = cluster.node("node1")
    wait_for("the other two", lambda: not unserved(node, [plain, said]))
    for command in ("ipvsadm -Sn", "ipset save", "ip addr", "ip route show table all", "iptables-save"):
        assert proxied not in node.run(command)
    answers = ask(cluster, [("here", f"{vip}:80") for vip in (proxied, plain, said)])
    assert [reply.pod for reply in answers.values()] == ["client", "far", "far"]


def test_u023_addresses_that_nobody_allowed_are_refused_and_their_owners_stay_reachable(cluster):
    good, elsewhere = f"{RANGE}.40", "198.51.100.77"
    node, other = cluster.node("node1"), cluster.node("node2")
    dns = "10.233.0.3"
    made(cluster, "u023-dns", of="far", ports=["9153>8080"], clusterIP=dns)
    claims = [good, other.address, dns, elsewhere]
    cluster.apply(service("u023", ports=["2222>8080"], selector={"app": "near"}, externalIPs=claims))
    wait_for("the right one", lambda: not unserved(node, [good]))
    assert [vip for vip in claims if f" {vip}:2222 " in node.run("ipvsadm -Sn")] == [good]
    assert elsewhere not in node.run("ip addr") + node.run("ipset save")
    answers = ask(cluster, [("here", f"{good}:2222"), ("here", f"{other.address}:2222"), ("here", f"{dns}:9153"), ("here", f"{dns}:2222")])
    assert [(reply.verdict, reply.pod) for reply in answers.values()] == [(ALLOW, "near"), (ALLOW, "node2"), (ALLOW, "far"), (REFUSED, "")]

    def told() -> list[str]:
        messages = [one["message"] for one in cluster.objects.list("events") if one["involvedObject"]["name"] == "u023"]
        return [vip for vip in claims if any(vip in message for message in messages)]

    wait_for("an Event for each", lambda: told() == claims[1:], so_far=told)


def test_source_ranges_of_a_balanced_address_are_held(cluster):
    for name, number, ranges in (("inside", 51, ["192.0.2.0/24", "2001:db8:2::/64"]), ("beside", 52, ["198.18.0.0/15", "2001:db8:9::/64"])):
        balanced = (f"198.51.100.{number}", f"fd00:198::{number}")
        made(cluster, name, of="near", type="LoadBalancer", balanced=balanced, loadBalancerSourceRanges=ranges)
    questions = [("client", f"198.51.100.{number}:80") for number in (51, 52)]
    questions += [("client", f"[fd00:198::{number}]:80") for number in (51, 52)]
    verdicts = [reply.verdict for reply in cluster.ask_all(questions, on="node1", seconds=0.4)]
    assert verdicts == [ALLOW, SILENT, ALLOW, SILENT]


def test_clients_are_served_in_their_own_zone_where_the_service_prefers_that(cluster):
    made(cluster, "zoned", of="local", ports=["80>8080"], trafficDistribution="PreferClose")
    vips = addresses(cluster, "zoned")
    own = {"here": "near", "there": "far"}
    replies = cluster.ask_all([(place, f"{vip}:80") for place in own for vip in vips for _ in range(4)], on="node1")
    assert [reply.pod for reply in replies] == ["near"] * 8 + ["far"] * 8


def test_b01_clients_in_one_network_are_told_apart_and_each_stays_with_its_endpoint(cluster):
    made(cluster, "sticky", of="local", ports=["80>8080"], sessionAffinity="ClientIP")
    clients = ["here", "near", "host"]
    for vip in addresses(cluster, "sticky"):
        served = {place: {cluster.ask(place, f"{vip}:80", on="node1").pod for _ in range(4)} for place in clients}
        assert {place: len(pods) for place, pods in served.items()} == dict.fromkeys(clients, 1)
        assert set().union(*served.values()) == {"near", "far"}


def test_b12_no_process_of_the_host_ever_answers_at_an_address_that_comes_and_goes(cluster):
    """While the node does not have them, the addresses belong to another host, so that every question finds an answer at once."""
    vips = [f"{RANGE}.70", "fd00:203::70"]
    client = cluster.topology.spaces["client"]
    for vip in vips:
        length = 128 if ":" in vip else 32
        cluster.topology.lead(f"{vip}/{length}", "client")
        client.ip([f"address add {vip}/{length} dev lo"])
    cluster.serve("client", "2222")
    node = cluster.node("node1")
    replies: list[Reply] = []
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            replies.extend(cluster.ask_all([(place, joined(vip, 2222)) for place in ("here", "host") for vip in vips], on="node1"))

    asking = threading.Thread(target=ask_on)
    asking.start()
    for _ in range(TURNS // 2):
        spec = {"ports": ["2222>8080"], "selector": {"app": "near"}, "ipFamilyPolicy": "RequireDualStack", "externalIPs": vips}
        cluster.apply(service("b12", **spec))
        wait_for("it is served", lambda: not unserved(node, vips))
        cluster.delete("service", "b12")
        wait_for("it is gone", lambda: unserved(node, vips) == vips)
    done.set()
    asking.join()
    assert {reply.pod for reply in replies} - {""} == {"near", "client"}
