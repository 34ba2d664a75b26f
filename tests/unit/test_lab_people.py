"""What the lab shows to people: listings, manifests, the demo's telling, waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from lab.api.kinds import BY_WORD
from lab.cluster import Cluster
from lab.demo import Printer, play, verdict
from lab.kubectl import age, table
from lab.manifests import dns, pod, policy, service, service_address
from lab.waiting import NotYet, wait_for
from lab.walkthrough import STEPS, Step, with_what_they_need
from lab.walkthrough.stage import Broken, Stage

Json = dict[str, Any]
MADE = "1970-01-01T00:00:00Z"
METADATA = {"name": "a", "namespace": "shop", "creationTimestamp": MADE}


@pytest.mark.parametrize(("now", "text"), [(5, "5s"), (119, "119s"), (180, "3m"), (7300, "2h"), (200_000, "2d")])
def test_an_age_is_told_in_one_unit(now: float, text: str) -> None:
    assert age({"metadata": METADATA}, now) == text


@pytest.mark.parametrize(
    ("word", "thing", "expected"),
    [
        (
            "pods",
            {
                "spec": {"containers": [{}], "nodeName": "node1"},
                "status": {
                    "phase": "Running",
                    "podIPs": [{"ip": "10.0.0.1"}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            },
            "shop a 1/1 Running 10.0.0.1 node1 5s",
        ),
        ("pods", {"spec": {"containers": [{}]}, "status": {"phase": "Pending"}}, "shop a 0/1 Pending <none> <none> 5s"),
        (
            "services",
            {"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.9"], "ports": [{"port": 80, "nodePort": 30000}]}},
            "shop a NodePort 10.0.0.9 <none> 80:30000/TCP 5s",
        ),
        (
            "endpointslices",
            {
                "addressType": "IPv4",
                "ports": [{"port": 53, "protocol": "UDP"}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}, {"addresses": ["10.0.0.2"]}],
            },
            "shop a IPv4 53/UDP 10.0.0.1 (not ready),10.0.0.2 5s",
        ),
        ("netpol", {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}, "shop a <all pods> Ingress 5s"),
        (
            "events",
            {"type": "Warning", "reason": "R", "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m"},
            "shop a Warning R Pod/p m 5s",
        ),
        ("configmaps", {}, "shop a 5s"),
        (
            "nodes",
            {
                "spec": {"podCIDRs": ["10.1.0.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a"}]},
            },
            "a NotReady 192.0.2.1 10.1.0.0/24 5s",
        ),
    ],
)  # fmt: skip
def test_an_object_is_listed_in_one_line(word: str, thing: Json, expected: str) -> None:
    kind = BY_WORD[word]
    lines = table(kind, [{"metadata": METADATA, **thing}], now=5).splitlines()
    assert " ".join(lines[1].split()) == expected
    assert lines[0].split()[0] == ("NAMESPACE" if kind.namespaced else "NAME")


def test_an_empty_listing_says_so() -> None:
    assert table(BY_WORD["pods"], [], now=0) == "No resources found"


def test_manifests_say_what_the_words_mean() -> None:
    assert pod("a", ports=["dns=53/udp"])["spec"]["containers"][0]["ports"] == [{"containerPort": 53, "protocol": "UDP", "name": "dns"}]
    made = service("a", ports=["http=80>web", "81>8081/udp"], externalIPs=["192.0.2.1"])["spec"]
    assert made["ports"] == [
        {"port": 80, "protocol": "TCP", "name": "http", "targetPort": "web"},
        {"port": 81, "protocol": "UDP", "targetPort": 8081},
    ]
    assert (made["selector"], made["externalIPs"]) == ({"app": "a"}, ["192.0.2.1"])
    assert "selector" not in service("a", selector={})["spec"]
    assert policy("p", pods={"a": "b"})["spec"] == {"podSelector": {"matchLabels": {"a": "b"}}}
    assert (service_address(3), service_address(3, 6)) == ("10.233.0.3", "fd00:233::3")
    assert [thing["kind"] for thing in dns()] == ["Pod", "Pod", "Service"]
    with pytest.raises(ValueError, match="a port is"):
        pod("a", ports=["x"])


def test_waiting_ends_when_it_comes_true_or_tells_what_was_missing() -> None:
    answers = iter([False, 0, "yes"])
    assert wait_for("it", lambda: next(answers), every=0) == "yes"

    def broken() -> bool:
        raise ValueError("boom")

    with pytest.raises(NotYet, match=r"it: not after 0 s; so far: 7 ValueError\('boom'\)"):
        wait_for("it", broken, seconds=0, so_far=lambda: 7)
    with pytest.raises(NotYet, match="so far: ValueError"):
        wait_for("it", lambda: False, seconds=0, so_far=broken)


def test_the_walkthrough_has_twelve_steps_and_each_stands_on_earlier_ones() -> None:
    assert [step.number for step in STEPS] == list(range(1, 13))
    assert all(earlier < step.number for step in STEPS for earlier in step.after)


@pytest.mark.parametrize(("asked", "played"), [([1], [1]), ([6], [1, 2, 5, 6]), ([10], [1, 2, 9, 10]), (range(1, 13), [*range(1, 13)])])
def test_a_step_is_played_with_what_it_needs(asked: list[int], played: list[int]) -> None:
    assert [step.number for step in with_what_they_need(asked)] == played


def steps(*plays: Callable[[Stage], None]) -> list[Step]:
    return [Step(number, f"step {number}", play) for number, play in enumerate(plays, start=1)]


def test_the_demo_ticks_what_holds_and_stops_where_it_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(colours=False)
    stage = Stage(cast(Cluster, None), printer)

    def good(stage: Stage) -> None:
        stage.do("something")
        stage.hold("it holds", lambda: True)

    def bad(stage: Stage) -> None:
        stage.hold("it breaks", lambda: False, seen=lambda: "nothing at all")

    outcome = play(stage, printer, steps(good, bad, good), shown=[1, 2, 3])
    said = capsys.readouterr().out
    assert outcome == {1: True, 2: False}
    assert "✓ it holds" in said
    assert "✗ it breaks" in said
    assert "nothing at all" in said
    assert verdict(outcome, [1, 2, 3], ticks=printer.ticks, seconds=1).startswith("demo: step 2 did not show")
    assert verdict({1: True}, [1], ticks=3, seconds=1) == "demo: all 1 steps held (3 checks, 1 s)"


def test_a_step_that_only_prepares_is_played_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(colours=False)

    def play_it(stage: Stage) -> None:
        stage.hold("it holds", lambda: True)

    play(Stage(cast(Cluster, None), printer), printer, steps(play_it, play_it), shown=[2])
    assert capsys.readouterr().out.count("✓ it holds") == 1
    assert printer.ticks == 2


def test_a_broken_promise_is_a_failed_assertion() -> None:
    assert issubclass(Broken, AssertionError)
