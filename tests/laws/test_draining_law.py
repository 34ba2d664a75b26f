"""Draining changes when things go, and nothing else: whatever Services ask for, marks and direct return among it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.control.draining import Draining, ending
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import EndpointSlice
from kube_router.model.state.ipvs import Destination, DestinationKey
from tests.engine import Node as LabNode
from tests.engine import from_nothing, objects_of
from tests.fakes import World
from tests.laws.test_proxy_law import FOREIGN, controller, histories, numbers

GRACE = 30.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


@settings(max_examples=40)
@given(histories, numbers, numbers, st.booleans())
def test_once_all_grace_is_over_the_node_is_as_if_nothing_had_drained(history, fail_at, restart_at, busy):
    clock = Clock()
    made: list[ProxyController] = []

    def make() -> ProxyController:
        made.append(controller())
        return made[-1]

    def keeper(cache: Cache, world: World) -> Draining:
        own = made[-1]
        return Draining(
            GRACE,
            connections=lambda servers: {
                key: int(busy) for key in world.state if isinstance(key, DestinationKey) and key.server in servers
            },
            ends=ending(cache.view),
            claim_of=own.claim_of,
            now=lambda: clock.now,
        )

    node = LabNode(make, World(dict(FOREIGN)), fail_at=fail_at, keeper=keeper)
    for n, event in enumerate(history):
        if n in restart_at:
            node.restart()
        node.feed(event)
        node.sync()
        clock.now += 3
    node.settle()
    wanted = from_nothing(controller, objects_of(node.cache), dict(FOREIGN)).state
    for key, value in wanted.items():
        if isinstance(value, Destination):
            assert node.world.state[key] == value, "what is wanted serves, whatever drains beside it"
    for piece in [value for value in objects_of(node.cache) if isinstance(value, EndpointSlice)]:
        alive = tuple(endpoint for endpoint in piece.endpoints if not endpoint.terminating)
        node.feed(EndpointSlice(piece.name, piece.service, alive, piece.ports))
    node.settle()
    clock.now += 2 * GRACE
    node.settle()
    clean = from_nothing(controller, objects_of(node.cache), dict(FOREIGN)).state
    left = {key: value for key, value in node.world.state.items() if key in clean or not _is_shared(key)}
    assert left == clean


def _is_shared(key: object) -> bool:
    return type(key).__name__ in ("SysctlKey", "FileKey")
