"""What goes to whom: every cell of the table, for IPv4, IPv6 and nodes whose primary address is IPv6."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import msgspec
import pytest

from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.desired.external_ips import ranges
from kube_router.desired.routing.peers import neighbor
from kube_router.desired.routing.rules import Terms, memberships, rules
from kube_router.desired.routing.speaker import primary
from kube_router.desired.routing.vips import announcer, vips
from kube_router.kit.net import family_of
from kube_router.model.objects import Endpoint, EndpointSlice, Name, Node, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import PathKey, PolicyKey
from tests.walk.bgp import Route, walk

FOUR, SIX = ("192.168.50.{n}", "fd00:50::{n}"), ("fd00:50::{n}", "192.168.50.{n}")
PRIMARIES = {"IPv4": FOUR, "IPv6": SIX, "IPv6 alone": ("fd00:50::{n}",)}
WEB = Service(
    Name("shop", "web"),
    cluster_ips=("10.96.0.1", "fd00:233::1"),
    external_ips=("203.0.113.1", "2001:db8:e::1"),
)
SLICE = EndpointSlice(Name("shop", "web"), WEB.name, (Endpoint(("10.233.64.5",)), Endpoint(("fd00:64::5",))))
OUTSIDE = {"IPv4": ("198.18.0.0/24", "192.168.60.1"), "IPv6": ("2001:db8:ff::/48", "fd00:60::1")}
ROUTERS = ("192.168.60.1", "fd00:60::1")


def node(n: int, addresses: tuple[str, ...]) -> Node:
    return Node(
        Name("", f"node{n}"),
        addresses=tuple(address.format(n=n) for address in addresses),
        pod_cidrs=(f"10.233.{n}.0/24", f"fd00:64:{n}::/64"),
    )


def options(**flags: object) -> Options:
    return defaults(
        node_name="node1",
        enable_ipv6=True,
        advertise_cluster_ip=True,
        advertise_external_ip=True,
        strict_external_ip_validation=False,
        **flags,
    )


def speaker_of(addresses: tuple[str, ...], terms: Terms) -> tuple[Mapping[Key, Value], Node, Node]:
    """State of node1 next to node2, with external peers of both families; what Services put in, too."""
    own, other = node(1, addresses), node(2, addresses)
    cache = Cache()
    for one in (own, other):
        cache.put(one)
    state: dict[Key, Value] = dict(rules(own, terms, options()).state)
    session = neighbor(other, own, cache.view.nodes, options()).state
    assert session
    state |= session | memberships(session)
    around = announcer(own, tuple, options())
    state |= vips(WEB, [SLICE], around, options=options(), allowed=ranges(options()), is_node=lambda address: False).state
    return state, own, other


def routes(family: str, other: Node) -> dict[str, Route]:
    """The rows of the table, in a family."""
    pick = 0 if family == "IPv4" else 1
    return {
        "own pod range": Route(f"{('10.233.1.0/24', 'fd00:64:1::/64')[pick]}", "local"),
        "another node's pod range": Route(other.pod_cidrs[pick], "internal"),
        "own VIP": Route(("203.0.113.1/32", "2001:db8:e::1/128")[pick], "local"),
        "learned from outside": Route(OUTSIDE[family][0], "external"),
        "default route": Route(("0.0.0.0/0", "::/0")[pick], "external"),
        "default route of a node": Route(("0.0.0.0/0", "::/0")[pick], "internal"),
    }


# Row -> sent to: a node by a node, a node by a reflector, an external peer with --advertise-pod-cidr, and without.
TABLE = {
    "own pod range": (True, True, True, False),
    "another node's pod range": (False, True, False, False),
    "own VIP": (False, False, True, True),
    "learned from outside": (False, False, False, False),
    "default route": (False, False, False, False),
}
COLUMNS = ("node", "reflector", "external", "external, no pods")
# Primary addresses of the nodes x family of the prefix; a node without IPv4 has no IPv4 VIP.
WORLDS = [(p, f) for p, f in product(PRIMARIES, ("IPv4", "IPv6")) if (p, f) != ("IPv6 alone", "IPv4")]


def terms_of(column: str) -> Terms:
    return Terms(externals=ROUTERS, reflects=column == "reflector", pods_to_externals=column != "external, no pods")


@pytest.mark.parametrize(("primaries", "family"), WORLDS)
@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("column", COLUMNS)
def test_r09_r10_what_is_sent_to_whom(primaries: str, family: str, row: str, column: str) -> None:
    state, _, other = speaker_of(PRIMARIES[primaries], terms_of(column))
    route = routes(family, other)[row]
    for neighbor_address in (primary(other),) if column in ("node", "reflector") else ROUTERS:
        passes, decided = walk(state, "export", route, neighbor_address)
        assert passes is TABLE[row][COLUMNS.index(column)], f"to {neighbor_address}: {decided}"


@pytest.mark.parametrize(("primaries", "family"), WORLDS)
@pytest.mark.parametrize("reflects", [False, True])
@pytest.mark.parametrize(
    ("row", "accepted"),
    [
        ("another node's pod range", True),
        ("learned from outside", True),
        ("own VIP", False),
        ("default route", False),
        ("default route of a node", False),
    ],
)
def test_r09_what_is_accepted_from_anybody(primaries: str, family: str, reflects: bool, row: str, accepted: bool) -> None:
    state, _, other = speaker_of(PRIMARIES[primaries], Terms(externals=ROUTERS, reflects=reflects))
    for sender in (primary(other), *ROUTERS):
        assert walk(state, "import", routes(family, other)[row], sender)[0] is accepted, sender


@pytest.mark.parametrize("primaries", PRIMARIES)
@pytest.mark.parametrize("stranger", ["192.0.2.99", "2001:db8::99"])
def test_a_neighbour_that_is_in_no_set_is_sent_nothing(primaries: str, stranger: str) -> None:
    state, _, other = speaker_of(PRIMARIES[primaries], Terms(externals=ROUTERS, reflects=True))
    for family in ("IPv4", "IPv6"):
        for route in routes(family, other).values():
            assert not walk(state, "export", route, stranger)[0]


# -- what happens on the way out --------------------------------------------------------------------------------------

CHANGED = Terms(externals=ROUTERS, prepend=(65001, 3), communities=("65000:1", "65535:65281"), next_hop_self=True)


@pytest.mark.parametrize(("primaries", "family"), WORLDS)
@pytest.mark.parametrize("row", ["own pod range", "own VIP"])
@pytest.mark.parametrize("router", ROUTERS)
def test_externals_get_prepends_and_communities_and_a_next_hop_of_the_routes_family(
    primaries: str, family: str, row: str, router: str
) -> None:
    state, _, other = speaker_of(PRIMARIES[primaries], CHANGED)
    route = routes(family, other)[row]
    _, decided = walk(state, "export", route, router)
    assert decided is not None
    assert decided.prepend == (65001, 3)
    assert decided.communities == ("65000:1", "65535:65281")
    assert decided.next_hop == ("self" if family_of(router) == family_of(route.prefix) else ""), "the session's address is of its family"


@pytest.mark.parametrize("primaries", PRIMARIES)
def test_nodes_get_routes_as_they_are(primaries: str) -> None:
    state, _, other = speaker_of(PRIMARIES[primaries], msgspec.structs.replace(CHANGED, reflects=True))
    for row in ("own pod range", "another node's pod range"):
        for family in ("IPv4", "IPv6"):
            _, decided = walk(state, "export", routes(family, other)[row], primary(other))
            assert decided is not None
            assert (decided.prepend, decided.communities, decided.next_hop) == (None, (), "")


@pytest.mark.parametrize(
    ("prefix", "accepted"),
    [
        ("10.50.0.0/16", False),
        ("10.50.7.0/24", False),
        ("10.50.7.7/32", False),
        ("10.0.0.0/8", True),
        ("10.51.0.0/16", True),
        ("fd00:bad::/48", False),
        ("fd00:bad:0:1::/64", False),
        ("fd00::/16", True),
    ],
)
def test_prefixes_that_an_annotation_rejects_are_rejected_with_all_inside_them_in_both_families(prefix: str, accepted: bool) -> None:
    state, _, other = speaker_of(FOUR, Terms(externals=ROUTERS, reject=("10.50.0.0/16", "fd00:bad::/48")))
    for sender in (primary(other), *ROUTERS):
        assert walk(state, "import", Route(prefix, "external"), sender)[0] is accepted


# -- no statement is ever wider than it says --------------------------------------------------------------------------

TERMS = [
    Terms(),
    Terms(mesh=False),
    Terms(mesh=False, externals=("192.168.60.1",)),
    Terms(mesh=False, externals=("fd00:60::1",), reflects=True),
    Terms(externals=("192.168.60.1",), reject=("10.50.0.0/16",)),
    CHANGED,
]


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("primaries", PRIMARIES)
@pytest.mark.parametrize("cidrs", [(), ("10.233.1.0/24",), ("fd00:64:1::/64",), ("10.233.1.0/24", "fd00:64:1::/64")])
def test_r12_every_set_that_a_statement_names_exists_and_no_named_set_of_neighbours_is_empty(
    terms: Terms, primaries: str, cidrs: tuple[str, ...]
) -> None:
    own = msgspec.structs.replace(node(1, PRIMARIES[primaries]), pod_cidrs=cidrs)
    state = rules(own, terms, options()).state
    members = {(key.type, key.name) for key in state if hasattr(key, "member")}
    sets = {(key.type, key.name) for key in state if type(key).__name__ == "DefinedSetKey"}
    for policy in (state[PolicyKey("kube_router_export")], state[PolicyKey("kube_router_import")]):
        for statement in policy.statements:
            assert ("neighbor", statement.neighbor_set) in members
            assert not statement.prefix_set or ("prefix", statement.prefix_set) in sets
            if not statement.prefix_set.startswith("servicevips") and statement.prefix_set:
                assert ("prefix", statement.prefix_set) in members


@pytest.mark.parametrize("cidrs", [("10.233.1.0/24",), ("fd00:64:1::/64",)])
def test_r12_a_family_without_a_pod_range_leaves_the_other_ones_alone(cidrs: tuple[str, ...]) -> None:
    own = msgspec.structs.replace(node(1, FOUR), pod_cidrs=cidrs)
    state = rules(own, Terms(), options()).state
    assert walk(state, "export", Route(cidrs[0], "local"), "192.168.50.1")[0]
    pods = [key.member for key in state if getattr(key, "name", "").startswith("podcidr") and hasattr(key, "member")]
    assert [member.split()[0] for member in pods] == list(cidrs)


def test_the_first_and_the_last_vip_change_no_policy() -> None:
    state, own, _ = speaker_of(FOUR, terms_of("external"))
    assert [key for key in state if isinstance(key, PathKey)]
    bare = rules(own, terms_of("external"), options()).state
    for name in ("kube_router_export", "kube_router_import"):
        assert bare[PolicyKey(name)] == state[PolicyKey(name)]
