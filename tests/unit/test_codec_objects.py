"""API JSON to model objects: defaults, canonical forms, and what bad input costs (nothing else)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube_router.codec.objects import Decoded, Fault, Malformed, decode_item, decode_page, decode_refusal, decode_signal
from kube_router.model.objects import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Ingress,
    Kind,
    Name,
    Namespace,
    Node,
    Pod,
    Ref,
    Service,
    ServicePort,
)


def item(kind: Kind, body: dict[str, Any], name: str = "a", namespace: str = "") -> Decoded:
    metadata = {"name": name, "namespace": namespace, "uid": "u", "resourceVersion": "7"} | body.pop("metadata", {})
    return decode_item(kind, json.dumps({"metadata": metadata, **body}).encode())


def good(kind: Kind, body: dict[str, Any], **names: str) -> Any:
    decoded = item(kind, body, **names)
    assert decoded.faults == ()
    return decoded.object


def fields(decoded: Decoded) -> list[tuple[str, str]]:
    return [(fault.field, fault.value) for fault in decoded.faults]


# -- Node, Namespace ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "names"),
    [
        ({}, False),
        ({"kube-router.io/peers": " \n"}, False),
        ({"kube-router.io/peer.asns": "65001"}, False),
        ({"kube-router.io/peer.ips": "192.168.50.1"}, True),
        ({"kube-router.io/peers": "- remoteip: 192.168.50.1"}, True),
    ],
)
def test_a_node_tells_whether_it_names_external_peers(annotations: dict[str, str], names: bool) -> None:
    assert good(Kind.NODE, {"metadata": {"annotations": annotations}}).names_peers is names


def test_a_node_lists_internal_addresses_before_external_ones_and_no_host_names() -> None:
    node = good(
        Kind.NODE,
        {
            "metadata": {
                "creationTimestamp": "2025-01-02T03:04:05Z",
                "labels": {"zone": "a"},
                "annotations": {"kube-router.io/node.asn": "64512"},
            },
            "spec": {
                "podCIDR": "10.1.0.0/24",
                "podCIDRs": ["10.1.0.0/24", "FD00:1::/64"],
                "providerID": "aws:///i-1",
                "unschedulable": True,
            },
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node-a"},
                    {"type": "ExternalIP", "address": "203.0.113.1"},
                    {"type": "InternalIP", "address": "192.168.0.1"},
                    {"type": "InternalIP", "address": "FD00::0:1"},
                ]
            },
        },
    )
    assert node == Node(
        name=Name("", "a"),
        uid="u",
        labels={"zone": "a"},
        annotations={"kube-router.io/node.asn": "64512"},
        pod_cidrs=("10.1.0.0/24", "fd00:1::/64"),
        addresses=("192.168.0.1", "fd00::1", "203.0.113.1"),
        provider_id="aws:///i-1",
        unschedulable=True,
        created="2025-01-02T03:04:05Z",
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"podCIDR": "10.1.0.0/24"}, ("10.1.0.0/24",)),
        ({"podCIDR": "10.1.0.0/24", "podCIDRs": None}, ("10.1.0.0/24",)),
        ({"podCIDRs": ["10.1.0.7/24"]}, ("10.1.0.0/24",)),
        ({"podCIDRs": ["10.1.0.0/24", "10.1.0.0/24"]}, ("10.1.0.0/24",)),
        ({}, ()),
    ],
)
def test_pod_ranges_fall_back_to_the_single_field(spec: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert good(Kind.NODE, {"spec": spec}).pod_cidrs == expected


def test_an_odd_node_costs_only_its_odd_values() -> None:
    decoded = item(
        Kind.NODE,
        {
            "spec": {"podCIDRs": ["10.1.0.0/99", "10.2.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "nowhere"}, {"type": "InternalIP", "address": "10.0.0.1"}]},
        },
    )
    assert isinstance(decoded.object, Node)
    assert decoded.object.pod_cidrs == ("10.2.0.0/24",)
    assert decoded.object.addresses == ("10.0.0.1",)
    assert fields(decoded) == [("spec.podCIDRs[0]", '"10.1.0.0/99"'), ("status.addresses[0].address", '"nowhere"')]
    assert str(decoded.faults[0]) == 'Node a: spec.podCIDRs[0] = "10.1.0.0/99": not a CIDR; left out'


@pytest.mark.parametrize("body", [{}, {"spec": None, "status": None}, {"spec": {}, "status": {"addresses": None}}])
def test_a_node_without_anything_is_a_node(body: dict[str, Any]) -> None:
    assert good(Kind.NODE, body) == Node(name=Name("", "a"), uid="u")


@pytest.mark.parametrize("kind", [Kind.NODE, Kind.SERVICE])
def test_annotations_of_other_tools_make_no_difference(kind: Kind) -> None:
    leader = {"control-plane.alpha.kubernetes.io/leader": "{}", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    assert good(kind, {"metadata": {"annotations": leader}}) == good(kind, {})


def test_a_namespace_has_labels() -> None:
    assert good(Kind.NAMESPACE, {"metadata": {"labels": {"a": "b"}}}) == Namespace(name=Name("", "a"), labels={"a": "b"})


# -- Pod ----------------------------------------------------------------------------------------------------------------


def test_named_ports_are_those_of_containers_and_of_init_containers_that_go_on_running() -> None:
    pod = good(
        Kind.POD,
        {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "nodeName": "node-a",
                "hostNetwork": True,
                "containers": [
                    {"ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]},
                    {"ports": [{"containerPort": 53, "name": "dns", "protocol": "UDP"}]},
                ],
                "initContainers": [
                    {"ports": [{"containerPort": 1, "name": "once"}]},
                    {"restartPolicy": "Always", "ports": [{"containerPort": 9000, "name": "proxy", "protocol": "SCTP"}]},
                ],
            },
            "status": {
                "phase": "Running",
                "hostIP": "192.168.0.1",
                "podIP": "10.1.0.2",
                "podIPs": [{"ip": "10.1.0.2"}, {"ip": "FD00::2"}],
            },
        },
        namespace="ns",
    )
    assert pod == Pod(
        name=Name("ns", "a"),
        uid="u",
        labels={"app": "web"},
        node_name="node-a",
        phase="Running",
        host_network=True,
        ips=("10.1.0.2", "fd00::2"),
        host_ip="192.168.0.1",
        ports=(ContainerPort("http", "TCP", 80), ContainerPort("dns", "UDP", 53), ContainerPort("proxy", "SCTP", 9000)),
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"podIP": "10.0.0.1"}, ("10.0.0.1",)),
        ({"podIP": "10.0.0.1", "podIPs": []}, ("10.0.0.1",)),
        ({"podIPs": [{"ip": "fd00::1"}, {"ip": "10.0.0.1"}]}, ("fd00::1", "10.0.0.1")),
        ({}, ()),
        (None, ()),
    ],
)
def test_pod_addresses_fall_back_to_the_single_field(status: Any, expected: tuple[str, ...]) -> None:
    assert good(Kind.POD, {"status": status}).ips == expected


def test_pods_with_equal_labels_share_one_mapping() -> None:
    first, second = (good(Kind.POD, {"metadata": {"labels": {"app": "x", "tier": "y"}}}, name=name) for name in "ab")
    assert first.labels is second.labels


# -- Service ------------------------------------------------------------------------------------------------------------


def test_a_service_gets_the_defaults_of_the_api() -> None:
    service = good(Kind.SERVICE, {"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}}, namespace="ns")
    assert service == Service(
        name=Name("ns", "a"), uid="u", cluster_ips=("10.96.0.10",), ports=(ServicePort(name="", protocol="TCP", port=80),)
    )
    assert (service.type, service.internal_policy, service.external_policy, service.affinity_timeout) == (
        "ClusterIP",
        "Cluster",
        "Cluster",
        0,
    )


def test_a_full_service_is_read_in_full() -> None:
    service = good(
        Kind.SERVICE,
        {
            "metadata": {
                "creationTimestamp": "2025-01-02T03:04:05Z",
                "labels": {"l": "1"},
                "annotations": {"kube-router.io/service.local": "true", "n": "2"},
            },
            "spec": {
                "type": "LoadBalancer",
                "clusterIP": "10.96.0.1",
                "clusterIPs": ["10.96.0.1", "FD00::96:1"],
                "externalIPs": ["203.0.113.5"],
                "ports": [
                    {"name": "web", "port": 80, "protocol": "TCP", "nodePort": 30080, "targetPort": "http"},
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                ],
                "sessionAffinity": "ClientIP",
                "internalTrafficPolicy": "Local",
                "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 32000,
                "loadBalancerClass": "example.com/lb",
                "loadBalancerSourceRanges": [" 198.51.100.0/24 "],
            },
            "status": {
                "loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"hostname": "lb.example.com"}, {"ip": "fd00::9", "ipMode": "Proxy"}]}
            },
        },
        namespace="ns",
    )
    assert service == Service(
        name=Name("ns", "a"),
        uid="u",
        created="2025-01-02T03:04:05Z",
        labels={"l": "1"},
        annotations={"kube-router.io/service.local": "true"},
        type="LoadBalancer",
        cluster_ips=("10.96.0.1", "fd00::96:1"),
        external_ips=("203.0.113.5",),
        ingress=(Ingress("203.0.113.9"), Ingress("fd00::9", "Proxy")),
        ports=(ServicePort("web", "TCP", 80, 30080), ServicePort("dns", "UDP", 53)),
        affinity_timeout=10800,
        internal_policy="Local",
        external_policy="Local",
        health_check_node_port=32000,
        load_balancer_class="example.com/lb",
        source_ranges=("198.51.100.0/24",),
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None"},
        {"clusterIP": "None", "clusterIPs": ["None"]},
        {"type": "ExternalName", "externalName": "example.com"},
        {"type": "ExternalName", "clusterIP": "10.96.0.1"},
        {"clusterIP": ""},
        {},
    ],
)
def test_headless_and_external_name_services_have_no_cluster_ip(spec: dict[str, Any]) -> None:
    assert good(Kind.SERVICE, {"spec": spec}).cluster_ips == ()


@pytest.mark.parametrize(
    ("spec", "expected", "faults"),
    [
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, 0, 0),
        ({"sessionAffinity": "ClientIP"}, 10800, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 10800, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}, 5, 0),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}, 10800, 1),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}, 10800, 1),
        ({"sessionAffinity": "Sideways"}, 0, 1),
    ],
)
def test_affinity_lasts_three_hours_unless_it_says_otherwise(spec: dict[str, Any], expected: int, faults: int) -> None:
    decoded = item(Kind.SERVICE, {"spec": spec})
    assert isinstance(decoded.object, Service)
    assert decoded.object.affinity_timeout == expected
    assert len(decoded.faults) == faults


def test_one_bad_external_address_or_port_costs_nothing_else() -> None:
    decoded = item(
        Kind.SERVICE,
        {
            "spec": {
                "clusterIP": "10.96.0.1",
                "externalIPs": ["203.0.113.5", "203.0.113.500"],
                "ports": [{"port": 0}, {"port": 80, "protocol": "ICMP"}, {"port": 81, "nodePort": 70000}],
            }
        },
    )
    assert isinstance(decoded.object, Service)
    assert decoded.object.external_ips == ("203.0.113.5",)
    assert decoded.object.ports == (ServicePort("", "TCP", 81),)
    assert fields(decoded) == [
        ("spec.externalIPs[1]", '"203.0.113.500"'),
        ("spec.ports[0].port", "0"),
        ("spec.ports[1].protocol", '"ICMP"'),
        ("spec.ports[2].nodePort", "70000"),
    ]


def test_source_ranges_that_are_all_wrong_close_the_load_balancer_address_instead_of_opening_it() -> None:
    decoded = item(
        Kind.SERVICE,
        {
            "spec": {"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": ["everyone"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}},
        },
    )
    assert isinstance(decoded.object, Service)
    assert (decoded.object.ingress, decoded.object.cluster_ips) == ((), ("10.96.0.1",))
    assert len(decoded.faults) == 2


# -- EndpointSlice ------------------------------------------------------------------------------------------------------


def test_a_slice_belongs_to_the_service_of_its_label() -> None:
    decoded = good(
        Kind.ENDPOINT_SLICE,
        {
            "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": ["10.1.0.2"],
                    "conditions": {"ready": False, "serving": True, "terminating": True},
                    "nodeName": "node-a",
                    "zone": "z1",
                    "hints": {"forZones": [{"name": "z1"}, {"name": "z2"}], "forNodes": [{"name": "node-a"}]},
                },
            ],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        },
        namespace="ns",
    )
    assert decoded == EndpointSlice(
        name=Name("ns", "a"),
        service=Name("ns", "web"),
        endpoints=(
            Endpoint(
                ("10.1.0.2",), ready=False, terminating=True, node_name="node-a", zone="z1", hint_zones=("z1", "z2"), hint_nodes=("node-a",)
            ),
        ),
        ports=(EndpointPort("http", "TCP", 8080),),
    )


@pytest.mark.parametrize("conditions", [None, {}, {"ready": None, "serving": None, "terminating": None}])
def test_absent_conditions_mean_ready_and_serving_and_not_terminating(conditions: Any) -> None:
    slice_ = good(Kind.ENDPOINT_SLICE, {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]})
    (endpoint,) = slice_.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)


def test_absent_port_names_are_empty_and_an_absent_number_means_all_ports() -> None:
    slice_ = good(Kind.ENDPOINT_SLICE, {"ports": [{"port": 80}, {"name": None, "port": None, "protocol": None}]})
    assert slice_.ports == (EndpointPort("", "TCP", 80), EndpointPort("", "TCP", 0))


def test_a_slice_of_host_names_has_no_endpoints_and_no_fault() -> None:
    slice_ = good(Kind.ENDPOINT_SLICE, {"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]})
    assert slice_.endpoints == ()


def test_an_endpoint_with_a_bad_address_goes_and_its_neighbours_stay() -> None:
    decoded = item(Kind.ENDPOINT_SLICE, {"endpoints": [{"addresses": ["x"]}, {"addresses": ["10.0.0.2"]}], "ports": [{"port": 99999}]})
    assert isinstance(decoded.object, EndpointSlice)
    assert [endpoint.addresses for endpoint in decoded.object.endpoints] == [("10.0.0.2",)]
    assert decoded.object.ports == ()
    assert fields(decoded) == [("endpoints[0].addresses[0]", '"x"'), ("ports[0].port", "99999")]


# -- what is not as promised ----------------------------------------------------------------------------------------------


def test_a_field_of_another_type_refuses_the_object_and_names_field_and_value() -> None:
    decoded = item(Kind.SERVICE, {"spec": {"ports": [{"port": 80}, {"port": "http"}]}}, namespace="ns")
    assert decoded == Decoded(
        ref=Ref(Kind.SERVICE, Name("ns", "a")),
        version="7",
        object=None,
        faults=(
            Fault(
                Ref(Kind.SERVICE, Name("ns", "a")),
                "spec.ports[1].port",
                '"http"',
                "Expected `int`, got `str`; the object is left as it was",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b'{"metadata": {}}', "metadata"),
        (b'{"metadata": {"name": ""}}', "metadata.name"),
        (b"{}", "$"),
        (b"[]", "$"),
        (b'{"metadata": {"name": "a"', "$"),
    ],
)
def test_an_object_without_a_readable_name_is_a_fault_without_a_name(raw: bytes, field: str) -> None:
    decoded = decode_item(Kind.POD, raw)
    assert decoded.object is None
    assert decoded.ref.name == Name("", "")
    assert [fault.field for fault in decoded.faults] == [field]


def test_an_object_with_text_that_is_not_utf_8_keeps_its_name() -> None:
    decoded = decode_item(Kind.POD, b'{"metadata": {"name": "a", "resourceVersion": "3", "labels": {"x": "\xff"}}}')
    assert (decoded.object, decoded.ref, decoded.version) == (None, Ref(Kind.POD, Name("", "a")), "3")
    assert [fault.message for fault in decoded.faults] == ["not UTF-8; the object is left as it was"]


# -- lists and watches ----------------------------------------------------------------------------------------------------


def test_a_bad_item_of_a_list_leaves_the_other_items() -> None:
    body = {
        "kind": "NamespaceList",
        "metadata": {"resourceVersion": "12", "continue": "token", "remainingItemCount": 3},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b", "labels": {"x": 1}}}, {"metadata": {"name": "c"}}],
    }
    page = decode_page(Kind.NAMESPACE, json.dumps(body).encode())
    assert (page.version, page.next, page.remaining) == ("12", "token", 3)
    assert [decoded.object and decoded.object.name.name for decoded in page.items] == ["a", None, "c"]
    assert [str(fault) for decoded in page.items for fault in decoded.faults] == [
        'Namespace b: metadata.labels = {"x": 1}: Expected `str`, got `int`; the object is left as it was'
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"items": []}',
        b'{"metadata": {}, "items": []}',
        b'{"metadata": {"resourceVersion": "1"}}',
        b'{"metadata": {"resourceVersion": "1"}, "items": [{"a"',
    ],
)
def test_a_body_that_is_no_whole_list_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode_page(Kind.POD, body)


def test_an_empty_list_may_be_null() -> None:
    assert decode_page(Kind.POD, b'{"metadata": {"resourceVersion": "1"}, "items": null}').items == ()


@pytest.mark.parametrize("type_", ["ADDED", "MODIFIED", "DELETED"])
def test_a_line_of_a_watch_has_an_object_and_its_version(type_: str) -> None:
    line = json.dumps({"type": type_, "object": {"metadata": {"name": "a", "resourceVersion": "9"}}}).encode()
    signal = decode_signal(Kind.NAMESPACE, line)
    assert (signal.type, signal.version) == (type_, "9")
    assert signal.decoded is not None
    assert signal.decoded.object == Namespace(name=Name("", "a"))


def test_a_bookmark_has_a_version_and_nothing_else() -> None:
    signal = decode_signal(
        Kind.POD, b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"77","creationTimestamp":null}}}'
    )
    assert (signal.type, signal.version, signal.decoded, signal.refusal) == ("BOOKMARK", "77", None, None)


def test_an_error_in_a_watch_has_a_code() -> None:
    signal = decode_signal(Kind.POD, b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}')
    assert signal.refusal is not None
    assert (signal.refusal.code, signal.refusal.message) == (410, "too old")


@pytest.mark.parametrize("line", [b"", b"{", b'{"type": "ADDED"}', b'{"type": "BOOKMARK", "object": 5}', b"null"])
def test_a_line_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        decode_signal(Kind.POD, line)


def test_a_line_of_a_type_from_the_future_has_no_content() -> None:
    signal = decode_signal(Kind.POD, b'{"type":"SPARKLED","object":{}}')
    assert (signal.version, signal.decoded, signal.refusal) == ("", None, None)


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        (b'{"code":429,"message":"slow down","details":{"retryAfterSeconds":3}}', 500, (429, "slow down", 3)),
        (b'{"reason":"Forbidden"}', 403, (403, "Forbidden", None)),
        (b"<html>\n <h1>502 Bad Gateway</h1>", 502, (502, "<html> <h1>502 Bad Gateway</h1>", None)),
        (b"\xff\xfe", 500, (500, "��", None)),
    ],
)
def test_a_refusal_says_why(body: bytes, code: int, expected: tuple[int, str, int | None]) -> None:
    refusal = decode_refusal(body, code=code)
    assert (refusal.code, refusal.message, refusal.retry_after) == expected
