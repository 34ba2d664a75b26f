"""The network for pod traffic of nodes that have several: chosen by flag, published on the Node, followed by its peers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kube_router.apply.apiserver.annotations import AnnotationTarget
from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.datapath import DatapathController
from kube_router.control.fib import FibController
from kube_router.control.speaker import SpeakerController
from kube_router.desired.routing.around import surroundings
from kube_router.desired.routing.datapath import address, all_addresses, ends, publication
from kube_router.desired.routing.rules import Terms, rules
from kube_router.kit.apiserver import ApiError
from kube_router.kit.errors import Busy
from kube_router.model.names import DATAPATH_ANNOTATION
from kube_router.model.objects import BestPath, Interface, Kind, Name, Node, Ref
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.bgp import (
    BgpPolicy,
    DefinedSetMember,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    PolicyKey,
    Speaker,
    SpeakerKey,
)
from kube_router.model.state.cluster import Annotation, AnnotationKey
from kube_router.model.state.tunnels import Tunnel
from tests.engine import Node as LabNode

NETWORK = "192.168.50.0/24"
KEY = AnnotationKey("node1", DATAPATH_ANNOTATION)
OWN = Node(Name("", "node1"), addresses=("203.0.113.11", "2001:db8::11"))
PUBLIC = Interface(Name("", "eth0"), addresses=("203.0.113.11/24", "2001:db8::11/64"))
PRIVATE = Interface(Name("", "eth1"), addresses=("192.168.50.11/24", "fd00:50::11/64"))


def options(*networks: str, **more: Any):
    return defaults(node_name="node1", datapath_network=networks, **more)


def published(node: Node, links: tuple[Interface, ...], *networks: str, **more: Any) -> str:
    state = publication(node, links, options(*networks, **more)).state
    annotation = state.get(AnnotationKey(node.name.name, DATAPATH_ANNOTATION))
    assert annotation is None or isinstance(annotation, Annotation)
    return annotation.text if annotation else ""


@pytest.mark.parametrize(
    ("networks", "ipv6", "expected"),
    [
        ((), True, ""),
        ((NETWORK,), True, "192.168.50.11"),
        ((NETWORK, "fd00:50::/64"), True, "192.168.50.11,fd00:50::11"),
        ((NETWORK, "fd00:50::/64"), False, "192.168.50.11"),
        (("10.0.0.0/8", NETWORK), True, "192.168.50.11"),  # one list for all nodes: each finds its own
        (("203.0.113.0/24",), True, "203.0.113.11"),
        (("10.0.0.0/8",), True, ""),
    ],
)
def test_u104_a_node_publishes_its_address_in_the_network_that_the_flag_names(networks, ipv6, expected):
    assert published(OWN, (PUBLIC, PRIVATE), *networks, enable_ipv6=ipv6) == expected


def link(name: str, *addresses: str, up: bool = True) -> Interface:
    return Interface(Name("", name), addresses=addresses, up=up)


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ((link("eth1", "192.168.50.11/24", "192.168.50.9/32"),), "192.168.50.11"),  # a floating address is not the node's own
        ((link("eth2", "192.168.50.12/24"), link("eth1", "192.168.50.13/24")), "192.168.50.13"),
        ((link("eth1", "192.168.50.100/24", "192.168.50.20/24"),), "192.168.50.20"),
        ((link("eth1", "192.168.50.11/24", up=False),), ""),
        ((link("kube-bridge", "192.168.50.1/24"), link("kube-dummy-if", "192.168.50.2/32")), ""),
    ],
)
def test_u104_of_several_addresses_the_choice_is_the_same_every_time(links, expected):
    assert published(OWN, links, NETWORK) == expected
    assert published(OWN, links[::-1], NETWORK) == expected


def test_u104_an_address_that_is_published_stays_as_long_as_the_node_has_it():
    before = Node(OWN.name, addresses=OWN.addresses, datapath=("192.168.50.11",))
    assert published(before, (link("eth0", "192.168.50.5/24"), PRIVATE), NETWORK) == "192.168.50.11"
    assert published(before, (link("eth0", "192.168.50.5/24"),), NETWORK) == "192.168.50.5"


def test_u104_a_node_outside_the_network_says_so_and_publishes_nothing():
    (note,) = publication(OWN, (PUBLIC,), options(NETWORK)).notes
    assert (note.about, note.reason) == (Ref(Kind.NODE, OWN.name), "NoDatapathAddress")
    assert f"--datapath-network={NETWORK}" in note.message


CHOSEN = Node(Name("", "a"), addresses=("203.0.113.1", "2001:db8::1"), datapath=("192.168.50.1", "fd00:50::1"))
CHOSEN_V4 = Node(Name("", "b"), addresses=("203.0.113.2", "2001:db8::2"), datapath=("192.168.50.2",))
CHOSEN_V6 = Node(Name("", "c"), addresses=("203.0.113.3",), datapath=("fd00:50::3",))
PLAIN = Node(Name("", "d"), addresses=("203.0.113.4",))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (CHOSEN, CHOSEN_V4, ("192.168.50.1", "192.168.50.2")),
        (CHOSEN, CHOSEN_V6, ("fd00:50::1", "fd00:50::3")),
        (CHOSEN_V4, CHOSEN_V6, ("203.0.113.2", "203.0.113.3")),
        (CHOSEN, PLAIN, ("203.0.113.1", "203.0.113.4")),
        (PLAIN, PLAIN, ("203.0.113.4", "203.0.113.4")),
        (Node(Name("", "e")), PLAIN, ("", "203.0.113.4")),
    ],
)
def test_u104_two_nodes_agree_on_the_ends_of_their_session(one, other, expected):
    assert ends(one, other) == expected
    assert ends(other, one) == expected[::-1]


@pytest.mark.parametrize(
    ("node", "family", "expected"),
    [(CHOSEN, 4, "192.168.50.1"), (CHOSEN, 6, "fd00:50::1"), (CHOSEN_V4, 6, "2001:db8::2"), (PLAIN, 4, "203.0.113.4"), (PLAIN, 6, "")],
)
def test_u104_pod_traffic_goes_to_the_published_address_of_its_family(node, family, expected):
    assert address(node, family) == expected


def test_all_addresses_of_a_node_are_those_of_its_object_and_the_published_ones():
    assert all_addresses(CHOSEN_V4) == ("203.0.113.2", "2001:db8::2", "192.168.50.2")


@pytest.mark.parametrize(
    ("text", "expected", "faults"),
    [
        ("192.168.50.1,fd00:0050::1", ("192.168.50.1", "fd00:50::1"), 0),
        (" 192.168.50.1 , eth1", ("192.168.50.1",), 1),
        ("", (), 0),
    ],
)
def test_u104_the_annotation_is_read_with_the_node_and_a_bad_item_costs_only_itself(text, expected, faults):
    body = {"metadata": {"name": "a", "annotations": {DATAPATH_ANNOTATION: text}}}
    read = decode_item(Kind.NODE, json.dumps(body).encode())
    assert read.object.datapath == expected
    assert len(read.faults) == faults


# -- writing ---------------------------------------------------------------------------------------------------------------


class Api:
    def __init__(self, status: int | None = None) -> None:
        self.status = status
        self.requests: list[tuple[str, str, Any, str]] = []

    def write(self, method: str, path: str, body: bytes, *, content_type: str, read_timeout: float) -> bytes:
        self.requests.append((method, path, json.loads(body), content_type))
        if self.status is not None:
            raise ApiError(self.status, "told to")
        return b"{}"


def target(api: Api, annotations: dict[str, str] | None = None) -> AnnotationTarget:
    return AnnotationTarget(lambda: api, "node1", seen=lambda: annotations)


def test_only_our_annotation_is_patched_and_taking_it_back_is_a_null():
    api = Api()
    assert target(api).apply([Change(KEY, None, Annotation("192.168.50.11"))]) == {}
    assert target(api).apply([Change(KEY, Annotation("192.168.50.11"), None)]) == {}
    patches = [{"metadata": {"annotations": {DATAPATH_ANNOTATION: text}}} for text in ("192.168.50.11", None)]
    assert api.requests == [("PATCH", "/api/v1/nodes/node1", patch, "application/merge-patch+json") for patch in patches]


@pytest.mark.parametrize("status", [0, 409, 429, 500, 503])
def test_an_api_server_that_is_away_is_tried_again(status):
    with pytest.raises(Busy):
        target(Api(status)).apply([Change(KEY, None, Annotation("192.168.50.11"))])


def test_a_missing_right_is_named():
    refused = target(Api(403)).apply([Change(KEY, None, Annotation("192.168.50.11"))])
    assert "right to patch nodes" in refused[KEY]


def test_other_annotations_are_not_ours_to_see():
    seen = {DATAPATH_ANNOTATION: "192.168.50.11", "kube-router.io/peers": "[]"}
    assert target(Api(), seen).observe({}) == {KEY: Annotation("192.168.50.11")}
    assert target(Api(), None).observe({}) == {}


def test_u104_the_annotation_of_a_flag_that_is_gone_goes():
    node = LabNode(lambda: DatapathController(options()))
    node.world.state[KEY] = Annotation("192.168.50.11")
    node.feed(OWN)
    node.settle()
    assert node.world.state == {}


def test_u104_the_annotation_follows_the_address_of_the_link():
    node = LabNode(lambda: DatapathController(options(NETWORK)))
    node.feed(OWN)
    node.feed(PRIVATE)
    node.settle()
    assert node.world.state == {KEY: Annotation("192.168.50.11")}
    node.feed(link("eth1", "192.168.50.12/24"))
    node.settle()
    assert node.world.state == {KEY: Annotation("192.168.50.12")}


# -- the speaker -----------------------------------------------------------------------------------------------------------

A = Node(
    Name("", "node1"), addresses=("203.0.113.1", "2001:db8::1"), datapath=("192.168.50.1",), pod_cidrs=("10.233.64.0/24", "fd00:64::/64")
)
B = Node(Name("", "node2"), addresses=("203.0.113.2", "2001:db8::2"), datapath=("192.168.50.2",), pod_cidrs=("10.233.65.0/24",))
PUBLIC_ONLY = Node(Name("", "node3"), addresses=("203.0.113.3",), pod_cidrs=("10.233.66.0/24",))
DUAL = defaults(node_name="node1", enable_ipv6=True)


def speaker(*nodes: Node) -> dict[Key, Value]:
    node = LabNode(lambda: SpeakerController(DUAL))
    for value in nodes:
        node.feed(value)
    node.settle()
    return node.world.state


def test_u104_sessions_and_next_hops_use_the_published_addresses_where_both_ends_have_them():
    state = speaker(A, B, PUBLIC_ONLY)
    peers = {
        key.address: value.local_address for key, value in state.items() if isinstance(key, NeighborKey) and isinstance(value, Neighbor)
    }
    assert peers == {"192.168.50.2": "192.168.50.1", "203.0.113.3": "203.0.113.1"}
    assert state[PathKey("10.233.64.0/24")] == Path("192.168.50.1")
    assert state[PathKey("fd00:64::/64")] == Path("2001:db8::1"), "nothing is published for IPv6"
    listening = state[SpeakerKey()]
    assert isinstance(listening, Speaker)
    assert listening.addresses == ("192.168.50.1", "2001:db8::1", "203.0.113.1")


def test_u104_a_session_moves_when_the_other_end_publishes_its_address_and_no_other_does():
    node = LabNode(lambda: SpeakerController(DUAL))
    for value in (A, Node(B.name, addresses=B.addresses, pod_cidrs=B.pod_cidrs), PUBLIC_ONLY):
        node.feed(value)
    node.settle()
    before = len(node.world.writes)
    node.feed(B)
    node.settle()
    moved = {(change.key.address, change.after is None) for change in node.world.writes[before:] if isinstance(change.key, NeighborKey)}
    assert moved == {("192.168.50.2", False), ("203.0.113.2", True)}


def test_u104_sessions_follow_our_own_choice():
    node = LabNode(lambda: SpeakerController(DUAL))
    for value in (Node(A.name, addresses=A.addresses, pod_cidrs=A.pod_cidrs), B):
        node.feed(value)
    node.settle()
    assert NeighborKey("203.0.113.2") in node.world.state
    node.feed(A)
    node.settle()
    assert [key for key in node.world.state if isinstance(key, NeighborKey)] == [NeighborKey("192.168.50.2")]


def test_u104_two_nodes_that_publish_one_address_do_not_fight_over_the_session():
    thief = Node(Name("", "node9"), addresses=("203.0.113.9",), datapath=("192.168.50.2",), pod_cidrs=("10.233.69.0/24",), created="2030")
    node = LabNode(lambda: SpeakerController(DUAL))
    for value in (A, B, thief):
        node.feed(value)
    node.settle()
    assert [note.about.name for note in node.report.notes if note.reason == "DuplicateAddress"] == [thief.name]
    assert NeighborKey("192.168.50.2") in node.world.state
    node.feed((Kind.NODE, thief.name))
    node.settle()
    assert NeighborKey("192.168.50.2") in node.world.state


def next_hops(own: Node, *externals: str, **more: Any) -> dict[tuple[str, str], str]:
    state = rules(own, Terms(externals=externals, **more), DUAL).state
    policy = state[PolicyKey("kube_router_export")]
    assert isinstance(policy, BgpPolicy)
    return {(s.prefix_set, s.neighbor_set): s.next_hop for s in policy.statements if s.neighbor_set.startswith("externalpeerset")}


def test_u104_external_peers_get_their_own_sessions_address_for_pods_not_that_of_the_private_network():
    assert next_hops(A, "203.0.113.254", "2001:db8::fe") == {
        ("servicevipsdefinedset", "externalpeerset"): "",
        ("servicevipsdefinedsetv6", "externalpeerset"): "",
        ("podcidrdefinedset", "externalpeerset"): "self",
        ("podcidrdefinedsetv6", "externalpeerset"): "",  # nothing is published for IPv6: the path's own next hop is right
        ("servicevipsdefinedset", "externalpeersetv6"): "",
        ("servicevipsdefinedsetv6", "externalpeersetv6"): "",
        ("podcidrdefinedset", "externalpeersetv6"): "203.0.113.1",
        ("podcidrdefinedsetv6", "externalpeersetv6"): "",
    }
    plain = Node(A.name, addresses=A.addresses, pod_cidrs=A.pod_cidrs)
    assert set(next_hops(plain, "203.0.113.254", "2001:db8::fe").values()) == {""}


@pytest.mark.parametrize("published", [("192.168.50.1",), ("fd00:50::1",), ("192.168.50.1", "fd00:50::1")])
def test_u104_no_statement_towards_nodes_names_a_set_that_may_be_empty(published):
    own = Node(A.name, addresses=A.addresses, pod_cidrs=A.pod_cidrs, datapath=published)
    state = rules(own, Terms(reflects=True), DUAL).state
    filled = {key.name for key in state if isinstance(key, DefinedSetMember)}
    named = {s.neighbor_set for value in state.values() if isinstance(value, BgpPolicy) for s in value.statements}
    assert named <= filled
    assert {"iBGPpeerset", "allpeerset"} <= named
    assert ("iBGPpeersetv6" in named) == any(":" in address for address in published)


def test_u104_a_next_hop_on_the_network_for_pod_traffic_is_on_a_network_of_ours():
    links = (link("eth0", "203.0.113.1/24"), link("eth1", "192.168.50.1/24"), link("eth2", "10.8.0.1/24"))
    assert surroundings(A, links, defaults()).subnets == ("192.168.50.0/24", "203.0.113.0/24")


def test_u104_tunnels_begin_and_end_on_the_published_addresses():
    far = Node(B.name, addresses=B.addresses, datapath=("192.168.51.2",), pod_cidrs=B.pod_cidrs)
    node = LabNode(lambda: FibController(DUAL))
    for value in (
        A,
        far,
        link("eth0", "203.0.113.1/24"),
        link("eth1", "192.168.50.1/24"),
        BestPath(Name("", "10.233.65.0/24"), ("192.168.51.2",)),
    ):
        node.feed(value)
    node.settle()
    (tunnel,) = [value for value in node.world.state.values() if isinstance(value, Tunnel)]
    assert (tunnel.local, tunnel.remote) == ("192.168.50.1", "192.168.51.2")
