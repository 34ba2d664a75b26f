"""What one Service comes to: tables of Service, slices and node against the kernel state that is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kube_router.config.options import Options, defaults
from kube_router.desired import NOTHING, Desired
from kube_router.desired.external_ips import ranges
from kube_router.desired.proxy.context import Context
from kube_router.desired.proxy.service import virtual_servers
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.model.objects import (
    Claim,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    Name,
    Rejected,
    Service,
    ServicePort,
)
from kube_router.model.state import Key
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Address, AddressKey
from kube_router.model.state.netfilter import Member, SetMember

NODE4, NODE6 = "192.168.50.50", "fd00:50::50"
AROUND = Surroundings(
    name="node1",
    primary={4: NODE4, 6: NODE6},
    sources={4: NODE4, 6: NODE6},
    local=frozenset({NODE4, NODE6, "127.0.0.1", "::1"}),
    own=frozenset({NODE4, NODE6, "127.0.0.1", "::1"}),
    node_ports={4: (NODE4,), 6: (NODE6,)},
)
ONLY_IPV4 = Surroundings(
    name="node1", primary={4: NODE4}, sources={4: NODE4}, local=frozenset({NODE4}), own=frozenset({NODE4}), node_ports={4: (NODE4,)}
)
OPTIONS = defaults(node_name="node1", service_external_ip_range=("203.0.113.0/24",), loadbalancer_ip_range=("198.51.100.0/24",))
DNS = Name("kube-system", "dns")


def service(*ports: ServicePort, ips: tuple[str, ...] = ("10.233.0.3",), **fields: Any) -> Service:
    return Service(DNS, cluster_ips=ips, ports=ports or (ServicePort("dns", "UDP", 53),), created="2025", **fields)


def piece(
    *endpoints: Endpoint, ports: tuple[EndpointPort, ...] = (EndpointPort("dns", "UDP", 8053),), name: str = "dns-1"
) -> EndpointSlice:
    return EndpointSlice(Name("kube-system", name), DNS, endpoints, ports)


def ready(address: str, node: str = "node2") -> Endpoint:
    return Endpoint((address,), node_name=node)


def ending(address: str, node: str = "node2", *, serving: bool = True) -> Endpoint:
    return Endpoint((address,), ready=False, serving=serving, terminating=True, node_name=node)


def want(
    service: Service,
    *slices: EndpointSlice,
    around: Surroundings = AROUND,
    rivals: tuple[Service, ...] = (),
    options: Options = OPTIONS,
) -> Desired:
    everyone = (service, *rivals)
    context = Context(
        around, options, ranges(options), rivals=lambda claim: [s for s in everyone if claim in s.claims()], obstacle=lambda _address: ""
    )
    return virtual_servers(service, slices, context)


def destinations(desired: Desired, address: str, port: int) -> set[tuple[str, int]]:
    return {
        (key.address, key.port)
        for key in desired.state
        if isinstance(key, DestinationKey) and (key.server.address, key.server.port) == (address, port)
    }


def servers(desired: Desired) -> set[tuple[str, int, int]]:
    return {(key.address, key.protocol, key.port) for key in desired.state if isinstance(key, VirtualServerKey) and not key.mark}


def test_a_cluster_ip_gets_server_destination_address_and_members():
    key = VirtualServerKey("10.233.0.3", 17, 53, family=4)
    assert want(service(), piece(ready("10.233.65.7"))).state == {
        key: VirtualServer("rr", 0, 0, 32),
        DestinationKey(key, "10.233.65.7", 8053): Destination(weight=1, forward=0),
        AddressKey("kube-dummy-if", "10.233.0.3/32"): Address("link", NODE4),
        SetMember("kube-router-service-ips", "10.233.0.3"): Member(),
        SetMember("kube-router-ipvs-services", "10.233.0.3,udp:53"): Member(),
    }


def test_ipv6_gets_the_same_in_the_twin_sets():
    key = VirtualServerKey("fd00:233::3", 17, 53, family=6)
    assert want(service(ips=("fd00:233::3",)), piece(ready("fd00:65::7"), ready("10.233.65.7"))).state == {
        key: VirtualServer("rr", 0, 0, 128),
        DestinationKey(key, "fd00:65::7", 8053): Destination(),
        AddressKey("kube-dummy-if", "fd00:233::3/128"): Address("link", NODE6),
        SetMember("inet6:kube-router-service-ips", "fd00:233::3"): Member(),
        SetMember("inet6:kube-router-ipvs-services", "fd00:233::3,udp:53"): Member(),
    }


def test_a_node_port_is_served_on_the_primary_address_of_each_family_of_the_service():
    port = ServicePort("web", "SCTP", 80, node_port=30080)
    dual = service(port, ips=("10.233.0.9", "fd00:233::9"))
    web = piece(ready("10.233.65.7"), ready("fd00:65::7"), ports=(EndpointPort("web", "SCTP", 8080),))
    desired = want(dual, web)
    assert servers(desired) == {("10.233.0.9", 132, 80), ("fd00:233::9", 132, 80), (NODE4, 132, 30080), (NODE6, 132, 30080)}
    assert destinations(desired, NODE4, 30080) == {("10.233.65.7", 8080)}
    assert destinations(desired, NODE6, 30080) == {("fd00:65::7", 8080)}
    assert SetMember("kube-router-ipvs-services", f"{NODE4},sctp:30080") in desired.state
    assert SetMember("inet6:kube-router-service-ips", NODE6) in desired.state
    assert {key.prefix for key in desired.state if isinstance(key, AddressKey)} == {"10.233.0.9/32", "fd00:233::9/128"}
    assert servers(want(service(port), web)) == {("10.233.0.3", 132, 80), (NODE4, 132, 30080)}


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        pytest.param([piece(ready("10.1.0.1"), ending("10.1.0.2"))], {("10.1.0.1", 8053)}, id="ready ones only"),
        pytest.param([piece(ending("10.1.0.1"), ending("10.1.0.2"))], {("10.1.0.1", 8053), ("10.1.0.2", 8053)}, id="last resort"),
        pytest.param([piece(ending("10.1.0.1", serving=False))], set(), id="ending and not serving"),
        pytest.param([piece(Endpoint(("10.1.0.1",), ready=False))], set(), id="not ready yet"),
        pytest.param([piece(Endpoint(("10.1.0.1",)))], {("10.1.0.1", 8053)}, id="no conditions mean ready"),
        pytest.param(
            [piece(ready("10.1.0.1")), piece(ready("10.1.0.2"), ready("10.1.0.1"), name="dns-2")],
            {("10.1.0.1", 8053), ("10.1.0.2", 8053)},
            id="slices merge, duplicates count once",
        ),
        pytest.param([piece(ending("10.1.0.1")), piece(ready("10.1.0.1"), name="dns-2")], {("10.1.0.1", 8053)}, id="ready in one of two"),
        pytest.param([piece(ready("fd00:65::7"))], set(), id="other family"),
        pytest.param([piece(ready("10.1.0.1"), ports=(EndpointPort("dns", "TCP", 8053),))], set(), id="other protocol"),
        pytest.param([piece(ready("10.1.0.1"), ports=(EndpointPort("dns", "UDP", 0),))], set(), id="all ports"),
        pytest.param([piece(ready("10.1.0.1"), ports=())], set(), id="no ports"),
        pytest.param([], set(), id="no slices"),
        pytest.param(
            [
                piece(ready("10.1.0.1"), ports=(EndpointPort("dns", "UDP", 8053), EndpointPort("metrics", "TCP", 9153))),
                piece(ready("10.1.0.2"), ports=(EndpointPort("dns", "UDP", 5353),), name="dns-2"),
            ],
            {("10.1.0.1", 8053), ("10.1.0.2", 5353)},
            id="a named target port may differ from pod to pod",
        ),
    ],
)
def test_backends_of_a_port(slices, expected):
    desired = want(service(), *slices)
    assert destinations(desired, "10.233.0.3", 53) == expected
    assert servers(desired) == {("10.233.0.3", 17, 53)}, "without a backend the empty server stays, and refuses"


def test_terminating_backends_are_a_last_resort_of_each_family_by_itself():
    desired = want(service(ips=("10.233.0.3", "fd00:233::3")), piece(ready("10.1.0.1"), ending("fd00:65::7")))
    assert destinations(desired, "10.233.0.3", 53) == {("10.1.0.1", 8053)}
    assert destinations(desired, "fd00:233::3", 53) == {("fd00:65::7", 8053)}


HERE, THERE, ENDING_HERE = ready("10.1.0.1", "node1"), ready("10.1.0.2", "node2"), ending("10.1.0.3", "node1")


@pytest.mark.parametrize(
    ("fields", "endpoints", "cluster_ip", "node_port"),
    [
        pytest.param({}, (HERE, THERE), {"10.1.0.1", "10.1.0.2"}, {"10.1.0.1", "10.1.0.2"}, id="Cluster"),
        pytest.param({"internal_policy": "Local"}, (HERE, THERE), {"10.1.0.1"}, {"10.1.0.1", "10.1.0.2"}, id="internal Local"),
        pytest.param({"internal_policy": "Local"}, (THERE,), set(), {"10.1.0.2"}, id="internal Local, none here"),
        pytest.param({"external_policy": "Local"}, (HERE, THERE), {"10.1.0.1", "10.1.0.2"}, {"10.1.0.1"}, id="external Local"),
        pytest.param({"external_policy": "Local"}, (THERE,), {"10.1.0.2"}, set(), id="external Local, none here"),
        pytest.param({"external_policy": "Local"}, (ENDING_HERE, THERE), {"10.1.0.2"}, {"10.1.0.3"}, id="external Local, ending here"),
        pytest.param(
            {"annotations": {"kube-router.io/service.local": "true"}, "internal_policy": "Local"},
            (HERE, THERE),
            {"10.1.0.1", "10.1.0.2"},
            {"10.1.0.1"},
            id="annotation: external Local, internal Cluster",
        ),
    ],
)
def test_traffic_policies_are_independent(fields, endpoints, cluster_ip, node_port):
    desired = want(service(ServicePort("dns", "UDP", 53, node_port=30053), **fields), piece(*endpoints))
    assert {address for address, _ in destinations(desired, "10.233.0.3", 53)} == cluster_ip
    assert {address for address, _ in destinations(desired, NODE4, 30053)} == node_port
    assert servers(desired) == {("10.233.0.3", 17, 53), (NODE4, 17, 30053)}


@pytest.mark.parametrize(
    "unserved",
    [
        service(ips=()),
        service(type="ExternalName"),
        service(labels={"service.kubernetes.io/headless": ""}),
        service(labels={"service.kubernetes.io/service-proxy-name": "cilium"}),
    ],
    ids=["headless", "external name", "headless by label", "another proxy's"],
)
def test_what_is_not_for_this_proxy_comes_to_nothing(unserved):
    assert want(unserved, piece(ready("10.1.0.1"))) == NOTHING


def test_a_service_that_names_this_proxy_is_served():
    assert servers(want(service(labels={"service.kubernetes.io/service-proxy-name": "kube-router"})))


def test_affinity_is_persistence_with_a_mask_of_one_client():
    desired = want(service(ips=("10.233.0.3", "fd00:233::3"), affinity_timeout=600))
    values = {key.family: value for key, value in desired.state.items() if isinstance(key, VirtualServerKey)}
    assert values == {4: VirtualServer("rr", 1, 600, 32), 6: VirtualServer("rr", 1, 600, 128)}


FLAGS = "kube-router.io/service.schedflags"
SCHEDULER = "kube-router.io/service.scheduler"


@pytest.mark.parametrize(
    ("annotations", "affinity", "value", "told"),
    [
        ({}, 0, VirtualServer("rr"), []),
        *(({SCHEDULER: name}, 0, VirtualServer(name), []) for name in ("rr", "lc", "dh", "sh", "mh")),
        ({SCHEDULER: "mh", FLAGS: "flag-1, flag-2"}, 0, VirtualServer("mh", 0x18), []),
        ({SCHEDULER: "mh", FLAGS: "flag-3,flag-1"}, 60, VirtualServer("mh", 0x29, 60), []),
        ({SCHEDULER: "sh", FLAGS: "flag-1"}, 0, VirtualServer("sh"), ["SchedulerFlagsIgnored"]),
        ({FLAGS: "flag-1"}, 0, VirtualServer("rr"), ["SchedulerFlagsIgnored"]),
    ],
)
def test_schedulers_and_their_flags(annotations, affinity, value, told):
    desired = want(service(annotations=annotations, affinity_timeout=affinity))
    assert desired.state[VirtualServerKey("10.233.0.3", 17, 53, family=4)] == value
    assert [note.reason for note in desired.notes] == told


@pytest.mark.parametrize(("scheduler", "flags"), [("rr", 0), ("lc", 0), ("dh", 0), ("sh", 0x8), ("mh", 0x8)])
def test_schedulers_that_can_fall_back_do_where_backends_drain(scheduler, flags):
    desired = want(service(annotations={SCHEDULER: scheduler}), options=replace(OPTIONS, ipvs_graceful_termination=True))
    assert desired.state[VirtualServerKey("10.233.0.3", 17, 53, family=4)] == VirtualServer(scheduler, flags)


def test_what_was_refused_of_the_proxys_annotations_is_told():
    refused = Rejected(SCHEDULER, "wlc", "not a scheduler that is offered", "write one of rr", held=False)
    others = Rejected("kube-router.io/service.advertise.clusterip", "x", "neither true nor false", "write true", held=False)
    assert [note.reason for note in want(service(rejected=(refused, others))).notes] == ["BadAnnotation"]


def test_load_balancers_that_stay_outside_are_no_business_of_ours():
    assert want(service(ingress=(Ingress("203.0.113.1", "Proxy"),))).notes == ()


def test_a_disabled_family_is_left_out():
    port = ServicePort("dns", "UDP", 53, node_port=30053)
    desired = want(service(port, ips=("fd00:233::3", "10.233.0.3")), piece(ready("fd00:65::7")), around=ONLY_IPV4)
    assert servers(desired) == {("10.233.0.3", 17, 53), (NODE4, 17, 30053)}


def test_a_vip_that_is_the_nodes_own_address_gets_no_dummy_address():
    desired = want(service(ips=(NODE4,)))
    assert servers(desired) == {(NODE4, 17, 53)}
    assert not [key for key in desired.state if isinstance(key, AddressKey)]


def test_without_a_node_address_cluster_ips_are_served_without_source_and_node_ports_not():
    nowhere = Surroundings(name="node1", primary={4: ""}, sources={4: ""}, node_ports={4: ()})
    desired = want(service(ServicePort("dns", "UDP", 53, node_port=30053)), around=nowhere)
    assert servers(desired) == {("10.233.0.3", 17, 53)}
    assert desired.state[AddressKey("kube-dummy-if", "10.233.0.3/32")] == Address(source="")


def test_of_two_services_with_one_address_and_port_the_older_has_it_and_the_younger_is_told():
    older = Service(Name("z", "old"), created="2024", cluster_ips=("10.233.0.3",), ports=(ServicePort("x", "UDP", 53, 30053),))
    younger = service(ServicePort("dns", "UDP", 53, 30053), ServicePort("metrics", "TCP", 9153))
    desired = want(younger, piece(ready("10.1.0.1")), rivals=(older,))
    assert servers(desired) == {("10.233.0.3", 6, 9153)}
    assert {note.message for note in desired.notes} == {
        "10.233.0.3 port 53/UDP belongs to the older Service z/old; choose another for this one",
        "node port 30053/UDP belongs to the older Service z/old; choose another for this one",
    }
    assert {note.reason for note in desired.notes} == {"PortTaken"}
    assert servers(want(older, rivals=(younger,))) == {("10.233.0.3", 17, 53), (NODE4, 17, 30053)}


def test_a_rival_that_this_proxy_does_not_serve_takes_nothing():
    headless = Service(
        Name("z", "old"),
        created="2024",
        cluster_ips=("10.233.0.3",),
        ports=(ServicePort("x", "UDP", 53),),
        labels={"service.kubernetes.io/headless": ""},
    )
    assert servers(want(service(), rivals=(headless,))) == {("10.233.0.3", 17, 53)}


def test_equal_services_come_to_equal_state_whatever_the_order_of_their_slices():
    one, two = piece(ready("10.1.0.1"), ready("10.1.0.2")), piece(ending("10.1.0.1"), ready("10.1.0.3"), name="dns-2")
    assert want(service(), one, two) == want(service(), two, one)


def test_claims_are_every_address_and_port_and_the_node_ports():
    port = ServicePort("dns", "UDP", 53, node_port=30053)
    claims = list(service(port, external_ips=("203.0.113.1",), ingress=(Ingress("203.0.113.2"),)).claims())
    assert claims == [
        Claim("10.233.0.3", "UDP", 53),
        Claim("203.0.113.1", "UDP", 53),
        Claim("203.0.113.2", "UDP", 53),
        Claim("", "UDP", 30053),
    ]


def test_the_state_of_a_service_names_only_keys_of_the_proxy():
    from kube_router.plan.ownership import PROXY, owner

    keys: list[Key] = list(want(service(ServicePort("dns", "UDP", 53, 30053)), piece(ready("10.1.0.1"))).state)
    assert {owner(key) for key in keys} == {PROXY}
