"""Real gobgpd speakers of both generations, programmed and watched by us: sessions, routes, and what restarts do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kube_router.codec.gobgp import paths as path_codec
from kube_router.codec.gobgp import policies as policy_codec
from kube_router.model.objects import BestPath, Name
from kube_router.model.state.bgp import Assignment, AssignmentKey, PathKey
from kube_router.model.state.bgp import Path as OwnPath
from lab.kernel_netns import Netns
from tests import speakers
from tests.kernel.mesh import Host, Mesh, node, until

pytestmark = pytest.mark.needs("root")
generations = pytest.mark.parametrize("generation", sorted(speakers.binaries()))

UP = 20.0  # seconds for a first session; v3 dials after five to ten

Script = Callable[[Mesh], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, namespaces: Callable[[], Netns]) -> Callable[..., None]:
    """`play(generation, script, size, **flags)` runs a script over a mesh."""

    def run(generation: str, script: Script, size: int = 2, **flags: Any) -> None:
        async def go() -> None:
            mesh = Mesh(generation, tmp_path, namespaces, size, **flags)
            try:
                await script(mesh)
            finally:
                await mesh.end()

        asyncio.run(go())

    return run


async def all_up(mesh: Mesh) -> None:
    """Every session of every node is established, and every route has come."""
    others = len(mesh.hosts) - 1
    await until(lambda: all(len(host.established) == others for host in mesh.hosts), UP)
    await until(lambda: all(host.routes for host in mesh.hosts), 5.0)


def uptimes(host: Host) -> dict[str, int]:
    """When each session of a speaker came up."""
    return {reply.peer.conf.neighbor_address: reply.peer.timers.state.uptime.seconds for reply in host.client.list("ListPeer")}


@generations
def test_nodes_learn_each_others_ranges_in_both_families(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2), node(3))
        await all_up(mesh)
        await until(lambda: len(mesh.hosts[0].routes) == 4, 5.0)
        assert mesh.hosts[0].routes == {
            "10.233.65.0/24": ("192.168.50.51",),
            "fd00:65::/64": ("fd00:50::51",),
            "10.233.66.0/24": ("192.168.50.52",),
            "fd00:66::/64": ("fd00:50::52",),
        }
        assert [(peer.address, peer.asn, peer.internal) for peer in mesh.hosts[0].watch.peers] == [
            ("192.168.50.51", 64512, True),
            ("192.168.50.52", 64512, True),
        ]

    play(generation, script, 3)


@generations
def test_a_mesh_over_ipv6_alone_works_as_well(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1, families=(6,)), node(2, families=(6,)))
        await all_up(mesh)
        assert mesh.hosts[0].routes == {"fd00:65::/64": ("fd00:50::51",)}

    play(generation, script, enable_ipv4=False, router_id="generate")


@generations
def test_nodes_of_different_families_share_what_they_have_in_common(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2, families=(4,)))
        await all_up(mesh)
        assert mesh.hosts[0].routes == {"10.233.65.0/24": ("192.168.50.51",)}
        assert mesh.hosts[1].routes == {"10.233.64.0/24": ("192.168.50.50",)}

    play(generation, script)


@generations
def test_a_node_moves_leaves_and_returns_without_a_word_to_other_sessions(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2), node(3))
        await all_up(mesh)
        first, _, third = mesh.hosts
        before = uptimes(first)

        third.know(node(3, third=10))
        assert (await third.sync()).good
        took = await until(lambda: "10.233.76.0/24" in first.routes and "10.233.66.0/24" not in first.routes, 3.0)
        assert took < 1.0
        assert uptimes(first) == before

        for host in (first, mesh.hosts[1]):
            host.forget(Name("", "node3"))
            assert (await host.sync()).good
        await until(lambda: set(first.routes) == {"10.233.65.0/24", "fd00:65::/64"}, 1.0)

        for host in (first, mesh.hosts[1]):
            host.know(node(3, third=20))
            assert (await host.sync()).good
        third.know(node(3, third=20))
        assert (await third.sync()).good
        await until(lambda: "10.233.86.0/24" in first.routes, UP)
        assert uptimes(first)["192.168.50.51"] == before["192.168.50.51"]

    play(generation, script, 3)


@generations
def test_our_restart_drops_no_session_moves_no_route_and_writes_nothing(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2))
        await all_up(mesh)
        await until(lambda: len(mesh.hosts[0].routes) == 2, 5.0)
        first, second = mesh.hosts
        routes, before, seen = first.routes, uptimes(first), len(second.changes)
        kernel = tuple(BestPath(Name("", prefix), hops) for prefix, hops in routes.items())
        await first.end()
        first.start(kernel=kernel)
        assert (await first.sync()).good
        await until(lambda: first.changes, 5.0)
        await asyncio.sleep(2.0)
        assert first.target.writes == 0
        assert first.changes == [routes]
        assert uptimes(first) == before
        assert len(second.changes) == seen
        assert (await first.sync(audit=True)).drifted == 0

    play(generation, script)


@generations
def test_a_speaker_that_is_killed_is_programmed_at_once_and_no_route_goes_anywhere(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2), node(3))
        await all_up(mesh)
        await until(lambda: all(len(host.routes) == 4 for host in mesh.hosts), 5.0)
        first = mesh.hosts[0]
        routes = [host.routes for host in mesh.hosts]
        for host in mesh.hosts:
            host.changes.clear()
        first.preserved = True
        first.speaker.stop()
        await until(lambda: first.heard == ["returned", "lost"], 3.0)
        await asyncio.sleep(1.0)
        first.speaker.start()
        answered = asyncio.get_running_loop().time()
        await until(lambda: first.heard == ["returned", "lost", "returned"], 3.0)
        await first.sync(audit=True)
        assert (await first.sync(audit=True)).drifted == 0
        assert asyncio.get_running_loop().time() < answered + 3.0
        await until(lambda: len(first.established) == 2, 10.0)
        await asyncio.sleep(8.0)  # past the settling of peers
        await until(lambda: not first.watch.stale, 5.0)
        assert [host.routes for host in mesh.hosts] == routes
        for host in mesh.hosts:
            assert all(seen == host.routes for seen in host.changes), host.changes

    play(generation, script, 3, bgp_graceful_restart=True)


@generations
def test_after_a_restart_routes_are_announced_soon_though_a_neighbour_is_down(generation: str, play: Any) -> None:
    """U066: the deferral time of six minutes is not waited out for a node that is away."""

    async def script(mesh: Mesh) -> None:
        nodes = (node(1), node(2), node(3))
        await mesh.up(*nodes)
        await all_up(mesh)
        first, second, third = mesh.hosts
        third.speaker.stop()
        first.preserved = True
        first.speaker.stop()
        await until(lambda: "lost" in first.heard, 3.0)
        first.know(node(1, third=10))
        first.speaker.start()
        await until(lambda: first.heard[-1] == "returned", 3.0)
        await first.sync(audit=True)
        assert (await first.sync(audit=True)).good
        await until(lambda: first.established == ["192.168.50.51"], UP)
        took = await until(lambda: "10.233.74.0/24" in second.routes, 10.0)
        assert took < 6.5

    play(generation, script, 3, bgp_graceful_restart=True)


@generations
def test_default_routes_are_not_let_in_and_foreign_routes_not_sent(generation: str, play: Any) -> None:
    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2))
        first, second = mesh.hosts
        await all_up(mesh)
        api = second.client.generation()
        for prefix in ("0.0.0.0/0", "198.18.0.0/24"):
            path = path_codec.path(api, PathKey(prefix), OwnPath("192.168.50.51"))
            second.client.send("AddPath", table_type=api.table_global, path=path)
        await asyncio.sleep(1.0)
        assert set(first.routes) == {"10.233.65.0/24", "fd00:65::/64"}, "nothing but pod ranges is sent to a node"

        opened = policy_codec.assignment(api, AssignmentKey("export"), Assignment((), default_accept=True))
        second.client.send("SetPolicyAssignment", assignment=opened)
        second.client.send("ResetPeer", address="192.168.50.50", soft=True, direction=api.reset_out)
        await until(lambda: "198.18.0.0/24" in first.routes, 5.0)
        assert "0.0.0.0/0" not in first.routes, "no default route is let in"

        assert (await second.sync(audit=True)).drifted > 0
        # The third generation withdraws nothing softly: that session begins anew.
        await until(lambda: "198.18.0.0/24" not in first.routes, 5.0)
        await until(lambda: set(first.routes) == {"10.233.65.0/24", "fd00:65::/64"}, 15.0)

    play(generation, script)


@generations
def test_rules_that_somebody_removed_are_put_back_and_sessions_follow(generation: str, play: Any) -> None:
    """An import policy that was missing lets a default route in; once it is back, the route goes without the session's end."""

    async def script(mesh: Mesh) -> None:
        await mesh.up(node(1), node(2))
        first, second = mesh.hosts
        await all_up(mesh)
        before = uptimes(first)
        api = second.client.generation()
        path = path_codec.path(api, PathKey("0.0.0.0/0"), OwnPath("192.168.50.51"))
        second.client.send("AddPath", table_type=api.table_global, path=path)
        everything = policy_codec.assignment(api, AssignmentKey("export"), Assignment((), default_accept=True))
        second.client.send("SetPolicyAssignment", assignment=everything)
        nothing = policy_codec.assignment(api, AssignmentKey("import"), Assignment((), default_accept=True))
        first.client.send("SetPolicyAssignment", assignment=nothing)
        second.client.send("ResetPeer", address="192.168.50.50", soft=True, direction=api.reset_out)
        await until(lambda: "0.0.0.0/0" in first.routes, 5.0)
        outcome = await first.sync(audit=True)
        assert outcome.good
        assert outcome.drifted == 1
        await until(lambda: "0.0.0.0/0" not in first.routes, 5.0)
        assert uptimes(first) == before

    play(generation, script)
