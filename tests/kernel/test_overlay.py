"""The overlay on real kernels: every pair of pods is reached through what the flags say, with full-size packets, and flags may change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from kube_router.model.names import VXLAN_LINK
from kube_router.model.objects import BestPath, Kind, Name
from kube_router.model.state.links import RouteKey, RuleKey
from kube_router.model.state.tunnels import TunnelKey
from kube_router.watch.reach import ReachWatch
from lab.kernel_netns import Netns
from tests.kernel.overlay_network import NODES, PODS, Network, Stream

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "vxlan")

IPIP = pytest.param("ipip", marks=pytest.mark.needs("ipip", "ip6tnl"))
FOU = pytest.param("fou", marks=pytest.mark.needs("ipip", "ip6tnl", "fou", "gue", "gue6"))
ENCAPS = ["vxlan", IPIP, FOU]


@pytest.fixture(scope="module")
def wires() -> Iterator[Network]:
    """Wires and nodes for all tests: what daemons write goes with the next one's start, which is a promise of theirs."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    network = Network(make)
    yield network
    network.close()
    for namespace in made:
        namespace.close()


@pytest.fixture
def network(wires: Network) -> Network:
    wires.open()
    return wires


def all_pairs(network: Network, *, full: bool) -> list[str]:
    """Pairs of pods that do not hear each other."""
    return [
        f"{name} -> {address}"
        for name, host in network.hosts.items()
        for other in NODES
        for address in PODS[other]
        if other != name and not host.ping(address, full=full)
    ]


@pytest.mark.parametrize("encap", ENCAPS)
def test_u103_pods_reach_each_other_through_a_router_that_lets_only_the_encapsulation_pass(network: Network, encap: str) -> None:
    network.only(encap)
    network.start(overlay_encap=encap)
    assert all_pairs(network, full=True) == []
    n1, n3 = network.hosts["n1"], network.hosts["n3"]
    for address in NODES["n3"].addresses:
        assert n1.ping(address), "policy routing: to the node itself through the tunnel, too"
    plain = [line for line in n1.space.run("ip route").splitlines() if "10.233.66.0/24" in line]
    assert "via 192.168.50.51 dev eth0" in plain[0], "on one segment nothing is wrapped"
    assert n3.mtu == {"ipip": 1452, "fou": 1440, "vxlan": 1450}[encap]


@pytest.mark.parametrize("encap", ENCAPS)
def test_type_full_wraps_traffic_of_one_segment_too(network: Network, encap: str) -> None:
    network.start(overlay_encap=encap, overlay_type="full")
    for host in network.hosts.values():  # what comes in bare is not taken
        host.space.run(["iptables", "-w", "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-d", "10.233.64.0/18", "-j", "DROP"])
        host.space.run(["ip6tables", "-w", "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-d", "fd00:64::/30", "-j", "DROP"])
    assert all_pairs(network, full=True) == []


def test_u103_another_port_passes_where_the_usual_ones_are_dropped(network: Network) -> None:
    for words in ("-p 4", "-p 41", "-p 47", "-p udp --dport 5555", "-p udp --dport 4789"):
        network.drop(words)
    network.start(overlay_encap="vxlan", overlay_vxlan_port=8472)
    assert all_pairs(network, full=True) == []


@pytest.mark.parametrize("encap", ENCAPS)
def test_a_restart_writes_nothing_and_loses_nothing(network: Network, encap: str) -> None:
    network.start(overlay_encap=encap)
    with Stream(network.hosts["n1"], PODS["n3"][0]) as stream:
        for name, host in network.hosts.items():
            network.start(name, overlay_encap=encap)
            assert host.report.changes == []
    assert stream.sent > 10
    assert stream.lost == 0


MOMENT = 2  # packets of a stream of 100 a second


@pytest.mark.needs("ipip", "ip6tnl", "fou", "gue", "gue6")
def test_from_fou_to_ipip_node_by_node_no_packet_is_lost_but_for_those_in_the_moment_of_an_ipv6_tunnels_change(network: Network) -> None:
    network.start(overlay_encap="fou")
    with Stream(network.hosts["n1"], PODS["n3"][0]) as four, Stream(network.hosts["n3"], PODS["n1"][1]) as six:
        for name in NODES:
            network.start(name, overlay_encap="ipip")
    assert four.lost == 0, "a tunnel takes bare packets in, and a listener of before stays"
    # The kernel takes an ip6tnl out of its table to change it, and waits for all readers meanwhile (ip6_tnl_update): what comes in at
    # that moment finds no tunnel. It happens once at either end.
    assert six.lost <= 2 * MOMENT
    assert "port 5555 gue" in network.hosts["n1"].space.run("ip fou show")


@pytest.mark.parametrize(("before", "after"), [("subnet", "full"), ("full", "subnet")])
def test_vxlan_changes_its_type_node_by_node_without_loss(network: Network, before: str, after: str) -> None:
    network.start(overlay_encap="vxlan", overlay_type=before)
    with Stream(network.hosts["n1"], PODS["n2"][0]) as four, Stream(network.hosts["n3"], PODS["n2"][1]) as six:
        for name in NODES:
            network.start(name, overlay_encap="vxlan", overlay_type=after)
    assert (four.lost, six.lost) == (0, 0)


@pytest.mark.parametrize("after", ENCAPS)
@pytest.mark.parametrize("before", ENCAPS)
def test_r18_after_a_change_of_encapsulation_both_ends_agree_again_and_nothing_of_the_former_is_left(
    network: Network, before: str, after: str
) -> None:
    if before == after:
        after_flags = {"overlay_encap": after, "overlay_vxlan_port": 8472, "overlay_encap_port": 6666}
    else:
        after_flags = {"overlay_encap": after}
    network.start(overlay_encap=before)
    network.start(**after_flags)
    for host in network.hosts.values():
        host.sync(host.controller.writes)
        assert host.report.drifts == [], "the kernel holds what it was told"
    assert all_pairs(network, full=True) == []
    n1 = network.hosts["n1"]
    links = {line.split()[1].split("@")[0].strip(":") for line in n1.space.run("ip -o link").splitlines()}
    tunnels = {name for name in links if name.startswith("tun-") or name == VXLAN_LINK}
    assert tunnels == ({VXLAN_LINK} if after == "vxlan" else {"tun-cae1aae1758", "tun-43e00a7a482"})


@pytest.mark.parametrize("encap", ENCAPS)
def test_without_the_overlay_and_after_a_cleanup_nothing_of_it_is_left(network: Network, encap: str) -> None:
    n1 = network.hosts["n1"]

    def picture() -> list[str]:
        tables = [f"ip {family} route show table {table}" for family in ("-4", "-6") for table in ("main", "77")]
        commands = ("ip -br link", "ip -4 rule", "ip -6 rule", "ip fou show", *tables)
        lines = [
            " ".join(line.split()[:1] if command == "ip -br link" else line.split())
            for command in commands
            for line in n1.space.run(command, check=False).splitlines()
        ]
        return [line for line in lines if "fe80" not in line]

    network.start("n1", overlay_encap=encap)
    n1.clean()
    before = picture()
    network.start("n1", overlay_encap=encap)
    assert picture() != before
    network.start("n1", overlay_encap=encap, enable_overlay=False)
    assert [line for line in picture() if line not in before] == [
        "10.233.66.0/24 via 192.168.50.51 dev eth0 proto 17",
        "fd00:66::/64 via fd00:50::51 dev eth0 proto 17 metric 1024 pref medium",
    ]
    network.start("n1", overlay_encap=encap)
    n1.clean()
    assert picture() == before


@pytest.mark.parametrize("encap", ENCAPS)
def test_r16_one_range_that_goes_leaves_the_tunnel_to_its_siblings_and_the_last_takes_it_along(network: Network, encap: str) -> None:
    network.start(overlay_encap=encap)
    n1 = network.hosts["n1"]
    n1.cache.put(BestPath(Name("", "10.233.99.0/24"), ("192.168.60.52",)))
    n1.settle()
    with Stream(n1, PODS["n3"][0]) as stream:
        n1.cache.remove(Kind.BEST_PATH, Name("", "10.233.99.0/24"))
        n1.settle()
    assert stream.lost == 0
    n1.cache.remove(Kind.BEST_PATH, Name("", "10.233.65.0/24"))
    n1.settle()
    table = n1.space.run("ip route show table 77", check=False)
    assert table == ""
    assert "fd00:60::52" in n1.space.run("ip -6 route show table 77")


def test_u062_the_other_end_sees_the_pod_as_source(network: Network) -> None:
    network.start(overlay_encap="vxlan")
    n3, n1 = network.hosts["n3"], network.hosts["n1"]
    n3.space.run(["iptables", "-w", "-A", "INPUT", "-s", PODS["n1"][0], "-d", "192.168.60.52", "-j", "ACCEPT"])
    n3.space.run(["iptables", "-w", "-A", "INPUT", "-p", "icmp", "-j", "DROP"])
    assert n1.ping("192.168.60.52")


@pytest.mark.parametrize("encap", ENCAPS)
def test_what_somebody_took_from_the_overlay_comes_back_with_the_next_look(network: Network, encap: str) -> None:
    network.start(overlay_encap=encap)
    n1 = network.hosts["n1"]
    name = VXLAN_LINK if encap == "vxlan" else "tun-cae1aae1758"
    batch = n1.space.run
    for disturb, least in (
        (["ip", "link", "del", name], 3),
        (["ip", "link", "set", name, "down"], 2),
        (["ip", "rule", "del", "from", "10.233.64.0/24", "table", "77"], 1),
        (["ip", "route", "flush", "table", "77"], 1),
        (["ip", "link", "set", name, "mtu", "1300"], 1),
    ):
        batch(disturb)
        outcome = n1.sync(n1.controller.writes)
        assert outcome.drifted >= least, disturb
        n1.settle()
        assert n1.ping(PODS["n3"][0], full=True), disturb
    kinds = {type(key) for key in n1.report.drifts}
    assert {TunnelKey, RouteKey, RuleKey} <= kinds


def test_u103_a_node_whose_port_is_dropped_on_the_way_is_told_unreachable_until_it_answers(network: Network) -> None:
    network.start(overlay_encap="vxlan")
    n1 = network.hosts["n1"]

    async def story() -> None:
        gateways = {4: "10.233.64.1", 6: "fd00:64::1"}
        watch = ReachWatch(n1.controller.behind_tunnels, gateways.__getitem__, advice="", period=0.2)
        task = asyncio.create_task(watch.run())
        everybody = dict.fromkeys(NODES["n3"].addresses)
        await until(lambda: watch.unreachable == dict.fromkeys(everybody, False))
        network.drop("-p udp --dport 4789")
        await until(lambda: watch.unreachable == dict.fromkeys(everybody, True))
        network.open()
        await until(lambda: watch.unreachable == dict.fromkeys(everybody, False))
        assert not task.done()
        task.cancel()

    with n1.space.entered():
        asyncio.run(story())


async def until(condition: Callable[[], object]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 20 s")
