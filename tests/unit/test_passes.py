"""What becomes of a pass that fails, hangs, or has nothing to do: it is told, and it holds up nobody else."""

from __future__ import annotations

import asyncio
import io
import selectors
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from kube_router.app.outcomes import passed
from kube_router.app.reporting import Reporting
from kube_router.apply.kernel.commands import Commands
from kube_router.cache.cache import Cache
from kube_router.config.options import defaults
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.proxy import ProxyController
from kube_router.control.runner import Runner
from kube_router.control.schedule import Schedule
from kube_router.kit.errors import Busy, Rejected, Stale
from kube_router.model.objects import Interface, Name, Node, Service, ServicePort
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.ipvs import VirtualServerKey
from kube_router.telemetry import logging
from kube_router.telemetry.health import Health
from kube_router.telemetry.metrics import METRICS
from tests.engine import Recorder, inline
from tests.fakes import FakeTarget, World

OBJECTS = (
    Node(Name("", "n1"), addresses=("192.0.2.11",), pod_cidrs=("10.1.0.0/24",)),
    Interface(Name("", "eth0"), index=2, up=True, mtu=1500, addresses=("192.0.2.11/24",)),
    Service(Name("shop", "web"), cluster_ips=("10.96.0.1",), ports=(ServicePort("http", "TCP", 80),)),
)
DAY = 86_400.0


class Skipping(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once when nothing else is to be done."""

    def __init__(self) -> None:
        self.skipped = 0.0
        skip = self._skip

        class Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
            def select(self, timeout: float | None = None) -> list:
                found = super().select(0)
                if not found and timeout:
                    skip(timeout)
                return found

        super().__init__(Selector())

    def _skip(self, seconds: float) -> None:
        self.skipped += seconds

    def time(self) -> float:
        return 1000.0 + self.skipped


class Hanging(FakeTarget):
    """Hangs in each apply until it is let go, as behind a lock that somebody holds for ever."""

    def __init__(self, world: World, kinds: Sequence[type[Key]]) -> None:
        super().__init__(world, kinds)
        self.entered, self.let_go = threading.Event(), threading.Event()

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        self.entered.set()
        assert self.let_go.wait(20)
        return super().apply(changes)


class Failing(FakeTarget):
    """Fails as it is told."""

    trouble: Exception | None = None

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        if self.trouble is not None:
            raise self.trouble
        return super().observe(wanted)


@pytest.fixture
def log():
    stream = io.StringIO()
    logging.configure(verbosity=0, form="text", stream=stream)
    yield stream
    logging.configure(verbosity=0, form="text")


def proxy(target: Callable[[World, Sequence[type[Key]]], FakeTarget], report: object, call: object = inline) -> tuple[Cache, Cycle]:
    controller = ProxyController(defaults(node_name="n1"), kernel=(6, 1))
    cache = Cache()
    for thing in OBJECTS:
        cache.put(thing)
    feed = cache.feed(controller.reads)
    targets = [target(World(), controller.writes)]
    return cache, Cycle(controller, feed=feed, view=cache.view, targets=targets, report=report, call=call)  # type: ignore[arg-type]


@pytest.mark.parametrize("trouble", [Busy("the lock is held"), Stale("it changed"), Rejected("no IPVS")], ids=["busy", "stale", "rejected"])
def test_a04_a_pass_that_fails_is_no_success_and_is_counted_by_its_kind(log, trouble):
    made: list[Failing] = []

    def failing(world: World, kinds: Sequence[type[Key]]) -> Failing:
        made.append(Failing(world, kinds))
        return made[0]

    clock = SimpleClock()
    health, reporting = Health(clock), Reporting(lambda note: None)
    health.expect("proxy", period=60)
    _, cycle = proxy(failing, reporting)
    labels = {"controller": "proxy", "kind": type(trouble).__name__.lower()}
    counted = METRICS.value("controller_sync_errors_total", labels)
    last = {"controller": "proxy"}
    METRICS.gauge("controller_last_success_timestamp_seconds", last).set(1.0)

    def turn() -> Outcome:
        outcome = asyncio.run(cycle.sync())
        passed("proxy", outcome, 0.1, health=health, reporting=reporting)
        return outcome

    made[0].trouble = trouble
    assert not turn().good
    assert METRICS.value("controller_sync_errors_total", labels) == counted + 1
    assert METRICS.value("controller_last_success_timestamp_seconds", last) == 1.0
    assert str(trouble) in health.ready().reasons[0]
    assert str(trouble) in log.getvalue()
    assert health.live().good, "a restart would repair nothing"
    made[0].trouble = None
    assert turn().good
    assert METRICS.value("controller_last_success_timestamp_seconds", last) > 1.0
    assert health.ready().good


class SimpleClock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a04_a_pass_in_which_something_was_refused_is_no_success_either():
    def refusing(world: World, kinds: Sequence[type[Key]]) -> FakeTarget:
        world.refuses = lambda change: "no such scheduler" if isinstance(change.key, VirtualServerKey) else None
        return FakeTarget(world, kinds)

    health, reporting = Health(SimpleClock()), Reporting(lambda note: None)
    health.expect("proxy", period=60)
    _, cycle = proxy(refusing, reporting)
    last = {"controller": "proxy"}
    METRICS.gauge("controller_last_success_timestamp_seconds", last).set(1.0)
    outcome = asyncio.run(cycle.sync())
    passed("proxy", outcome, 0.1, health=health, reporting=reporting)
    assert outcome.refused
    assert METRICS.value("controller_last_success_timestamp_seconds", last) == 1.0
    assert health.ready().good, "one object's fault does not make the node unready"


@pytest.mark.parametrize("before", ["run", "first turn", "sleep"])
def test_a06_a_wake_up_is_not_lost_whenever_it_comes_and_a_stop_is_obeyed(before):
    async def script() -> None:
        cache, cycle = proxy(FakeTarget, Recorder())
        passes: list[Outcome] = []
        schedule = Schedule(time.monotonic(), kinds=(), min_gap=0.0, max_gap=DAY)
        runner = Runner(cycle, schedule, ready=lambda: True, done=lambda outcome, _: passes.append(outcome))
        other = Service(Name("shop", "other"), cluster_ips=("10.96.0.2",), ports=(ServicePort("http", "TCP", 80),))

        def change() -> None:
            cache.put(other)
            runner.poke()

        if before == "run":
            change()
        task = asyncio.create_task(runner.run())
        if before == "first turn":
            change()
        if before == "sleep":
            await asyncio.sleep(0.05)
            change()
        async with asyncio.timeout(3):
            while VirtualServerKey("10.96.0.2", 6, 80) not in cycle.ledger.held:
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 1)

    asyncio.run(script())


@pytest.mark.parametrize("is_ready", [True, False], ids=["synced", "waiting for its lists"])
def test_a08_a_proxy_in_a_quiet_cluster_is_alive_at_every_moment(is_ready):
    loop = Skipping()
    health = Health(loop.time)
    health.expect("proxy", period=60)
    dead: list[str] = []

    async def script() -> None:
        _, cycle = proxy(FakeTarget, Recorder())
        schedule = Schedule(loop.time(), kinds=cycle.controller.writes, max_gap=DAY)
        runner = Runner(cycle, schedule, ready=lambda: is_ready, done=lambda *_: None, beat=lambda: health.beat("proxy"))
        task = asyncio.create_task(runner.run())
        for _ in range(3600):
            await asyncio.sleep(1)
            dead.extend(health.live().reasons)
        task.cancel()

    loop.run_until_complete(script())
    loop.close()
    assert dead == []


def test_a08_reports_of_a_loop_never_wait_for_anybody_to_read_them():
    health = Health(SimpleClock())
    health.expect("proxy", period=60)
    began = time.monotonic()
    for _ in range(10_000):
        health.beat("proxy")
    assert time.monotonic() - began < 5
    assert health.live().good


def test_a10_a_writer_that_hangs_stops_neither_events_nor_other_controllers():
    async def script() -> None:
        made: list[Hanging] = []

        def hanging(world: World, kinds: Sequence[type[Key]]) -> Hanging:
            made.append(Hanging(world, kinds))
            return made[-1]

        cache, stuck = proxy(hanging, Recorder(), asyncio.to_thread)
        controller = ProxyController(defaults(node_name="n1"), kernel=(6, 1))
        free = Cycle(
            controller,
            feed=cache.feed(controller.reads),
            view=cache.view,
            targets=[FakeTarget(World(), controller.writes)],
            report=Recorder(),
            call=asyncio.to_thread,
        )
        waiting = asyncio.create_task(stuck.sync())
        await asyncio.to_thread(made[0].entered.wait, 10)
        cache.put(Service(Name("shop", "new"), cluster_ips=("10.96.0.9",), ports=(ServicePort("http", "TCP", 80),)))
        outcome = await asyncio.wait_for(free.sync(), 10)
        assert outcome.good
        assert VirtualServerKey("10.96.0.9", 6, 80) in free.ledger.held
        assert not waiting.done()
        made[0].let_go.set()
        await asyncio.wait_for(waiting, 10)
        await asyncio.wait_for(stuck.sync(), 10)
        assert VirtualServerKey("10.96.0.9", 6, 80) in stuck.ledger.held, "what came meanwhile was kept"

    asyncio.run(script())


def test_a10_no_tool_is_waited_for_without_a_limit():
    began = time.monotonic()
    with pytest.raises(Busy, match="did not end within"):
        Commands(timeout=0.2).run(["sleep", "60"])
    assert time.monotonic() - began < 10
