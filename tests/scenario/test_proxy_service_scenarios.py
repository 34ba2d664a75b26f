"""Services whose addresses are shared, refused and given back, whose policies flip, while other Services go on untouched."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest

from kube_router.control.proxy import ProxyController
from kube_router.desired.obstacles import concerned
from kube_router.model.objects import Ingress, Interface, Kind, Name, Node, ServicePort
from kube_router.model.state import Change, Key
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.listeners import HealthPort, HealthPortKey
from kube_router.model.state.netfilter import SetMember
from tests.engine import Event, after
from tests.engine import Node as LabNode
from tests.proxy_services import (
    BOTH,
    IPV4,
    IPV6,
    LINKS,
    NODE1,
    NODE2,
    OPTIONS,
    WEB,
    Facts,
    a_node,
    by_server,
    dummy_addresses,
    entries,
    everywhere_reachable,
    naming,
    on,
    piece,
    service,
    view_of,
)

OTHER = Name("shop", "other")
of_each_family = pytest.mark.parametrize("facts", BOTH, ids=["ipv4", "ipv6"])
PODS = piece(*(on("node1", one.here) for one in BOTH)), piece(*(on("node2", one.there) for one in BOTH), name="web-2")


def about(changes: Iterable[Change], address: str) -> list[Key]:
    return [change.key for change in changes if address in repr(change.key)]


@of_each_family
def test_u019_an_address_that_services_share_never_goes_while_one_of_them_has_it(facts: Facts) -> None:
    stays = service(
        OTHER, external_ips=(facts.external,), cluster_ips=("10.96.0.60", "fd00:96::60"), ports=(ServicePort("x", "TCP", 9090),)
    )
    comes = service(external_ips=(facts.external,), ports=(ServicePort("http", "TCP", 8080),))
    endings: list[Event] = [
        (Kind.SERVICE, WEB),
        service(ports=(ServicePort("http", "TCP", 8080),)),
        service(external_ips=(facts.external,), type="ExternalName", ports=(ServicePort("http", "TCP", 8080),)),
        service(external_ips=(facts.external,), ports=(ServicePort("http", "TCP", 8081),)),
    ]
    node = a_node(stays, piece(on("node2", *(one.there for one in BOTH)), of=OTHER))
    for _ in range(5):
        for end in endings:
            for event in (comes, end):
                changed = about(after(node, event), facts.external)
                assert not [key for key in changed if isinstance(key, AddressKey)]
                assert not [key for key in changed if isinstance(key, SetMember) and key.entry == facts.external]
                assert not [key for key in changed if isinstance(key, VirtualServerKey) and key.port == 9090]
    assert after(node, (Kind.SERVICE, WEB), (Kind.SERVICE, OTHER))
    assert facts.external not in dummy_addresses(node.world.state)


def test_u013_the_nodes_own_address_stays_out_of_the_rules_for_vips() -> None:
    node = a_node(enable_ipv4=False)
    world = node.world
    balanced = service(facts=[IPV6], type="LoadBalancer", ingress=(Ingress(IPV6.balanced),), ports=(ServicePort("http", "TCP", 1337),))
    writes = after(node, balanced, piece(on("node1", IPV6.here)))
    assert by_server(world.state)[IPV6.balanced, 1337] == {IPV6.here}
    assert about(writes, IPV6.node) == [key for key in about(writes, IPV6.node) if isinstance(key, AddressKey)], "as a source at most"
    assert IPV6.node not in entries(world.state, "kube-router-service-ips"), "its packets never reach the rules for VIPs"
    assert IPV6.node in entries(world.state, "kube-router-local-ips"), "and would not be refused there"


@of_each_family
def test_b15_an_address_that_becomes_a_nodes_or_a_pods_is_given_up_and_taken_back(facts: Facts) -> None:
    node = a_node(service(external_ips=(facts.external,)), *PODS)
    family_range = "203.0.113.0/28" if facts.family == 4 else "2001:db8:e::/124"
    for joins in (
        Node(Name("", "node3"), addresses=(facts.external,)),
        Node(Name("", "node3"), datapath=(facts.external,)),
        Node(Name("", "node3"), pod_cidrs=(family_range,)),
    ):
        after(node, joins)
        assert naming(node.world.state, facts.external) == []
        assert [(note.reason, note.about.name) for note in node.cycle.notes()] == [("VIPRefused", WEB)]
        after(node, (Kind.NODE, joins.name))
        assert by_server(node.world.state)[facts.external, 80] == {facts.here, facts.there}
        assert list(node.cycle.notes()) == []


@of_each_family
def test_b15_a_gateway_of_this_node_is_not_to_be_claimed(facts: Facts) -> None:
    node = a_node(service(external_ips=(facts.external,)), *PODS)
    uplink = LINKS[1]
    after(node, Interface(uplink.name, addresses=uplink.addresses, gateways=(facts.external,)))
    assert naming(node.world.state, facts.external) == []
    assert [note.message for note in node.cycle.notes()] == [
        f"external IP {facts.external} is refused: it is a gateway of node node1, which would lose its way out; "
        "choose an address that nobody has"
    ]
    after(node, uplink)
    assert by_server(node.world.state)[facts.external, 80] == {facts.here, facts.there}


def test_nodes_that_join_touch_no_service_but_those_in_their_way() -> None:
    node = a_node(service(external_ips=("203.0.113.9",)), *PODS)
    assert (
        after(node, *(Node(Name("", f"n{n}"), addresses=(f"192.0.2.{n}",), pod_cidrs=(f"10.244.{n}.0/24",)) for n in range(20, 40))) == []
    )


def test_u021_the_health_port_follows_the_policy_there_and_back() -> None:
    local = everywhere_reachable(health_check_node_port=32000, external_policy="Local")
    node = a_node(local, *PODS)
    answered = {HealthPortKey(32000): HealthPort("shop", "web", 1)}
    for _ in range(2):
        assert {key: value for key, value in node.world.state.items() if isinstance(key, HealthPortKey)} == answered
        after(node, everywhere_reachable())
        assert not [key for key in node.world.state if isinstance(key, HealthPortKey)]
        after(node, local)


@of_each_family
def test_u010_a_flip_to_local_moves_destinations_and_never_the_address(facts: Facts) -> None:
    pods = piece(*(on("node2", one.there) for one in BOTH))
    node = a_node(service(external_ips=(facts.external,)), pods)
    writes = after(node, service(external_ips=(facts.external,), external_policy="Local"))
    assert DestinationKey(VirtualServerKey(facts.external, 6, 80, family=facts.family), facts.there, 8080) in [
        change.key for change in writes
    ]
    assert not [change for change in writes if isinstance(change.key, AddressKey)]
    assert by_server(node.world.state)[facts.external, 80] == set()
    assert facts.cluster not in {change.key.server.address for change in writes if isinstance(change.key, DestinationKey)}


def test_a_zone_that_a_node_gets_moves_its_clients_to_that_zones_endpoints() -> None:
    node = a_node(service(), piece(on("node1", IPV4.here, hint_zones=("z1",)), on("node2", IPV4.there, hint_zones=("z2",))))
    assert by_server(node.world.state)[IPV4.cluster, 80] == {IPV4.here, IPV4.there}
    after(node, Node(NODE1.name, addresses=NODE1.addresses, pod_cidrs=NODE1.pod_cidrs, labels={"topology.kubernetes.io/zone": "z2"}))
    assert by_server(node.world.state)[IPV4.cluster, 80] == {IPV4.there}


def test_an_address_that_comes_up_on_a_link_gets_the_node_ports_where_they_are_bound_to_all() -> None:
    node = a_node(service(node_port=30080), *PODS, nodeport_bindon_all_ip=True)
    up = Interface(Name("", "up1"), addresses=("10.9.9.9/24",))
    after(node, up)
    assert by_server(node.world.state)["10.9.9.9", 30080] == {IPV4.here, IPV4.there}
    after(node, (Kind.INTERFACE, up.name))
    assert ("10.9.9.9", 30080) not in by_server(node.world.state)


class Counting(ProxyController):
    """Counts the items that it is asked about."""

    asked = 0

    def want(self, item, view):
        Counting.asked += 1
        return super().want(item, view)


@pytest.mark.parametrize("services", [10, 400])
def test_d01_an_event_costs_its_service_however_many_there_are(services: int) -> None:
    many: list[Event] = []
    for n in range(services):
        name = Name("shop", f"s{n}")
        many += [service(name, cluster_ips=(f"10.96.{n // 250 + 1}.{n % 250 + 1}",)), piece(on("node2", IPV4.there), of=name)]
    node = LabNode(lambda: Counting(OPTIONS, kernel=(6, 1)))
    for value in (NODE1, NODE2, *LINKS, *many):
        node.feed(value)
    node.settle()
    for event in (
        piece(on("node2", "10.244.2.77"), of=Name("shop", "s5")),
        service(Name("shop", "s5"), cluster_ips=("10.96.1.6",), affinity_timeout=60),
        piece(on("node2", "10.244.2.77"), of=Name("shop", "s5"), name="s5-again"),
    ):
        Counting.asked = 0
        after(node, event)
        assert Counting.asked == 1
    Counting.asked = 0
    assert after(node, Node(NODE2.name, labels={"beat": "1"}, addresses=NODE2.addresses, pod_cidrs=NODE2.pod_cidrs)) == []
    assert Counting.asked == 0


def test_a_thousand_nodes_cost_services_with_addresses_from_outside_no_look_at_each() -> None:
    many = [service(Name("shop", f"s{n}"), external_ips=(f"203.0.113.{n}",)) for n in range(50)]
    nodes = [Node(Name("", f"n{n}"), pod_cidrs=(f"10.{n // 250}.{n % 250}.0/24",)) for n in range(1000)]
    cache = view_of(*many)

    def calls(joining: list[Node]) -> int:
        seen = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            assert list(concerned([(None, node) for node in joining], cache.view)) == []
        finally:
            sys.setprofile(None)
        return seen

    assert calls(nodes) < calls(nodes[:1]) + 30 * len(nodes)
