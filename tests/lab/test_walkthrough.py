"""The acceptance test: the walkthrough's twelve steps on three nodes with the real daemon, as ``make demo`` tells them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.demo import Printer
from lab.walkthrough import STEPS, Step, with_what_they_need
from lab.walkthrough.stage import Stage

pytestmark = pytest.mark.needs("root", "veth", "bridge", "dummy", "ip_vs", "ipset", "iptables_nft", "br_netfilter")


class Play:
    """One cluster for all steps; a step is played once, and those that it stands on before it."""

    def __init__(self, cluster: Cluster) -> None:
        self.stage = Stage(cluster, Printer(colours=False))  # told on standard output, which a failed test shows
        self._outcome: dict[int, bool] = {}

    def step(self, asked: Step) -> None:
        for step in with_what_they_need([asked.number]):
            if step.number in self._outcome:
                assert self._outcome[step.number], f"step {step.number}, on which this one stands, broke"
                continue
            self._outcome[step.number] = False
            step.play(self.stage)
            self._outcome[step.number] = True


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    with Cluster(nodes=3) as cluster:
        yield Play(cluster)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.number:02} {step.title}")
def test_the_walkthrough_shows_what_it_must(play: Play, step: Step) -> None:
    play.step(step)
