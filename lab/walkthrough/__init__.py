"""The walkthrough: what somebody sees who installs the daemon on a bare cluster, step by step, with ordinary tools.

Each step does something, shows it the way a person would look at it, and holds what is seen against what must be seen. The
demo tells the steps; the acceptance test plays the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.walkthrough import arrival, leaving, membership, talking
from lab.walkthrough.stage import Stage


@dataclass(frozen=True, slots=True)
class Step:
    """``after`` names the steps without which this one has nothing to stand on."""

    number: int
    title: str
    play: Callable[[Stage], None]
    after: tuple[int, ...] = ()


STEPS: tuple[Step, ...] = (
    Step(1, "Before the daemon", arrival.before),
    Step(2, "The daemon starts on all nodes", arrival.start, after=(1,)),
    Step(3, "Links", arrival.links, after=(2,)),
    Step(4, "Sets, and no firewall", arrival.sets, after=(2,)),
    Step(5, "node3 is deleted from the API", membership.delete_node, after=(2,)),
    Step(6, "node3 registers again, with another pod range", membership.register_node, after=(5,)),
    Step(7, "node3's BGP speaker restarts", membership.restart_speaker, after=(2,)),
    Step(8, "Only the daemon on node3 restarts", membership.restart_daemon, after=(2,)),
    Step(9, "A pod runs on node3", talking.run_pod, after=(2,)),
    Step(10, "Everybody talks", talking.talk, after=(9,)),
    Step(11, "NetworkPolicy, with the firewall on", talking.police, after=(9,)),
    Step(12, "Cleanup", leaving.clean, after=(2,)),
)


def with_what_they_need(numbers: Sequence[int]) -> list[Step]:
    """The steps with these numbers and all that they stand on, in order; KeyError for a number that is none."""
    by_number = {step.number: step for step in STEPS}
    needed: set[int] = set()
    waiting = list(numbers)
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += by_number[number].after
    return [by_number[number] for number in sorted(needed)]
