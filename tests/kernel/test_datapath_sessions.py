"""Nodes with two networks, of which the public one lets nothing through between them: sessions and next hops use the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kube_router.model.objects import Node
from lab.kernel_netns import Netns
from tests import speakers
from tests.kernel.mesh import Host, Mesh, node, until
from tests.kernel.router import Router

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "iptables_nft")
generations = pytest.mark.parametrize("generation", sorted(speakers.binaries()))

UP = 20.0


def private(number: int, *, families: tuple[int, ...]) -> tuple[str, ...]:
    return tuple({4: f"192.168.60.{number}", 6: f"fd00:60::{number}"}[family] for family in families)


def multihomed(number: int, *, families: tuple[int, ...] = (4, 6), primary: tuple[int, ...] = (4, 6)) -> Node:
    """A node that has published addresses of these families."""
    return msgspec.structs.replace(node(number, families=primary), datapath=private(number, families=families))


def give_private_network(host: Host, segment: Netns) -> None:
    """A second link, on a segment of its own; on the first one everything but the API server's port is dropped."""
    port = f"q{host.number}"
    segment.run(f"ip link add {port} type veth peer name eth1 netns {host.netns.path}")
    segment.run(f"ip link set {port} master br0 up")
    for address, length in zip(private(host.number, families=(4, 6)), (24, 64), strict=True):
        host.netns.run(["ip", "address", "add", f"{address}/{length}", "dev", "eth1", *(["nodad"] if ":" in address else [])])
    host.netns.run("ip link set eth1 up")
    host.netns.run("iptables-nft -A INPUT -i up0 -p tcp ! --dport 6443 -j DROP")
    host.netns.run("ip6tables-nft -A INPUT -i up0 -p tcp ! --dport 6443 -j DROP")


@generations
@pytest.mark.parametrize(
    ("families", "primary"),
    [((4, 6), (4, 6)), ((4,), (4, 6)), ((6,), (4, 6)), ((4, 6), (6, 4))],
    ids=["both families", "IPv4 alone", "IPv6 alone", "IPv6 primary"],
)
def test_u104_sessions_and_next_hops_use_the_network_for_pods_while_the_public_one_drops_everything(
    generation: str,
    families: tuple[int, ...],
    primary: tuple[int, ...],
    tmp_path: Path,
    namespaces: Callable[[], Netns],
) -> None:
    async def go() -> None:
        mesh = Mesh(generation, tmp_path, namespaces, 2, router_id="generate")
        try:
            segment = namespaces()
            segment.run("ip link add br0 type bridge")
            segment.run("ip link set br0 up")
            for host in mesh.hosts:
                give_private_network(host, segment)
            await mesh.up(*(multihomed(number, families=families, primary=primary) for number in (1, 2)))
            session = private(2, families=families)[0]
            await until(lambda: all(host.established for host in mesh.hosts), UP)
            first = mesh.hosts[0]
            assert first.established == [session]
            await until(lambda: len(first.routes) == 2, 5.0)
            public = {4: "192.168.50.51", 6: "fd00:50::51"}
            hops = public | dict(zip(families, private(2, families=families), strict=True))
            assert first.routes == {"10.233.65.0/24": (hops[4],), "fd00:65::/64": (hops[6],)}
        finally:
            await mesh.end()

    asyncio.run(go())


@generations
def test_u104_an_external_peer_on_the_public_network_gets_a_next_hop_that_it_can_reach(
    generation: str, tmp_path: Path, namespaces: Callable[[], Netns]
) -> None:
    async def go() -> None:
        outside = {"peer_router_ips": ("192.168.50.201", "fd00:50::201"), "peer_router_asns": (65001, 65001)}
        mesh = Mesh(generation, tmp_path, namespaces, 1, router_id="generate", **outside)
        (tmp_path / "router").mkdir()
        router = Router(1, speakers.Speaker(generation, tmp_path / "router", namespaces()), mesh.segment)
        try:
            segment = namespaces()
            segment.run("ip link add br0 type bridge")
            segment.run("ip link set br0 up")
            give_private_network(mesh.hosts[0], segment)
            for tool, address in (("iptables-nft", "192.168.50.201"), ("ip6tables-nft", "fd00:50::201")):
                mesh.hosts[0].netns.run(f"{tool} -I INPUT -s {address} -j ACCEPT")
            router.start()
            for address in ("192.168.50.50", "fd00:50::50"):
                router.peer(address)
            await mesh.up(multihomed(1))
            await until(lambda: len(router.received()) == 2, UP)
            assert router.received() == {"10.233.64.0/24": "192.168.50.50", "fd00:64::/64": "fd00:50::50"}
        finally:
            router.stop()
            await mesh.end()

    asyncio.run(go())
