"""What kube-router 2.11 was recorded to tell its speaker and its peers, and what we tell them for the same cluster.

Ours differs where the original is at fault: an IPv6 route keeps an IPv6 next hop, though its session is IPv4.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kube_router.cache.cache import Cache
from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.speaker import DRAIN, EXTERNALS, RULES, SELF, SpeakerController
from kube_router.model.objects import Kind, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.bgp import BgpPolicy, DefinedSetKey, DefinedSetMember, PathKey, PolicyKey
from kube_router.model.state.bgp import Path as OwnPath
from tests.walk.bgp import Route, walk

DATA = Path(__file__).parent.parent / "data" / "original-2.11"
KINDS = (Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE)
ROUTER, NEIGHBOUR = "192.168.50.1", "192.168.50.51"


def recorded(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


@pytest.fixture(scope="module")
def ours() -> dict[Key, Value]:
    options = defaults(
        node_name="node1",
        enable_ipv6=True,
        advertise_cluster_ip=True,
        advertise_external_ip=True,
        advertise_loadbalancer_ip=True,
        override_nexthop=True,
        service_cluster_ip_range=("10.233.0.0/18", "fd00:233::/112"),
        service_external_ip_range=("203.0.113.0/24",),
        loadbalancer_ip_range=("198.51.100.0/24",),
        peer_router_ips=(ROUTER,),
        peer_router_asns=(65001,),
    )
    cache, controller = Cache(), SpeakerController(options)
    feed = cache.feed(controller.reads)
    of = {kind.value: kind for kind in KINDS}
    for item in json.loads((DATA / "cluster.json").read_text())["items"]:
        if item["kind"] in of:
            decoded = decode_item(of[item["kind"]], json.dumps(item).encode())
            assert not decoded.faults
            cache.put(decoded.object)
    items = {*controller.touched(feed.take(), cache.view), SELF, RULES, EXTERNALS, DRAIN}
    state: dict[Key, Value] = {}
    for item in items:
        state |= controller.want(item, cache.view).state
    assert {Ref(Kind.SERVICE, name) for name in cache.view.services} <= items
    return state


def recorded_sets() -> dict[str, set[str]]:
    """Set -> members, of both kinds."""
    found: dict[str, set[str]] = {}
    for name in ("gobgp-set-neighbor", "gobgp-set-prefix"):
        for line in recorded(name).splitlines()[1:]:
            if not line.startswith(" "):
                current = line.split()[0]
                found[current] = set()
            member = line.removeprefix(current).strip() if not line.startswith(" ") else line.strip()
            if member:
                found[current].add(member)
    return found


def test_sets_bear_the_same_names_and_members(ours: dict[Key, Value]) -> None:
    mine: dict[str, set[str]] = {key.name: set() for key in ours if isinstance(key, DefinedSetKey)}
    for key in ours:
        if isinstance(key, DefinedSetMember):
            mine[key.name].add(key.member)
    assert mine == recorded_sets()


def test_policies_have_the_same_statements_in_the_same_order(ours: dict[Key, Value]) -> None:
    theirs: dict[str, list[tuple[str, str, str, bool, str]]] = {}
    for policy in re.split(r"^Name ", recorded("gobgp-policy"), flags=re.MULTILINE)[1:]:
        name = policy.splitlines()[0].rstrip(":")[:-1]  # without its number
        theirs[name] = [
            (
                block.splitlines()[0].rstrip(":"),
                re.findall(r"PrefixSet: any (\S+)", block)[0],
                re.findall(r"NeighborSet: any (\S+)", block)[0],
                "accept" in block.split("Actions:")[1],
                "".join(re.findall(r"Nexthop: +(\S+)", block)),
            )
            for block in policy.split("StatementName ")[1:]
        ]
    mine = {
        key.name: [(s.name, s.prefix_set, s.neighbor_set, s.accept, s.next_hop) for s in value.statements]
        for key, value in ours.items()
        if isinstance(key, PolicyKey) and isinstance(value, BgpPolicy)
    }
    for name, statements in theirs.items():
        theirs[name] = [(*rest, "" if prefixes.endswith("v6") else hop) for *rest, hop in statements for prefixes in [rest[1]]]
    assert mine == theirs


@pytest.mark.parametrize(("peer", "record"), [(ROUTER, "external-peer-received"), (NEIGHBOUR, "node-peer-received")])
@pytest.mark.parametrize("family", [4, 6])
def test_a_peer_is_sent_the_same_prefixes_each_with_a_next_hop_of_its_family(
    ours: dict[Key, Value], peer: str, record: str, family: int
) -> None:
    rows = [line.split()[1:3] for line in recorded(f"{record}{family}").splitlines()[1:]]
    theirs = {prefix: hop if family == 4 else "fd00:50::50" for prefix, hop in rows}
    mine = {
        key.prefix: value.next_hop
        for key, value in ours.items()
        if isinstance(key, PathKey)
        and isinstance(value, OwnPath)
        and (":" in key.prefix) is (family == 6)
        and walk(ours, "export", Route(key.prefix, "local"), peer)[0]
    }
    assert mine == theirs
