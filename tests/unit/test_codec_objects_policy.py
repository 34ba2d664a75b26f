"""NetworkPolicies from API JSON: selectors, defaults of policyTypes, and failing closed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube_router.codec.objects import Decoded, decode_item
from kube_router.model.objects import (
    IPBlock,
    Kind,
    Name,
    NetworkPolicy,
    Peer,
    PolicyPort,
    PolicyRule,
    Requirement,
    Selector,
)

EVERYONE = PolicyRule()
WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
WEB_PODS = Peer(pods=Selector((Requirement("app", "In", ("web",)),)))


def item(spec: Any) -> Decoded:
    body = {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "1"}, "spec": spec}
    return decode_item(Kind.NETWORK_POLICY, json.dumps(body).encode())


def policy(spec: Any) -> NetworkPolicy:
    decoded = item(spec)
    assert isinstance(decoded.object, NetworkPolicy)
    assert decoded.faults == ()
    return decoded.object


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, (), None),
        (None, (), None),
        ({"ingress": [{}]}, (EVERYONE,), None),
        ({"egress": [{}]}, (), (EVERYONE,)),
        ({"egress": []}, (), None),
        ({"policyTypes": [], "egress": [{}]}, (), (EVERYONE,)),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, (), None),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, None, ()),
        ({"policyTypes": ["Egress", "Ingress"], "ingress": None}, (), ()),
    ],
)
def test_directions_follow_policy_types_or_their_default(spec: Any, ingress: Any, egress: Any) -> None:
    decoded = policy(spec)
    assert (decoded.ingress, decoded.egress) == (ingress, egress)


def test_a_full_rule_is_read_in_full() -> None:
    decoded = policy(
        {
            "podSelector": {
                "matchLabels": {"b": "2", "a": "1"},
                "matchExpressions": [
                    {"key": "c", "operator": "NotIn", "values": ["y", "x", "x"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist", "values": []},
                ],
            },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        WEB,
                        {"namespaceSelector": {}},
                        {"podSelector": {}, "namespaceSelector": {"matchLabels": {"team": "x"}}},
                        {"ipBlock": {"cidr": "10.0.0.5/8", "except": ["10.1.0.0/16", "10.1.0.0/16"]}},
                    ],
                    "ports": [{}, {"port": 80}, {"protocol": "UDP", "port": "dns"}, {"protocol": "SCTP", "port": 5, "endPort": 9}],
                }
            ],
            "egress": [{"to": [{"ipBlock": {"cidr": "::/0"}}]}],
        }
    )
    assert decoded == NetworkPolicy(
        name=Name("ns", "p"),
        uid="u",
        pods=Selector(
            (
                Requirement("a", "In", ("1",)),
                Requirement("b", "In", ("2",)),
                Requirement("c", "NotIn", ("x", "y")),
                Requirement("d", "Exists"),
                Requirement("e", "DoesNotExist"),
            )
        ),
        ingress=(
            PolicyRule(
                peers=(
                    WEB_PODS,
                    Peer(namespaces=Selector()),
                    Peer(namespaces=Selector((Requirement("team", "In", ("x",)),))),
                    Peer(block=IPBlock("10.0.0.0/8", ("10.1.0.0/16",))),
                ),
                ports=(PolicyPort(), PolicyPort(port=80), PolicyPort("UDP", "dns"), PolicyPort("SCTP", 5, 9)),
            ),
        ),
        egress=(PolicyRule(peers=(Peer(block=IPBlock("::/0")),)),),
    )


def test_equal_selectors_are_equal_however_they_are_written() -> None:
    one = policy({"podSelector": {"matchLabels": {"a": "1", "b": "2"}}})
    other = policy(
        {"podSelector": {"matchExpressions": [{"key": k, "operator": "In", "values": [v]} for k, v in (("b", "2"), ("a", "1"))]}}
    )
    assert one.pods == other.pods


@pytest.mark.parametrize(
    ("rule", "left", "field"),
    [
        ({"from": [WEB, {}]}, (PolicyRule(peers=(WEB_PODS,)),), "spec.ingress[0].from[1]"),
        ({"from": [{}]}, (), "spec.ingress[0].from[0]"),
        ({"from": [{"ipBlock": {"cidr": "x"}}]}, (), "spec.ingress[0].from[0].ipBlock.cidr"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}]}, (), "spec.ingress[0].from[0].ipBlock.except[0]"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, **WEB}]}, (), "spec.ingress[0].from[0]"),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}}]},
            (),
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator",
        ),
        (
            {"from": [{"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
            (),
            "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values",
        ),
        ({"ports": [{"port": 0}]}, (), "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": ""}]}, (), "spec.ingress[0].ports[0].port"),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, (), "spec.ingress[0].ports[0].protocol"),
        ({"ports": [{"port": 80, "endPort": 79}]}, (), "spec.ingress[0].ports[0].endPort"),
        ({"ports": [{"port": "web", "endPort": 90}]}, (), "spec.ingress[0].ports[0].endPort"),
        ({"ports": [{"port": 70000}, {"port": 80}]}, (PolicyRule(ports=(PolicyPort(port=80),)),), "spec.ingress[0].ports[0].port"),
    ],
)
def test_a_wrong_permission_never_turns_into_a_wider_one(rule: Any, left: tuple[PolicyRule, ...], field: str) -> None:
    decoded = item({"ingress": [rule]})
    assert isinstance(decoded.object, NetworkPolicy)
    assert decoded.object.ingress == left
    assert [fault.field for fault in decoded.faults] == [field]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}, "spec.podSelector.matchExpressions[0].operator"),
        ({"policyTypes": ["Ingress", "Sideways"]}, "spec.policyTypes[1]"),
        ({"ingress": [{"ports": [{"port": 1.5}]}]}, "spec.ingress[0].ports[0].port"),
    ],
)
def test_a_policy_that_cannot_be_understood_is_refused_by_name(spec: Any, field: str) -> None:
    decoded = item(spec)
    assert decoded.object is None
    assert decoded.ref.name == Name("ns", "p")
    assert [fault.field for fault in decoded.faults] == [field]
