"""Alive while the loops turn, ready when all have synced and none fails."""

from __future__ import annotations

import pytest

from kube_router.telemetry.health import Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    health = Health(clock, grace=10)
    health.expect("routes", period=60)
    health.expect("proxy", period=300)
    return health


def test_a_loop_has_its_period_and_the_grace_for_its_first_turn(health: Health, clock: Clock) -> None:
    clock.now += 70
    assert health.live().good
    clock.now += 1
    assert health.live().reasons == ("routes: no turn for 71 s, allowed are 70 s",)


@pytest.mark.parametrize("report", ["beat", "synced", "failing"])
def test_every_report_of_a_loop_shows_that_it_turns(health: Health, clock: Clock, report: str) -> None:
    clock.now += 65
    getattr(health, report)("routes", *(["broken"] if report == "failing" else []))
    clock.now += 70
    assert health.live().good


def test_a_loop_that_hangs_is_named_and_heals_by_itself(health: Health, clock: Clock) -> None:
    clock.now += 1000
    assert [reason.split(":")[0] for reason in health.live().reasons] == ["routes", "proxy"]
    health.beat("routes")
    health.beat("proxy")
    assert health.live().good


def test_one_loop_can_be_asked_about_alone(health: Health, clock: Clock) -> None:
    assert health.live("proxy").good
    clock.now += 10_000
    health.beat("routes")
    assert not health.live("proxy").good
    assert health.live("routes").good
    assert health.live("none").reasons == ("none: it does not run",)


def test_failing_passes_are_no_reason_to_be_restarted(health: Health) -> None:
    health.failing("routes", "no speaker")
    health.failing("proxy", "no IPVS")
    assert health.live().good


def test_ready_when_every_controller_has_synced_once(health: Health) -> None:
    assert health.ready().reasons == ("routes: not synced yet", "proxy: not synced yet")
    health.beat("routes")
    health.synced("proxy")
    assert health.ready().reasons == ("routes: not synced yet",)
    health.synced("routes")
    assert health.ready().good


def test_not_ready_while_one_fails_with_its_reason_on_one_line(health: Health) -> None:
    health.synced("routes")
    health.synced("proxy")
    health.failing("proxy", "ipset: set\nin use ")
    assert health.ready().reasons == ("proxy: ipset: set in use",)
    health.beat("proxy")
    assert not health.ready().good
    health.synced("proxy")
    assert health.ready().good


def test_nothing_running_is_alive_and_not_ready(clock: Clock) -> None:
    health = Health(clock)
    assert health.live().good
    assert health.ready().reasons == ("starting: no controller runs yet",)


@pytest.mark.parametrize("report", ["beat", "synced"])
def test_a_report_of_a_loop_nobody_expects_is_an_error(health: Health, report: str) -> None:
    with pytest.raises(KeyError):
        getattr(health, report)("prxy")
