"""The ways of a packet that are not pod to pod: this node, VIPs, answers, ICMP, and what policies say nothing about."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.model.names import IPVS_SERVICES, set_name
from kube_router.model.objects import Name, NetworkPolicy, Peer, Pod, PolicyPort, PolicyRule, Requirement, Selector
from kube_router.model.state.netfilter import ChainKey, JumpKey, Member, SetMember
from tests.walk.model import Cluster
from tests.walk.paths import node_options, objects_of, wanted
from tests.walk.walker import FELL_THROUGH, Packet, Walker

NODES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
ADDRESSES = {
    4: {"shut": "10.0.1.1", "open": "10.0.1.2", "peer": "10.0.1.3", "n1": "192.0.2.1", "n2": "192.0.2.2", "world": "198.51.100.7"},
    6: {"shut": "fd00::1", "open": "fd00::2", "peer": "fd00::3", "n1": "2001:db8::1", "n2": "2001:db8::2", "world": "2001:db8:f::7"},
}
VIP = {4: "10.96.0.10", 6: "fd96::10"}
RANGES = ("10.96.0.0/16", "fd96::/112")
ICMP = {4: "icmp", 6: "ipv6-icmp"}


def pod(name: str) -> Pod:
    return Pod(Name("x", name), labels={"app": name}, node_name="n1", ips=(ADDRESSES[4][name], ADDRESSES[6][name]))


def app(name: str) -> Selector:
    return Selector((Requirement("app", "In", (name,)),))


SHUT = NetworkPolicy(Name("x", "shut"), pods=app("shut"), ingress=(), egress=())
CLUSTER = Cluster((SHUT,), tuple(pod(name) for name in ("shut", "open", "peer")), {"x": {}}, NODES)


def walker(family: int, *policies: NetworkPolicy, services: tuple[str, ...] = (), **options: object) -> Walker:
    """Node n1 with these policies instead of the one that shuts everything; `services` fill the proxy's set."""
    cluster = CLUSTER._replace(policies=policies or CLUSTER.policies)
    state = wanted(objects_of(cluster), node_options("n1", **{"service_cluster_ip_range": RANGES} | options))
    state |= {SetMember(set_name(IPVS_SERVICES, family), entry): Member() for entry in services}
    return Walker(state, family, frozenset(NODES["n1"]))


def packet(family: int, source: str, target: str, **fields: object) -> Packet:
    own = ADDRESSES[family]
    return Packet(own.get(source, source), own.get(target, target), **fields)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("hook", "source", "target", "verdict"),
    [
        ("OUTPUT", "n1", "shut", FELL_THROUGH),  # kubelet's probe
        ("FORWARD", "n2", "shut", "REJECT"),
        ("FORWARD", "world", "shut", "REJECT"),
        ("FORWARD", "peer", "shut", "REJECT"),
        ("FORWARD", "shut", "peer", "REJECT"),
        ("FORWARD", "shut", "world", "REJECT"),
        ("INPUT", "shut", "n1", "REJECT"),
        ("INPUT", "open", "n1", FELL_THROUGH),
        ("INPUT", "world", "n1", FELL_THROUGH),
        ("FORWARD", "open", "peer", FELL_THROUGH),
        ("FORWARD", "world", "open", FELL_THROUGH),
        ("OUTPUT", "n1", "world", FELL_THROUGH),
    ],
)
def test_a_shut_pod_is_reached_by_its_own_node_alone(family, hook, source, target, verdict):
    assert walker(family).run(hook, packet(family, source, target)) == verdict


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("state", ["ESTABLISHED", "RELATED"])
@pytest.mark.parametrize(("source", "target"), [("shut", "world"), ("world", "shut")])
def test_answers_pass_whatever_policies_say(family, state, source, target):
    assert walker(family).run("FORWARD", packet(family, source, target, state=state)) == "ACCEPT"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("state", ["ESTABLISHED", "INVALID", "NEW"])
@pytest.mark.parametrize("hook", ["INPUT", "FORWARD", "OUTPUT"])
def test_flows_of_pods_that_no_policy_selects_are_left_to_other_rules(family, state, hook):
    for source, target in (("open", "world"), ("world", "open"), ("world", "n1")):
        assert walker(family).run(hook, packet(family, source, target, state=state)) == FELL_THROUGH


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("source", "target"), [("shut", "world"), ("world", "shut")])
def test_packets_of_no_known_flow_are_dropped_at_a_selected_pod(family, source, target):
    assert walker(family).run("FORWARD", packet(family, source, target, state="INVALID")) == "DROP"


@pytest.mark.parametrize("state", ["NEW", "INVALID", "RELATED", "UNTRACKED"])
@pytest.mark.parametrize(
    ("family", "number"),
    [(4, 0), (4, 3), (4, 8), (4, 11), (4, 12), (6, 1), (6, 2), (6, 3), (6, 4), (6, 128), (6, 129), (6, 135), (6, 136)],
)
def test_icmp_errors_echo_and_neighbour_discovery_always_pass(family, number, state):
    for source, target in (("shut", "world"), ("world", "shut")):
        ping = packet(family, source, target, protocol=ICMP[family], icmp_type=number, state=state)
        assert walker(family).run("FORWARD", ping) == "ACCEPT"


@pytest.mark.parametrize(("family", "number"), [(4, 13), (4, 17), (6, 139)])
def test_other_icmp_is_judged(family, number):
    ping = packet(family, "world", "shut", protocol=ICMP[family], icmp_type=number)
    assert walker(family).run("FORWARD", ping) == "REJECT"


# -- VIPs -----------------------------------------------------------------------------------------------------------------


def to_peer_only() -> NetworkPolicy:
    return NetworkPolicy(Name("x", "out"), pods=app("shut"), egress=(PolicyRule((Peer(pods=app("peer")),), (PolicyPort("TCP", 80),)),))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("proxied", [True, False])
def test_a_service_is_judged_by_its_backend_once_ipvs_has_chosen_it(family, proxied):
    node = walker(family, to_peer_only(), run_service_proxy=proxied)
    assert node.run("INPUT", packet(family, "shut", VIP[family], port=443)) == FELL_THROUGH
    assert node.run("OUTPUT", packet(family, "shut", "peer")) == "ACCEPT"
    assert node.run("OUTPUT", packet(family, "shut", "open")) == "REJECT"
    assert node.run("OUTPUT", packet(family, "shut", "peer", port=81)) == "REJECT"


@pytest.mark.parametrize("family", [4, 6])
def test_a_service_on_an_address_outside_the_ranges_is_judged_by_its_backend_too(family):
    external = {4: "203.0.113.53", 6: "2001:db8:e::53"}[family]
    node = walker(family, to_peer_only(), services=(f"{external},udp:53",))
    assert node.run("INPUT", packet(family, "shut", external, protocol="udp", port=53)) == FELL_THROUGH
    assert node.run("INPUT", packet(family, "shut", external, protocol="tcp", port=53)) == "REJECT"


@pytest.mark.parametrize("family", [4, 6])
def test_only_real_node_ports_escape_egress_rules_on_the_node(family):
    node = walker(family, services=(f"{ADDRESSES[family]['n1']},tcp:30053",))
    assert node.run("INPUT", packet(family, "shut", "n1", port=30053)) == FELL_THROUGH
    assert node.run("INPUT", packet(family, "shut", "n1", port=30054)) == "REJECT"
    assert node.run("INPUT", packet(family, "shut", "n1", protocol="udp", port=30053)) == "REJECT"


@pytest.mark.parametrize("family", [4, 6])
def test_behind_a_foreign_proxy_the_node_port_range_stands_for_node_ports(family):
    node = walker(family, run_service_proxy=False, service_node_port_range="30000-30100")
    for protocol in ("tcp", "udp", "sctp"):
        assert node.run("INPUT", packet(family, "shut", "n1", protocol=protocol, port=30053)) == FELL_THROUGH
        assert node.run("INPUT", packet(family, "shut", "n1", protocol=protocol, port=30101)) == "REJECT"
    assert node.run("INPUT", packet(family, "shut", "n2", port=30053)) == "REJECT"


@pytest.mark.parametrize("family", [4, 6])
def test_external_clients_of_a_service_are_judged_at_the_backend(family):
    assert walker(family).run("OUTPUT", packet(family, "world", "shut")) == "REJECT"
    assert walker(family).run("OUTPUT", packet(family, "world", "open")) == FELL_THROUGH


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_itself_through_its_own_service(family):
    assert walker(family).run("OUTPUT", packet(family, "shut", "shut")) == "ACCEPT"
    only_in = NetworkPolicy(Name("x", "in"), pods=app("shut"), ingress=())
    assert walker(family, only_in).run("OUTPUT", packet(family, "shut", "shut")) == "ACCEPT"


# -- next to others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("source", "target", "state", "verdict"),
    [
        ("open", "peer", "NEW", "ACCEPT"),
        ("open", "world", "NEW", "ACCEPT"),
        ("world", "open", "ESTABLISHED", "ACCEPT"),
        ("world", "open", "NEW", FELL_THROUGH),  # what comes from outside is for others to decide
        ("open", "shut", "NEW", "REJECT"),
        ("world", "n2", "NEW", FELL_THROUGH),
    ],
)
def test_without_our_routing_unselected_pods_pass_a_closed_forward_chain(family, source, target, state, verdict):
    assert walker(family, run_router=False).run("FORWARD", packet(family, source, target, state=state)) == verdict


@pytest.mark.parametrize("family", [4, 6])
def test_what_policies_allow_passes_a_closed_forward_chain(family):
    into = NetworkPolicy(Name("x", "in"), pods=app("shut"), ingress=(PolicyRule((Peer(pods=app("peer")),)),))
    node = walker(family, into)
    assert node.run("FORWARD", packet(family, "peer", "shut")) == "ACCEPT"
    assert node.run("FORWARD", packet(family, "open", "shut")) == "REJECT"
    out = walker(family, to_peer_only())
    assert out.run("FORWARD", packet(family, "shut", "peer")) == "ACCEPT"


def test_a_disabled_family_has_no_rules():
    state = wanted(objects_of(CLUSTER), defaults(node_name="n1", enable_ipv4=True, enable_ipv6=False))
    assert {key.family for key in state if isinstance(key, ChainKey | JumpKey)} == {4}
    assert not [key for key in state if "inet6:" in str(key)]
