"""The host side of routing: bridge, sets, egress, CNI ranges, MTU."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.desired.routing.host import host, members
from kube_router.desired.routing.mtu import pod_mtu
from kube_router.model.objects import Interface, Name, Node
from kube_router.model.state.links import CniConfig, FileKey, Link, LinkKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

NODE = Node(
    Name("", "node1"),
    pod_cidrs=("10.233.64.0/24", "fd00:64::/64"),
    addresses=("192.168.50.50", "fd00:50::50"),
)
UPLINK = Interface(Name("", "up0"), index=2, mtu=1500, addresses=("192.168.50.50/24", "fd00:50::50/64"))
LO = Interface(Name("", "lo"), index=1, mtu=65536, addresses=("127.0.0.1/8", "::1/128"))
BOTH = defaults(node_name="node1", enable_ipv6=True)
V4 = defaults(node_name="node1")


def test_a_node_is_a_member_with_its_pod_ranges_and_addresses_in_both_families():
    assert set(members(NODE, (4, 6)).state) == {
        SetMember("kube-router-pod-subnets", "10.233.64.0/24"),
        SetMember("inet6:kube-router-pod-subnets", "fd00:64::/64"),
        SetMember("kube-router-node-ips", "192.168.50.50"),
        SetMember("inet6:kube-router-node-ips", "fd00:50::50"),
    }
    assert set(members(NODE, (4, 6)).state.values()) == {Member()}


def test_a_disabled_family_has_no_members():
    assert set(members(NODE, (4,)).state) == {
        SetMember("kube-router-pod-subnets", "10.233.64.0/24"),
        SetMember("kube-router-node-ips", "192.168.50.50"),
    }


@pytest.mark.parametrize("node", [None, Node(Name("", "n"), addresses=("192.168.50.60",))])
def test_a_node_that_is_gone_or_has_no_pod_range_has_no_part(node):
    assert members(node, (4, 6)).state == {}


def test_the_host_has_a_filtered_bridge_for_its_own_ranges_and_the_cni_file_names_them():
    state = host(NODE, (LO, UPLINK), BOTH).state
    assert state[LinkKey("kube-bridge")] == Link("bridge", mtu=1452, filtered=True, only_in=("10.233.64.0/24", "fd00:64::/64"))
    assert state[FileKey(BOTH.cni_conf_file)] == CniConfig(("10.233.64.0/24", "fd00:64::/64"), 1452)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (defaults(node_name="node1", enable_cni=False), FileKey(V4.cni_conf_file)),
        (defaults(node_name="node1", enable_pod_egress=False), ChainKey(4, "nat", "KUBE-ROUTER-EGRESS")),
        (defaults(node_name="node1", enable_pod_egress=False), JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-EGRESS")),
        (V4, ChainKey(6, "nat", "KUBE-ROUTER-EGRESS")),
        (V4, SetKey("inet6:kube-router-node-ips")),
    ],
)
def test_what_is_switched_off_is_not_wanted(options, missing):
    assert missing in host(NODE, (UPLINK,), BOTH).state
    assert missing not in host(NODE, (UPLINK,), options).state


def test_pods_talk_to_the_world_with_the_nodes_address_and_to_pods_and_nodes_with_their_own():
    state = host(NODE, (UPLINK,), V4).state
    assert state[SetKey("kube-router-pod-subnets")] == SetSpec("hash:net", 4)
    assert state[ChainKey(4, "nat", "KUBE-ROUTER-EGRESS")] == Chain(
        (
            '-m comment --comment "masquerade pods that talk to the world"'
            " -m set --match-set kube-router-pod-subnets src"
            " -m set ! --match-set kube-router-pod-subnets dst"
            " -m set ! --match-set kube-router-node-ips dst -j MASQUERADE --random-fully",
        )
    )
    assert state[JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-EGRESS")] == Jump(first=False)


def test_forwarding_accepts_come_after_the_policies_and_name_the_uplink():
    state = host(NODE, (LO, UPLINK), V4).state
    chain = state[ChainKey(4, "filter", "KUBE-ROUTER-PODS")]
    assert isinstance(chain, Chain)
    assert [rule.split(" ")[:2] for rule in chain.rules] == [["-i", "kube-bridge"], ["-o", "kube-bridge"], ["-o", "up0"]]
    assert state[JumpKey(4, "filter", "FORWARD", "KUBE-ROUTER-PODS")] == Jump(rank=20)


def test_a_node_without_a_pod_range_gets_a_note_that_says_what_to_do():
    bare = Node(Name("", "node1"), addresses=("192.168.50.50",))
    desired = host(bare, (UPLINK,), V4)
    assert [note.reason for note in desired.notes] == ["NoPodCIDR"]
    assert "controller manager" in desired.notes[0].message
    assert FileKey(V4.cni_conf_file) not in desired.state
    assert LinkKey("kube-bridge") in desired.state


def link(name: str, mtu: int, *addresses: str, up: bool = True) -> Interface:
    return Interface(Name("", name), mtu=mtu, addresses=addresses, up=up)


@pytest.mark.parametrize(
    ("links", "options", "mtu"),
    [
        ([link("up0", 1500, "192.168.50.50/24")], V4, 1480),
        ([link("up0", 1500, "192.168.50.50/24")], BOTH, 1452),
        ([link("up0", 1500, "192.168.50.50/24")], defaults(enable_overlay=False), 1500),
        ([link("up0", 9000, "192.168.50.50/24"), link("up1", 1400, "fd00:50::50/64")], V4, 1380),
        ([link("lo", 65536, "192.168.50.50/32"), link("up0", 9000, "10.1.0.1/24"), link("up1", 1500, "10.2.0.1/24")], V4, 1480),
        ([link("lo", 65536, "192.168.50.50/32"), link("up0", 1500, "10.1.0.1/24", up=False)], V4, 0),
        ([link("up0", 70000, "192.168.50.50/24")], defaults(enable_overlay=False), 65535),
        ([link("up0", 1280, "192.168.50.50/24")], BOTH, 1280),
        ([], V4, 0),
    ],
)
def test_the_mtu_fits_every_link_to_other_nodes_less_the_overlay_and_never_comes_from_loopback(links, options, mtu):
    assert pod_mtu(NODE, tuple(links), options) == mtu
