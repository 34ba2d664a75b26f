"""Drives real cycles on fake targets: what laws and scenarios of every controller have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from kube_router.cache.cache import Cache
from kube_router.control.controller import Controller, Keeper
from kube_router.control.cycle import Cycle, Outcome
from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.model.objects import Kind, Name, Object
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.bgp import AssignmentKey, DefinedSetKey, DefinedSetMember, NeighborKey, PathKey, PolicyKey, SpeakerKey
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import FileKey, SysctlKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetKey, SetMember
from kube_router.plan import ownership
from tests.fakes import FakeTarget, World

# Kinds that one real target holds: a failure or refusal in one leaves the others as they are.
TARGETS: tuple[tuple[type[Key], ...], ...] = (
    (SetKey, SetMember),
    (ChainKey, JumpKey, LeftoverKey),
    (VirtualServerKey, DestinationKey, IpvsTimeoutsKey),
    (SpeakerKey, NeighborKey, DefinedSetKey, DefinedSetMember, PolicyKey, AssignmentKey, PathKey),
)

# An event: an object that is stored, or the kind and name of one that goes.
Event = Object | tuple[Kind, Name]


class Recorder:
    """A Report that keeps everything."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.faults: list[Hashable] = []
        self.failures: list[TargetError] = []
        self.rejections: list[tuple[Key, str]] = []
        self.drifts: list[Key] = []
        self.written = 0

    def note(self, controller: str, note: Note) -> None:
        self.notes.append(note)

    def faulty(self, controller: str, item: Hashable, fault: Exception) -> None:
        self.faults.append(item)

    def failed(self, controller: str, failure: TargetError) -> None:
        self.failures.append(failure)

    def rejected(self, controller: str, key: Key, owners: tuple[Hashable, ...], reason: str) -> None:
        self.rejections.append((key, reason))

    def drift(self, controller: str, key: Key) -> None:
        self.drifts.append(key)

    def wrote(self, controller: str, target: object, changes: Sequence[Change]) -> None:
        self.written += len(changes)


async def inline(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a target at once instead of in a thread."""
    return function(*args)


class Node:
    """One node's controller over a world that outlives it. `fail_at` numbers the target calls that fail."""

    def __init__(
        self,
        make: Callable[[], Controller],
        world: World | None = None,
        *,
        fail_at: frozenset[int] = frozenset(),
        objects: Iterable[Object] = (),
        keeper: Callable[[Cache, World], Keeper] | None = None,
    ) -> None:
        self._make = make
        self._keeper = keeper
        self.world = world or World()
        self.world.fail_at = fail_at
        self.cache = Cache()
        for value in objects:
            self.cache.put(value)
        self._start()

    def _start(self) -> None:
        controller = self._make()
        self.report = Recorder()
        grouped = [kind for kinds in TARGETS for kind in kinds]
        groups = [*TARGETS, *((kind,) for kind in controller.writes if kind not in grouped)]
        self.targets = [FakeTarget(self.world, kinds, ours=_seen_by_targets) for kinds in groups if set(kinds) & set(controller.writes)]
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=self.targets,
            report=self.report,
            call=inline,
            keeper=self._keeper(self.cache, self.world) if self._keeper else None,
        )

    def restart(self) -> None:
        """The process dies and comes back: the world and the API's objects stay, all memory is gone."""
        self._start()

    def feed(self, event: Event) -> None:
        """The API says that an object changed or went."""
        if isinstance(event, tuple) and not hasattr(event, "__struct_fields__"):
            self.cache.remove(*event)
        else:
            self.cache.put(event)  # type: ignore[arg-type]

    def sync(self, audit: Iterable[type[Key]] = ()) -> Outcome:
        return asyncio.run(self.cycle.sync(audit))

    def begin(self, *events: Event) -> None:
        """Settle over these; what was written until then is not counted."""
        for event in events:
            self.feed(event)
        self.settle()
        self.world.writes.clear()

    def settle(self, tries: int = 40) -> Outcome:
        """Passes until one is good and writes nothing."""
        for _ in range(tries):
            outcome = self.sync()
            if outcome.good and not outcome.written:
                return outcome
        raise AssertionError(f"not settled after {tries} passes: {outcome}")


def after(node: Node, *events: Event) -> list[Change]:
    """What one good pass writes after these events."""
    node.world.writes.clear()
    for event in events:
        node.feed(event)
    assert node.sync().good
    return list(node.world.writes)


def _seen_by_targets(key: Key) -> bool:
    """Targets serve all controllers: they see what any of them owns, and what is nobody's because it is shared."""
    return ownership.owner(key) is not None or _is_shared(key)


def _is_shared(key: Key) -> bool:
    return isinstance(key, SysctlKey | FileKey | IpvsTimeoutsKey)


def from_nothing(make: Callable[[], Controller], objects: Iterable[Object], foreign: dict[Key, Value] | None = None) -> World:
    """The world that a fresh start over these objects builds."""
    node = Node(make, World(foreign), objects=objects)
    node.settle()
    return node.world


def objects_of(cache: Cache) -> list[Object]:
    """Everything that the cache holds."""
    return [value for kind in Kind for value in cache.view.store(kind).values()]


def assert_law(
    make: Callable[[], Controller],
    events: Sequence[Event],
    *,
    fail_at: frozenset[int] = frozenset(),
    restart_at: frozenset[int] = frozenset(),
    sync_at: frozenset[int] | None = None,
    foreign: dict[Key, Value] | None = None,
) -> World:
    """The law: after these events, failing target calls and restarts, the world equals what a fresh start builds;
    foreign state is untouched, and a settled node plans nothing. Syncs after every event unless `sync_at` says where."""
    node = Node(make, World(foreign), fail_at=fail_at)
    for n, event in enumerate(events):
        if n in restart_at:
            node.restart()
        node.feed(event)
        if sync_at is None or n in sync_at:
            node.sync()
    node.settle()
    fresh = from_nothing(make, objects_of(node.cache), foreign)
    # What is shared (sysctls, files) is never taken back: a fresh start finds it too, and wants only what it wants.
    left = {k: v for k, v in node.world.state.items() if not _is_shared(k) or k in fresh.state}
    assert left == fresh.state
    for key, value in (foreign or {}).items():
        assert node.world.state.get(key) == value
    before = len(node.world.writes)
    assert node.sync(node.cycle.controller.writes).drifted == 0
    node.restart()
    node.settle()
    assert len(node.world.writes) == before, "a restart over a settled node writes nothing"
    return node.world
