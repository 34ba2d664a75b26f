"""What goes to whom, between real speakers of both generations and a BIRD outside: the table, and rules that change under sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube_router.desired.routing.vips import EXCLUDED
from kube_router.kit.net import family_of
from kube_router.model.objects import Endpoint, EndpointSlice, Name, Node, Service
from lab.kernel_netns import Netns
from lab.routers.model import Route
from tests import speakers
from tests.kernel.mesh import Host, Mesh, node, until
from tests.kernel.outside import ASN, Outside

pytestmark = pytest.mark.needs("root")
generations = pytest.mark.parametrize("generation", sorted(speakers.binaries()))

UP = 20.0  # seconds for a first session; v3 dials after five to ten
SOON = 5.0

WEB = Service(
    Name("shop", "web"),
    cluster_ips=("10.96.0.1", "fd00:233::1"),
    external_ips=("203.0.113.1",),
    annotations={"kube-router.io/service.advertise.clusterip": "true", "kube-router.io/service.advertise.externalip": "true"},
)
ENDS = EndpointSlice(Name("shop", "web-1"), WEB.name, (Endpoint(("10.233.64.5",)), Endpoint(("fd00:64::5",))))
VIPS = {"10.96.0.1/32", "fd00:233::1/128", "203.0.113.1/32"}
# What BIRD announces: two foreign prefixes that are to be learned; default routes and a VIP of ours, which are not.
FOREIGN = {"198.18.0.0/24", "2001:db8:ff::/48"}
REFUSED = {"0.0.0.0/0", "::/0", "203.0.113.1/32"}
FLAGS = {"peer_router_asns": (ASN,), "service_external_ip_range": ("203.0.113.0/24",), "router_id": "generate"}

Script = Callable[[Mesh, Outside], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, namespaces: Callable[[], Netns]) -> Callable[..., None]:
    """`play(generation, script, size, **flags)` runs a script over a mesh with a BIRD at number 1 of the segment."""

    def run(generation: str, script: Script, size: int = 2, **flags: Any) -> None:
        async def go() -> None:
            mesh = Mesh(generation, tmp_path, namespaces, size, **FLAGS | flags)
            router = Outside(1, tmp_path / "router", namespaces(), mesh.segment)
            try:
                await script(mesh, router)
            finally:
                router.stop()
                await mesh.end()

        asyncio.run(go())

    return run


async def change(host: Host, *objects: Node | Service | EndpointSlice) -> None:
    host.know(*objects)
    assert (await host.sync()).good, (host.report.failures, host.report.rejections)


def alone(host: Host) -> None:
    """A node without external peers."""
    host.options = replace(host.options, peer_router_ips=(), peer_router_asns=())


def annotated(value: Node, **annotations: str) -> Node:
    """With these annotations, spelled with underscores for dots and hyphens where the word says so."""
    spelled = {f"kube-router.io/{name.replace('__', '-').replace('_', '.')}": text for name, text in annotations.items()}
    return msgspec.structs.replace(value, annotations=dict(value.annotations) | spelled)


def from_first(router: Outside, primary: int) -> dict[str, Route]:
    return router.received(("192.168.50.50", "fd00:50::50")[primary == 6])


@generations
@pytest.mark.parametrize("primary", [4, 6])
def test_r10_every_cell_of_the_table_on_the_wire(generation: str, primary: int, play: Any) -> None:
    families = (4, 6) if primary == 4 else (6, 4)
    peer = ("192.168.50.1", "fd00:50::1")[primary == 6]

    async def script(mesh: Mesh, router: Outside) -> None:
        one, two = node(1, families=families), node(2, families=families)
        router.start((one.addresses[0], 64512), announces=tuple(FOREIGN | REFUSED))
        alone(mesh.hosts[1])
        await mesh.up(one, two, WEB, ENDS)
        first, second = mesh.hosts
        await until(lambda: router.times_up(one.addresses[0]) and set(first.routes) >= FOREIGN, UP)
        await until(lambda: set(two.pod_cidrs) <= set(first.routes) and second.routes, UP)
        await until(lambda: set(from_first(router, primary)) >= VIPS, SOON)

        got = from_first(router, primary)
        assert set(got) == VIPS | set(one.pod_cidrs), "its pod ranges and VIPs, and nothing that it learned"
        for prefix, route in got.items():
            assert route.next_hop == ("fd00:50::50" if ":" in prefix else "192.168.50.50"), prefix
            assert route.as_path == (64512,)
        assert set(second.routes) == set(one.pod_cidrs), "a node gets pod ranges: no VIP, nothing from outside, no default route"
        assert set(first.routes) == set(two.pod_cidrs) | FOREIGN, "no default route, none of our own VIPs"

    play(generation, script, peer_router_ips=(peer,))


@generations
def test_u056_with_override_nexthop_every_prefix_keeps_a_next_hop_of_its_family_on_this_node(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        one = node(1)
        router.start((one.addresses[0], 64512))
        await mesh.up(one, WEB, ENDS)
        await until(lambda: set(from_first(router, 4)) == VIPS | set(one.pod_cidrs), UP)
        for prefix, route in from_first(router, 4).items():
            assert route.next_hop in one.addresses
            assert family_of(route.next_hop) == family_of(prefix)

    play(generation, script, 1, peer_router_ips=("192.168.50.1",), override_nexthop=True)


@generations
def test_r11_changed_prepends_and_communities_reach_routes_already_sent_and_the_session_stays(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        one = node(1)
        router.start((one.addresses[0], 64512))
        await mesh.up(one, WEB, ENDS)
        (first,) = mesh.hosts
        everything = VIPS | set(one.pod_cidrs)
        await until(lambda: set(from_first(router, 4)) == everything, UP)

        marked = annotated(one, path__prepend_as="64999", path__prepend_repeat__n="3", node_bgp_communities="65000:1,no-export")
        await change(first, marked)
        expected = Route("", (64999, 64999, 64999, 64512), frozenset({"65000:1", "65535:65281"}))

        def as_marked() -> bool:
            got = from_first(router, 4)
            return set(got) == everything and all(
                (route.as_path, route.communities) == (expected.as_path, expected.communities) for route in got.values()
            )

        assert await until(as_marked, SOON) < 2.0
        await change(first, annotated(marked, path__prepend_repeat__n="1", node_bgp_communities=""))
        await until(
            lambda: {(route.as_path, route.communities) for route in from_first(router, 4).values()} == {((64999, 64512), frozenset())},
            SOON,
        )
        await change(first, one)
        await until(lambda: {route.as_path for route in from_first(router, 4).values()} == {(64512,)}, SOON)
        assert set(from_first(router, 4)) == everything
        assert router.times_up(one.addresses[0]) == 1, "nothing of this restarts a session"

    play(generation, script, 1, peer_router_ips=("192.168.50.1",))


@generations
def test_r11_a_changed_list_of_refused_prefixes_is_applied_to_routes_already_received(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        one = node(1)
        inside = {"10.50.1.0/24", "2001:db8:50::/64"}
        router.start((one.addresses[0], 64512), announces=tuple(FOREIGN | inside))
        await mesh.up(one)
        (first,) = mesh.hosts
        await until(lambda: set(first.routes) == FOREIGN | inside, UP)
        await change(first, annotated(one, node_bgp_customimportreject="10.50.0.0/16, 2001:db8:50::/48"))
        await until(lambda: set(first.routes) == FOREIGN, SOON)
        await change(first, annotated(one, node_bgp_customimportreject="10.50.0.0/16"))
        await until(lambda: set(first.routes) == FOREIGN | {"2001:db8:50::/64"}, SOON)
        await change(first, one)
        await until(lambda: set(first.routes) == FOREIGN | inside, SOON)
        assert router.times_up(one.addresses[0]) == 1

    play(generation, script, 1, peer_router_ips=("192.168.50.1",))


@generations
def test_r05_r07_u050_u054_services_come_change_and_go_on_the_wire(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        one = node(1)
        router.start((one.addresses[0], 64512))
        single = msgspec.structs.replace(WEB, cluster_ips=("10.96.0.1",), external_ips=())
        await mesh.up(one, single, ENDS)
        (first,) = mesh.hosts

        def announced() -> set[str]:
            return set(from_first(router, 4)) - set(one.pod_cidrs)

        await until(lambda: announced() == {"10.96.0.1/32"}, UP)
        await change(first, msgspec.structs.replace(WEB, external_ips=()))
        assert await until(lambda: announced() == {"10.96.0.1/32", "fd00:233::1/128"}, SOON) < 1.0
        await change(first, single)
        assert await until(lambda: announced() == {"10.96.0.1/32"}, SOON) < 1.0
        unready = msgspec.structs.replace(ENDS, endpoints=(Endpoint(("10.233.64.5",), ready=False, serving=False),))
        await change(first, unready)
        await until(lambda: announced() == set(), SOON)
        await change(first, ENDS)
        await until(lambda: announced() == {"10.96.0.1/32"}, SOON)
        assert router.times_up(one.addresses[0]) == 1

    play(generation, script, 1, peer_router_ips=("192.168.50.1",))


@generations
def test_r09_a_reflector_passes_on_pod_ranges_of_its_clients_and_nothing_else(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        server = annotated(node(1), rr_server="42")
        clients = [annotated(node(n), rr_client="42") for n in (2, 3)]
        router.start((server.addresses[0], 64512), announces=tuple(FOREIGN | REFUSED))
        for host in mesh.hosts[1:]:
            alone(host)
        await mesh.up(server, *clients, WEB, ENDS)
        first, second, third = mesh.hosts
        others = {
            host.number: {cidr for value in (server, *clients) for cidr in value.pod_cidrs} - set(own.pod_cidrs)
            for host, own in zip(mesh.hosts, (server, *clients), strict=True)
        }
        await until(lambda: set(second.routes) == others[2] and set(third.routes) == others[3], UP)
        await until(lambda: set(first.routes) == others[1] | FOREIGN, UP)
        assert [peer.address for peer in second.watch.peers] == [server.addresses[0]], "clients peer with the reflector alone"
        await until(lambda: set(from_first(router, 4)) == VIPS | set(server.pod_cidrs), SOON)
        assert set(second.routes) == others[2]
        assert set(third.routes) == others[3]

        # It is no reflector any more: what it passed on is taken back.
        for host in mesh.hosts:
            await change(host, node(1), *clients)
        await until(lambda: not set(second.routes) & set(clients[1].pod_cidrs), UP)

    play(generation, script, 3, peer_router_ips=("192.168.50.1",))


@generations
def test_r11_what_is_no_longer_let_out_is_taken_back_and_only_a_v3_speakers_session_with_that_peer_starts_anew(
    generation: str, play: Any
) -> None:
    """The daemon starts again with --advertise-pod-cidr=false, over a speaker that went on."""

    async def script(mesh: Mesh, router: Outside) -> None:
        one, two = node(1), node(2)
        router.start((one.addresses[0], 64512))
        alone(mesh.hosts[1])
        await mesh.up(one, two, WEB, ENDS)
        first, second = mesh.hosts
        await until(lambda: set(from_first(router, 4)) == VIPS | set(one.pod_cidrs), UP)
        await until(lambda: set(second.routes) == set(one.pod_cidrs) and set(first.routes) == set(two.pod_cidrs), UP)

        heard = len(second.changes)
        await first.end()
        first.options = replace(first.options, advertise_pod_cidr=False)
        first.start()
        assert (await first.sync()).good
        await until(lambda: set(from_first(router, 4)) == VIPS, UP)
        assert router.times_up(one.addresses[0]) == (2 if generation == "v3" else 1)
        assert set(second.routes) == set(one.pod_cidrs), "nodes still get them"
        assert len(second.changes) == heard, "and never lost them"

    play(generation, script, peer_router_ips=("192.168.50.1",))


@generations
def test_u108_a_drained_node_takes_its_addresses_back_and_keeps_its_session_and_pod_ranges(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, router: Outside) -> None:
        one = node(1)
        many = [
            msgspec.structs.replace(WEB, name=Name("shop", f"s{n}"), cluster_ips=(f"10.97.{n // 200}.{n % 200 + 1}",), external_ips=())
            for n in range(400)
        ]
        ends = [msgspec.structs.replace(ENDS, name=Name("shop", f"{value.name.name}-1"), service=value.name) for value in many]
        router.start((one.addresses[0], 64512))
        await mesh.up(one, *many, *ends)
        (first,) = mesh.hosts
        everything = {f"{value.cluster_ips[0]}/32" for value in many} | set(one.pod_cidrs)
        await until(lambda: set(from_first(router, 4)) == everything, UP)

        await change(first, msgspec.structs.replace(one, labels={EXCLUDED: ""}))
        assert await until(lambda: set(from_first(router, 4)) == set(one.pod_cidrs), SOON) < 2.0
        assert [note.reason for note in first.cycle.notes()] == ["ServicesWithdrawn"]
        await change(first, one)
        assert await until(lambda: set(from_first(router, 4)) == everything, SOON) < 2.0
        assert router.times_up(one.addresses[0]) == 1

    play(generation, script, 1, peer_router_ips=("192.168.50.1",), advertise_cluster_ip=True)
