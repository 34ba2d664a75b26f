"""Whatever happens while a controller starts, works or sleeps, it hears of it: no wake-up is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from kube_router.control.cycle import Outcome
from kube_router.control.runner import Runner
from kube_router.control.schedule import Schedule
from kube_router.model.state.links import LinkKey

GOOD = Outcome()


class Passes:
    """Stands in for a cycle: counts its passes, and does `during` in the middle of each."""

    def __init__(self) -> None:
        self.controller = SimpleNamespace(name="test", writes=(LinkKey,))
        self.audits: list[frozenset[type]] = []
        self.during: Callable[[], None] = lambda: None

    async def sync(self, audit: Iterable[type] = ()) -> Outcome:
        self.audits.append(frozenset(audit))
        await asyncio.sleep(0)
        self.during()
        await asyncio.sleep(0)
        return GOOD


def play(script: Callable[[Passes, Runner, SimpleNamespace], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        passes, state = Passes(), SimpleNamespace(ready=True, done=0)
        schedule = Schedule(time.monotonic(), kinds=(LinkKey,), min_gap=0.0, max_gap=1e6, audit_gap=0.0)

        def done(outcome: Outcome, seconds: float) -> None:
            state.done += 1

        runner = Runner(passes, schedule, ready=lambda: state.ready, done=done)  # type: ignore[arg-type]
        await script(passes, runner, state)

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


async def quiet(passes: Passes) -> int:
    """How many passes there were, once no more come."""
    await asyncio.sleep(0.05)
    count = len(passes.audits)
    await asyncio.sleep(0.05)
    assert len(passes.audits) == count
    return count


@pytest.mark.parametrize("poke", [lambda runner: runner.poke(), lambda runner: runner.suspect((LinkKey,))], ids=["poke", "suspect"])
def test_r27_what_happens_during_a_pass_is_seen_by_the_next(poke: Callable[[Runner], None]) -> None:
    async def script(passes: Passes, runner: Runner, state: SimpleNamespace) -> None:
        def once() -> None:
            passes.during = lambda: None
            poke(runner)

        passes.during = once
        task = asyncio.create_task(runner.run())
        await until(lambda: state.done == 2)
        assert await quiet(passes) == 2
        task.cancel()

    play(script)


def test_r27_what_happens_before_the_loop_runs_is_not_waited_for() -> None:
    async def script(passes: Passes, runner: Runner, state: SimpleNamespace) -> None:
        runner.poke()
        runner.suspect((LinkKey,))
        task = asyncio.create_task(runner.run())
        await until(lambda: state.done >= 1)
        await quiet(passes)
        assert frozenset({LinkKey}) in passes.audits
        task.cancel()

    play(script)


def test_r27_the_last_list_that_makes_a_controller_ready_starts_it_at_once() -> None:
    async def script(passes: Passes, runner: Runner, state: SimpleNamespace) -> None:
        state.ready = False
        task = asyncio.create_task(runner.run())
        await asyncio.sleep(0.05)
        assert passes.audits == [], "nothing is written before all is listed"
        state.ready = True
        began = time.monotonic()
        runner.poke()
        await until(lambda: state.done == 1)
        assert time.monotonic() - began < 1.0
        task.cancel()

    play(script)


def test_r27_pokes_from_many_sides_are_one_pass() -> None:
    async def script(passes: Passes, runner: Runner, state: SimpleNamespace) -> None:
        task = asyncio.create_task(runner.run())
        await until(lambda: state.done == 1)
        for _ in range(100):
            runner.poke()
        await until(lambda: state.done == 2)
        assert await quiet(passes) == 2
        task.cancel()

    play(script)
