"""Cluster IPs and node ports that the lab's API server gives out."""

from __future__ import annotations

from typing import Any

import pytest

from lab.allocate import ServiceAllocator
from lab.api.objects import Objects
from lab.api.problem import Problem
from lab.api.store import Store
from lab.manifests import service

Json = dict[str, Any]


@pytest.fixture
def objects() -> Objects:
    store = Store()
    ServiceAllocator(store, cidrs=("10.0.0.0/27", "fd00::/112"), node_ports=range(30000, 30004))
    return Objects(store)


def spec(objects: Objects, thing: Json) -> Json:
    return dict(objects.apply(thing)["spec"])


def refused(objects: Objects, thing: Json) -> int:
    with pytest.raises(Problem) as caught:
        objects.apply(thing)
    return caught.value.code


@pytest.mark.parametrize(
    ("asked", "addresses", "families"),
    [
        ({}, ["10.0.0.16"], ["IPv4"]),
        ({"clusterIP": "10.0.0.3"}, ["10.0.0.3"], ["IPv4"]),
        ({"clusterIP": "None"}, ["None"], ["IPv4"]),
        ({"ipFamilyPolicy": "PreferDualStack"}, ["10.0.0.16", "fd00::10"], ["IPv4", "IPv6"]),
        ({"ipFamilies": ["IPv6"]}, ["fd00::10"], ["IPv6"]),
        ({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}, ["fd00::10", "10.0.0.16"], ["IPv6", "IPv4"]),
        ({"clusterIPs": ["10.0.0.4", "fd00::4"]}, ["10.0.0.4", "fd00::4"], ["IPv4", "IPv6"]),
    ],
)  # fmt: skip
def test_a_service_gets_the_addresses_that_it_asks_for(objects: Objects, asked: Json, addresses: list[str], families: list[str]) -> None:
    made = spec(objects, service("a", **asked))
    assert (made["clusterIPs"], made["clusterIP"], made["ipFamilies"]) == (addresses, addresses[0], families)


def test_an_external_name_has_none(objects: Objects) -> None:
    assert "clusterIP" not in spec(objects, service("a", type="ExternalName", externalName="x.example"))


def test_addresses_are_given_once_kept_over_updates_and_free_after_deletion(objects: Objects) -> None:
    first = spec(objects, service("a"))["clusterIP"]
    assert spec(objects, service("b"))["clusterIP"] != first
    assert spec(objects, service("a", ports=["81"]))["clusterIP"] == first
    assert refused(objects, service("c", address=first)) == 422
    objects.delete("svc", "a", "default")
    assert spec(objects, service("c", address=first))["clusterIP"] == first


def test_node_ports_are_kept_by_port_and_given_once(objects: Objects) -> None:
    made = spec(objects, service("a", ports=["x=80", "y=81/udp"], type="NodePort"))["ports"]
    assert [port["nodePort"] for port in made] == [30000, 30001]
    again = spec(objects, service("a", ports=["y=81/udp", "z=82"], type="NodePort"))["ports"]
    assert [port["nodePort"] for port in again] == [30001, 30002]
    taken = service("b", type="NodePort")
    taken["spec"]["ports"][0]["nodePort"] = 30001
    assert refused(objects, taken) == 422


def test_a_local_load_balancer_gets_a_health_check_port(objects: Objects) -> None:
    made = spec(objects, service("a", type="LoadBalancer", externalTrafficPolicy="Local"))
    assert made["healthCheckNodePort"] == 30001
    without = spec(objects, service("b", type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert "nodePort" not in without["ports"][0]


def test_a_full_range_is_refused(objects: Objects) -> None:
    for number in range(15):
        objects.apply(service(f"s{number}"))
    assert refused(objects, service("last")) == 500
    for number in range(4):
        objects.apply(service(f"n{number}", clusterIP="None", type="NodePort"))
    assert refused(objects, service("more", clusterIP="None", type="NodePort")) == 500
