"""Which backends clients get: readiness, traffic policies, topology hints, and how much work choosing them is."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from kube_router.codec.objects import decode_item
from kube_router.desired.proxy.topology import preferred
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Kind, Name, Node, ServicePort
from kube_router.model.state.ipvs import DestinationKey
from kube_router.model.state.listeners import HealthPort, HealthPortKey
from tests.proxy_services import (
    BOTH,
    IPV4,
    IPV6,
    NODE1,
    WEB,
    Facts,
    by_server,
    dummy_addresses,
    ending,
    entries,
    everywhere_reachable,
    naming,
    on,
    piece,
    service,
    wants,
)

of_each_family = pytest.mark.parametrize("facts", BOTH, ids=["ipv4", "ipv6"])


def decoded(kind: Kind, **fields: Any) -> Any:
    """An object as the API server sends it; no fault is tolerated."""
    metadata = {"namespace": "shop", "name": "web", "uid": "u", **fields.pop("metadata", {})}
    found = decode_item(kind, json.dumps({"metadata": metadata, **fields}).encode())
    assert not found.faults
    return found.object


def slice_of(*endpoints: dict[str, Any], ports: list[dict[str, Any]] | None = None, family: int = 4) -> Any:
    return decoded(
        Kind.ENDPOINT_SLICE,
        metadata={"name": f"web-{family}", "labels": {"kubernetes.io/service-name": "web"}},
        addressType=f"IPv{family}",
        endpoints=list(endpoints),
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
    )


# -- conditions -------------------------------------------------------------------------------------------------------


@of_each_family
@pytest.mark.parametrize(
    ("conditions", "served"),
    [
        (None, True),
        ({}, True),
        ({"ready": None, "serving": None, "terminating": None}, True),
        ({"ready": True}, True),
        ({"serving": True}, True),
        ({"ready": True, "serving": False}, True),  # publishNotReadyAddresses
        ({"ready": True, "serving": False, "terminating": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "terminating": True}, True),
    ],
)
def test_b04_absent_conditions_are_read_as_the_api_says(facts: Facts, conditions: Any, served: bool) -> None:
    endpoint = {"addresses": [facts.here], **({} if conditions is None else {"conditions": conditions})}
    desired = wants(service(), slice_of(endpoint, family=facts.family))
    assert by_server(desired.state)[facts.cluster, 80] == ({facts.here} if served else set())


@of_each_family
def test_b03_what_terminates_gets_no_new_clients_while_something_is_ready(facts: Facts) -> None:
    both = piece(on("node2", facts.there), ending("node1", facts.here))
    assert by_server(wants(service(), both).state)[facts.cluster, 80] == {facts.there}
    last = piece(ending("node2", facts.there), ending("node1", facts.here))
    assert by_server(wants(service(), last).state)[facts.cluster, 80] == {facts.there, facts.here}


def test_b23_an_address_in_another_spelling_is_the_same_backend() -> None:
    spelled = slice_of({"addresses": ["FD00:0244:0001:0000::5"]}, {"addresses": ["fd00:244:1::5"]}, family=6)
    desired = wants(service(), spelled)
    assert by_server(desired.state)[IPV6.cluster, 80] == {"fd00:244:1::5"}


def test_a07_what_the_api_leaves_out_stops_nobody() -> None:
    bare = decoded(
        Kind.SERVICE,
        spec={
            "clusterIP": IPV4.cluster,
            "sessionAffinity": "ClientIP",
            "ports": [{"port": 80}],
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
        },
        status={},
    )
    nameless = slice_of({"addresses": [IPV4.here]}, {"addresses": []}, {}, ports=[{}, {"port": 8080}, {"name": "x", "port": None}])
    desired = wants(bare, nameless)
    assert by_server(desired.state) == {(IPV4.cluster, 80): {IPV4.here}}
    assert wants(bare, decoded(Kind.ENDPOINT_SLICE, metadata={"labels": {"kubernetes.io/service-name": "web"}})).notes == ()


@of_each_family
def test_u021_pods_of_the_host_network_are_backends_like_others(facts: Facts) -> None:
    desired = wants(everywhere_reachable(), piece(on("node2", facts.other_node), on("node1", facts.node)))
    assert {server for server, found in by_server(desired.state).items() if found == {facts.other_node, facts.node}} == {
        (facts.cluster, 80),
        (facts.external, 80),
        (facts.balanced, 80),
        (facts.node, 30080),
    }


# -- traffic policies -------------------------------------------------------------------------------------------------

OUTSIDE = "outside"
NONE: set[str] = set()


@of_each_family
@pytest.mark.parametrize(
    ("fields", "where", "cluster", "outside"),
    [
        ({}, "both", "both", "both"),
        ({}, "there", "there", "there"),
        ({}, "none", "none", "none"),
        ({"internal_policy": "Local"}, "both", "here", "both"),
        ({"internal_policy": "Local"}, "there", "none", "there"),
        ({"external_policy": "Local"}, "both", "both", "here"),
        ({"external_policy": "Local"}, "there", "there", "none"),
        ({"external_policy": "Local", "internal_policy": "Local"}, "both", "here", "here"),
        ({"external_policy": "Local", "internal_policy": "Local"}, "there", "none", "none"),
        ({"annotations": {"kube-router.io/service.local": "true"}}, "both", "both", "here"),
        ({"annotations": {"kube-router.io/service.local": "true"}}, "there", "there", "none"),
        ({"annotations": {"kube-router.io/service.local": "true"}, "internal_policy": "Local"}, "there", "there", "none"),
        ({"external_policy": "Local"}, "ending here", "there", "here"),
        ({"internal_policy": "Local"}, "ending here", "here", "there"),
        ({"external_policy": "Local"}, "ending there", "here", "here"),
        ({"external_policy": "Local"}, "all ending", "both", "here"),
    ],
)
def test_u009_each_policy_holds_for_its_own_addresses_only(facts: Facts, fields, where, cluster, outside) -> None:
    here, there = on("node1", facts.here), on("node2", facts.there)
    pods = {
        "both": (here, there),
        "there": (there,),
        "none": (),
        "ending here": (ending("node1", facts.here), there),
        "ending there": (here, ending("node2", facts.there)),
        "all ending": (ending("node1", facts.here), ending("node2", facts.there)),
    }[where]
    addresses = {"both": {facts.here, facts.there}, "here": {facts.here}, "there": {facts.there}, "none": NONE}
    desired = wants(everywhere_reachable(**fields), piece(*pods))
    found = by_server(desired.state)
    assert found[facts.cluster, 80] == addresses[cluster]
    for server in ((facts.external, 80), (facts.balanced, 80), (facts.node, 30080)):
        assert found[server] == addresses[outside]


@of_each_family
def test_b11_without_a_local_endpoint_the_address_stays_and_its_empty_service_refuses(facts: Facts) -> None:
    desired = wants(everywhere_reachable(external_policy="Local", internal_policy="Local"), piece(on("node2", facts.there)))
    for address, port in ((facts.cluster, 80), (facts.external, 80), (facts.balanced, 80), (facts.node, 30080)):
        assert by_server(desired.state)[address, port] == set()
        assert f"{address},tcp:{port}" in entries(desired.state, "kube-router-ipvs-services"), "let in, to be refused by IPVS"
    assert {facts.cluster, facts.external, facts.balanced} <= dummy_addresses(desired.state)
    assert [note.reason for note in desired.notes] == ["NoLocalEndpoint"] * 2, "one for each policy, however many addresses there are"
    assert all(note.quiet for note in desired.notes), "nothing is wrong"


@of_each_family
def test_u010_after_an_edit_to_local_nothing_keeps_the_address_but_what_serves_it(facts: Facts) -> None:
    """The cluster's own clients are served by mark (test_proxy_marked.py); here: nothing is left over of policy Cluster."""
    pods = piece(on("node2", facts.there))
    before = wants(service(external_ips=(facts.external,)), pods)
    after = wants(service(external_ips=(facts.external,), external_policy="Local"), pods)
    assert by_server(before.state)[facts.external, 80] == {facts.there}
    assert by_server(after.state)[facts.external, 80] == set()
    left = set(naming(before.state, facts.external)) - set(naming(after.state, facts.external))
    assert {type(key) for key in left} == {DestinationKey}
    assert (facts.external in dummy_addresses(after.state)) == ((facts.external, 80) in by_server(after.state))


def test_an_endpoint_without_a_node_is_where_its_address_is() -> None:
    pods = piece(Endpoint((IPV4.node,)), Endpoint((IPV4.other_node,)))
    desired = wants(service(internal_policy="Local"), pods)
    assert by_server(desired.state)[IPV4.cluster, 80] == {IPV4.node}


# -- hints ------------------------------------------------------------------------------------------------------------


def hinted(name: str, zones: str = "", nodes: str = "") -> tuple[str, Endpoint]:
    return name, Endpoint((IPV4.here,), hint_zones=tuple(zones.split()), hint_nodes=tuple(nodes.split()))


@pytest.mark.parametrize(
    ("ready", "zone", "expected", "ignored"),
    [
        ([hinted("a"), hinted("b")], "z1", "a b", ""),
        ([hinted("a", "z1"), hinted("b", "z2")], "z1", "a", ""),
        ([hinted("a", "z1"), hinted("b", "z2 z1")], "z1", "a b", ""),
        ([hinted("a", "z1"), hinted("b", "z2")], "z3", "a b", "none is meant for zone z3"),
        ([hinted("a", "z1"), hinted("b", "z2")], "", "a b", "no label topology.kubernetes.io/zone"),
        ([hinted("a", "z1"), hinted("b")], "z1", "a b", "1 of 2 ready endpoints have no hint of a zone"),
        ([hinted("a", "z1", "node1"), hinted("b", "z1", "node2")], "z1", "a", ""),
        ([hinted("a", "z1", "node3"), hinted("b", "z2", "node2")], "z1", "a", ""),
        ([hinted("a", "z1", "node1"), hinted("b", "z1")], "z1", "a b", ""),
        ([hinted("a", "", "node1"), hinted("b", "", "node2")], "", "a", ""),
        ([hinted("a", "", "node3"), hinted("b", "", "node2")], "z1", "a b", "none is meant for node node1"),
        ([hinted("a", "", "node1"), hinted("b")], "z1", "a b", "1 of 2 ready endpoints have no hint of a node"),
        ([hinted("a", "z2", "node3"), hinted("b", "z2", "node2")], "z1", "a b", "none is meant for zone z1"),
    ],
)
def test_hints_of_nodes_then_of_zones_and_only_if_all_have_them_and_one_is_ours(ready, zone, expected, ignored) -> None:
    chosen, reason = preferred(ready, "node1", zone)
    assert " ".join(chosen) == expected
    assert bool(ignored) == bool(reason)
    assert ignored in reason


ZONED = Node(NODE1.name, addresses=NODE1.addresses, pod_cidrs=NODE1.pod_cidrs, labels={"topology.kubernetes.io/zone": "z1"})


@of_each_family
def test_hints_count_among_ready_endpoints_of_the_family_and_under_policy_cluster(facts: Facts) -> None:
    near, far = on("node2", facts.there, hint_zones=("z1",)), on("node1", facts.here, hint_zones=("z2",))
    unready = Endpoint(("10.244.9.9" if facts.family == 4 else "fd00:244:9::9",), ready=False, serving=True, terminating=True)
    other_family = on("node1", IPV6.here if facts.family == 4 else IPV4.here)
    slices = piece(near, far, unready), piece(other_family, name="web-2")
    found = by_server(wants(everywhere_reachable(external_policy="Local"), ZONED, *slices).state)
    assert found[facts.cluster, 80] == {facts.there}, "the other zone's is left to that zone"
    assert found[facts.node, 30080] == {facts.here}, "Local has no use for hints"
    endings = piece(*(ending(e.node_name, *e.addresses, hint_zones=e.hint_zones) for e in (near, far)))
    assert by_server(wants(service(), ZONED, endings).state)[facts.cluster, 80] == {facts.here, facts.there}, (
        "the last resort is all of them"
    )


def test_why_hints_were_not_followed_is_in_the_log() -> None:
    desired = wants(service(), piece(on("node1", IPV4.here, hint_zones=("z1",)), on("node2", IPV4.there, hint_zones=("z1",))))
    assert [(note.reason, note.quiet) for note in desired.notes] == [("HintsIgnored", True)]


# -- health check node ports ------------------------------------------------------------------------------------------


def health(desired: Any) -> dict[int, HealthPort]:
    return {key.port: value for key, value in desired.state.items() if isinstance(key, HealthPortKey)}


def test_u021_the_health_port_counts_local_ready_endpoints_and_goes_with_policy_local() -> None:
    pods = (
        piece(on("node1", IPV4.here), on("node1", "10.244.1.6"), ending("node1", "10.244.1.7"), on("node2", IPV4.there)),
        piece(on("node1", IPV6.here), name="web-2"),
    )
    fields = {"health_check_node_port": 32000, "external_policy": "Local"}
    assert health(wants(everywhere_reachable(**fields), *pods)) == {32000: HealthPort("shop", "web", 2)}
    assert health(wants(everywhere_reachable(**fields), piece(on("node2", IPV4.there)))) == {32000: HealthPort("shop", "web", 0)}
    assert health(wants(everywhere_reachable(**{**fields, "external_policy": "Cluster"}), *pods)) == {}
    assert health(wants(everywhere_reachable(**{**fields, "type": "NodePort"}), *pods)) == {}
    ports = tuple(ServicePort(f"p{n}", "TCP", n) for n in (80, 443))
    several = everywhere_reachable(ports=ports, **fields)
    one_pod = piece(on("node1", IPV4.here))
    assert health(wants(several, one_pod)) == {32000: HealthPort("shop", "web", 1)}, "counted by Service, not by port"


# -- cost -------------------------------------------------------------------------------------------------------------


def calls_for(count: int) -> int:
    """Python and C calls while a Service with so many endpoints is judged."""
    pods = EndpointSlice(
        Name("shop", "web-1"),
        WEB,
        tuple(on(f"node{n % 7}", f"10.244.{n // 250}.{n % 250 + 1}") for n in range(count)),
        (EndpointPort("http", "TCP", 8080),),
    )
    objects = service(facts=[IPV4]), pods
    seen = 0

    def count_calls(_frame: object, event: str, _argument: object) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    sys.setprofile(count_calls)
    try:
        wants(*objects)
    finally:
        sys.setprofile(None)
    return seen


def test_d02_work_grows_with_the_endpoints_and_no_faster() -> None:
    hundred, thousand = calls_for(100), calls_for(1000)
    each = (thousand - hundred) / 900
    assert each < 6, "calls for an endpoint"
    assert calls_for(2000) - thousand < 1.2 * each * 1000
