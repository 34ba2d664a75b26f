"""Waiting between attempts, and one knock at a time while nobody answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.watch.gate import Backoff, Gate


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(0, 0.9, 0.0), (1, 0.5, 0.2), (2, 0.5, 0.4), (3, 0.5, 0.8), (3, 0.0, 0.4), (6, 0.5, 5.0), (10_000, 0.5, 5.0)],
)
def test_delays_double_up_to_a_bound(failures: int, chance: float, expected: float) -> None:
    assert Backoff(first=0.2, most=5.0).delay(failures, chance) == pytest.approx(expected)


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_no_delay_is_longer_than_half_again_the_bound(failures: int, chance: float) -> None:
    assert 0 <= Backoff(first=0.2, most=5.0).delay(failures, chance) <= 7.5


class Clock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(clock: Callable[[], float], *, first: float = 1.0) -> Gate:
    return Gate(Backoff(first=first, most=8.0), clock=clock, random=lambda: 0.5)


def test_an_open_gate_lets_everyone_through() -> None:
    open_gate = gate(Clock())
    assert open_gate.enter()
    assert open_gate.enter()
    assert not open_gate.answered()


def test_one_thread_knocks_and_the_others_wait_for_its_answer() -> None:
    clock = Clock()
    shut = gate(clock)
    assert shut.silent()
    clock.now += 1.0
    assert shut.enter()  # this thread's turn to knock
    passed = threading.Event()
    waiter = threading.Thread(target=lambda: shut.enter() and passed.set(), daemon=True)
    waiter.start()
    assert not passed.wait(0.1)
    assert shut.answered()
    assert passed.wait(5)
    waiter.join(5)


def test_each_failed_knock_doubles_the_wait_and_says_nothing_new() -> None:
    clock = Clock()
    shut = gate(clock)
    assert shut.silent()
    assert not shut.is_open
    for wait in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert shut._next - clock.now == pytest.approx(wait)
        clock.now += wait
        assert shut.enter()
        assert not shut.silent()
    clock.now += 8.0
    assert shut.enter()
    assert shut.answered()
    assert shut.is_open


def test_requests_that_were_under_way_when_the_server_went_count_once() -> None:
    clock = Clock()
    shut = gate(clock)
    shut.silent()
    due = shut._next
    for _ in range(5):
        assert not shut.silent()
    assert shut._next == due


def test_a_waiting_thread_knocks_when_the_time_has_come() -> None:
    shut = gate(time.monotonic, first=0.05)
    shut.silent()
    began = time.monotonic()
    assert shut.enter()
    assert time.monotonic() - began >= 0.04


def test_closing_lets_every_waiting_thread_go_with_nothing_to_do() -> None:
    shut = gate(Clock())
    shut.silent()
    results: list[bool] = []
    waiters = [threading.Thread(target=lambda: results.append(shut.enter()), daemon=True) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    shut.close()
    for waiter in waiters:
        waiter.join(5)
    assert results == [False, False, False]
    assert not shut.enter()
