"""Promises that several steps hold."""

from __future__ import annotations

from collections.abc import Sequence

from lab.node import Node
from lab.probe import ALLOW
from lab.walkthrough.picture import pod_ranges, route_to, routes
from lab.walkthrough.stage import Stage


def routed(stage: Stage, on: Node, prefix: str, gateway: str, *, seconds: float) -> None:
    """A range is routed via a node."""
    stage.hold(
        f"{on.name} routes {prefix} via {gateway}",
        lambda: f"via {gateway} " in route_to(on, prefix) + " ",
        seconds=seconds,
        seen=lambda: (routes(on, 6 if ":" in prefix else 4), on.daemon.said()[-2000:]),
    )


def ranges_routed(stage: Stage, on: Node, to: Node, *, seconds: float) -> None:
    """Every range of a node is routed via that node."""
    for prefix, gateway in zip(pod_ranges(stage.cluster.objects, to.name), to.addresses, strict=True):
        routed(stage, on, prefix, gateway, seconds=seconds)


def only_routes(stage: Stage, node: Node, expected: set[str], *, promise: str) -> None:
    """The IPv4 table holds these destinations and no other."""
    stage.hold(f"{node.name} has {promise}", lambda: set(routes(node)) == expected, seen=lambda: routes(node))


def answers(stage: Stage, promise: str, place: str, target: str, *, pod: str = "", on: str = "", seconds: float = 10) -> None:
    """A question is answered, by a pod whose name begins with ``pod``."""

    def answered() -> bool:
        reply = stage.cluster.ask(place, target, on=on)
        return reply.verdict is ALLOW and reply.pod.startswith(pod)

    stage.hold(promise, answered, seconds=seconds, seen=lambda: stage.cluster.ask(place, target, on=on))


def all_hold(stage: Stage, promises: Sequence[tuple[str, bool]], *, seen: object) -> None:
    """Promises about something that is in hand already."""
    for promise, holds in promises:
        _one(stage, promise, holds, seen)


def _one(stage: Stage, promise: str, holds: bool, seen: object) -> None:
    stage.hold(promise, lambda: holds, seen=lambda: seen)
