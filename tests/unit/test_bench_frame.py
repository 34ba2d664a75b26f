"""The bench's table and verdict: what is over its budget is named, by figure or by ratio, emulated or not."""

from __future__ import annotations

import pytest

from bench.__main__ import load, names
from bench.frame import CORE, Row, company, table, verdict
from lab import kernel_features


@pytest.mark.parametrize(
    ("row", "factor", "over"),
    [
        (Row(measure="told", ours=9e9, unit="ms"), 1.0, False),
        (Row(measure="time", ours=10, unit="ms", most=10), 1.0, False),
        (Row(measure="time", ours=10.1, unit="ms", most=10), 1.0, True),
        (Row(measure="emulated time", ours=130, unit="ms", most=10), 13.0, False),
        (Row(measure="emulated time", ours=131, unit="ms", most=10), 13.0, True),
        (Row(measure="emulated share of a core", ours=6.5, unit=CORE, most=0.5), 13.0, False),
        (Row(measure="emulated share of a core", ours=6.6, unit=CORE, most=0.5), 13.0, True),
        (Row(measure="memory is not scaled", ours=91, unit="MiB", most=90), 13.0, True),
        (Row(measure="ratio", ours=3, unit="s", floor=2, most_ratio=1.5), 1.0, False),
        (Row(measure="ratio is not scaled", ours=3.1, unit="s", floor=2, most_ratio=1.5), 13.0, True),
        (Row(measure="a ratio without a floor", ours=1, unit="s", most_ratio=1.5), 1.0, True),
        (Row(measure="both, the first broken", ours=6, unit="s", floor=5, most=5, most_ratio=2), 1.0, True),
    ],
    ids=lambda value: value.measure if isinstance(value, Row) else str(value),
)
def test_a_row_is_over_when_its_figure_or_its_ratio_is(row: Row, factor: float, over: bool) -> None:
    assert row.is_over(factor) == over
    line, status = verdict("routes", [row], factor)
    assert line == (f"bench routes: over budget: {row.measure}" if over else "bench routes: within budget")
    assert status == int(over)


def test_all_that_is_over_is_named() -> None:
    rows = [Row(measure=name, ours=ours, unit="ms", most=1) for name, ours in (("a", 2), ("b", 1), ("c", 3))]
    assert verdict("x", rows, 1.0) == ("bench x: over budget: a; c", 1)


def test_the_table_shows_floor_ratio_budget_and_verdict_of_every_row() -> None:
    rows = [
        Row(measure="cold", ours=3, unit="s", floor=2, most_ratio=1.25, note="5,000 Services"),
        Row(measure="memory", ours=80.25, unit="MiB", most=90),
        Row(measure="told", ours=1234.5, unit="messages"),
    ]
    lines = [line.split("  ") for line in table(rows, 1.0).splitlines()]
    shown = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert shown == [
        ["measure", "floor", "ours", "ratio", "budget", "verdict"],
        ["cold", "2 s", "3 s", "1.50", "<= 1.25 x floor", "over", "5,000 Services"],
        ["memory", "-", "80.2 MiB", "-", "<= 90 MiB", "ok"],
        ["told", "-", "1234 messages", "-", "-", "-"],
    ]


def test_the_table_says_what_an_emulated_time_is_worth() -> None:
    assert "native about 10 ms" in table([Row(measure="t", ours=130, unit="ms", most=10)], 13.0)


@pytest.mark.parametrize("name", names())
def test_every_case_says_what_it_is_and_what_it_needs(name: str) -> None:
    case = load(name)
    assert case.TITLE
    assert {"root", "netns"} <= case.NEEDS, "it runs in a network namespace of its own"
    assert kernel_features.known() >= case.NEEDS
    assert callable(case.measure)


@pytest.mark.parametrize(("load", "warned"), [(0.0, False), (0.9, False), (1.0, True), (8.5, True)])
def test_a_machine_that_others_keep_busy_is_told_of(load: float, warned: bool) -> None:
    assert bool(company(load, 2)) == warned
