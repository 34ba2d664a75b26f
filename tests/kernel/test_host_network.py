"""The host side of routing on the real kernel: what packets of pods and of others see of it, and what a cleanup leaves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kube_router.model.objects import Interface, Kind, Name, Node
from kube_router.model.state.links import LinkKey
from lab.kernel_netns import Netns
from tests.kernel.host_network import OWN, PLUGINS, PODS, UPLINK, WORLD, HostNetwork, heard, join

pytestmark = pytest.mark.needs("root", "netns", "veth", "bridge", "br_netfilter", "ipset", "xt_set", "iptables_nft")

Make = Callable[[], Netns]
POD_GATEWAYS = ("10.233.64.1", "fd00:64::1")
EXCLUDED = {4: "198.18.0.5", 6: "fd00:18::5"}
OUR_SETS = {f"{prefix}{name}" for prefix in ("", "inet6:") for name in ("kube-router-pod-subnets", "kube-router-node-ips")}


@pytest.fixture
def node(namespaces: Make, tmp_path: Path) -> HostNetwork:
    return HostNetwork(namespaces, tmp_path)


def calls_of_all_bridges(node: HostNetwork) -> list[str]:
    return node.netns.run("sysctl -n net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables").split()


def test_u077_packets_on_other_bridges_pass_no_filter_and_those_on_ours_do(node: HostNetwork, namespaces: Make) -> None:
    for call in ("iptables", "ip6tables"):
        node.netns.run(f"sysctl -q -w net.bridge.bridge-nf-call-{call}=0")
    node.netns.run("ip link add br-vm type bridge")
    node.netns.run("ip link set br-vm up")
    node.netns.run("iptables-nft -t mangle -A FORWARD -p udp --dport 7777 -j DROP")
    node.netns.run("ip6tables-nft -t mangle -A FORWARD -p udp --dport 7777 -j DROP")
    machines, pods = [namespaces() for _ in range(2)], [namespaces() for _ in range(2)]
    for n, machine in enumerate(machines):
        join(node.netns, "br-vm", machine, f"vm{n}", f"198.18.9.{n + 1}/24", f"fd00:18:9::{n + 1}/64")
    assert node.start(OWN, UPLINK).good
    for _ in range(2):
        for n, pod in enumerate(pods):
            join(node.netns, "kube-bridge", pod, f"pod{n}", f"10.233.64.{n + 10}/24", f"fd00:64::{n + 10}/64")
        assert calls_of_all_bridges(node) == ["0", "0"]
        for address, source in (("198.18.9.2", "198.18.9.1"), ("fd00:18:9::2", "fd00:18:9::1")):
            assert heard(machines[0], machines[1], address, seconds=10) == source
        for address in ("10.233.64.11", "fd00:64::11"):
            assert heard(pods[0], pods[1], address, seconds=0.6) == "", "the rule is asked on our bridge"
            assert heard(pods[0], pods[1], address, seconds=10, port=7778) != ""
        # Once more over a bridge that somebody took away.
        for n in range(2):
            node.netns.run(f"ip link del pod{n}")
        node.netns.run("ip link del kube-bridge")
        assert node.sync((LinkKey,)).drifted == 1


def wired(node: HostNetwork, namespaces: Make) -> tuple[Netns, Netns]:
    """A pod, and the world with routes back to it, so that both sources can be heard."""
    pod, world = namespaces(), namespaces()
    node.netns.run(f"ip link add up0 type veth peer name eth0 netns {world.path}")
    for space, link, last in ((node.netns, "up0", 1), (world, "eth0", 2)):
        space.run(f"ip address add 203.0.113.{last}/24 dev {link}")
        space.run(f"ip address add 2001:db8::{last}/64 dev {link} nodad")
        space.run(f"ip link set {link} up")
    for address in EXCLUDED.values():
        world.run(f"ip address add {address} dev lo")
    node.netns.run("ip route add default via 203.0.113.2")
    node.netns.run("ip route add default via 2001:db8::2")
    assert node.start(OWN, UPLINK).good
    for gateway, length in zip(POD_GATEWAYS, (24, 64), strict=True):
        node.netns.run(["ip", "address", "add", f"{gateway}/{length}", "dev", "kube-bridge", *(["nodad"] if ":" in gateway else [])])
    join(node.netns, "kube-bridge", pod, "pod0", f"{PODS[4]}/24", f"{PODS[6]}/64", gateways=POD_GATEWAYS)
    world.run("ip route add 10.233.64.0/24 via 203.0.113.1")
    world.run("ip route add fd00:64::/64 via 2001:db8::1")
    return pod, world


@pytest.mark.parametrize("family", [4, 6])
def test_u063_pods_are_masqueraded_outside_the_cluster_only_and_a_flag_that_goes_leaves_nothing(
    node: HostNetwork, namespaces: Make, family: int
) -> None:
    pod, world = wired(node, namespaces)
    own = OWN.addresses[family == 6]
    assert heard(pod, world, WORLD[family], seconds=10) == own
    assert heard(pod, world, EXCLUDED[family], seconds=10) == own

    world_is_a_node = Node(Name("", "node2"), addresses=tuple(WORLD.values()), pod_cidrs=("198.18.0.0/24", "fd00:18::/64"))
    node.cache.put(world_is_a_node)
    assert node.sync().good
    for n, address in enumerate((WORLD[family], EXCLUDED[family])):
        assert heard(pod, world, address, seconds=10, port=7800 + n) == PODS[family], "nodes and their pods see the pod's address"
    node.cache.remove(Kind.NODE, world_is_a_node.name)
    assert node.sync().good

    assert node.start(pod_egress_excluded_cidrs=("198.18.0.0/24", "fd00:18::/64")).good
    assert heard(pod, world, EXCLUDED[family], seconds=10, port=7810) == PODS[family]
    assert heard(pod, world, WORLD[family], seconds=10, port=7811) == own

    assert node.start(enable_pod_egress=False).good
    assert heard(pod, world, WORLD[family], seconds=10, port=7820) == PODS[family]
    assert not OUR_SETS & node.sets_of_all()
    for tool in ("iptables-nft", "ip6tables-nft"):
        rules = node.netns.run(f"{tool}-save -t nat")
        assert "EGRESS" not in rules
        assert "MASQUERADE" not in rules


def test_r22_a_node_that_joins_is_in_the_sets_with_its_first_event_and_out_with_its_last(node: HostNetwork) -> None:
    assert node.start(OWN, UPLINK).good
    joined = Node(Name("", "node2"), addresses=("203.0.113.9", "2001:db8::9"), pod_cidrs=("10.233.65.0/24", "fd00:65::/64"))
    for present, event in ((True, lambda: node.cache.put(joined)), (False, lambda: node.cache.remove(Kind.NODE, joined.name))):
        event()
        outcome = node.sync()
        assert (outcome.good, outcome.written) == (True, 4), "one entry for each range and address, and nothing else"
        for name, entry in (
            ("kube-router-pod-subnets", "10.233.65.0/24"),
            ("inet6:kube-router-pod-subnets", "fd00:65::/64"),
            ("kube-router-node-ips", "203.0.113.9"),
            ("inet6:kube-router-node-ips", "2001:db8::9"),
        ):
            assert (entry in node.members(name)) is present


def test_r30_a_cleanup_leaves_the_sets_of_others_and_is_not_stopped_by_one_in_use(node: HostNetwork) -> None:
    theirs = {"theirs": "hash:ip", "kube-router-node-ips-2": "hash:ip", "inet6:theirs": "hash:net family inet6"}
    for name, kind in theirs.items():
        node.netns.run(f"ipset create {name} {kind}")
    node.netns.run("ipset add theirs 198.18.0.1")
    assert node.start(OWN, UPLINK).good
    assert node.sets_of_all() == OUR_SETS | set(theirs)
    # Somebody else's rule holds one of ours fast.
    node.netns.run("iptables-nft -A INPUT -m set --match-set kube-router-node-ips src -j ACCEPT")
    outcome = node.cleanup()
    assert not outcome.good
    assert [str(key) for key, _ in node.report.rejections] == ["Set(kube-router-node-ips)"]
    assert node.sets_of_all() == {"kube-router-node-ips", *theirs}
    assert node.members("theirs") == {"198.18.0.1"}
    node.netns.run("iptables-nft -D INPUT -m set --match-set kube-router-node-ips src -j ACCEPT")
    assert node.cleanup().good
    assert node.sets_of_all() == set(theirs)


# -- a pod by the real plugins, from the file that we wrote -----------------------------------------------------------------


def sandbox(node: HostNetwork, pod: Netns, leases: Path) -> int:
    """Join a pod as a runtime does; the MTU of its eth0."""
    conf = json.loads(node.file.read_text())
    plugin = {**conf["plugins"][0], "name": conf["name"], "cniVersion": conf["cniVersion"]}
    plugin["ipam"]["dataDir"] = str(leases)
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": pod.path, "CNI_IFNAME": "eth0", "CNI_PATH": PLUGINS}
    done = subprocess.run(
        node.netns.command([f"{PLUGINS}/bridge"]),
        input=json.dumps(plugin),
        env={**os.environ, **environment},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    link: list[dict[str, Any]] = json.loads(pod.run("ip -j link show dev eth0"))
    mtu: int = link[0]["mtu"]
    return mtu


ON_LOOPBACK = (
    Interface(Name("", "lo"), index=1, mtu=65536, addresses=("203.0.113.1/32", "2001:db8::1/128")),
    Interface(Name("", "up0"), index=2, mtu=1500, addresses=("198.18.1.1/24",)),
    Interface(Name("", "up1"), index=3, mtu=9000, addresses=("198.18.2.1/24",)),
)


@pytest.mark.parametrize(
    ("links", "options", "before", "mtu"),
    [
        ((UPLINK,), {"enable_overlay": False}, None, 1500),
        (ON_LOOPBACK, {"enable_overlay": False}, None, 1500),
        ((UPLINK,), {"enable_overlay": False}, 1280, 1280),
        ((UPLINK,), {"auto_mtu": False}, 1280, 1280),
        ((UPLINK,), {"enable_overlay": False}, 1500, 1500),
    ],
    ids=["from the uplink", "u072: not from loopback", "u073: chosen", "u073: chosen, auto off", "of the original"],
)
def test_u072_u073_a_pod_can_be_made_and_its_mtu_is_that_of_bridge_and_file(
    node: HostNetwork, namespaces: Make, tmp_path: Path, links: tuple[Interface, ...], options: dict[str, Any], before: int | None, mtu: int
) -> None:
    if before is not None:
        bridge = {"type": "bridge", "bridge": "kube-bridge", "isDefaultGateway": True, "mtu": before}
        node.file.write_text(json.dumps({"cniVersion": "0.3.1", "name": "kubernetes", "plugins": [bridge]}))
    assert node.start(OWN, *links, **options).good
    assert node.sync().written == 0, "what we wrote is no input that changes our mind"
    assert node.mtu_of_bridge() == mtu
    assert sandbox(node, namespaces(), tmp_path / "leases") == mtu
    assert node.mtu_of_bridge() == mtu
