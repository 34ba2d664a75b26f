"""The speaker obeys the engine's law, on fake state and on a gobgpd in memory that fails, restarts and is meddled with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.generation import EXPORT, IMPORT
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.speaker import SpeakerController
from kube_router.model.objects import Kind, Name, Node, Object
from kube_router.model.state import Key, Value
from tests.engine import Event, Recorder, assert_law, inline, objects_of
from tests.gobgpd import FakeGobgpd

OPTIONS = defaults(node_name="node1", enable_ipv6=True, router_id="generate")

names = st.sampled_from([Name("", name) for name in ("node1", "node2", "node3", "node4")])
addresses = st.lists(
    st.sampled_from(["192.168.50.50", "192.168.50.51", "192.168.50.52", "fd00:50::50", "fd00:50::51"]), max_size=3, unique=True
)
cidrs = st.lists(st.sampled_from(["10.233.64.0/24", "10.233.65.0/24", "fd00:64::/64"]), max_size=2, unique=True)
nodes = st.builds(Node, name=names, addresses=addresses.map(tuple), pod_cidrs=cidrs.map(tuple), created=st.sampled_from(["2024", "2025"]))
gone = names.map(lambda name: (Kind.NODE, name))
histories = st.lists(st.one_of(nodes, nodes, gone), max_size=12)
numbers = st.frozensets(st.integers(0, 40), max_size=6)
OWN = Node(Name("", "node1"), addresses=("192.168.50.50", "fd00:50::50"), pod_cidrs=("10.233.64.0/24",))
OTHER = Node(Name("", "node2"), addresses=("192.168.50.51",), pod_cidrs=("10.233.65.0/24",))


@settings(max_examples=60, deadline=None)
@given(histories, numbers, st.frozensets(st.integers(0, 12), max_size=3), st.frozensets(st.integers(0, 12)))
def test_the_incremental_result_equals_the_result_from_nothing(
    events: list[Event], fail_at: frozenset[int], restart_at: frozenset[int], sync_at: frozenset[int]
) -> None:
    assert_law(lambda: SpeakerController(OPTIONS), events, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at)


class World:
    """One node's speaker controller over a gobgpd in memory. While it runs, nothing may ever leak or be let in."""

    def __init__(self, generation: str, objects: Iterable[Object] = ()) -> None:
        self.gobgpd = FakeGobgpd(generation)
        self.gobgpd.before_call = lambda method: self._nothing_leaks()
        self.cache = Cache()
        for value in objects:
            self.cache.put(value)
        self.restart()

    def restart(self) -> None:
        """Our process dies and comes back."""
        controller = SpeakerController(OPTIONS)
        self.target = GobgpTarget(cast(Client, self.gobgpd))
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=[self.target],
            report=Recorder(),
            call=inline,
        )

    def feed(self, event: Event) -> None:
        if isinstance(event, Node):
            self.cache.put(event)
        else:
            self.cache.remove(*cast(tuple[Kind, Name], event))

    def sync(self, *, audit: bool = False) -> Outcome:
        return asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))

    def settle(self) -> None:
        """Passes until nothing is left to do. A v4 process that was stopped is restarted by its supervisor."""
        for _ in range(60):
            if self.gobgpd.dead:
                self.gobgpd.restart()
            writes = self.target.writes
            outcome = self.sync(audit=True)
            if outcome.good and writes == self.target.writes:
                return
        raise AssertionError(f"not settled: {outcome}")

    def holds(self) -> dict[Key, Value]:
        return dict(self.target.observe(self.cycle.ledger.merged))

    def _nothing_leaks(self) -> None:
        gobgpd = self.gobgpd
        for address in gobgpd.peers:
            assert not gobgpd.judges(EXPORT, "198.18.0.0/24", address), "a foreign route would be sent to a neighbour"
            for prefix in ("0.0.0.0/0", "::/0"):
                assert not gobgpd.judges(IMPORT, prefix, address), "a default route would be let in"


def from_nothing(generation: str, objects: Iterable[Object]) -> dict[Key, Value]:
    world = World(generation, objects)
    world.settle()
    return world.holds()


@pytest.mark.parametrize("generation", ["v3", "v4"])
@settings(max_examples=30, deadline=None)
@given(
    histories,
    st.frozensets(st.integers(0, 120), max_size=8),
    st.frozensets(st.integers(0, 12), max_size=3),
    st.frozensets(st.integers(0, 12), max_size=3),
    st.frozensets(st.integers(0, 12)),
)
def test_a_gobgpd_that_fails_and_restarts_ends_up_as_a_new_one_would(
    generation: str,
    events: Sequence[Event],
    fail_at: frozenset[int],
    restart_at: frozenset[int],
    gobgpd_restart_at: frozenset[int],
    sync_at: frozenset[int],
) -> None:
    world = World(generation, [OWN])
    world.gobgpd.fail_at = fail_at
    for n, event in enumerate(events):
        if n in restart_at:
            world.restart()
        if n in gobgpd_restart_at:
            world.gobgpd.restart()
        world.feed(event)
        if n in sync_at:
            world.sync()
    world.settle()
    world.gobgpd.fail_at = frozenset()
    assert world.holds() == from_nothing(generation, objects_of(world.cache))
    world.restart()
    world.settle()
    assert world.target.writes == 0, "a restart over a settled speaker writes nothing"


def meddle_policies(gobgpd: FakeGobgpd) -> None:
    gobgpd.assignments[EXPORT] = ((), 1)


def meddle_statement(gobgpd: FakeGobgpd) -> None:
    for entry in gobgpd.statements.values():
        entry.actions.route_action = 3 - entry.actions.route_action


def meddle_default(gobgpd: FakeGobgpd) -> None:
    names, _ = gobgpd.assignments[EXPORT]
    gobgpd.assignments[EXPORT] = (names, 1)


def meddle_sets(gobgpd: FakeGobgpd) -> None:
    for held in gobgpd.sets.values():
        if held.list:
            held.list.append("10.9.9.9/32")
            held.list.append(held.list[0])


def meddle_set_gone(gobgpd: FakeGobgpd) -> None:
    del gobgpd.sets[gobgpd.api.set_prefix, "customimportrejectdefinedset"]


def meddle_peers(gobgpd: FakeGobgpd) -> None:
    gobgpd.peers.clear()


def meddle_peer_changed(gobgpd: FakeGobgpd) -> None:
    for peer in gobgpd.peers.values():
        peer.timers.config.hold_time = 30


def meddle_paths(gobgpd: FakeGobgpd) -> None:
    gobgpd.paths.clear()


def meddle_old_policy(gobgpd: FakeGobgpd) -> None:
    gobgpd.policies["kube_router_export9"] = list(gobgpd.policies["kube_router_export1"])
    gobgpd.policies["mine"] = []


MEDDLERS: list[Any] = [
    meddle_policies,
    meddle_statement,
    meddle_default,
    meddle_sets,
    meddle_set_gone,
    meddle_peers,
    meddle_peer_changed,
    meddle_paths,
    meddle_old_policy,
]


@pytest.mark.parametrize("generation", ["v3", "v4"])
@pytest.mark.parametrize("meddle", MEDDLERS, ids=lambda meddle: meddle.__name__)
def test_what_somebody_changed_in_the_speaker_is_put_right(generation: str, meddle: Any) -> None:
    world = World(generation, [OWN, OTHER])
    world.settle()
    right = world.holds()
    world.gobgpd.before_call = lambda method: None
    meddle(world.gobgpd)
    assert world.sync(audit=True).drifted > 0 or meddle is meddle_sets
    world.settle()
    assert world.holds() == right
    assert not world.gobgpd.judges(EXPORT, "198.18.0.0/24", "192.168.50.51")
    assert world.gobgpd.judges(EXPORT, "10.233.64.0/24", "192.168.50.51")
