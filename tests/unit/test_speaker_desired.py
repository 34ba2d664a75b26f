"""What the speaker is told: sessions, paths and rules from nodes, in both families."""

from __future__ import annotations

import msgspec
import pytest

from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.speaker import DRAIN, EXTERNALS, RULES, SELF, SpeakerController, peers_of
from kube_router.desired import NOTHING
from kube_router.desired.routing.peers import neighbor
from kube_router.desired.routing.rules import Terms, memberships, rules, terms
from kube_router.desired.routing.speaker import hashed_id, itself, router_id
from kube_router.model.objects import Kind, Name, Node, Ref
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.bgp import (
    Assignment,
    AssignmentKey,
    BgpPolicy,
    DefinedSetKey,
    DefinedSetMember,
    Neighbor,
    NeighborKey,
    Path,
    PathKey,
    PolicyKey,
    Speaker,
    SpeakerKey,
)
from kube_router.plan.ledger import Ledger

V4 = defaults(node_name="node1")
V6 = defaults(node_name="node1", enable_ipv4=False, enable_ipv6=True, router_id="generate")
DUAL = defaults(node_name="node1", enable_ipv6=True)


def node(name: str, *addresses: str, cidrs: tuple[str, ...] = ()) -> Node:
    return Node(Name("", name), addresses=addresses, pod_cidrs=cidrs)


NODE1 = node("node1", "192.168.50.50", "fd00:50::50", cidrs=("10.233.64.0/24", "fd00:64::/64"))
NODE2 = node("node2", "192.168.50.51", "fd00:50::51", cidrs=("10.233.66.0/24", "fd00:66::/64"))
SIX1 = node("node1", "fd00:50::50", cidrs=("fd00:64::/64",))
SIX2 = node("node2", "fd00:50::51", cidrs=("fd00:66::/64",))


def store(*nodes: Node) -> Cache:
    cache = Cache()
    for value in nodes:
        cache.put(value)
    return cache


def statements(*nodes: Node, options=DUAL) -> dict[str, list[tuple[str, str, bool]]]:
    state = whole_rules(nodes, options)
    return {
        key.name: [(s.name, s.neighbor_set, s.accept) for s in value.statements]
        for key, value in state.items()
        if isinstance(key, PolicyKey) and isinstance(value, BgpPolicy)
    }


def whole_rules(nodes, options) -> dict[Key, Value]:
    """Rules, and what the sessions with the nodes put into their sets."""
    state = dict(rules(nodes[0], terms(nodes[0], options), options).state)
    for other in nodes:
        state |= memberships(neighbor(other, nodes[0], store(*nodes).view.nodes, options).state)
    return state


def members(state, name: str) -> tuple[str, ...]:
    kind = "neighbor" if "peer" in name else "prefix"
    assert DefinedSetKey(kind, name) in state
    return tuple(sorted(key.member for key in state if isinstance(key, DefinedSetMember) and (key.type, key.name) == (kind, name)))


# -- itself -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "own", "speaker", "paths"),
    [
        (V4, NODE1, Speaker(64512, "192.168.50.50", 179, ("192.168.50.50",)), {"10.233.64.0/24": "192.168.50.50"}),
        (
            DUAL,
            NODE1,
            Speaker(64512, "192.168.50.50", 179, ("192.168.50.50", "fd00:50::50")),
            {"10.233.64.0/24": "192.168.50.50", "fd00:64::/64": "fd00:50::50"},
        ),
        (V6, SIX1, Speaker(64512, hashed_id("fd00:50::50"), 179, ("fd00:50::50",)), {"fd00:64::/64": "fd00:50::50"}),
        (
            defaults(node_name="node1", cluster_asn=65000, bgp_port=1790, router_id="1.2.3.4"),
            NODE1,
            Speaker(65000, "1.2.3.4", 1790, ("192.168.50.50",)),
            {"10.233.64.0/24": "192.168.50.50"},
        ),
    ],
)
def test_the_speaker_announces_every_own_range_with_a_next_hop_of_its_family(options, own, speaker, paths) -> None:
    desired = itself(own, options)
    assert desired.notes == ()
    assert desired.state == {SpeakerKey(): speaker} | {PathKey(cidr): Path(hop) for cidr, hop in paths.items()}


def test_a_range_without_an_address_of_its_family_is_told_and_not_announced() -> None:
    desired = itself(node("node1", "192.168.50.50", cidrs=("10.233.64.0/24", "fd00:64::/64")), DUAL)
    assert [key.prefix for key in desired.state if isinstance(key, PathKey)] == ["10.233.64.0/24"]
    assert [note.reason for note in desired.notes] == ["NoNextHop"]
    assert "fd00:64::/64" in desired.notes[0].message


def test_an_ipv6_node_needs_a_router_id_and_is_told_so() -> None:
    desired = itself(SIX1, defaults(node_name="node1", enable_ipv6=True))
    assert desired.state == {}
    assert [note.reason for note in desired.notes] == ["NoRouterID"]


@pytest.mark.parametrize("own", [None, node("node1", cidrs=("10.233.64.0/24",))])
def test_without_our_node_or_its_address_nothing_is_wanted(own: Node | None) -> None:
    assert itself(own, DUAL) == NOTHING
    assert rules(own, Terms(), DUAL) == NOTHING
    assert neighbor(NODE2, own, store(NODE2).view.nodes, DUAL) == NOTHING


@pytest.mark.parametrize(
    ("address", "identifier"),
    [("10.0.0.1", "0.15.248.254"), ("192.168.1.10", "47.29.204.12"), ("2001:db8:1::1", "137.170.22.111")],
)
def test_a_generated_router_id_is_the_originals(address: str, identifier: str) -> None:
    assert router_id(node("n", address), defaults(router_id="generate")) == identifier


# -- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "own", "other", "address", "wanted"),
    [
        (V4, NODE1, NODE2, "192.168.50.51", Neighbor(64512, "192.168.50.50", families=(4,))),
        (DUAL, NODE1, NODE2, "192.168.50.51", Neighbor(64512, "192.168.50.50", families=(4, 6))),
        (DUAL, NODE1, node("node2", "192.168.50.51"), "192.168.50.51", Neighbor(64512, "192.168.50.50", families=(4,))),
        (V6, SIX1, SIX2, "fd00:50::51", Neighbor(64512, "fd00:50::50", families=(6,))),
        (
            defaults(node_name="node1", bgp_graceful_restart=True, cluster_asn=65000, bgp_port=1790, bgp_holdtime=30.0),
            NODE1,
            NODE2,
            "192.168.50.51",
            Neighbor(65000, "192.168.50.50", port=1790, families=(4,), hold_time=90, restart_time=90, deferral_time=5),
        ),
        (
            defaults(node_name="node1", bgp_graceful_restart=True, bgp_graceful_restart_time=30.0, bgp_graceful_restart_deferral_time=3.0),
            NODE1,
            NODE2,
            "192.168.50.51",
            Neighbor(64512, "192.168.50.50", families=(4,), restart_time=30, deferral_time=3),
        ),
    ],
)
def test_a_session_carries_the_families_of_both_ends(options, own, other, address, wanted) -> None:
    desired = neighbor(other, own, store(own, other).view.nodes, options)
    assert desired.state == {NeighborKey(address): wanted}
    assert desired.notes == ()


@pytest.mark.parametrize("options", [DUAL, V4])
def test_no_node_has_a_session_with_itself(options) -> None:
    assert neighbor(NODE1, NODE1, store(NODE1).view.nodes, options) == NOTHING


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (node("odd", cidrs=("10.233.70.0/24",)), "NoAddress"),
        (node("odd", "fd00:50::70"), "AddressFamilyMismatch"),
        (node("odd", "192.168.50.51", cidrs=()), "DuplicateAddress"),
        (node("zzz", "192.168.50.51", cidrs=("10.233.70.0/24",)), "DuplicateAddress"),
        (node("odd", "192.168.50.50", cidrs=("10.233.70.0/24",)), "DuplicateAddress"),
    ],
)
def test_an_odd_node_is_named_and_bothers_no_other(odd: Node, reason: str) -> None:
    """U081"""
    nodes = store(NODE1, NODE2, odd).view.nodes
    desired = neighbor(odd, NODE1, nodes, DUAL)
    assert desired.state == {}
    assert [(note.about.name, note.reason) for note in desired.notes] == [(odd.name, reason)]
    healthy = neighbor(NODE2, NODE1, nodes, DUAL)
    assert list(healthy.state) == [NeighborKey("192.168.50.51")]


def test_of_two_nodes_with_one_address_the_older_one_keeps_it() -> None:
    """A newcomer with fewer families would otherwise end the session of the node that has worked for long."""
    old = msgspec.structs.replace(NODE2, created="2024-01-02T03:04:05Z")
    new = msgspec.structs.replace(node("another", "192.168.50.51", cidrs=("10.233.70.0/24",)), created="2025-01-02T03:04:05Z")
    nodes = store(NODE1, old, new).view.nodes
    assert list(neighbor(old, NODE1, nodes, DUAL).state) == [NeighborKey("192.168.50.51")]
    assert [note.reason for note in neighbor(new, NODE1, nodes, DUAL).notes] == ["DuplicateAddress"]


def test_a_node_without_a_common_family_is_named() -> None:
    six = defaults(node_name="node1", enable_ipv4=False, enable_ipv6=True)
    four = node("node2", "192.168.50.51")
    desired = neighbor(four, NODE1, store(NODE1, four).view.nodes, six)
    assert desired.state == {}
    assert [note.reason for note in desired.notes] == ["NoCommonFamily"]


# -- rules ------------------------------------------------------------------------------------------------------------

EXPORTS_V4 = [("podcidrdefinedsetiBGPpeerset", "iBGPpeerset", True), ("podcidrdefinedsetv6iBGPpeerset", "iBGPpeerset", True)]
IMPORTS_V4 = [
    ("servicevipsdefinedsetallpeerset", "allpeerset", False),
    ("servicevipsdefinedsetv6allpeerset", "allpeerset", False),
    ("defaultroutedefinedsetallpeerset", "allpeerset", False),
    ("defaultroutedefinedsetv6allpeerset", "allpeerset", False),
]


def test_rules_of_a_dual_stack_mesh_over_ipv4_are_those_that_operators_know() -> None:
    assert statements(NODE1, NODE2) == {"kube_router_export": EXPORTS_V4, "kube_router_import": IMPORTS_V4}


def test_rules_of_a_mesh_over_ipv6_name_the_ipv6_neighbours() -> None:
    assert statements(SIX1, SIX2, options=V6) == {
        "kube_router_export": [("podcidrdefinedsetv6iBGPpeersetv6", "iBGPpeersetv6", True)],
        "kube_router_import": [
            ("servicevipsdefinedsetallpeersetv6", "allpeersetv6", False),
            ("servicevipsdefinedsetv6allpeersetv6", "allpeersetv6", False),
            ("defaultroutedefinedsetallpeersetv6", "allpeersetv6", False),
            ("defaultroutedefinedsetv6allpeersetv6", "allpeersetv6", False),
        ],
    }


@pytest.mark.parametrize("options", [V4, V6, DUAL])
@pytest.mark.parametrize("nodes", [(NODE1,), (NODE1, NODE2), (SIX1, SIX2), (NODE1, SIX2), (SIX1, NODE2, node("x"))])
def test_no_statement_ever_names_an_empty_set_of_neighbours(options, nodes) -> None:
    state = rules(nodes[0], terms(nodes[0], options), options).state
    for value in state.values():
        for entry in value.statements if isinstance(value, BgpPolicy) else ():
            assert members(state, entry.neighbor_set)
            assert members(state, entry.prefix_set) or entry.prefix_set.startswith("servicevips")


def test_sets_bear_the_originals_names_and_members() -> None:
    state = whole_rules([NODE1, NODE2, node("node3", "192.168.60.52")], DUAL)
    everyone = ("192.168.50.50/32", "192.168.50.51/32", "192.168.60.52/32")
    assert {key.name: members(state, key.name) for key in state if isinstance(key, DefinedSetKey)} == {
        "allpeerset": everyone,
        "allpeersetv6": (),
        "iBGPpeerset": everyone,
        "iBGPpeersetv6": (),
        "customimportrejectdefinedset": (),
        "customimportrejectdefinedsetv6": (),
        "defaultroutedefinedset": ("0.0.0.0/0 0..0",),
        "defaultroutedefinedsetv6": ("::/0 0..0",),
        "podcidrdefinedset": ("10.233.64.0/24 24..24",),
        "podcidrdefinedsetv6": ("fd00:64::/64 64..64",),
        "servicevipsdefinedset": (),
        "servicevipsdefinedsetv6": (),
    }
    assert state[AssignmentKey("export")] == Assignment(("kube_router_export",), default_accept=False)
    assert state[AssignmentKey("import")] == Assignment(("kube_router_import",), default_accept=True)


def test_ranges_of_a_family_that_is_off_are_in_no_set() -> None:
    state = rules(NODE1, Terms(), V4).state
    assert members(state, "podcidrdefinedset") == ("10.233.64.0/24 24..24",)
    assert members(state, "podcidrdefinedsetv6") == ()


# -- what touches what ------------------------------------------------------------------------------------------------


def touched(cache: Cache, *changed: Node | Name) -> set[object]:
    controller = SpeakerController(DUAL)
    feed = cache.feed(controller.reads)
    list(controller.touched(feed.take(), cache.view))
    for value in changed:
        if isinstance(value, Node):
            cache.put(value)
        else:
            cache.remove(Kind.NODE, value)
    return {item.name if isinstance(item, Ref) else item for item in controller.touched(feed.take(), cache.view)}


NODE3 = node("node3", "192.168.50.52", cidrs=("10.233.65.0/24",))


@pytest.mark.parametrize(
    ("change", "items"),
    [
        (NODE3, {NODE3.name}),
        (NODE2.name, {NODE2.name}),
        (node("node2", "192.168.50.51", "fd00:50::51", cidrs=("10.233.67.0/24",)), {NODE2.name}),
        (node("node2", "192.168.50.51", cidrs=NODE2.pod_cidrs), {NODE2.name}),
        (node("node2", "192.168.50.99", cidrs=NODE2.pod_cidrs), {NODE2.name}),
        (Node(NODE2.name, annotations={"a": "b"}, addresses=NODE2.addresses, pod_cidrs=NODE2.pod_cidrs), set()),
        (node("node1", *NODE1.addresses, cidrs=("10.233.69.0/24",)), {NODE1.name, SELF, RULES, EXTERNALS}),
        (node("node1", "192.168.50.60"), {NODE1.name, NODE2.name, SELF, RULES, EXTERNALS, DRAIN}),
        (NODE1.name, {NODE1.name, NODE2.name, SELF, RULES, EXTERNALS, DRAIN}),
        (node("twin", "192.168.50.51"), {Name("", "twin"), NODE2.name}),
    ],
)
def test_a_change_touches_what_depends_on_it(change: Node | Name, items: set[object]) -> None:
    assert touched(store(NODE1, NODE2), change) == items


def test_peers_are_unknown_until_the_speaker_is_programmed() -> None:
    ledger = Ledger()
    session = Neighbor(64512, "192.168.50.50")
    started = Speaker(64512, "192.168.50.50", 179, ())
    ledger.want(NODE2.name, {NeighborKey("192.168.50.51"): session})
    ledger.want(SELF, {SpeakerKey(): started})
    assert peers_of(ledger) is None
    ledger.commit([Change(SpeakerKey(), None, started)])
    assert peers_of(ledger) == {"192.168.50.51"}
