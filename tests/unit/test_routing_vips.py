"""Which addresses of a Service this node announces, and when it takes them back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from kube_router.config.options import Options, defaults
from kube_router.desired.external_ips import ranges
from kube_router.desired.routing.rules import rules, terms
from kube_router.desired.routing.speaker import itself
from kube_router.desired.routing.vips import EXCLUDED, announcer, vips
from kube_router.kit.net import family_of
from kube_router.model.objects import Endpoint, EndpointSlice, Ingress, Name, Node, Rejected, Service
from kube_router.model.state.bgp import BgpPolicy, DefinedSetMember, Path, PathKey

ALL = defaults(
    node_name="node1",
    enable_ipv6=True,
    advertise_cluster_ip=True,
    advertise_external_ip=True,
    advertise_loadbalancer_ip=True,
    service_external_ip_range=("203.0.113.0/24", "2001:db8:e::/64"),
    loadbalancer_ip_range=("198.51.100.0/24", "2001:db8:b::/64"),
    peer_router_ips=("192.168.50.1",),
    peer_router_asns=(65001,),
)
OWN = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"))
OTHER = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"))
WEB = Service(
    Name("shop", "web"),
    type="LoadBalancer",
    cluster_ips=("10.96.0.10", "fd00:233::10"),
    external_ips=("203.0.113.10", "2001:db8:e::10"),
    ingress=(Ingress("198.51.100.10"), Ingress("2001:db8:b::10")),
)
CLUSTER = {"10.96.0.10/32", "fd00:233::10/128"}
EXTERNAL = {"203.0.113.10/32", "2001:db8:e::10/128"}
BALANCED = {"198.51.100.10/32", "2001:db8:b::10/128"}
EVERYTHING = CLUSTER | EXTERNAL | BALANCED


def endpoint(address: str, node: str = "", state: str = "ready") -> Endpoint:
    """`state`: ready, starting, or terminating: with or without serving."""
    ready, serving, terminating = {
        "ready": (True, True, False),
        "starting": (False, False, False),
        "draining": (False, True, True),
        "ending": (False, False, True),
    }[state]
    return Endpoint((address,), ready=ready, serving=serving, terminating=terminating, node_name=node)


def slices(*endpoints: Endpoint) -> list[EndpointSlice]:
    return [EndpointSlice(Name("shop", f"web-{n}"), WEB.name, (one,)) for n, one in enumerate(endpoints)]


def both(node: str, state: str = "ready") -> list[EndpointSlice]:
    """An endpoint in each family."""
    return slices(endpoint("10.244.0.5", node, state), endpoint("fd00:64::5", node, state))


def with_flags(**changes: Any) -> Options:
    return replace(ALL, **changes)


def web(**changes: Any) -> Service:
    return msgspec.structs.replace(WEB, **changes)


def announced(
    service: Service, pieces: list[EndpointSlice], *, options: Options = ALL, own: Node = OWN, others: tuple[Node, ...] = (OTHER,)
) -> set[str]:
    nodes = (own, *others)
    desired = vips(
        service,
        pieces,
        announcer(own, lambda: nodes, options),
        options=options,
        allowed=ranges(options),
        is_node=lambda address: any(address in node.addresses for node in nodes),
    )
    paths = {key.prefix: value for key, value in desired.state.items() if isinstance(key, PathKey)}
    members = {key for key in desired.state if isinstance(key, DefinedSetMember)}
    assert members == {
        DefinedSetMember("prefix", "servicevipsdefinedsetv6", f"{prefix} 128..128")
        if ":" in prefix
        else DefinedSetMember("prefix", "servicevipsdefinedset", f"{prefix} 32..32")
        for prefix in paths
    }, "a path that is announced is let out to external peers"
    for prefix, path in paths.items():
        assert path == Path("fd00:50::50" if ":" in prefix else "192.168.50.50"), "a next hop is of the prefix's own family"
    return set(paths)


def notes(service: Service, *, options: Options = ALL) -> list[str]:
    desired = vips(
        service,
        both("node1"),
        announcer(OWN, tuple, options),
        options=options,
        allowed=ranges(options),
        is_node=lambda address: address in (*OWN.addresses, *OTHER.addresses),
    )
    return [note.message for note in desired.notes]


@pytest.mark.parametrize("address", [one.partition("/")[0] for one in (*sorted(EXTERNAL), *sorted(BALANCED))])
def test_b15_addresses_of_pods_and_gateways_are_not_announced_and_cluster_ips_are_not_doubted(address: str) -> None:
    desired = vips(
        web(),
        both("node1"),
        announcer(OWN, tuple, ALL),
        options=ALL,
        allowed=ranges(ALL),
        is_node=lambda _address: False,
        obstacle=lambda asked: "it is a pod's" if asked == address or f"{asked}/" in {one[:-2] for one in CLUSTER} else "",
    )
    announced_ones = {key.prefix for key in desired.state if isinstance(key, PathKey)}
    assert announced_ones == {one for one in EVERYTHING if not one.startswith(f"{address}/")}
    assert [note.message.partition(" ")[2] for note in desired.notes] == [f"IP {address} is not announced: it is a pod's"]


# -- kinds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "annotations", "expected"),
    [
        ({}, {}, set()),
        ({"advertise_cluster_ip": True}, {}, CLUSTER),
        ({"advertise_external_ip": True}, {}, EXTERNAL),
        ({"advertise_loadbalancer_ip": True}, {}, BALANCED),
        ({}, {"clusterip": "true"}, CLUSTER),
        ({}, {"externalip": "1"}, EXTERNAL),
        ({}, {"loadbalancerip": "T"}, BALANCED),
        ({"advertise_cluster_ip": True, "advertise_external_ip": True}, {"clusterip": "false"}, EXTERNAL),
        ({"advertise_external_ip": True}, {"externalip": "0", "clusterip": "True"}, CLUSTER),
    ],
)
def test_a_flag_announces_a_kind_and_an_annotation_overrides_it(flags: Any, annotations: dict[str, str], expected: set[str]) -> None:
    off = {"advertise_cluster_ip": False, "advertise_external_ip": False, "advertise_loadbalancer_ip": False}
    options = with_flags(**(off | flags))
    service = web(annotations={f"kube-router.io/service.advertise.{kind}": text for kind, text in annotations.items()})
    assert announced(service, both("node2"), options=options) == expected


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (web(), EVERYTHING),
        (web(type="NodePort"), CLUSTER | EXTERNAL),
        (web(type="ClusterIP"), CLUSTER | EXTERNAL),
        (web(cluster_ips=()), set()),
        (web(type="ExternalName", cluster_ips=()), set()),
        (web(ingress=(Ingress("198.51.100.10", "Proxy"), Ingress("2001:db8:b::10"))), CLUSTER | EXTERNAL | {"2001:db8:b::10/128"}),
        (web(annotations={"kube-router.io/service.skiplbips": ""}), CLUSTER | EXTERNAL),
    ],
    ids=["balanced", "node port", "plain", "headless", "elsewhere", "proxied", "skipped"],
)
def test_a_type_of_service_has_its_kinds_of_address_announced(service: Service, expected: set[str]) -> None:
    assert announced(service, both("node2")) == expected


@pytest.mark.parametrize(
    ("families", "own", "expected"),
    [
        ({"enable_ipv6": False}, OWN, {"10.96.0.10/32"}),
        ({"enable_ipv4": False}, OWN, {"fd00:233::10/128"}),
        ({}, msgspec.structs.replace(OWN, addresses=("192.168.50.50",)), {"10.96.0.10/32"}),
        ({}, msgspec.structs.replace(OWN, addresses=("fd00:50::50",)), {"fd00:233::10/128"}),
        ({}, msgspec.structs.replace(OWN, addresses=()), set()),
    ],
    ids=["IPv6 off", "IPv4 off", "IPv4 node", "IPv6 node", "no address"],
)
def test_u056_only_prefixes_that_this_node_has_a_next_hop_for_are_announced(families: Any, own: Node, expected: set[str]) -> None:
    """And none with a next hop of another family, which `announced` asserts everywhere."""
    assert announced(web(type="ClusterIP", external_ips=()), both("node2"), own=own, options=with_flags(**families)) == expected


# -- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "at", "expected"),
    [
        ({}, "node2", EVERYTHING),
        ({"external_policy": "Local"}, "node1", EVERYTHING),
        ({"external_policy": "Local"}, "node2", CLUSTER),
        ({"internal_policy": "Local"}, "node1", EVERYTHING),
        ({"internal_policy": "Local"}, "node2", EXTERNAL | BALANCED),
        ({"internal_policy": "Local", "external_policy": "Local"}, "node2", set()),
        ({"annotations": {"kube-router.io/service.local": "true"}}, "node1", EVERYTHING),
        ({"annotations": {"kube-router.io/service.local": "true"}}, "node2", CLUSTER),
        ({"annotations": {"kube-router.io/service.local": "false"}}, "node2", EVERYTHING),
    ],
)
def test_a_local_policy_wants_an_endpoint_on_this_node(changes: Any, at: str, expected: set[str]) -> None:
    assert announced(web(**changes), both(at)) == expected


def test_an_endpoint_without_a_node_is_here_when_its_address_is_this_nodes() -> None:
    service = web(external_policy="Local", internal_policy="Local", cluster_ips=("10.96.0.10",), external_ips=(), ingress=())
    assert announced(service, slices(endpoint("192.168.50.50"))) == {"10.96.0.10/32"}
    assert announced(service, slices(endpoint("192.168.50.51"))) == set()


LOCAL = web(cluster_ips=("10.96.0.10",), external_ips=("203.0.113.10",), ingress=(), external_policy="Local")


@pytest.mark.parametrize(
    ("here", "there", "local", "cluster"),
    [
        ("ready", "", True, True),
        ("starting", "", False, False),
        ("starting", "ready", False, True),
        ("draining", "", True, True),
        ("draining", "ready", False, True),
        ("draining", "draining", True, True),
        ("ending", "", False, False),
        ("", "", False, False),
        ("", "draining", False, True),
    ],
)
def test_u070_r07_only_endpoints_that_can_serve_keep_an_address_announced(here: str, there: str, local: bool, cluster: bool) -> None:
    pieces = slices(
        *([endpoint("10.244.0.5", "node1", here)] if here else []), *([endpoint("10.244.1.5", "node2", there)] if there else [])
    )
    expected = ({"203.0.113.10/32"} if local else set()) | ({"10.96.0.10/32"} if cluster else set())
    assert announced(LOCAL, pieces) == expected


@pytest.mark.parametrize(("policy", "expected"), [("Cluster", EVERYTHING), ("Local", CLUSTER)])
def test_u070_by_flag_a_cluster_policy_needs_no_endpoint(policy: str, expected: set[str]) -> None:
    options = with_flags(advertise_without_endpoints=True)
    assert announced(web(external_policy=policy), [], options=options) == expected
    assert announced(web(external_policy=policy), []) == set()


def test_endpoints_count_for_addresses_of_their_own_family() -> None:
    assert announced(web(type="ClusterIP", external_ips=()), slices(endpoint("10.244.0.5", "node1"))) == {"10.96.0.10/32"}
    assert announced(web(type="ClusterIP", external_ips=()), slices(endpoint("fd00:64::5", "node1"))) == {"fd00:233::10/128"}


# -- what is refused --------------------------------------------------------------------------------------------------


def test_what_the_strict_filter_refuses_is_told_on_the_service_and_bothers_no_other_address() -> None:
    service = web(external_ips=("203.0.113.10", "192.0.2.1"), ingress=(Ingress("10.96.0.99"),))
    assert announced(service, both("node1")) == CLUSTER | {"203.0.113.10/32"}
    told = notes(service)
    assert len(told) == 2
    assert "192.0.2.1" in told[0]
    assert "--service-external-ip-range" in told[0]
    assert "10.96.0.99" in told[1]
    assert "cluster IPs" in told[1]


def test_what_is_not_to_be_announced_is_not_judged() -> None:
    assert notes(web(external_ips=("192.0.2.1",)), options=with_flags(advertise_external_ip=False)) == []


@pytest.mark.parametrize("address", ["192.168.50.50", "192.168.50.51", "fd00:50::51"])
def test_the_address_of_a_node_is_never_announced(address: str) -> None:
    options = with_flags(strict_external_ip_validation=False)
    service = web(cluster_ips=("10.96.0.10",), external_ips=(address,), ingress=())
    assert announced(service, both("node1"), options=options) == {"10.96.0.10/32"}
    assert [address in message for message in notes(service, options=options)] == [True]


def test_a_wrong_annotation_is_told_on_the_service_headless_or_not() -> None:
    fault = Rejected("kube-router.io/service.advertise.clusterip", "yes", "neither true nor false", 'write "true" or "false"', held=False)
    for service in (web(rejected=(fault,)), web(rejected=(fault,), cluster_ips=())):
        (message,) = notes(service)
        assert "service.advertise.clusterip" in message
        assert "yes" in message


# -- draining ---------------------------------------------------------------------------------------------------------

LABELLED = msgspec.structs.replace(OWN, labels={EXCLUDED: ""})
CORDONED = msgspec.structs.replace(OWN, unschedulable=True)
OTHER_CORDONED = msgspec.structs.replace(OTHER, unschedulable=True)
OTHER_LABELLED = msgspec.structs.replace(OTHER, labels={EXCLUDED: "true"})


@pytest.mark.parametrize(
    ("own", "others", "flag", "cluster", "local"),
    [
        (OWN, (OTHER,), True, True, True),
        (LABELLED, (OTHER,), False, False, False),
        (LABELLED, (), False, False, False),
        (CORDONED, (OTHER,), False, True, True),
        (CORDONED, (OTHER,), True, False, False),
        (CORDONED, (), True, True, True),
        (CORDONED, (OTHER_CORDONED,), True, True, True),
        (CORDONED, (OTHER_LABELLED,), True, True, True),
    ],
    ids=["no drain", "label", "label, alone", "cordon, no flag", "cordon", "cordon, alone", "all cordoned", "other excluded"],
)
def test_u108_a_drained_node_takes_its_addresses_back(own: Node, others: Any, flag: bool, cluster: bool, local: bool) -> None:
    """The label always; a cordon by flag, and never the last announcer."""
    options = with_flags(withdraw_on_cordon=flag)
    pieces = slices(endpoint("10.244.0.5", "node1"), endpoint("10.244.1.5", "node2"))
    expected = ({"10.96.0.10/32"} if cluster else set()) | ({"203.0.113.10/32"} if local else set())
    assert announced(LOCAL, pieces, own=own, others=others, options=options) == expected


def test_u108_a_node_that_has_nobody_to_tell_does_not_count_as_another_announcer() -> None:
    options = with_flags(withdraw_on_cordon=True, peer_router_ips=(), peer_router_asns=())
    for other, expected in ((OTHER, {"10.96.0.10/32"}), (msgspec.structs.replace(OTHER, names_peers=True), set())):
        service = web(cluster_ips=("10.96.0.10",), external_ips=(), ingress=())
        assert announced(service, both("node1"), own=CORDONED, others=(other,), options=options) == expected


def test_u108_the_only_node_with_an_endpoint_keeps_a_local_address_though_cordoned() -> None:
    options = with_flags(withdraw_on_cordon=True)
    assert announced(LOCAL, slices(endpoint("10.244.0.5", "node1")), own=CORDONED, options=options) == {"203.0.113.10/32"}


# -- next hops, kinds of node by kinds of pod range -------------------------------------------------------------------

NODES = {"IPv4": ("192.168.50.50",), "IPv6": ("fd00:50::50",), "both": ("192.168.50.50", "fd00:50::50")}
RANGES = {"IPv4": ("10.244.0.0/24",), "IPv6": ("fd00:64::/64",), "both": ("10.244.0.0/24", "fd00:64::/64")}
ROUTERS = {4: "192.168.50.1", 6: "fd00:50::1"}


@pytest.mark.parametrize("addresses", NODES)
@pytest.mark.parametrize("cidrs", RANGES)
@pytest.mark.parametrize("router", [4, 6])
@pytest.mark.parametrize("override", [False, True])
def test_u056_every_prefix_has_a_next_hop_of_its_family_on_this_node_or_is_not_announced_and_told_once(
    addresses: str, cidrs: str, router: int, override: bool
) -> None:
    own = msgspec.structs.replace(OWN, addresses=NODES[addresses], pod_cidrs=RANGES[cidrs])
    options = with_flags(router_id="generate", override_nexthop=override, peer_router_ips=(ROUTERS[router],), peer_router_asns=(65001,))
    ranges_of_own = itself(own, options)
    desired = vips(
        WEB, both("node1"), announcer(own, tuple, options), options=options, allowed=ranges(options), is_node=lambda address: False
    )
    policy = rules(own, terms(own, options), options).state
    state = {**policy, **ranges_of_own.state, **desired.state}
    families = {family_of(address) for address in own.addresses}
    paths = {key.prefix: value for key, value in state.items() if isinstance(key, PathKey)}
    assert {family_of(prefix) for prefix in paths} <= families
    assert {prefix for prefix in EVERYTHING if family_of(prefix) in families} <= set(paths), "others are unaffected"
    for prefix, path in paths.items():
        assert isinstance(path, Path)
        assert path.next_hop in own.addresses
        assert family_of(path.next_hop) == family_of(prefix)
    for value in state.values():
        for statement in value.statements if isinstance(value, BgpPolicy) else ():
            if statement.next_hop:
                assert statement.prefix_set.endswith("v6") == statement.neighbor_set.endswith("v6")
    missing = [cidr for cidr in own.pod_cidrs if family_of(cidr) not in families]
    told = [note for note in (*ranges_of_own.notes, *desired.notes) if note.reason == "NoNextHop"]
    assert [cidr for cidr in missing for note in told if cidr in note.message] == missing
    assert len(told) == len(missing)
