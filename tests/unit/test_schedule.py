"""When passes are due."""

from __future__ import annotations

import pytest

from kube_router.control.schedule import Schedule
from kube_router.model.state.links import AddressKey, LinkKey, RouteKey


def fresh(**gaps: float) -> Schedule:
    defaults = {"min_gap": 0.01, "max_gap": 100.0, "retry_first": 1.0, "retry_most": 4.0, "audit_gap": 0.5}
    schedule = Schedule(0.0, kinds=(LinkKey, RouteKey), **{**defaults, **gaps})
    schedule.start(0.0)
    schedule.end(0.0, good=True)
    return schedule


def test_the_first_pass_is_due_at_once():
    assert Schedule(5.0, kinds=(LinkKey,)).due() <= 5.0


def test_a_quiet_controller_waits_for_its_audit():
    schedule = fresh()
    assert schedule.due() == 100.0
    assert schedule.start(100.0) == {LinkKey, RouteKey}
    schedule.end(101.0, good=True)
    assert schedule.due() == 200.0


def test_a_burst_becomes_one_pass_after_the_min_gap():
    schedule = fresh()
    for _ in range(50):
        schedule.poke()
    assert schedule.due() == pytest.approx(0.01)
    assert schedule.start(0.01) == frozenset()
    schedule.end(0.02, good=True)
    assert schedule.due() == 100.0


def test_retries_back_off_to_a_limit_and_start_over_after_success():
    schedule = fresh()
    now, gaps = 0.0, []
    for _ in range(4):
        schedule.poke()
        schedule.start(now)
        schedule.end(now, good=False)
        gaps.append(schedule.due() - now)
        now = schedule.due()
    assert gaps == [1.0, 2.0, 4.0, 4.0]
    schedule.start(now)
    schedule.end(now, good=True)
    schedule.start(now)
    schedule.end(now, good=False)
    assert schedule.due() - now == 1.0


def test_an_event_does_not_wait_for_a_retry():
    schedule = fresh()
    schedule.start(1.0)
    schedule.end(1.0, good=False)
    schedule.poke()
    assert schedule.due() == pytest.approx(1.01)


def test_jitter_stretches_a_retry_by_at_most_a_quarter():
    schedule = fresh()
    schedule.start(0.0)
    schedule.end(0.0, good=False, jitter=1.0)
    assert schedule.due() == 1.25


def test_suspected_kinds_are_audited_alone_and_not_more_often_than_the_audit_gap():
    schedule = fresh()
    schedule.suspect([RouteKey, AddressKey])
    assert schedule.due() <= 0.01
    assert schedule.start(0.01) == {RouteKey}
    schedule.end(0.01, good=True)
    schedule.suspect([RouteKey])
    assert schedule.due() == pytest.approx(0.51)
    schedule.poke()
    assert schedule.start(0.02) == frozenset()
    schedule.end(0.02, good=True)
    assert schedule.start(0.51) == {RouteKey}


def test_kinds_of_others_are_none_of_its_business():
    schedule = fresh()
    schedule.suspect([AddressKey])
    assert schedule.due() == 100.0


def test_a_pass_may_ask_for_the_next_one_and_only_for_that():
    schedule = fresh()
    schedule.poke()
    schedule.start(1.0)
    schedule.end(2.0, good=True, again=5.0)
    assert schedule.due() == 7.0
    schedule.start(7.0)
    schedule.end(7.0, good=True)
    assert schedule.due() == 100.0
