"""EndpointSlices as the lab's controller manager makes them."""

from __future__ import annotations

from typing import Any

import pytest

from lab.slices import endpoint_slices

Json = dict[str, Any]


def make_service(*ports: Json, **spec: Any) -> Json:
    whole = {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": list(ports), **spec}
    return {"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": whole}


def make_pod(name: str, *addresses: str, ready: bool = True, metadata: Json | None = None, **status: Any) -> Json:
    named = [{"name": "http", "containerPort": 8000 + len(name), "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": "web"}, **(metadata or {})},
        "spec": {"nodeName": "node1", "containers": [{"ports": named}]},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": address} for address in addresses],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            **status,
        },
    }


HTTP = {"port": 80, "protocol": "TCP", "targetPort": 8080, "name": "h"}


def told(slices: list[Json]) -> list[tuple[str, list[str], list[int]]]:
    return [(one["addressType"], [e["addresses"][0] for e in one["endpoints"]], [p["port"] for p in one["ports"]]) for one in slices]


def test_a_slice_holds_the_selected_pods_with_addresses_by_name() -> None:
    other = make_pod("x", "10.1.0.9", metadata={"labels": {"app": "db"}})
    pods = [make_pod("b", "10.1.0.2"), make_pod("a", "10.1.0.1"), make_pod("pending"), other]
    pods.append(make_pod("done", "10.1.0.8", phase="Succeeded"))
    assert told(endpoint_slices(make_service(HTTP), pods, {})) == [("IPv4", ["10.1.0.1", "10.1.0.2"], [8080])]


def test_two_families_have_a_slice_each() -> None:
    service = make_service(HTTP, ipFamilies=["IPv4", "IPv6"])
    slices = endpoint_slices(service, [make_pod("a", "10.1.0.1", "fd00::1")], {})
    assert told(slices) == [("IPv4", ["10.1.0.1"], [8080]), ("IPv6", ["fd00::1"], [8080])]
    assert len({one["metadata"]["name"] for one in slices}) == 2


def test_named_ports_are_resolved_for_each_pod() -> None:
    service = make_service({"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": "absent"})
    slices = endpoint_slices(service, [make_pod("a", "10.1.0.1"), make_pod("bb", "10.1.0.2")], {})
    assert told(slices) == [("IPv4", ["10.1.0.1"], [8001]), ("IPv4", ["10.1.0.2"], [8002])]


def test_a_service_without_pods_has_one_empty_slice() -> None:
    assert told(endpoint_slices(make_service(HTTP), [], {})) == [("IPv4", [], [])]


@pytest.mark.parametrize("spec", [{"selector": {}}, {"selector": None}, {"type": "ExternalName"}])
def test_a_service_that_selects_nothing_has_no_slice(spec: Json) -> None:
    assert endpoint_slices(make_service(HTTP, **spec), [make_pod("a", "10.1.0.1")], {}) == []


@pytest.mark.parametrize(
    ("ready", "metadata", "spec", "conditions"),
    [
        (True, {}, {}, (True, True, False)),
        (False, {}, {}, (False, False, False)),
        (True, {"deletionTimestamp": "now"}, {}, (False, True, True)),
        (False, {}, {"publishNotReadyAddresses": True}, (True, True, False)),
        (True, {"deletionTimestamp": "now"}, {"publishNotReadyAddresses": True}, (True, True, True)),
    ],
)
def test_the_conditions_say_how_a_pod_is(ready: bool, metadata: Json, spec: Json, conditions: tuple[bool, ...]) -> None:
    pod = make_pod("a", "10.1.0.1", ready=ready, metadata=metadata)
    (endpoint,) = endpoint_slices(make_service(HTTP, **spec), [pod], {})[0]["endpoints"]
    assert tuple(endpoint["conditions"][name] for name in ("ready", "serving", "terminating")) == conditions


def test_more_than_a_hundred_endpoints_are_cut_into_slices() -> None:
    pods = [make_pod(f"p{number:03}", f"10.1.{number // 200}.{number % 200}") for number in range(250)]
    slices = endpoint_slices(make_service(HTTP), pods, {})
    assert [len(one["endpoints"]) for one in slices] == [100, 100, 50]
    assert len({one["metadata"]["name"] for one in slices}) == 3


def test_labels_zone_and_owner_are_told() -> None:
    slices = endpoint_slices(make_service(HTTP, clusterIP="None"), [make_pod("a", "10.1.0.1")], {"node1": "z1"})
    labels = slices[0]["metadata"]["labels"]
    assert labels["kubernetes.io/service-name"] == "web"
    assert "service.kubernetes.io/headless" in labels
    assert slices[0]["endpoints"][0]["zone"] == "z1"
    assert slices[0]["metadata"]["ownerReferences"][0]["name"] == "web"


ZONES, NODES = {"forZones": [{"name": "z1"}]}, {"forNodes": [{"name": "node1"}]}


@pytest.mark.parametrize(
    ("wish", "zone", "ready", "hints"),
    [
        (None, "z1", True, None),
        ("PreferClose", "z1", True, ZONES),
        ("PreferSameZone", "z1", True, ZONES),
        ("PreferSameNode", "z1", True, ZONES | NODES),
        ("PreferSameNode", "", True, NODES),
        ("PreferClose", "", True, None),
        ("PreferClose", "z1", False, None),  # nobody is sent to an endpoint that is not ready
    ],
)
def test_hints_say_for_whom_a_ready_endpoint_is_meant(wish: str | None, zone: str, ready: bool, hints: Json | None) -> None:
    wished = {"trafficDistribution": wish} if wish else {}
    pods, zones = [make_pod("a", "10.1.0.1", ready=ready)], {"node1": zone} if zone else {}
    (endpoint,) = endpoint_slices(make_service(HTTP, **wished), pods, zones)[0]["endpoints"]
    assert endpoint.get("hints") == hints
