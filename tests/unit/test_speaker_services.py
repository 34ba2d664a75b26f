"""Services that this node announces, event by event, over a gobgpd in memory: what is written, and that nothing else is."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import cast

import msgspec
import pytest

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.generation import EXPORT, IMPORT
from kube_router.config.options import defaults
from kube_router.control.speaker import SpeakerController
from kube_router.desired.routing.vips import EXCLUDED
from kube_router.kit.errors import Busy
from kube_router.model.objects import Endpoint, EndpointSlice, Kind, Name, Node, Ref, Service
from kube_router.model.state import Change
from kube_router.model.state.bgp import Neighbor, NeighborKey, Path, PathKey, Speaker, SpeakerKey
from tests.gobgpd import FakeGobgpd
from tests.speaker_world import World

OPTIONS = defaults(
    node_name="node1",
    enable_ipv6=True,
    advertise_cluster_ip=True,
    advertise_external_ip=True,
    service_external_ip_range=("203.0.113.0/24",),
)
OWN = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.244.0.0/24",))
OTHER = Node(Name("", "node2"), addresses=("192.168.50.51", "fd00:50::51"), pod_cidrs=("10.244.1.0/24",))
PODS = {"10.244.0.0/24"}
ROUTER = "192.168.50.1"

OVER_EXTERNAL = {
    "node_name": "node1",
    "advertise_external_ip": True,
    "service_external_ip_range": ("203.0.113.0/24",),
}

generations = pytest.mark.parametrize("generation", ["v3", "v4"])


def service(name: str, *cluster: str, external: tuple[str, ...] = (), local: bool = False) -> Service:
    return Service(Name("shop", name), cluster_ips=cluster, external_ips=external, external_policy="Local" if local else "Cluster")


def ends(name: str, *, node: str = "node1", ready: bool = True, family: int = 4, address: str = "") -> EndpointSlice:
    where = address or ("10.244.0.5" if family == 4 else "fd00:64::5")
    return EndpointSlice(
        Name("shop", f"{name}-{family}"), Name("shop", name), (Endpoint((where,), ready=ready, serving=ready, node_name=node),)
    )


def settled(generation: str, *objects: Node | Service | EndpointSlice) -> World:
    world = World(generation, OPTIONS, (OWN, *objects))
    world.settle()
    world.gobgpd.calls.clear()
    return world


def announced(world: World) -> set[str]:
    """What gobgpd has as our paths, pod ranges left out."""
    return {key.prefix for key in world.holds() if isinstance(key, PathKey)} - PODS


def calls(world: World) -> list[str]:
    """Names of the calls that wrote since the last look."""
    names = [call.split()[0] for call in world.gobgpd.calls]
    world.gobgpd.calls.clear()
    return names


def step(world: World, *events: object) -> list[str]:
    for event in events:
        world.feed(event)  # type: ignore[arg-type]
    assert world.sync().good
    return calls(world)


# -- one change is one path and one member ----------------------------------------------------------------------------


@generations
def test_one_of_two_thousand_addresses_changes_and_only_its_path_and_its_member_are_written(generation: str) -> None:
    many = []
    for n in range(1000):
        address = f"{n // 250}.{n % 250}"
        many += [service(f"s{n}", f"10.96.{address}", external=(f"203.0.113.{n % 250}",)), ends(f"s{n}")]
        many += [service(f"t{n}", f"10.97.{address}"), ends(f"t{n}")]
    world = World(generation, OPTIONS, (OWN, OTHER, *many))
    world.gobgpd.before_call = lambda method: None  # leaks are looked for elsewhere: here it would take minutes
    world.settle()
    world.gobgpd.calls.clear()
    assert len(announced(world)) == 2250
    gone = service("s7", "10.96.0.7")
    asked = world.gobgpd.asked
    assert step(world, ends("t7", ready=False)) == ["DeletePath", "DeleteDefinedSet"]
    assert step(world, ends("t7")) == ["AddDefinedSet", "AddPath"]
    assert step(world, service("new", "10.98.0.1"), ends("new")) == ["AddDefinedSet", "AddPath"]
    assert world.gobgpd.asked - asked <= 12, "and little is asked"
    assert step(world, gone) == [], "three other Services announce its external address"
    assert step(world, (Kind.SERVICE, gone.name)) == ["DeletePath", "DeleteDefinedSet"]


@generations
def test_r03_churn_that_changes_no_announcement_writes_nothing_and_asks_next_to_nothing(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"), OTHER)
    for n in range(20):
        assert step(world, ends("web", address=f"10.244.0.{n + 10}")) == []
        assert step(world, ends("unknown", address=f"10.244.0.{n + 10}")) == []
        assert step(world, msgspec.structs.replace(service("web", "10.96.0.1"), labels={"n": str(n)})) == []


@generations
def test_r03_work_for_a_change_does_not_grow_with_services_or_nodes(generation: str) -> None:
    def asked(size: int) -> list[int]:
        nodes = [Node(Name("", f"m{n}"), addresses=(f"192.168.{51 + n // 250}.{n % 250}",)) for n in range(size)]
        world = settled(generation, *nodes, *(service(f"s{n}", f"10.96.{n // 250}.{n % 250}") for n in range(size)))
        counted = []
        newcomer = Node(Name("", "newcomer"), addresses=("192.168.49.9",), pod_cidrs=("10.250.0.0/24",))
        for events in ([service("web", "10.98.0.1"), ends("web")], [newcomer], [(Kind.NODE, newcomer.name)]):
            before = world.gobgpd.asked
            step(world, *events)
            counted.append(world.gobgpd.asked - before)
        return counted

    assert asked(10) == asked(40)


@generations
def test_r04_passes_over_what_is_announced_write_nothing(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"), service("idle", "10.96.0.2"))
    for _ in range(3):
        assert world.sync(audit=True).good
    assert calls(world) == []
    assert announced(world) == {"10.96.0.1/32"}


# -- one Service does not disturb another -----------------------------------------------------------------------------


@generations
def test_r01_a_service_without_any_slice_keeps_no_other_from_being_announced(generation: str) -> None:
    world = settled(generation, service("kubernetes", "10.96.0.1"), service("web", "10.96.0.10"), ends("web"))
    assert announced(world) == {"10.96.0.10/32"}
    assert step(world, service("later", "10.96.0.11"), ends("later")) == ["AddDefinedSet", "AddPath"]
    assert step(world, (Kind.ENDPOINT_SLICE, Name("shop", "later-4"))) == ["DeletePath", "DeleteDefinedSet"]
    assert announced(world) == {"10.96.0.10/32"}


@generations
def test_u050_r05_an_address_of_several_services_is_announced_while_one_of_them_serves_it_here(generation: str) -> None:
    shared = ("203.0.113.60",)
    one, two = service("one", "10.96.0.1", external=shared, local=True), service("two", "10.96.0.2", external=shared, local=True)
    world = World(generation, defaults(**OVER_EXTERNAL), (OWN, OTHER, one, ends("one")))
    world.settle()
    world.gobgpd.calls.clear()
    assert announced(world) == {"203.0.113.60/32"}
    assert step(world, two) == []
    assert step(world, ends("two", ready=False)) == [], "a Service that is not ready yet takes nothing away"
    assert step(world, ends("two", node="node2")) == [], "nor does one that serves it elsewhere"
    assert step(world, (Kind.SERVICE, one.name)) == ["DeletePath", "DeleteDefinedSet"]
    assert step(world, ends("two")) == ["AddDefinedSet", "AddPath"]
    assert step(world, one) == []
    assert step(world, msgspec.structs.replace(two, external_ips=())) == []
    assert step(world, two) == []
    assert announced(world) == {"203.0.113.60/32"}


@generations
def test_u054_a_service_becomes_dual_stack_and_single_stack_again(generation: str) -> None:
    four, six = "10.96.0.1", "fd00:233::1"
    world = settled(generation, service("web", four), ends("web"))
    assert announced(world) == {"10.96.0.1/32"}
    step(world, service("web", four, six), ends("web", family=6))
    assert announced(world) == {"10.96.0.1/32", "fd00:233::1/128"}
    assert step(world, service("web", four)) == ["DeletePath", "DeleteDefinedSet"]
    assert announced(world) == {"10.96.0.1/32"}
    step(world, (Kind.SERVICE, Name("shop", "web")))
    assert announced(world) == set()


# -- withdrawals ------------------------------------------------------------------------------------------------------


@generations
@pytest.mark.parametrize("failing", range(6))
def test_r06_a_withdrawal_that_fails_is_tried_until_the_speaker_agrees(generation: str, failing: int) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"))
    world.feed((Kind.ENDPOINT_SLICE, Name("shop", "web-4")))
    world.feed((Kind.SERVICE, Name("shop", "web")))
    world.gobgpd.fail_at = frozenset({world.gobgpd.asked + failing})
    world.sync()
    world.gobgpd.fail_at = frozenset()
    assert world.sync().good
    assert announced(world) == set()
    assert not [key for key in world.holds() if "10.96.0.1/32" in str(key)]


@generations
def test_r06_what_an_earlier_run_announced_is_withdrawn_though_its_service_is_gone(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"))
    world.cache.remove(Kind.ENDPOINT_SLICE, Name("shop", "web-4"))
    world.cache.remove(Kind.SERVICE, Name("shop", "web"))
    world.restart()
    assert world.sync().good
    assert announced(world) == set()


@generations
@pytest.mark.parametrize("gone", ["deleted", "emptied", "not ready"])
def test_r07_slices_that_go_and_endpoints_that_are_not_ready_withdraw(generation: str, gone: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"))
    name = Name("shop", "web-4")
    event = {
        "deleted": (Kind.ENDPOINT_SLICE, name),
        "emptied": EndpointSlice(name, Name("shop", "web")),
        "not ready": ends("web", ready=False),
    }[gone]
    assert step(world, event) == ["DeletePath", "DeleteDefinedSet"]


# -- draining ---------------------------------------------------------------------------------------------------------


@generations
def test_u108_the_label_withdraws_addresses_and_leaves_sessions_and_pod_ranges(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"), service("api", "10.96.0.2"), ends("api"), OTHER)
    sessions = set(world.gobgpd.peers)
    assert sessions
    labelled = msgspec.structs.replace(OWN, labels={EXCLUDED: ""})
    assert sorted(step(world, labelled)) == ["DeleteDefinedSet", "DeletePath", "DeletePath"]
    assert announced(world) == set()
    assert PathKey("10.244.0.0/24") in world.holds()
    assert set(world.gobgpd.peers) == sessions
    assert [note.reason for note in world.cycle.notes()] == ["ServicesWithdrawn"]
    step(world, OWN)
    assert announced(world) == {"10.96.0.1/32", "10.96.0.2/32"}
    assert list(world.cycle.notes()) == []


@generations
def test_u108_a_cordoned_node_follows_whether_another_announces(generation: str) -> None:
    options = defaults(**OVER_EXTERNAL | {"withdraw_on_cordon": True, "peer_router_ips": (ROUTER,), "peer_router_asns": (65001,)})
    shared = service("web", "10.96.0.1", external=("203.0.113.99",))
    world = World(generation, options, (msgspec.structs.replace(OWN, unschedulable=True), shared, ends("web")))
    world.settle()
    assert announced(world) == {"203.0.113.99/32"}, "the last announcer stays"
    world.feed(OTHER)
    world.sync()
    assert announced(world) == set()
    world.feed(msgspec.structs.replace(OTHER, unschedulable=True))
    world.sync()
    assert announced(world) == {"203.0.113.99/32"}


@generations
def test_a_node_that_takes_an_announced_address_ends_the_announcement_and_its_leaving_restores_it(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1", external=("203.0.113.7",)), ends("web"))
    taker = Node(Name("", "node3"), addresses=("192.168.50.53", "203.0.113.7"))
    step(world, taker)
    assert announced(world) == {"10.96.0.1/32"}
    assert ["203.0.113.7" in note.message for note in world.cycle.notes()] == [True]
    step(world, (Kind.NODE, taker.name))
    assert announced(world) == {"10.96.0.1/32", "203.0.113.7/32"}


@generations
def test_an_own_address_that_changes_is_the_next_hop_of_every_path_at_once(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"))
    moved = msgspec.structs.replace(OWN, addresses=("192.168.50.60", "fd00:50::50"))
    world.feed(moved)
    world.settle()
    assert world.holds()[PathKey("10.96.0.1/32")] == Path("192.168.50.60")


# -- rules that change ------------------------------------------------------------------------------------------------

PREPENDED = {
    "kube-router.io/path-prepend.as": "65001",
    "kube-router.io/path-prepend.repeat-n": "3",
    "kube-router.io/node.bgp.communities": "65000:1",
}


@generations
def test_r11_a_changed_statement_leaves_a_whole_policy_in_force_at_every_moment(generation: str) -> None:
    options = replace(OPTIONS, peer_router_ips=(ROUTER,), peer_router_asns=(65001,))
    world = World(generation, options, (OWN, OTHER, service("web", "10.96.0.1"), ends("web")))
    world.settle()
    assert set(world.gobgpd.peers) == {ROUTER, "192.168.50.51"}

    def whole(method: str) -> None:
        judges = world.gobgpd.judges
        assert judges(EXPORT, "10.96.0.1/32", ROUTER)
        assert judges(EXPORT, "10.244.0.0/24", ROUTER)
        assert judges(EXPORT, "10.244.0.0/24", "192.168.50.51")
        assert not judges(EXPORT, "10.96.0.1/32", "192.168.50.51")
        assert not judges(IMPORT, "10.96.0.1/32", ROUTER)
        assert not judges(IMPORT, "0.0.0.0/0", ROUTER)

    world.gobgpd.before_call = whole
    for said in (PREPENDED, PREPENDED | {"kube-router.io/node.bgp.communities": "65000:2"}, {}):
        world.feed(msgspec.structs.replace(OWN, annotations=said))
        assert world.sync().good
        statements = {name: entry.actions.as_prepend.repeat for name, entry in world.gobgpd.statements.items()}
        assert not [name for name in statements if name.endswith("~")]
        assert statements["servicevipsdefinedsetexternalpeerset"] == (3 if said else 0)
        assert statements["podcidrdefinedsetiBGPpeerset"] == 0
        assert not world.sync(audit=True).drifted
    assert [call for call in world.gobgpd.calls if call.startswith(("DeletePeer", "DeletePath"))] == []


@generations
@pytest.mark.parametrize("failing", range(0, 40, 2))
def test_r11_routes_follow_a_changed_rule_though_the_speaker_fails_meanwhile(generation: str, failing: int) -> None:
    options = replace(OPTIONS, peer_router_ips=(ROUTER,), peer_router_asns=(65001,))
    world = World(generation, options, (OWN, OTHER, service("web", "10.96.0.1"), ends("web")), reachable=True)
    world.settle()
    world.feed(msgspec.structs.replace(OWN, annotations=PREPENDED))
    world.gobgpd.fail_at = frozenset({world.gobgpd.asked + failing, world.gobgpd.asked + failing + 1})
    for _ in range(4):
        world.sync()
    for address, sent in world.gobgpd.sent.items():
        assert sent == world.gobgpd.to_send(address)
    assert "65001" in world.gobgpd.sent[ROUTER]["10.96.0.1/32"]


# -- order and exclusion ----------------------------------------------------------------------------------------------


@generations
def test_r08_policies_stand_before_paths_and_paths_before_peers(generation: str) -> None:
    world = World(generation, OPTIONS, (OWN, OTHER, service("web", "10.96.0.1"), ends("web")))
    world.settle()
    order = [call.split()[0] for call in world.gobgpd.calls]
    last_rule = max(n for n, name in enumerate(order) if name in ("AddDefinedSet", "AddStatement", "AddPolicy", "SetPolicyAssignment"))
    paths = [n for n, name in enumerate(order) if name == "AddPath"]
    peers = [n for n, name in enumerate(order) if name == "AddPeer"]
    assert len(paths) == 2
    assert len(peers) == 1
    assert last_rule < min(paths) <= max(paths) < min(peers)


def test_r02_two_writers_take_turns() -> None:
    gobgpd = FakeGobgpd("v4")
    target = GobgpTarget(cast(Client, gobgpd))
    assert target.apply([Change(SpeakerKey(), None, Speaker(64512, "10.0.0.1", 179, ("10.0.0.1",)))]) == {}
    inside: list[int] = []

    def look(method: str) -> None:
        inside.append(threading.get_ident())
        time.sleep(0.002)

    gobgpd.before_call = look
    changes = [[Change(NeighborKey(f"10.0.{n}.{m}"), None, Neighbor(64512, "10.0.0.1")) for m in range(1, 6)] for n in range(1, 4)]
    threads = [threading.Thread(target=target.apply, args=(some,)) for some in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gobgpd.peers) == 15
    turns = [one for one, before in zip(inside, [0, *inside], strict=False) if one != before]
    assert len(turns) == 3, "each writer has the speaker to itself from its first call to its last"


@generations
def test_a_speaker_that_gives_no_answer_is_no_reason_to_forget(generation: str) -> None:
    world = settled(generation, service("web", "10.96.0.1"), ends("web"))
    world.gobgpd.fail_at = frozenset(range(world.gobgpd.asked, world.gobgpd.asked + 3))
    world.feed(service("api", "10.96.0.2"))
    world.feed(ends("api"))
    assert not world.sync().good
    assert isinstance(world.report.failures[-1], Busy)
    world.gobgpd.fail_at = frozenset()
    assert world.sync().good
    assert announced(world) == {"10.96.0.1/32", "10.96.0.2/32"}


def test_r03_a_change_touches_its_own_service_among_a_thousand_and_only_a_new_announcer_touches_all() -> None:
    cache, controller = Cache(), SpeakerController(OPTIONS)
    feed = cache.feed(controller.reads)
    cache.put(OWN)
    for n in range(1000):
        cache.put(service(f"s{n}", f"10.96.{n // 250}.{n % 250}"))
        cache.put(ends(f"s{n}"))

    def touched(*changed: Node | Service | EndpointSlice) -> set[object]:
        list(controller.touched(feed.take(), cache.view))
        for value in changed:
            cache.put(value)
        return {item for item in controller.touched(feed.take(), cache.view) if isinstance(item, Ref) and item.kind is Kind.SERVICE}

    seven = Ref(Kind.SERVICE, Name("shop", "s7"))
    assert touched(ends("s7", ready=False)) == {seven}
    assert touched(service("s7", "10.98.0.7")) == {seven}
    assert touched(OTHER) == set()
    assert touched(msgspec.structs.replace(OWN, annotations={"kube-router.io/node.bgp.communities": "1:1"})) == set()
    assert touched(msgspec.structs.replace(OTHER, addresses=("192.168.50.51", "10.96.0.9"))) == {Ref(Kind.SERVICE, Name("shop", "s9"))}
    assert len(touched(msgspec.structs.replace(OWN, labels={EXCLUDED: ""}))) == 1000


@generations
@pytest.mark.parametrize("failing", range(0, 12, 3))
def test_a_stream_of_paths_that_breaks_off_is_finished_later(generation: str, failing: int) -> None:
    world = World(generation, OPTIONS, (OWN,))
    world.gobgpd.before_call = lambda method: None
    world.settle()
    for n in range(600):
        world.feed(service(f"s{n}", f"10.96.{n // 250}.{n % 250}"))
        world.feed(ends(f"s{n}"))
    for value, left in ((OWN, 600), (msgspec.structs.replace(OWN, labels={EXCLUDED: ""}), 0)):
        world.feed(value)
        world.gobgpd.fail_at = frozenset({world.gobgpd.asked + failing})
        world.sync()
        world.gobgpd.fail_at = frozenset()
        assert world.sync().good
        assert len(announced(world)) == left
        assert sum("servicevips" in str(key) and "10.96" in str(key) for key in world.holds()) == left
