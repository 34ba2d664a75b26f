"""Sessions with routers outside and between nodes of every role, on real gobgpd speakers of both generations, changed while they are up."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube_router.codec.annotations import PREFIX
from kube_router.model.objects import Kind, Name, Node, Service
from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd, Neighbor, NeighborKey, SpeakerKey
from lab.kernel_netns import Netns
from tests import speakers
from tests.kernel.mesh import Host, Mesh, node, until
from tests.kernel.router import Router
from tests.speakers import Speaker

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge")
generations = pytest.mark.parametrize("generation", sorted(speakers.binaries()))

UP = 20.0  # seconds for a first session; v3 dials after five to ten

Script = Callable[[Mesh, list[Router]], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, namespaces: Callable[[], Netns]) -> Callable[..., None]:
    """`play(generation, script, size, routers, **flags)` runs a script over a mesh with routers beside it."""

    def run(generation: str, script: Script, size: int = 1, routers: int = 1, **flags: Any) -> None:
        async def go() -> None:
            mesh = Mesh(generation, tmp_path, namespaces, size, **flags)
            outside = []
            for number in range(1, routers + 1):
                home = tmp_path / f"router{number}"
                home.mkdir()
                outside.append(Router(number, Speaker(generation, home, namespaces()), mesh.segment))
            try:
                await script(mesh, outside)
            finally:
                await mesh.end()
                for router in outside:
                    router.stop()

        asyncio.run(go())

    return run


def said(value: Node, **annotations: str) -> Node:
    return msgspec.structs.replace(value, annotations={PREFIX + key.replace("_", "."): text for key, text in annotations.items()})


def uptimes(host: Host) -> dict[str, int]:
    """When each session of a speaker came up."""
    return {reply.peer.conf.neighbor_address: reply.peer.timers.state.uptime.seconds for reply in host.client.list("ListPeer")}


async def told(host: Host, value: Node) -> None:
    """A node's object changes and its daemon acts."""
    host.know(value)
    outcome = await host.sync()
    assert outcome.good, (outcome, host.report.failures, host.report.rejections)


async def up(router: Router, *addresses: str) -> None:
    await until(lambda: all(router.sessions()[address].established for address in addresses), UP)


NODE = node(1)
FOUR, SIX = NODE.addresses


@generations
def test_r25_external_peers_come_change_and_go_by_annotation_while_others_keep_their_sessions(generation: str, play: Any) -> None:
    """Password, port, local address and hold time of one peer; the other one, over IPv6, never notices."""
    secret = base64.b64encode(b"hunter2").decode()

    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (first, second) = mesh.hosts, routers
        first.start(port=1790)
        second.start()
        first.peer(FOUR, password=Secret("hunter2"))
        second.peer(SIX)
        await mesh.up(NODE)
        both = {
            "peer_ips": f"{first.addresses[4]},{second.addresses[6]}",
            "peer_asns": f"{first.asn},{second.asn}",
            "peer_ports": "1790,179",
            "peer_passwords": f"{secret},",
        }
        await told(host, said(NODE, **both))
        await up(first, FOUR)
        await up(second, SIX)
        await until(lambda: first.received() == {"10.233.64.0/24": FOUR, "fd00:64::/64": SIX}, 5.0)
        await until(lambda: second.received() == {"10.233.64.0/24": FOUR, "fd00:64::/64": SIX}, 5.0)
        assert host.told == []
        assert (await host.sync(audit=True)).drifted == 0
        before = uptimes(host)

        writes = host.target.writes
        for n in range(20):
            await told(host, said(NODE, **both, node_bgp_communities=f"65000:{n}", whatever=str(n)))
        await told(host, said(NODE, **both, **{"path-prepend_as": "64512", "path-prepend_repeat-n": "2"}))
        assert host.target.writes > writes
        await asyncio.sleep(1.0)
        assert uptimes(host) == before

        first.unpeer(FOUR)
        first.peer(FOUR, password=Secret("new"))
        host.told.clear()
        await told(host, said(NODE, **(both | {"peer_passwords": f"{base64.b64encode(b'new').decode()},"})))
        assert not any("hunter2" in message or "new" in message.split("password")[-1] for _, message in host.told)
        await up(first, FOUR)

        await told(host, said(NODE, peer_ips=second.addresses[6], peer_asns=str(second.asn)))
        await until(lambda: not first.sessions()[FOUR].established, 3.0)
        assert first.addresses[4] not in uptimes(host)

    play(generation, script, routers=2)


@generations
def test_u068_services_that_come_and_go_and_edits_that_do_not_concern_a_peer_leave_its_session_alone(generation: str, play: Any) -> None:
    """A hundred events of Services, twenty of annotations that are not the peer's, and one of communities, which are."""

    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (router,) = mesh.hosts, routers
        router.start()
        router.peer(FOUR)
        await mesh.up(NODE)
        peers = {"peer_ips": router.addresses[4], "peer_asns": str(router.asn)}
        await told(host, said(NODE, **peers))
        await up(router, FOUR)
        before = uptimes(host)
        for n in range(100):
            service = Name("shop", f"web{n % 10}")
            if n % 3 == 2:
                host.cache.remove(Kind.SERVICE, service)
            else:
                host.cache.put(Service(service, cluster_ips=(f"10.96.{n}.1", f"fd00:96::{n + 1}")))
            assert (await host.sync()).good
        calls = dict(host.target.calls)
        for n in range(20):
            await told(host, said(NODE, **peers, node_asn=str(65000 + n), unknown=str(n)))
        assert dict(host.target.calls) == calls
        await told(host, said(NODE, **peers, node_bgp_communities="65000:1"))
        vips = {f"{vip}/32" for found in host.cache.view.services.values() for vip in found.cluster_ips if ":" not in vip}
        await until(lambda: vips <= set(router.received()), 5.0)
        assert uptimes(host) == before
        assert host.told == []
        assert router.sessions()[FOUR].established

    play(generation, script, advertise_cluster_ip=True, advertise_without_endpoints=True)


@generations
def test_a_session_that_starts_anew_is_told_of_before_with_peer_and_reason(generation: str, play: Any) -> None:
    """Hold time: gobgpd takes another one without a word and goes on with the old one until the session ends."""

    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (router,) = mesh.hosts, routers
        router.start()
        router.peer(FOUR, hold_time=60)
        await mesh.up(NODE)
        await up(router, FOUR)
        key = NeighborKey(router.addresses[4])
        value = host.cycle.ledger.merged[key]
        assert isinstance(value, Neighbor)
        host.cycle.ledger.want("another flag", {key: msgspec.structs.replace(value, hold_time=30)}, ())
        host.cycle.ledger.want(("external peers",), {}, ())
        assert (await host.sync()).good
        assert host.told == [("SessionRestart", f"the session with BGP peer {key.address} starts anew for its hold time (90 to 30)")]
        await up(router, FOUR)
        assert router.peers()[FOUR].timers.config.hold_time == 60
        assert (await host.sync(audit=True)).drifted == 0

    play(generation, script, peer_router_ips=("192.168.50.201",), peer_router_asns=(65001,))


@generations
def test_r34_several_next_hops_of_an_external_prefix_are_one_choice(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,) = mesh.hosts
        for router in routers:
            router.start()
            router.asn = 65001
            router.announce("198.18.0.0/24")
            router.announce("2001:db8:9::/48")
            router.peer(FOUR)
        await mesh.up(NODE)
        for router in routers:
            await up(router, FOUR)
        hops = {family: tuple(sorted(router.addresses[family] for router in routers)) for family in (4, 6)}
        await until(lambda: host.routes == {"198.18.0.0/24": hops[4], "2001:db8:9::/48": hops[6]}, 10.0)
        routers[0].unpeer(FOUR)
        await until(
            lambda: host.routes == {"198.18.0.0/24": (routers[1].addresses[4],), "2001:db8:9::/48": (routers[1].addresses[6],)}, 5.0
        )

    play(generation, script, routers=2, peer_router_ips=("192.168.50.201", "192.168.50.202"), peer_router_asns=(65001, 65002))


@generations
def test_a_router_two_hops_away_is_reached_with_multihop_alone(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (router,) = mesh.hosts, routers
        segment = mesh.segment
        segment.run("ip addr add 192.168.50.1/24 dev br0")
        segment.run("sysctl -qw net.ipv4.ip_forward=1")
        segment.run("ip link set r1 nomaster")
        segment.run("ip addr add 192.168.70.1/24 dev r1")
        router.netns.run("ip addr flush dev up0")
        router.netns.run("ip addr add 192.168.70.2/24 dev up0")
        router.netns.run("ip route add default via 192.168.70.1")
        host.netns.run("ip route add 192.168.70.0/24 via 192.168.50.1")
        router.addresses = {4: "192.168.70.2"}
        router.start()
        router.peer(FOUR, multihop_ttl=4)
        await mesh.up(NODE)
        await up(router, FOUR)
        assert (await host.sync(audit=True)).drifted == 0

    play(
        generation,
        script,
        peer_router_ips=("192.168.70.2",),
        peer_router_asns=(65001,),
        peer_router_multihop_ttl=2,
        router_id="192.168.50.50",
    )


def with_bfd(router: Router, **bfd: int) -> str:
    """The annotation that names one router, watched if there are settings."""
    rows = "".join(f", {name}: {value}" for name, value in bfd.items())
    return f"[{{remoteip: {router.addresses[4]}, remoteasn: {router.asn}, bfd: {{enabled: {str(bool(bfd)).lower()}{rows}}}}}]"


@generations
def test_bfd_is_switched_on_and_off_in_a_session_that_lives_on(generation: str, play: Any) -> None:
    """A speaker without BFD has the session all the same, and its node is told."""

    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (router,) = mesh.hosts, routers
        router.start()
        router.peer(FOUR)
        await mesh.up(NODE)
        await told(host, said(NODE, peers=with_bfd(router)))
        await up(router, FOUR)
        before = uptimes(host)
        await told(host, said(NODE, peers=with_bfd(router, desired_min_tx_interval=200, required_min_rx_interval=300)))
        if generation == "v3":
            assert [reason for reason, _ in host.told] == ["NoBFD"]
            assert router.addresses[4] in host.told[0][1]
        else:
            assert host.told == []
            listed = next(iter(host.client.list("ListPeer"))).peer.bfd
            assert (listed.enabled, listed.desired_minimum_tx_interval, listed.required_minimum_receive) == (True, 200_000, 300_000)
        assert (await host.sync(audit=True)).drifted == 0
        await told(host, said(NODE, peers=with_bfd(router)))
        await asyncio.sleep(1.0)
        assert uptimes(host) == before
        assert router.sessions()[FOUR].established

    play(generation, script)


@pytest.mark.skipif("v4" not in speakers.binaries(), reason=f"no gobgpd with BFD: {speakers.REMEDIES['v4']}")
def test_a_router_that_falls_silent_is_missed_by_bfd_long_before_its_hold_time(play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (router,) = mesh.hosts, routers
        router.start()
        router.peer(FOUR, bfd=Bfd(transmit=200, receive=200))
        await mesh.up(NODE)
        await told(host, said(NODE, peers=with_bfd(router, desired_min_tx_interval=200, required_min_rx_interval=200)))
        await up(router, FOUR)
        await asyncio.sleep(3.0)
        assert host.established == [router.addresses[4]]
        router.netns.run("ip link set up0 down")
        assert await until(lambda: not host.established, 5.0) < 5.0

    play("v4", script)


# -- nodes ------------------------------------------------------------------------------------------------------------

RANGES = {number: {f"10.233.{63 + number}.0/24", f"fd00:{63 + number}::/64"} for number in (1, 2, 3)}


@generations
def test_u069_a_node_that_becomes_a_client_later_has_all_routes_and_nobody_loses_a_session(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        server, client, late = mesh.hosts
        nodes = [said(node(1), rr_server="42"), said(node(2), rr_client="42"), node(3)]
        await mesh.up(*nodes)
        await until(lambda: set(server.routes) == RANGES[2] | RANGES[3], UP)
        await until(lambda: set(client.routes) == RANGES[1] | RANGES[3], 5.0)
        await until(lambda: set(late.routes) == RANGES[1] | RANGES[2], 5.0)
        assert server.routes["10.233.65.0/24"] == ("192.168.50.51",)
        assert client.routes["fd00:66::/64"] == ("fd00:50::52",), "a reflected route keeps the next hop of its node"
        assert set(uptimes(client)) == {FOUR}
        before = [uptimes(host)[address] for host, address in ((server, "192.168.50.51"), (server, "192.168.50.52"), (late, FOUR))]
        for host in mesh.hosts:
            await told(host, said(node(3), rr_client="42"))
        await asyncio.sleep(1.5)
        after = [uptimes(host)[address] for host, address in ((server, "192.168.50.51"), (server, "192.168.50.52"), (late, FOUR))]
        assert after == before
        assert set(late.routes) == RANGES[1] | RANGES[2]
        assert set(client.routes) == RANGES[1] | RANGES[3]
        assert [(await host.sync(audit=True)).drifted for host in mesh.hosts] == [0, 0, 0]

    play(generation, script, 3, routers=0)


@generations
@pytest.mark.parametrize("primary", [(4, 6), (6, 4)], ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("restart", [True, False], ids=["graceful restart", "none"])
def test_u055_one_session_carries_the_ranges_of_both_families(generation: str, restart: bool, primary: tuple[int, ...], play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        first, _ = mesh.hosts
        await mesh.up(node(1, families=primary), node(2, families=primary))
        await until(lambda: first.routes == {"10.233.65.0/24": ("192.168.50.51",), "fd00:65::/64": ("fd00:50::51",)}, UP)
        assert len(uptimes(first)) == 1

    play(generation, script, 2, routers=0, bgp_graceful_restart=restart, router_id="generate")


@generations
def test_nodes_of_two_as_have_sessions_within_each_alone_and_a_node_may_move(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        first, _, third = mesh.hosts
        await mesh.up(said(node(1), node_asn="65001"), said(node(2), node_asn="65001"), said(node(3), node_asn="0xfdea"))
        await until(lambda: set(first.routes) == RANGES[2], UP)
        assert set(uptimes(first)) == {"192.168.50.51"}
        assert uptimes(third) == {}
        before = uptimes(first)

        moved = said(node(3), node_asn="65001")
        third.know(moved)
        await third.sync()
        assert [reason for reason, _ in third.told] == ["SessionRestart"]
        assert "65002 to 65001" in third.told[0][1]
        if generation == "v4":  # its process is of no more use, and its supervisor restarts it
            third.speaker.stop()
            third.speaker.start()
            third.cycle.ledger.distrust(third.cycle.controller.writes)
        assert (await third.sync(audit=True)).good
        for host in mesh.hosts[:2]:
            await told(host, moved)
        await until(lambda: set(first.routes) == RANGES[2] | RANGES[3], UP)
        assert uptimes(first)["192.168.50.51"] == before["192.168.50.51"]

    play(generation, script, 3, routers=0, nodes_full_mesh=False)


@generations
def test_without_ibgp_there_are_no_sessions_between_nodes(generation: str, play: Any) -> None:
    async def script(mesh: Mesh, routers: list[Router]) -> None:
        await mesh.up(node(1), node(2))
        for host in mesh.hosts:
            assert uptimes(host) == {}
            assert SpeakerKey() in host.cycle.ledger.held
            assert Name("", "node2") in host.cache.view.nodes

    play(generation, script, 2, routers=0, enable_ibgp=False)


@generations
def test_u066_routes_reach_every_peer_within_seconds_of_its_session_though_one_is_down_and_one_knows_no_restart(
    generation: str, play: Any
) -> None:
    """r24: with graceful restart and a deferral time of six minutes, on the first start and after a restart of the speaker."""

    async def script(mesh: Mesh, routers: list[Router]) -> None:
        (host,), (able, plain) = mesh.hosts, routers
        for router, restart in ((able, 90), (plain, 0)):
            router.start()
            router.peer(FOUR, restart_time=restart, deferral_time=5 if restart else 0)
        await mesh.up(NODE)
        for preserved in (False, True):
            host.preserved = preserved
            if preserved:
                host.speaker.stop()
                host.speaker.start()
                host.cycle.ledger.distrust(host.cycle.controller.writes)
                assert (await host.sync()).good
            for router in (able, plain):
                await up(router, FOUR)
                took = await until(lambda router=router: "10.233.64.0/24" in router.received(), 8.0)
                assert took < 6.0

    play(
        generation,
        script,
        routers=2,
        bgp_graceful_restart=True,
        peer_router_ips=("192.168.50.201", "192.168.50.202", "192.168.50.240"),
        peer_router_asns=(65001, 65002, 65003),
    )
