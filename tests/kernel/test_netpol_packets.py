"""Real packets through real rules say what the model says. Native kernels have all that it takes; IPVS is not part of this."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import pytest

from kube_router.model.objects import ContainerPort, Kind, Name, NetworkPolicy, PolicyPort
from kube_router.model.state.netfilter import Member, SetMember
from lab.kernel_netns import Netns
from lab.probe import ALLOW, REFUSED, Target, ask_all
from tests.kernel.policy_network import ADDRESSES, WORLD, PolicyNode, pod, policy_node, probes
from tests.walk.model import Probe, allowed
from tests.walk.words import ALL, blocks, in_ns, label, pods, policy, rule, tcp

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "br_netfilter", "ipset", "xt_set", "iptables_legacy", "iptables_nft")

A, B = label(pod="a"), label(pod="b")
UDP = PolicyPort("UDP", 81)

CASES: list[tuple[str, list[NetworkPolicy]]] = [
    ("nothing", []),
    ("deny all", [policy(ingress=(), egress=())]),
    ("allow all over deny all", [policy(ingress=(), egress=()), policy(ingress=ALL, egress=ALL, name="q")]),
    ("deny all is deleted", []),
    ("both types, self-selecting", [policy(ingress=ALL, egress=())]),
    ("sender allowed, receiver closed", [policy(A, egress=(rule(pods(B)),)), policy(B, ingress=(), name="q")]),
    ("sender and receiver agree", [policy(A, egress=(rule(pods(B)),)), policy(B, ingress=(rule(pods(A)),), name="q")]),
    ("a pod of another namespace and node", [policy(A, ingress=(rule(in_ns(label(ns="y"))),))]),
    ("everything but some", [policy(A, egress=(rule(*blocks("0.0.0.0/0 198.51.100.0/24 10.0.1.12/32", "::/0 2001:db8:f::/48")),))]),
    ("an exception inside another block", [policy(A, ingress=(rule(*blocks("10.0.0.0/16 10.0.1.0/24", "10.0.1.12/32", "fd00::/32")),))]),
    ("a port and a range", [policy(A, ingress=(rule(ports=(tcp(80), UDP)),)), policy(B, egress=(rule(ports=(tcp(70, 80),)),), name="q")]),
    ("a named port", [policy(A, ingress=(rule(pods(B), ports=(tcp("web"),)),))]),
    ("a name of another protocol", [policy(A, ingress=(rule(pods(B), ports=(tcp("dns"),)),))]),
    ("a named port to anyone", [policy(A, egress=(rule(ports=(tcp("web"),)),))]),
    ("an IPv4 block says nothing about IPv6", [policy(A, ingress=(rule(*blocks("0.0.0.0/0")),))]),
]

PODS = [
    pod("a", ports=(ContainerPort("web", "TCP", 80), ContainerPort("dns", "UDP", 81))),
    pod("b", ports=(ContainerPort("web", "TCP", 81),)),
    pod("c", "y"),
    pod("d", "y"),
]


@pytest.fixture(params=["nft", "legacy"])
def node(request: pytest.FixtureRequest, namespaces: Callable[[], Netns]) -> Iterator[PolicyNode]:
    with policy_node(PODS, request.param, namespaces) as made:
        yield made


def tcp_probe(source: str, target: str, port: int = 80, family: int = 4) -> Probe:
    at = 0 if family == 4 else 1
    return Probe(ADDRESSES[source][at], ADDRESSES[target][at], "TCP", port)


def test_packets_pass_where_the_model_says_so_and_are_refused_elsewhere(node):
    for name, policies in CASES:
        outcome = node.decree(*policies)
        assert outcome.good, (name, node.report.rejections)
        for probe, reply in node.ask(probes()).items():
            expected = ALLOW if allowed(node.cluster, probe) else REFUSED
            assert reply.verdict is expected, (name, probe)
    assert node.sync().written == 0
    with node.node.entered():
        node.cycle.ledger.distrust(node.cycle.controller.writes)
    assert node.sync().written == 0, "what the kernel prints is what was wanted"


def test_a_pods_own_node_reaches_it_from_every_address(node):
    """Kubelet may probe from any address of the node, those that come later included."""
    node.decree(policy(ingress=(), egress=()))
    node.node.run("ip addr add 192.0.2.77/24 dev up0")
    node.node.run("ip addr add 2001:db8::77/64 dev up0 nodad")
    sources = ["192.0.2.1", "10.0.1.1", "192.0.2.77", "2001:db8::1", "fd00:0:0:1::1", "2001:db8::77"]
    link_local = re.findall(r"inet6 (fe80\S+)/64", node.node.run("ip -6 addr show dev kube-bridge"))
    assert link_local
    asked = []
    with node.node.entered():
        scope = socket.if_nametoindex("kube-bridge")
        for source in sources:
            target = Target(ADDRESSES["a"][1 if ":" in source else 0], 80)
            made = target.open()
            made.bind((source, 0))
            asked.append((target, made))
        target = Target(ADDRESSES["a"][1], 81)
        made = target.open()
        made.bind((link_local[0], 0, 0, scope))
        asked.append((target, made))
    assert [reply.verdict for reply in ask_all(asked)] == [ALLOW] * len(asked)


def test_the_same_traffic_from_another_node_is_refused(node):
    node.decree(policy(ingress=(), egress=()))
    replies = node.ask([tcp_probe("n2", "a"), tcp_probe("n2", "a", family=6)])
    assert {reply.verdict for reply in replies.values()} == {REFUSED}


def test_an_open_flow_goes_on_when_a_policy_closes_its_way(node):
    node.decree()  # the kernel knows flows from the first rule on that asks for them
    with node.spaces["b"].entered():
        flow = socket.create_connection((ADDRESSES["a"][0], 80), timeout=2)
        flow.recv(1000)
    node.decree(policy(ingress=(), egress=()))
    flow.sendall(b"still there?")
    flow.settimeout(2)
    assert flow.recv(1000) == b"still there?"
    flow.close()
    assert node.ask([tcp_probe("b", "a")])[tcp_probe("b", "a")].verdict is REFUSED


def test_ping_passes_whatever_policies_say(node):
    node.decree(policy(ingress=(), egress=()))
    for target in (*ADDRESSES["a"], *WORLD):
        node.spaces["b"].run(f"ping -n -c 1 -W 2 {target}")


def test_a_pod_in_a_known_class_costs_its_memberships_and_one_process(node):
    """Counted at the targets: no rule is touched, one `ipset restore` is started."""
    node.decree(policy(ingress=(rule(pods(label(pod="b"))),)))
    written, rules, forks = len(node.report.rejections), node.rules.restores, node.sets.forks + node.rules.forks
    restores, lines = node.sets.restores, node.sets.lines
    newcomer = pod("c", "x")
    node.cache.remove(Kind.POD, Name("y", "c"))
    node.cache.put(newcomer)
    outcome = node.sync()
    # two families, each: isolated for ingress, and its class
    assert outcome.written == node.sets.lines - lines == 4
    assert node.sets.restores - restores == 1
    assert node.sets.forks + node.rules.forks - forks == 1
    assert node.rules.restores == rules
    assert len(node.report.rejections) == written
    assert node.ask([tcp_probe("b", "c"), tcp_probe("d", "c")])[tcp_probe("d", "c")].verdict is REFUSED


def test_allowed_and_unselected_traffic_passes_a_forward_chain_that_drops(namespaces):
    """Only our firewall runs, and another tool closed FORWARD: what is not ours to open stays closed."""
    with policy_node(PODS, "nft", namespaces, run_router=False) as node:
        node.node.run("iptables-nft -P FORWARD DROP")
        outcome = node.decree(policy(A, ingress=(rule(pods(B)),)))
        assert outcome.good
        verdicts = {
            (source, target): node.ask([tcp_probe(source, target)])[tcp_probe(source, target)].verdict is ALLOW
            for source, target in [("b", "a"), ("c", "a"), ("b", "c"), ("c", "b"), ("b", "world"), ("world", "b")]
        }
        assert verdicts == {
            ("b", "a"): True,
            ("c", "a"): False,
            ("b", "c"): True,
            ("c", "b"): True,
            ("b", "world"): True,
            ("world", "b"): False,
        }


def test_marks_of_others_are_what_they_were(node):
    """Every bit, of selected and unselected pods' packets, as seen behind our hooks."""
    node.decree(policy(A, ingress=ALL, egress=ALL))
    for mark in ("0xffffffff", "0x1bd10"):
        node.node.run(f"iptables-legacy -t mangle -A PREROUTING -s {ADDRESSES['b'][0]} -j MARK --set-mark {mark}")
        counted = f"iptables-legacy -t mangle -A POSTROUTING -s {ADDRESSES['b'][0]} -m mark"
        node.node.run(f"{counted} --mark {mark} -j ACCEPT")
        node.node.run(f"{counted} ! --mark {mark} -j ACCEPT")
        replies = node.ask([tcp_probe("b", "a"), tcp_probe("b", "c")])
        assert {reply.verdict for reply in replies.values()} == {ALLOW}
        listing = node.node.run("iptables-legacy -t mangle -nvxL POSTROUTING").splitlines()[2:]
        kept, changed = (int(line.split()[0]) for line in listing)
        assert kept > 4
        assert changed == 0
        node.node.run("iptables-legacy -t mangle -F")


def test_what_others_wrote_stays_byte_for_byte(node):
    """Rules with matches that we have no words for, sets with names like ours, members that come and go."""
    node.node.run("iptables-nft -A FORWARD -m u32 --u32 0>>22&0x3C@12>>26=0x5 -j ACCEPT")
    node.node.run("iptables-legacy -A FORWARD -m u32 --u32 0>>22&0x3C@12>>26=0x5 -j ACCEPT")
    node.node.run("ipset create kube-src-theirs hash:ip counters")
    before = [line for line in node.node.run("iptables-save").splitlines() if "u32" in line]
    for n in range(5):
        node.node.run(f"ipset add kube-src-theirs 10.9.9.{n}")
        node.decree(policy(ingress=ALL, name=f"p{n}"))
    assert [line for line in node.node.run("iptables-save").splitlines() if "u32" in line] == before
    assert node.node.run("ipset save kube-src-theirs").count("add ") == 5


def test_a_peer_that_comes_late_is_let_in_at_once(node):
    """Labels of a pod and of its namespace decide from the moment they are known."""
    node.decree(policy(A, ingress=(rule(in_ns(label(team="blue"))),)))
    assert node.ask([tcp_probe("c", "a")])[tcp_probe("c", "a")].verdict is REFUSED
    namespace = node.cache.view.namespaces[Name("", "y")]
    node.cache.put(type(namespace)(Name("", "y"), {"team": "blue"}))
    assert node.sync().written == 4  # c and d, two families
    assert node.ask([tcp_probe("c", "a")])[tcp_probe("c", "a")].verdict is ALLOW
    node.cache.put(namespace)
    node.sync()
    assert node.ask([tcp_probe("c", "a")])[tcp_probe("c", "a")].verdict is REFUSED


def test_nothing_is_left_of_a_policy_that_is_gone(node):
    empty = node.decree()
    assert empty.good
    bare = (_rules(node), node.node.run("ipset save"))
    node.decree(*(policy(A, ingress=(rule(*blocks("10.0.0.0/8 10.1.0.0/16"), pods(B), ports=(tcp("web"),)),), name=name) for name in "pqr"))
    assert _rules(node) != bare[0]
    node.decree()
    assert (_rules(node), _seedless(node.node.run("ipset save"))) == (bare[0], _seedless(bare[1]))


def test_drift_is_repaired(node):
    node.decree(policy(ingress=(), egress=()))
    address = ADDRESSES["a"][0]
    node.node.run(f"ipset del KUBE-POD-INGRESS {address}")
    assert node.ask([tcp_probe("d", "a")])[tcp_probe("d", "a")].verdict is ALLOW
    outcome = node.sync((SetMember,))
    assert (outcome.drifted, outcome.written) == (1, 1)
    assert node.cycle.ledger.held[SetMember("KUBE-POD-INGRESS", address)] == Member()
    assert node.ask([tcp_probe("d", "a")])[tcp_probe("d", "a")].verdict is REFUSED


def _rules(node: PolicyNode) -> list[str]:
    lines = node.node.run(node.rules.tools.save[4]).splitlines()
    return [line for line in lines if "KUBE-" in line and not line.startswith("#")]


def _seedless(saved: str) -> list[str]:
    return [line.partition(" initval")[0] for line in saved.splitlines()]
