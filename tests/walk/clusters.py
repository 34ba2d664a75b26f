"""Small clusters for hypothesis: few words, so that selectors hit, overlap and contradict each other often."""

from __future__ import annotations

from hypothesis import strategies as st

from kube_router.model.objects import (
    ContainerPort,
    IPBlock,
    Name,
    Namespace,
    NetworkPolicy,
    Peer,
    Pod,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)
from tests.walk.model import Cluster, Probe

NAMESPACES = ("x", "xy")
CROWDED = ("x", "x", "x", "xy")  # most are in one, lest they miss each other
NODES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
OUTSIDE = ("198.51.100.7", "2001:db8:f::7")
NUMBERS = (80, 81, 90)
PROTOCOLS = ("TCP", "UDP", "SCTP")

labels = st.dictionaries(st.sampled_from(["app", "team"]), st.sampled_from(["a", "b"]))
requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(["app", "team"]),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True).map(sorted).map(tuple),
    ),
    st.builds(Requirement, st.sampled_from(["app", "team"]), st.sampled_from(["Exists", "DoesNotExist"])),
)
some_selectors = st.lists(requirements, max_size=2, unique=True).map(sorted).map(tuple).map(Selector)
selectors = st.just(Selector()) | some_selectors
blocks = st.sampled_from(
    [
        IPBlock("0.0.0.0/0"),
        IPBlock("0.0.0.0/0", ("10.0.1.0/24",)),
        IPBlock("0.0.0.0/0", ("0.0.0.0/1",)),
        IPBlock("10.0.0.0/16", ("10.0.1.0/24", "10.0.1.1/32")),
        IPBlock("10.0.1.0/24"),
        IPBlock("10.0.1.1/32"),
        IPBlock("10.0.1.1/32", ("10.0.1.1/32",)),
        IPBlock("10.0.1.0/24", ("10.0.1.2/32",)),
        IPBlock("10.0.1.0/24", ("10.0.1.3/32",)),
        IPBlock("10.0.1.0/24", ("0.0.0.0/0",)),
        IPBlock("198.51.100.0/24"),
        IPBlock("192.0.2.0/24", ("192.0.2.2/32",)),
        IPBlock("::/0"),
        IPBlock("::/0", ("fd00:0:0:1::/64",)),
        IPBlock("fd00:0:0:1::/64"),
        IPBlock("fd00:0:0:1::1/128"),
        IPBlock("2001:db8::/32"),
    ]
)
peers = st.one_of(
    st.builds(Peer, pods=selectors),
    st.builds(Peer, pods=selectors, namespaces=selectors),
    st.builds(Peer, block=blocks),
)
ports = st.one_of(
    st.builds(PolicyPort, st.sampled_from(PROTOCOLS), st.none() | st.sampled_from(NUMBERS) | st.sampled_from(["web", "dns"])),
    st.builds(PolicyPort, st.sampled_from(PROTOCOLS), st.just(80), st.sampled_from([0, 81, 85])),
)
rules = st.builds(PolicyRule, st.lists(peers, max_size=3).map(tuple), st.just(()) | st.lists(ports, max_size=3).map(tuple))
directions = st.none() | st.lists(rules, max_size=2).map(tuple)
policy_names = st.builds(Name, st.sampled_from(CROWDED), st.sampled_from(["p", "q", "yp"]))
policies = st.builds(NetworkPolicy, name=policy_names, pods=selectors, ingress=directions, egress=directions)
container_ports = st.lists(
    st.builds(ContainerPort, st.sampled_from(["web", "dns"]), st.sampled_from(PROTOCOLS), st.sampled_from(NUMBERS)), max_size=2
).map(tuple)
namespaces = st.builds(Namespace, st.sampled_from(NAMESPACES).map(lambda name: Name("", name)), labels)


@st.composite
def pods(draw: st.DrawFn, number: int, shared: bool = False) -> Pod:
    """A pod; its addresses are its number's alone unless `shared`, when all are on one node."""
    node = "n1" if shared else draw(st.sampled_from(["n1", "n1", "n2"]))
    host_network = draw(st.integers(0, 9)) == 9
    tail = draw(st.integers(1, 2)) if shared else number
    both = (f"10.0.1.{tail}", f"fd00:0:0:1::{tail}")
    own = draw(st.sampled_from([both, both, both, both[:1], both[1:], ()]))
    return Pod(
        name=Name(draw(st.sampled_from(CROWDED)), f"pod{number}"),
        labels=draw(labels),
        node_name=node,
        phase=draw(st.sampled_from(["Running", "Running", "Running", "Pending", "Succeeded"])),
        host_network=host_network,
        ips=NODES[node] if host_network else own,
        ports=draw(container_ports),
    )


@st.composite
def clusters(draw: st.DrawFn, shared: bool = False) -> Cluster:
    """Two nodes, a handful of pods and policies. Sometimes nothing is known of a namespace."""
    known = {name: draw(labels) for name in NAMESPACES if draw(st.integers(0, 9)) < 9}
    some = [draw(pods(number, shared)) for number in range(1, draw(st.integers(3, 5)) + 1)]
    chosen = draw(st.lists(policies, min_size=1, max_size=4, unique_by=lambda policy: policy.name))
    return Cluster(tuple(chosen), tuple(some), known, NODES)


def probes(cluster: Cluster) -> list[Probe]:
    """Every pair of ends in every family, on every port and protocol that means something here."""
    ends = {address for pod in cluster.pods for address in pod.ips} | {a for own in cluster.nodes.values() for a in own} | set(OUTSIDE)
    hosts = {address for own in cluster.nodes.values() for address in own} | set(OUTSIDE)
    return [
        Probe(source, destination, protocol, port)
        for source in sorted(ends)
        for destination in sorted(ends)
        if source != destination and (":" in source) == (":" in destination) and not (source in hosts and destination in hosts)
        for protocol in PROTOCOLS
        for port in (*NUMBERS, 85)
    ]
