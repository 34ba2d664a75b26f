"""The host side of routing: bridge, sets, egress, CNI ranges, MTU."""

from __future__ import annotations

import json

import pytest

from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.routing import RoutingController
from kube_router.desired.routing.host import host, members
from kube_router.desired.routing.mtu import pod_mtu
from kube_router.model.objects import CniFile, Interface, Kind, Name, Node, Ref
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
    assert set(members(NODE, BOTH).state) == {
        SetMember("kube-router-pod-subnets", "10.233.64.0/24"),
        SetMember("inet6:kube-router-pod-subnets", "fd00:64::/64"),
        SetMember("kube-router-node-ips", "192.168.50.50"),
        SetMember("inet6:kube-router-node-ips", "fd00:50::50"),
    }
    assert set(members(NODE, BOTH).state.values()) == {Member()}


def test_a_disabled_family_has_no_members():
    assert set(members(NODE, V4).state) == {
        SetMember("kube-router-pod-subnets", "10.233.64.0/24"),
        SetMember("kube-router-node-ips", "192.168.50.50"),
    }


@pytest.mark.parametrize("node", [None, Node(Name("", "n"), addresses=("192.168.50.60",))])
def test_a_node_that_is_gone_or_has_no_pod_range_has_no_part(node):
    assert members(node, BOTH).state == {}


def test_the_host_has_a_filtered_bridge_for_its_own_ranges_and_the_cni_file_names_them():
    state = host(NODE, (LO, UPLINK), None, BOTH).state
    assert state[LinkKey("kube-bridge")] == Link(
        "bridge", mtu=1452, filtered=True, only_in=("10.233.64.0/24", "fd00:64::/64"), hairpin=True
    )
    assert state[FileKey(BOTH.cni_conf_file)] == CniConfig(("10.233.64.0/24", "fd00:64::/64"), 1452)


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (defaults(node_name="node1", enable_cni=False), FileKey(V4.cni_conf_file)),
        (defaults(node_name="node1", enable_pod_egress=False), ChainKey(4, "nat", "KUBE-ROUTER-EGRESS")),
        (defaults(node_name="node1", enable_pod_egress=False), JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-EGRESS")),
        (defaults(node_name="node1", enable_pod_egress=False), SetKey("kube-router-pod-subnets")),
        (V4, ChainKey(6, "nat", "KUBE-ROUTER-EGRESS")),
        (V4, SetKey("inet6:kube-router-node-ips")),
    ],
)
def test_what_is_switched_off_is_not_wanted(options, missing):
    assert missing in host(NODE, (UPLINK,), None, BOTH).state
    assert missing not in host(NODE, (UPLINK,), None, options).state


def test_pods_talk_to_the_world_with_the_nodes_address_and_to_pods_and_nodes_with_their_own():
    state = host(NODE, (UPLINK,), None, V4).state
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
    state = host(NODE, (LO, UPLINK), None, V4).state
    chain = state[ChainKey(4, "filter", "KUBE-ROUTER-PODS")]
    assert isinstance(chain, Chain)
    assert [rule.split(" ")[:2] for rule in chain.rules] == [["-i", "kube-bridge"], ["-o", "kube-bridge"], ["-o", "up0"]]
    assert state[JumpKey(4, "filter", "FORWARD", "KUBE-ROUTER-PODS")] == Jump(rank=20)


def test_a_node_without_a_pod_range_gets_a_note_that_says_what_to_do():
    bare = Node(Name("", "node1"), addresses=("192.168.50.50",))
    desired = host(bare, (UPLINK,), None, V4)
    assert [note.reason for note in desired.notes if not note.quiet] == ["NoPodCIDR"]
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


def test_u072_a_link_whose_addresses_are_its_own_alone_leads_nowhere():
    links = (
        link("lo", 65536, "192.168.50.50/32"),
        link("up0", 9000, "10.1.0.1/24"),
        link("veth1", 1400, "fe80::1/64"),
        link("kube-bridge", 1300, "10.233.64.1/24"),
        link("kube-dummy-if", 1280, "10.96.0.1/32"),
    )
    assert pod_mtu(NODE, links, defaults(enable_overlay=False)) == 9000


@pytest.mark.parametrize(
    ("name", "kind", "mtu"), [("up0.100", "vlan", 1496), ("bond0", "bond", 9000), ("wg0", "wireguard", 1420), ("br0", "bridge", 1500)]
)
def test_u072_the_link_that_holds_the_node_address_counts_whatever_its_kind(name, kind, mtu):
    holder = Interface(Name("", name), kind=kind, mtu=mtu, addresses=("192.168.50.50/24",))
    other = link("up1", 1300, "10.1.0.1/24")
    assert pod_mtu(NODE, (LO, holder, other), defaults(enable_overlay=False)) == mtu


def cni_file(mtu: int = 0, *, ours: bool = False, missing: tuple[str, ...] = ()) -> CniFile:
    return CniFile(Name("", V4.cni_conf_file), mtu, ours, missing)


FILE = FileKey(V4.cni_conf_file)
RANGES = ("10.233.64.0/24",)


@pytest.mark.parametrize(
    ("file", "auto", "bridge", "written"),
    [
        (cni_file(1280), True, 1280, 0),
        (cni_file(1280), False, 1280, 0),
        (cni_file(), True, 1480, 1480),
        (cni_file(), False, 0, 0),
        (None, True, 1480, 1480),
        (cni_file(1400, ours=True), True, 1480, 1480),  # ours, from when the link had another MTU: it follows the link
        (cni_file(1480, ours=True), False, 1480, 0),  # switched off later: bridge and file still agree
        (cni_file(1500), True, 1480, 1480),  # the node's own, as the original writes it: nobody chose it
        (cni_file(1500), False, 1500, 0),
        (cni_file(70000), True, 1480, 1480),  # no bridge can have it
    ],
)
def test_u073_an_mtu_that_somebody_chose_wins_and_bridge_and_file_agree(file, auto, bridge, written):
    state = host(NODE, (LO, UPLINK), file, defaults(node_name="node1", auto_mtu=auto)).state
    assert state[LinkKey("kube-bridge")] == Link("bridge", mtu=bridge, filtered=True, only_in=RANGES, hairpin=True)
    assert state[FILE] == CniConfig(RANGES, written)


@pytest.mark.parametrize(
    ("file", "auto", "words"),
    [(cni_file(1280), True, "1280, named in /etc/cni/net.d/"), (cni_file(), True, "1480, from the links that lead to other nodes")],
)
def test_u073_the_log_says_where_the_mtu_comes_from(file, auto, words):
    notes = host(NODE, (LO, UPLINK), file, defaults(node_name="node1", auto_mtu=auto)).notes
    assert [words in note.message for note in notes if note.quiet] == [True]


def test_u076_plugins_that_are_missing_are_named_on_the_node_with_the_place_where_they_belong():
    (note,) = (n for n in host(NODE, (UPLINK,), cni_file(missing=("bridge", "loopback")), V4).notes if not n.quiet)
    assert (note.about, note.reason) == (Ref(Kind.NODE, NODE.name), "CNIPluginsMissing")
    assert "CNI plugins bridge, loopback are not in /opt/cni/bin" in note.message


@pytest.mark.parametrize(
    ("file", "options"), [(cni_file(), V4), (cni_file(missing=("bridge",)), defaults(node_name="node1", enable_cni=False))]
)
def test_u076_nothing_is_said_of_plugins_that_are_there_or_that_are_not_our_business(file, options):
    assert [note.reason for note in host(NODE, (UPLINK,), file, options).notes if not note.quiet] == []


@pytest.mark.parametrize("family", [4, 6])
def test_u063_networks_that_pods_reach_with_their_own_addresses_come_before_the_masquerade(family):
    excluded = ("198.18.0.0/24", "fd00:18::/64")
    options = defaults(node_name="node1", enable_ipv6=True, pod_egress_excluded_cidrs=excluded)
    chain = host(NODE, (UPLINK,), None, options).state[ChainKey(family, "nat", "KUBE-ROUTER-EGRESS")]
    assert isinstance(chain, Chain)
    first, last = chain.rules
    assert first.startswith(f"-d {excluded[family == 6]} ")
    assert first.endswith("-j RETURN")
    assert "-j MASQUERADE" in last


def test_what_goes_wrong_with_the_host_is_told_about_its_node():
    controller = RoutingController(V4)
    (item,) = controller.touched({}, None)  # type: ignore[arg-type]
    assert item.about == Ref(Kind.NODE, Name("", "node1"))  # type: ignore[attr-defined]


def test_r31_a_bad_range_of_a_node_costs_only_itself():
    body = {
        "metadata": {"name": "node2"},
        "spec": {"podCIDRs": ["10.233.65.0/24", "10.233.300.0/24", "fd00:65::/64", "fd00:zz::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.51"}, {"type": "InternalIP", "address": "fd00::x"}]},
    }
    read = decode_item(Kind.NODE, json.dumps(body).encode())
    assert isinstance(read.object, Node)
    assert len(read.faults) == 3
    assert set(members(read.object, BOTH).state) == {
        SetMember("kube-router-pod-subnets", "10.233.65.0/24"),
        SetMember("inet6:kube-router-pod-subnets", "fd00:65::/64"),
        SetMember("kube-router-node-ips", "192.168.50.51"),
    }


MULTIHOMED = Node(NODE.name, pod_cidrs=NODE.pod_cidrs, addresses=NODE.addresses, datapath=("10.7.0.1",))
PRIVATE = Interface(Name("", "eth1"), index=3, mtu=9000, addresses=("10.7.0.1/24",))


def test_u104_the_mtu_is_that_of_the_network_for_pod_traffic():
    plain = defaults(node_name="node1", enable_overlay=False)
    assert pod_mtu(MULTIHOMED, (LO, UPLINK, PRIVATE), plain) == 9000
    both = defaults(node_name="node1", enable_overlay=False, enable_ipv6=True)
    assert pod_mtu(MULTIHOMED, (LO, UPLINK, PRIVATE), both) == 1500, "IPv6 still goes over the other link"


def test_u104_traffic_on_the_network_for_pods_is_let_through_and_not_masqueraded():
    chain = host(MULTIHOMED, (LO, UPLINK, PRIVATE), None, V4).state[ChainKey(4, "filter", "KUBE-ROUTER-PODS")]
    assert isinstance(chain, Chain)
    assert [rule.split(" ")[:2] for rule in chain.rules[2:]] == [["-o", "eth1"], ["-o", "up0"]]
    assert SetMember("kube-router-node-ips", "10.7.0.1") in members(MULTIHOMED, V4).state
