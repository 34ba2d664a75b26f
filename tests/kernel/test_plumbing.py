"""The plumbing of these tests: namespaces, the speaker, and running where the needs are met."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from lab import kernel, kernel_features
from lab.kernel_netns import Netns
from tests.speakers import Speaker

pytestmark = pytest.mark.needs("root")


def test_a_namespace_holds_nothing_but_loopback(netns: Netns) -> None:
    links = netns.run("ip -o link").splitlines()
    assert [line.split()[1] for line in links if "LOOPBACK" in line] == ["lo:"]
    assert "10.9.9.9" not in netns.run("ip -o addr")


def test_the_test_itself_is_inside_the_namespace(netns: Netns) -> None:
    assert os.stat("/proc/thread-self/ns/net").st_ino == os.stat(netns.path).st_ino


def test_two_namespaces_can_be_joined_by_a_link(namespaces: Callable[[], Netns]) -> None:
    left, right = namespaces(), namespaces()
    left.run(["ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0", "netns", right.path])
    left.run("ip addr add 10.9.9.1/24 dev a0")
    left.run("ip link set a0 up")
    right.run("ip addr add 10.9.9.2/24 dev b0")
    right.run("ip link set b0 up")
    assert "1 received" in left.run("ping -c 1 -W 5 10.9.9.2")


def test_a_failing_command_tells_what_it_said(netns: Netns) -> None:
    with pytest.raises(AssertionError, match="Cannot find device"):
        netns.run("ip link set no-such-link up")


def test_a_speaker_takes_connections_on_its_socket(gobgpd: Speaker) -> None:
    assert gobgpd.socket.is_socket()
    gobgpd.stop()
    gobgpd.start()
    assert gobgpd.socket.is_socket()


@pytest.mark.needs("ip_vs", "dummy", "ipip", "fou", "netem", "sctp")
def test_what_a_test_needs_is_there_when_it_runs() -> None:
    assert kernel_features.missing(frozenset({"ip_vs", "dummy", "ipip", "fou", "netem", "sctp"})) == frozenset()
    assert kernel.inside() == (os.uname().release == os.environ.get(kernel.INSIDE))
