"""Connections that are held: what breaks is noticed, whoever breaks it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from lab.echo import Echo, Listener, Server
from lab.probe import Target
from lab.traffic import Flows
from lab.waiting import wait_for


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.stop()


def served(echo: Echo, name: str) -> tuple[Server, tuple[Target, socket.socket]]:
    """A server on a free port, and a socket to it."""
    (listening,) = Listener(0, "tcp").open([socket.AF_INET])
    target = Target("127.0.0.1", listening.getsockname()[1])
    return echo.serve(name, [listening]), (target, target.open())


def test_connections_that_stand_are_spoken_over_in_turn(echo: Echo) -> None:
    flows = Flows([served(echo, name)[1] for name in ("a", "b")], every=0.001)
    wait_for("three words over each", lambda: flows.words >= 3)
    assert list(flows.pods) == ["a", "b"]
    assert flows.stop() == []


def test_a_connection_that_the_server_breaks_is_lost_and_named(echo: Echo) -> None:
    (_, first), (server, second) = served(echo, "a"), served(echo, "b")
    flows = Flows([first, second], every=0.001)
    server.close()
    (lost,) = flows.stop()
    assert " with b: " in lost


def test_a_connection_over_which_nothing_comes_back_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = Target(*listening.getsockname())
        accepted: list[socket.socket] = []

        def greet() -> None:
            accepted.append(listening.accept()[0])
            accepted[0].send(b'{"pod": "mute"}\n')

        threading.Thread(target=greet).start()
        flows = Flows([(target, target.open())], every=0.001, patience=0.05)
        wait_for("it is missed", flows.lost)
        (lost,) = flows.stop()
        assert " with mute: " in lost
        accepted[0].close()
