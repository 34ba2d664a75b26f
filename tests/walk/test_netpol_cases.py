# ruff: noqa: E501  -- a truth table is read line by line
"""Truth tables: for each policy, which of nine pods reach which, by the rules of both nodes and by the model.

The cases are those of the Kubernetes network policy conformance tests and of Cyclonus, and the corners that fail with other
implementations. Namespaces x, y, z hold pods a, b, c each; a and b live on one node, c on another; every pod answers on 80 and 81
by TCP, UDP and SCTP under the names serve-<number>-<protocol>.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import pytest

from kube_router.kit.net import of_family
from kube_router.model.objects import ContainerPort, Name, NetworkPolicy, Peer, Pod, PolicyPort, Selector
from tests.walk.model import Cluster, Probe, allowed
from tests.walk.paths import Nodes
from tests.walk.words import ALL, blocks, in_ns, label, one_of, pods, policy, rule, tcp

PORTS = (80, 81)
PROTOCOLS = ("TCP", "UDP", "SCTP")
NODES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
ADDRESS = {f"{ns}/{pod}": (f"10.0.{n}.{p}", f"fd00::{n}:{p}") for n, ns in enumerate("xyz", 1) for p, pod in enumerate("abc", 1)}
PODS = tuple(
    Pod(
        name=Name(ns, pod),
        labels={"pod": pod},
        node_name="n2" if pod == "c" else "n1",
        phase="Running",
        ips=ADDRESS[f"{ns}/{pod}"],
        ports=tuple(
            ContainerPort(f"serve-{number}-{protocol.lower()}", protocol, number) for number, protocol in product(PORTS, PROTOCOLS)
        ),
    )
    for ns, pod in product("xyz", "abc")
)
NAMESPACES = {ns: {"ns": ns, "kubernetes.io/metadata.name": ns} for ns in "xyz"}


class Ask(NamedTuple):
    """One connection: pods as "x/a"."""

    source: str
    target: str
    protocol: str
    port: int

    @property
    def source_ns(self) -> str:
        return self.source[0]

    @property
    def target_ns(self) -> str:
        return self.target[0]


A, B, C = label(pod="a"), label(pod="b"), label(pod="c")
Y, Z = label(ns="y"), label(ns="z")
NOT_X = one_of("ns", "x", operator="NotIn")


def host(name: str) -> tuple[Peer, ...]:
    """Blocks of one pod's addresses."""
    return blocks(*(f"{address}/{32 if '.' in address else 128}" for address in ADDRESS[name]))


def to(target: str, *sources: str) -> Callable[[Ask], bool]:
    """Only these sources reach the target."""
    return lambda ask: ask.target != target or ask.source in sources


def out(source: str, *targets: str) -> Callable[[Ask], bool]:
    """The source reaches only these targets."""
    return lambda ask: ask.source != source or ask.target in targets


CASES: list[tuple[str, list[NetworkPolicy], Callable[[Ask], bool]]] = [
    ("no policy", [], lambda ask: True),
    ("deny ingress", [policy(ingress=())], lambda ask: ask.target_ns != "x"),
    ("deny egress", [policy(egress=())], lambda ask: ask.source_ns != "x"),
    ("deny both", [policy(ingress=(), egress=())], lambda ask: "x" not in (ask.source_ns, ask.target_ns)),
    ("allow all ingress", [policy(ingress=ALL)], lambda ask: True),
    ("allow all egress", [policy(egress=ALL)], lambda ask: True),
    ("deny, then allow all", [policy(ingress=()), policy(ingress=ALL, name="q")], lambda ask: True),
    ("from a pod of the namespace", [policy(A, ingress=(rule(pods(B)),))], to("x/a", "x/b")),
    ("from a pod by expression", [policy(A, ingress=(rule(pods(one_of("pod", "b"))),))], to("x/a", "x/b")),
    ("from every namespace", [policy(A, ingress=(rule(in_ns(Selector())),)), policy(B, ingress=(), name="q")], lambda ask: ask.target != "x/b"),
    ("from a namespace", [policy(A, ingress=(rule(in_ns(Y)),))], lambda ask: ask.target != "x/a" or ask.source_ns == "y"),
    ("from other namespaces or a pod", [policy(A, ingress=(rule(in_ns(NOT_X), pods(B)),))], lambda ask: ask.target != "x/a" or ask.source_ns != "x" or ask.source == "x/b"),
    ("from a pod in other namespaces", [policy(A, ingress=(rule(in_ns(NOT_X, B)),))], to("x/a", "y/b", "z/b")),
    ("from some pods in other namespaces", [policy(A, ingress=(rule(in_ns(NOT_X, one_of("pod", "b", "c"))),))], to("x/a", "y/b", "y/c", "z/b", "z/c")),
    ("from two pods", [policy(A, ingress=(rule(pods(B), pods(C)),))], to("x/a", "x/b", "x/c")),
    ("from two rules", [policy(A, ingress=(rule(pods(B)), rule(pods(C))))], to("x/a", "x/b", "x/c")),
    ("from two policies", [policy(A, ingress=(rule(pods(B)),)), policy(A, ingress=(rule(pods(C)),), name="q")], to("x/a", "x/b", "x/c")),
    ("by the namespace's own name", [policy(A, ingress=(rule(in_ns(label(**{"kubernetes.io/metadata.name": "y"}))),))], lambda ask: ask.target != "x/a" or ask.source_ns == "y"),
    ("one port from a namespace", [policy(A, ingress=(rule(in_ns(Y), ports=(tcp(81),)),))], lambda ask: ask.target != "x/a" or (ask.source_ns == "y" and ask[2:] == ("TCP", 81))),
    ("two policies, two ports", [policy(A, ingress=(rule(ports=(tcp(80),)),)), policy(A, ingress=(rule(in_ns(Y), ports=(tcp(81),)),), name="q")], lambda ask: ask.target != "x/a" or ask[2:] == ("TCP", 80) or (ask.source_ns == "y" and ask[2:] == ("TCP", 81))),
    ("a protocol", [policy(A, ingress=(rule(ports=(tcp(None),)),))], lambda ask: ask.target != "x/a" or ask.protocol == "TCP"),
    ("a range", [policy(A, ingress=(rule(ports=(tcp(53, 80),)),))], lambda ask: ask.target != "x/a" or ask[2:] == ("TCP", 80)),
    ("UDP and SCTP do not widen to TCP", [policy(A, ingress=(rule(ports=(PolicyPort("UDP", 80), PolicyPort("SCTP", 81))),))], lambda ask: ask.target != "x/a" or ask[2:] in (("UDP", 80), ("SCTP", 81))),
    ("a named port", [policy(A, ingress=(rule(ports=(tcp("serve-81-tcp"),)),))], lambda ask: ask.target != "x/a" or ask[2:] == ("TCP", 81)),
    ("a named port from a pod", [policy(A, ingress=(rule(pods(B), ports=(tcp("serve-80-tcp"),)),))], lambda ask: ask.target != "x/a" or (ask.source == "x/b" and ask[2:] == ("TCP", 80))),
    ("a number and a name", [policy(A, ingress=(rule(ports=(tcp(80), PolicyPort("UDP", "serve-81-udp"))),))], lambda ask: ask.target != "x/a" or ask[2:] in (("TCP", 80), ("UDP", 81))),
    ("a name nobody serves", [policy(A, ingress=(rule(pods(B), ports=(tcp("nobody"),)),))], to("x/a")),
    ("a name of another protocol", [policy(A, ingress=(rule(pods(B), ports=(tcp("serve-80-udp"),)),))], to("x/a")),
    ("a named port to pods", [policy(A, egress=(rule(in_ns(Y), ports=(tcp("serve-80-tcp"),)),))], lambda ask: ask.source != "x/a" or (ask.target_ns == "y" and ask[2:] == ("TCP", 80))),
    ("a named port to anyone", [policy(A, egress=(rule(ports=(tcp("serve-81-tcp"),)),))], lambda ask: ask.source != "x/a" or ask[2:] == ("TCP", 81)),
    ("egress to a pod", [policy(A, egress=(rule(pods(B)),))], out("x/a", "x/b")),
    ("egress to a pod elsewhere", [policy(A, egress=(rule(in_ns(Y, A)),))], out("x/a", "y/a")),
    ("both ends must agree", [policy(A, egress=(rule(in_ns(Y, A)),)), policy(one_of("pod", "a", "b"), ingress=(rule(in_ns(label(ns="x"), A)),), ns="y")], lambda ask: (ask.source != "x/a" or ask.target == "y/a") and (ask.target not in ("y/a", "y/b") or ask.source == "x/a")),
    ("sender allowed, receiver closed", [policy(A, egress=(rule(pods(B)),)), policy(B, ingress=(), name="q")], lambda ask: ask.source != "x/a" and ask.target != "x/b"),
    ("sender closed, receiver open", [policy(A, egress=()), policy(B, ingress=(rule(pods(A)),), name="q")], lambda ask: ask.source != "x/a" and ask.target != "x/b"),
    ("one policy, both types, self-selecting", [policy(ingress=ALL, egress=())], lambda ask: ask.source_ns != "x"),
    ("one policy, both types, other way", [policy(ingress=(), egress=ALL)], lambda ask: ask.target_ns != "x"),
    ("in from b, out on 80", [policy(A, ingress=(rule(pods(B)),), egress=(rule(ports=(tcp(80),)),))], lambda ask: (ask.target != "x/a" or ask.source == "x/b") and (ask.source != "x/a" or ask[2:] == ("TCP", 80))),
    ("a block", [policy(A, ingress=(rule(*host("y/b")),))], to("x/a", "y/b")),
    ("everything by block", [policy(A, ingress=(rule(*blocks("0.0.0.0/0", "::/0")),))], lambda ask: True),
    ("everything but one", [policy(A, egress=(rule(*blocks("0.0.0.0/0 10.0.1.2/32", "::/0 fd00::1:2/128")),))], lambda ask: ask[:2] != ("x/a", "x/b")),
    ("half the world out of it", [policy(A, egress=(rule(*blocks("0.0.0.0/0 0.0.0.0/1", "::/0 8000::/1")),))], out("x/a")),
    ("an exception inside another block", [policy(A, ingress=(rule(*blocks("10.0.0.0/16 10.0.1.0/24", "10.0.1.2/32", "fd00::/64 fd00::1:0/112", "fd00::1:2/128")),))], lambda ask: ask.target != "x/a" or ask.source_ns != "x" or ask.source == "x/b"),
    ("the same block with and without exceptions", [policy(A, ingress=(rule(*blocks("10.0.0.0/16 10.0.1.0/24", "10.0.0.0/16", "fd00::/64 fd00::1:0/112", "fd00::/64")),))], lambda ask: True),
    ("two blocks with different exceptions", [policy(A, ingress=(rule(*blocks("10.0.0.0/16 10.0.1.2/32", "10.0.0.0/16 10.0.1.3/32", "fd00::/64 fd00::1:2/128", "fd00::/64 fd00::1:3/128")),))], lambda ask: True),
    ("many blocks", [policy(A, ingress=(rule(*host("y/a"), *host("y/b"), *host("z/c")),))], to("x/a", "y/a", "y/b", "z/c")),
    ("a block and a port", [policy(A, egress=(rule(*blocks("10.0.2.0/24", "fd00::2:0/112"), ports=(tcp(80),)),))], lambda ask: ask.source != "x/a" or (ask.target_ns == "y" and ask[2:] == ("TCP", 80))),
    ("a block and a named port", [policy(A, egress=(rule(*blocks("10.0.2.0/24", "fd00::2:0/112"), ports=(tcp("serve-80-tcp"),)),))], lambda ask: ask.source != "x/a" or (ask.target_ns == "y" and ask[2:] == ("TCP", 80))),
    ("a selector that matches nothing", [policy(A, ingress=(rule(pods(label(pod="none"))),))], to("x/a")),
    ("names that read alike", [policy(A, ingress=ALL, ns="x", name="yp"), policy(A, ingress=(), ns="x", name="y"), policy(B, ingress=(), ns="y", name="p")], lambda ask: ask.target != "y/b"),
    ("more ports than one rule holds", [policy(A, ingress=(rule(ports=tuple(tcp(port) for port in range(1, 82, 2))),))], lambda ask: ask.target != "x/a" or ask[2:] == ("TCP", 81)),
    ("ranges that touch and overlap", [policy(A, ingress=(rule(ports=(tcp(70, 75), tcp(76, 80), tcp(78, 79))),))], lambda ask: ask.target != "x/a" or ask[2:] == ("TCP", 80)),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_rules_and_model_follow_the_truth_table(policies, expected):
    cluster = Cluster(tuple(policies), PODS, NAMESPACES, NODES)
    nodes = Nodes(cluster)
    for source, target in product(ADDRESS, ADDRESS):
        for protocol, port in product(PROTOCOLS, PORTS):
            ask = Ask(source, target, protocol, port)
            if source == target:
                continue
            for family in (4, 6):
                (here,), (there,) = of_family(ADDRESS[source], family), of_family(ADDRESS[target], family)
                probe = Probe(here, there, protocol, port)
                assert nodes.admits(probe) == expected(ask), (ask, probe)
                assert allowed(cluster, probe) == expected(ask), (ask, probe)


def test_a_block_of_one_family_says_nothing_about_the_other():
    cluster = Cluster((policy(A, ingress=(rule(*blocks("0.0.0.0/0")),)),), PODS, NAMESPACES, NODES)
    nodes = Nodes(cluster)
    assert nodes.admits(Probe(ADDRESS["x/b"][0], ADDRESS["x/a"][0], "TCP", 80))
    assert not nodes.admits(Probe(ADDRESS["x/b"][1], ADDRESS["x/a"][1], "TCP", 80))


def test_a_port_name_means_each_pods_own_number():
    """Two replicas that give one name to different numbers, and a third that lacks it."""
    three = [
        Pod(Name("x", name), labels={"app": "web"}, node_name="n1", ips=(address,), ports=ports)
        for name, address, ports in [
            ("one", "10.0.1.1", (ContainerPort("http", "TCP", 8080), ContainerPort("admin", "TCP", 9))),
            ("two", "10.0.1.2", (ContainerPort("http", "TCP", 8081),)),
            ("three", "10.0.1.3", (ContainerPort("admin", "TCP", 8080),)),
        ]
    ]
    client = Pod(Name("x", "client"), labels={"app": "client"}, node_name="n2", ips=("10.0.1.9",))
    web = label(app="web")
    for named in (
        policy(web, ingress=(rule(ports=(tcp("http"),)),)),
        policy(label(app="client"), egress=(rule(pods(web), ports=(tcp("http"),)),)),
    ):
        nodes = Nodes(Cluster((named,), (*three, client), NAMESPACES, NODES))
        reached = [
            (pod.name.name, port) for pod in three for port in (9, 8080, 8081) if nodes.admits(Probe("10.0.1.9", pod.ips[0], "TCP", port))
        ]
        assert reached == [("one", 8080), ("two", 8081)]
