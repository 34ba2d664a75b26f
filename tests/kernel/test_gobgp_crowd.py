"""A speaker among many peers at once, one that is killed again and again, and what of it strangers can reach."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_router.model.objects import Name, Node
from lab.kernel_netns import Netns
from tests import speakers
from tests.kernel.crowd import Crowd
from tests.kernel.mesh import Host, Mesh, node, until

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge")
generations = pytest.mark.parametrize("generation", sorted(speakers.binaries()))

PEERS = 200
AWAY = 20  # a tenth of them does not answer


@generations
def test_u093_two_hundred_peers_are_up_within_seconds_though_a_tenth_is_away(
    generation: str, tmp_path: Path, namespaces: Callable[[], Netns]
) -> None:
    """Each dials us after 1 to 30 seconds as well; one that was away is up soon after it is back, and so is one that is added later."""
    chance = random.Random(93)

    async def go() -> None:
        mesh = Mesh(generation, tmp_path, namespaces, 1)
        (host,) = mesh.hosts
        netns = namespaces()
        mesh.segment.run(f"ip link add crowd type veth peer name up0 netns {netns.path}")
        mesh.segment.run("ip link set crowd master br0 up")
        netns.run("ip addr add 192.168.50.40/24 dev up0")
        netns.run("ip link set up0 up")
        host.netns.run("ip route add 10.50.0.0/16 via 192.168.50.40")
        addresses = [f"10.50.{n // 250}.{n % 250 + 1}" for n in range(PEERS + 1)]
        crowd = Crowd(netns, addresses)
        present, late, extra = addresses[AWAY:PEERS], addresses[:AWAY], addresses[PEERS]
        try:
            await crowd.listen(present)
            others = [Node(Name("", f"peer{n}"), addresses=(address,)) for n, address in enumerate(addresses[:PEERS])]
            await mesh.up(node(1), *others)
            for address in present:
                crowd.dial(address, "192.168.50.50", chance.uniform(1, 30))
            loop = asyncio.get_running_loop()
            began, came = loop.time(), dict[str, float]()
            while len(came) < len(present) and loop.time() < began + 20:
                for address in host.established:
                    came.setdefault(address, loop.time() - began)
                await asyncio.sleep(0.05)
            assert sorted(came.values())[int(0.99 * len(present)) - 1] < 15.0
            assert set(came) <= set(present)

            await crowd.listen(late)
            # gobgpd pauses up to five seconds between attempts; the third generation takes its time with twenty sessions at once.
            await until(lambda: set(late) <= set(host.established), 20.0)

            host.know(Node(Name("", "later"), addresses=(extra,)))
            await crowd.listen([extra])
            assert (await host.sync()).good
            await until(lambda: extra in host.established, 10.0 if generation == "v3" else 5.0)
        finally:
            await crowd.end()
            await mesh.end()

    asyncio.run(go())


@generations
def test_u067_a_speaker_that_is_killed_again_and_again_costs_its_neighbour_no_route(
    generation: str, tmp_path: Path, namespaces: Callable[[], Netns]
) -> None:
    """Both ends dial at once when it is back, in every phase of the session; its daemon is restarted along with it."""
    chance = random.Random(67)

    async def script(mesh: Mesh) -> None:
        first, second = mesh.hosts
        await mesh.up(node(1), node(2))
        await until(lambda: set(second.routes) == {"10.233.64.0/24", "fd00:64::/64"}, 20.0)
        await until(lambda: len(first.routes) == 2, 5.0)
        first.preserved = True
        seen = len(second.changes)
        for _ in range(8):
            first.speaker.stop()
            await first.end()
            await asyncio.sleep(chance.uniform(0, 2.5))
            first.speaker.start()
            first.start()
            assert (await first.sync()).good
            await asyncio.sleep(chance.choice((0.0, 0.5, 3.0, 6.0)))
        await until(lambda: first.established == ["192.168.50.51"] and second.established == ["192.168.50.50"], 20.0)
        await asyncio.sleep(2.0)
        for routes in second.changes[seen:]:
            assert set(routes) == {"10.233.64.0/24", "fd00:64::/64"}
        await until(lambda: set(first.routes) == {"10.233.65.0/24", "fd00:65::/64"}, 5.0)

    async def go() -> None:
        mesh = Mesh(generation, tmp_path, namespaces, 2, bgp_graceful_restart=True)
        try:
            await script(mesh)
        finally:
            await mesh.end()

    asyncio.run(go())


@generations
def test_u099_a_stranger_reaches_bgp_alone_and_is_turned_away_there(
    generation: str, tmp_path: Path, namespaces: Callable[[], Netns]
) -> None:
    """No port of the speaker but BGP's answers on the network, and BGP's answers configured neighbours only."""

    async def go() -> None:
        mesh = Mesh(generation, tmp_path, namespaces, 1)
        (host,) = mesh.hosts
        stranger = namespaces()
        mesh.segment.run(f"ip link add stranger type veth peer name up0 netns {stranger.path}")
        mesh.segment.run("ip link set stranger master br0 up")
        stranger.run("ip addr add 192.168.50.99/24 dev up0")
        stranger.run("ip addr add fd00:50::99/64 dev up0 nodad")
        stranger.run("ip link set up0 up")
        try:
            await mesh.up(node(1))
            listening = _listening(host)
            outside = {(address, port) for address, port in listening if not address.startswith(("127.", "[::1]"))}
            assert outside == {("192.168.50.50", 179), ("[fd00:50::50]", 179)}
            for address in ("192.168.50.50", "fd00:50::50"):
                assert await asyncio.to_thread(_turned_away, stranger, address)
        finally:
            await mesh.end()

    asyncio.run(go())


def _listening(host: Host) -> set[tuple[str, int]]:
    """Addresses and ports that sockets of a node listen on, TCP and UDP. (BFD's, where there is one, takes no commands.)"""
    lines = host.netns.run("ss -Hltn").splitlines()
    places = [line.split()[3].rpartition(":") for line in lines]
    return {(address, int(port)) for address, _, port in places}


def _turned_away(stranger: Netns, address: str) -> bool:
    with stranger.entered():
        connection = socket.create_connection((address, 179), timeout=5)
    with connection:
        connection.settimeout(5)
        try:
            return connection.recv(1024)[18:19] in (b"", b"\x03")  # nothing, or a NOTIFICATION
        except ConnectionResetError:
            return True
