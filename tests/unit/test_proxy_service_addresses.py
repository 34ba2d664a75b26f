"""Where a Service is reached on a node: which of its addresses are served, which are refused, and who has them."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from kube_router.codec.accepted import Gate
from kube_router.codec.ipvs import NEW_SERVICE, Packer
from kube_router.model.objects import Ingress, Interface, Name, Node, Service, ServicePort
from kube_router.model.state.ipvs import VirtualServer, VirtualServerKey
from kube_router.plan.order import ordered
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
    by_server,
    dummy_addresses,
    entries,
    everywhere_reachable,
    naming,
    on,
    piece,
    service,
    wants,
)

PODS = piece(*(on("node1", one.here) for one in BOTH)), piece(*(on("node2", one.there) for one in BOTH), name="web-2")
EVERYWHERE = replace(OPTIONS, nodeport_bindon_all_ip=True)
OTHER = Name("shop", "other")
of_each_family = pytest.mark.parametrize("facts", BOTH, ids=["ipv4", "ipv6"])


@of_each_family
def test_every_kind_of_address_is_served_and_all_but_the_nodes_own_are_on_the_dummy_link(facts: Facts) -> None:
    desired = wants(everywhere_reachable(), *PODS)
    servers = {(facts.cluster, 80), (facts.external, 80), (facts.balanced, 80), (facts.node, 30080)}
    found = by_server(desired.state)
    assert {server for server in found if (":" in server[0]) == (facts.family == 6)} == servers
    assert all(found[server] == {facts.here, facts.there} for server in servers)
    own = {facts.cluster, facts.external, facts.balanced}
    assert {address for address in dummy_addresses(desired.state) if (":" in address) == (facts.family == 6)} == own
    assert {*own, facts.node} <= entries(desired.state, "kube-router-service-ips")
    assert {f"{address},tcp:{port}" for address, port in servers} <= entries(desired.state, "kube-router-ipvs-services")
    assert desired.notes == ()


@pytest.mark.parametrize(
    ("fields", "served"),
    [
        ({"ingress": (Ingress("198.51.100.1"), Ingress("198.51.100.2", "Proxy"))}, {"198.51.100.1"}),
        ({"ingress": (Ingress("198.51.100.1", "Proxy"),)}, set()),
        ({"ingress": (Ingress("198.51.100.1"),), "annotations": {"kube-router.io/service.skiplbips": "no"}}, set()),
        ({"external_ips": ("203.0.113.1",), "annotations": {"kube-router.io/service.skiplbips": ""}}, {"203.0.113.1"}),
        ({"external_ips": ("203.0.113.1", "203.0.113.1", IPV4.cluster)}, {"203.0.113.1"}),
        ({"type": "ClusterIP", "ingress": (Ingress("198.51.100.1"),)}, {"198.51.100.1"}),
        ({"ingress": (Ingress("203.0.113.1"),), "external_ips": ("203.0.113.1",)}, {"203.0.113.1"}),
    ],
)
def test_which_addresses_from_outside_count(fields, served) -> None:
    desired = wants(service(**fields), *PODS)
    assert {address for address, _ in by_server(desired.state)} == {IPV4.cluster, IPV6.cluster, *served}


def test_an_address_of_a_family_that_the_service_lacks_is_served_to_refuse_and_its_owner_is_told() -> None:
    desired = wants(service(facts=[IPV4], external_ips=(IPV6.external,)), piece(on("node1", IPV4.here)))
    assert by_server(desired.state)[IPV6.external, 80] == set()
    assert [note.reason for note in desired.notes] == ["WrongFamily"]


# -- node ports -------------------------------------------------------------------------------------------------------


def test_b18_the_node_port_of_the_secondary_family_is_let_in_like_the_first() -> None:
    desired = wants(service(node_port=30080), *PODS)
    assert {f"{one.node},tcp:30080" for one in BOTH} <= entries(desired.state, "kube-router-ipvs-services")
    assert {one.node for one in BOTH} <= entries(desired.state, "kube-router-service-ips")


@pytest.mark.parametrize(
    ("families", "expected"),
    [
        ([IPV4], {IPV4.node, "10.9.9.9"}),
        ([IPV6], {IPV6.node}),
        (BOTH, {IPV4.node, "10.9.9.9", IPV6.node}),
    ],
)
def test_b19_bound_to_every_address_a_node_port_is_served_where_its_family_and_the_link_can_serve(families, expected) -> None:
    links = [Interface(Name("", name), addresses=(address,)) for name, address in [
        ("up1", "10.9.9.9/24"), ("docker0", "172.17.0.1/16"), ("kube-bridge", "10.244.1.1/24"), ("dummy7", "10.7.7.7/32"),
    ]]  # fmt: skip
    desired = wants(service(facts=families, node_port=30080), *PODS, *links, options=EVERYWHERE)
    assert {address for address, port in by_server(desired.state) if port == 30080} == expected
    assert all(by_server(desired.state)[address, 30080] for address in expected), "none of them is empty"
    assert {address for address, port in by_server(wants(service(node_port=30080), *PODS, *links).state) if port == 30080} == {
        IPV4.node,
        IPV6.node,
    }


# -- what is refused --------------------------------------------------------------------------------------------------


def test_u023_only_addresses_of_the_configured_ranges_are_programmed_and_the_rest_is_an_event() -> None:
    claimed = ("203.0.113.40", NODE2.addresses[0], "10.96.0.10", "198.51.100.77")
    strict = replace(OPTIONS, service_external_ip_range=("203.0.113.0/24",))
    desired = wants(service(external_ips=claimed), *PODS, options=strict)
    assert {address for address, _ in by_server(desired.state)} == {IPV4.cluster, IPV6.cluster, "203.0.113.40"}
    for address in claimed[1:]:
        assert naming(desired.state, address) == [], "in nothing of the kernel"
        assert [note.reason for note in desired.notes if address in note.message] == ["VIPRefused"]
    nothing_allowed = replace(OPTIONS, service_external_ip_range=())
    assert by_server(wants(service(external_ips=claimed), options=nothing_allowed).state).keys() == {(IPV4.cluster, 80), (IPV6.cluster, 80)}


LENIENT = replace(OPTIONS, strict_external_ip_validation=False)


@of_each_family
@pytest.mark.parametrize("kind", ["external", "loadbalancer"])
def test_b15_addresses_of_other_nodes_and_of_pods_are_refused_whatever_the_flags_say(facts: Facts, kind: str) -> None:
    for address, owner in (
        (facts.other_node, "an address of node node2"),
        (facts.there, "pods of node node2"),
        (facts.here, "pods of node node1"),
    ):
        fields = {"external_ips": (address,)} if kind == "external" else {"ingress": (Ingress(address),)}
        desired = wants(service(**fields), options=LENIENT)
        assert naming(desired.state, address) == []
        assert [(note.reason, owner in note.message, address in note.message) for note in desired.notes] == [("VIPRefused", True, True)]


@of_each_family
def test_b15_an_address_of_this_node_is_served_without_touching_it(facts: Facts) -> None:
    for node, links in ((NODE1, LINKS), (Node(NODE1.name), LINKS), (NODE1, (Interface(LINKS[1].name),))):
        desired = wants(service(external_ips=(facts.node,)), node, *PODS, *links, options=LENIENT)
        assert by_server(desired.state)[facts.node, 80] == {facts.here, facts.there}
        assert facts.node not in dummy_addresses(desired.state)
        assert facts.node in entries(desired.state, "kube-router-local-ips"), "the rest of it is not refused"
        assert not desired.notes


def test_b15_so_is_one_of_a_link_that_serves_no_node_ports() -> None:
    docker = Interface(Name("", "docker0"), addresses=("172.17.0.1/16",))
    desired = wants(service(external_ips=("172.17.0.1",)), docker, *PODS, options=LENIENT)
    assert by_server(desired.state)["172.17.0.1", 80]
    assert "172.17.0.1" not in dummy_addresses(desired.state)
    assert "172.17.0.1" in entries(desired.state, "kube-router-local-ips")


@pytest.mark.parametrize("address", ["10.244.1.1", "127.0.0.1", "::1", "169.254.169.254"])
def test_b15_the_gateway_of_pods_and_addresses_that_are_no_hosts_are_refused(address: str) -> None:
    bridge = Interface(Name("", "kube-bridge"), addresses=("10.244.1.1/24",))
    desired = wants(service(external_ips=(address,)), bridge, *PODS, options=LENIENT)
    assert {server for server in by_server(desired.state) if server[0] == address} == set()
    assert [note.reason for note in desired.notes] == ["VIPRefused"]


def test_u022_an_address_that_stays_with_its_load_balancer_is_in_nothing_of_the_kernel() -> None:
    ingress = (Ingress("198.51.100.30", "Proxy"), Ingress("198.51.100.31", "VIP"), Ingress("198.51.100.32"))
    desired = wants(service(type="LoadBalancer", ingress=ingress), *PODS)
    assert naming(desired.state, "198.51.100.30") == []
    assert {"198.51.100.31", "198.51.100.32"} <= dummy_addresses(desired.state)
    assert by_server(desired.state)["198.51.100.31", 80] == by_server(desired.state)["198.51.100.32", 80] == {IPV4.here, IPV4.there}


# -- two Services ------------------------------------------------------------------------------------------------------


DUAL = ("10.96.0.99", "fd00:96::99")


def rival(*ports: int, created: str = "2024", protocol: str = "TCP", node_port: int = 0, **fields: object) -> Service:
    given = {
        "ports": tuple(ServicePort(f"p{port}", protocol, port, node_port) for port in ports),
        "cluster_ips": ("10.96.0.99",),
    }
    return service(OTHER, created=created, **{**given, **fields})


@of_each_family
def test_b14_of_two_services_on_one_address_and_port_the_older_has_it_whatever_the_order(facts: Facts) -> None:
    younger, older = (
        service(external_ips=(facts.external,)),
        rival(80, external_ips=(facts.external,), cluster_ips=("10.96.0.99", "fd00:96::99")),
    )
    theirs = piece(on("node2", *(one.there for one in BOTH)), of=OTHER)
    for objects in ((younger, older), (older, younger)):
        desired = wants(*objects, *PODS, theirs)
        assert (facts.external, 80) not in by_server(desired.state)
        assert [note.message for note in desired.notes] == [
            f"{facts.external} port 80/TCP belongs to the older Service shop/other; choose another for this one"
        ]
        assert by_server(desired.state)[facts.cluster, 80] == {facts.here, facts.there}, "what is its own it keeps"
        assert (facts.external, 80) in by_server(wants(*objects, *PODS, of=OTHER).state)
        assert wants(*objects, *PODS, of=OTHER).notes == ()


@pytest.mark.parametrize(
    "other",
    [
        rival(443, external_ips=(IPV4.external,)),
        rival(80, external_ips=(IPV4.external,), protocol="UDP"),
        rival(80, created="2026", external_ips=(IPV4.external,)),
        rival(80, ingress=(Ingress(IPV4.external),)),
        rival(80, ingress=(Ingress(IPV4.external, "Proxy"),)),
        rival(80, external_ips=(IPV4.external,), type="ExternalName"),
    ],
    ids=["another port", "another protocol", "younger", "refused there", "left to its balancer", "not served"],
)
def test_b14_who_does_not_serve_the_same_takes_nothing(other: Service) -> None:
    desired = wants(service(external_ips=(IPV4.external,)), other, *PODS)
    assert by_server(desired.state)[IPV4.external, 80] == {IPV4.here, IPV4.there}
    assert desired.notes == ()


def test_b14_a_node_port_and_an_address_of_the_node_are_one_place() -> None:
    on_node_address = rival(30080, external_ips=(IPV4.node,))
    for older, younger in ((service(node_port=30080, created="2023"), on_node_address), (on_node_address, service(node_port=30080))):
        loser = wants(older, younger, of=younger.name, options=LENIENT)
        winner = wants(older, younger, of=older.name, options=LENIENT)
        assert (IPV4.node, 30080) in by_server(winner.state)
        assert (IPV4.node, 30080) not in by_server(loser.state)
        assert [note.reason for note in loser.notes] == ["PortTaken"]


@of_each_family
def test_u019_of_services_on_one_address_each_wants_the_address_for_itself(facts: Facts) -> None:
    first, second = (
        service(external_ips=(facts.external,)),
        rival(9090, external_ips=(facts.external,), cluster_ips=("10.96.0.99", "fd00:96::99")),
    )
    for name, port in ((WEB, 80), (OTHER, 9090)):
        desired = wants(first, second, *PODS, of=name)
        assert facts.external in dummy_addresses(desired.state)
        assert facts.external in entries(desired.state, "kube-router-service-ips")
        assert (facts.external, port) in by_server(desired.state)
        assert desired.notes == ()


def test_b02_names_that_read_alike_when_joined_are_two_services() -> None:
    one, two = Name("a", "b-c"), Name("a-b", "c")
    objects = [
        service(one, cluster_ips=("10.96.0.1",)),
        piece(on("node1", "10.244.1.1"), of=one),
        service(two, cluster_ips=("10.96.0.2",)),
        piece(on("node1", "10.244.1.2"), of=two),
    ]
    assert by_server(wants(*objects, of=one).state) == {("10.96.0.1", 80): {"10.244.1.1"}}
    assert by_server(wants(*objects, of=two).state) == {("10.96.0.2", 80): {"10.244.1.2"}}


def test_b24_destinations_are_wanted_in_one_order_on_every_node() -> None:
    from kube_router.model.state import Change
    from kube_router.model.state.ipvs import DestinationKey

    pods = [on("node1", f"10.244.1.{n}") for n in (9, 2, 11, 4)]
    slices = piece(*pods[:2]), piece(*pods[2:], name="web-2")
    backwards = piece(*reversed(pods[:2])), piece(*reversed(pods[2:]), name="web-0")
    orders = set()
    for given in (slices, tuple(reversed(slices)), backwards):
        state = wants(service(), *given).state
        changes = ordered(Change(key, None, value) for key, value in state.items())
        orders.add(tuple(change.key.address for change in changes if isinstance(change.key, DestinationKey)))
    assert len(orders) == 1
    assert len(next(iter(orders))) == len(pods)


def test_b01_affinity_tells_every_client_apart() -> None:
    desired = wants(service(affinity_timeout=600), *PODS)
    found = {key.family: value for key, value in desired.state.items() if isinstance(key, VirtualServerKey)}
    assert {family: (value.flags, value.timeout, value.prefix) for family, value in found.items()} == {4: (1, 600, 32), 6: (1, 600, 128)}
    # IPVS_SVC_ATTR_NETMASK 9: a mask in network order for IPv4, a length for IPv6 (net/netfilter/ipvs/ip_vs_ctl.c).
    masks = {4: struct.pack("=HH4s", 8, 9, b"\xff" * 4), 6: struct.pack("=HHI", 8, 9, 128)}
    for key, value in desired.state.items():
        if isinstance(key, VirtualServerKey):
            assert Packer(1).service(NEW_SERVICE, key, value).payload.count(masks[key.family]) == 1


def test_a_wrong_scheduler_leaves_the_last_good_one_in_force_and_is_told() -> None:
    gate, scheduler = Gate(Name("", "node1")), "kube-router.io/service.scheduler"
    for text, expected, told in (("wlc", "rr", True), ("sh", "sh", False), ("wlc", "sh", True)):
        admitted = gate.admit(service(annotations={scheduler: text}))
        desired = wants(admitted, *PODS)
        assert {value.scheduler for value in desired.state.values() if isinstance(value, VirtualServer)} == {expected}
        assert [note.reason for note in desired.notes] == ["BadAnnotation"] * told
