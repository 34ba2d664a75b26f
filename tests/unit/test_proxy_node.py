"""What the node itself needs for Services, and what of the node Services depend on."""

from __future__ import annotations

import pytest

from kube_router.config.options import defaults
from kube_router.desired.proxy.node import node
from kube_router.desired.proxy.surroundings import Surroundings, surroundings
from kube_router.model.objects import Interface, Name, Node
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import IpvsTimeouts, IpvsTimeoutsKey
from kube_router.model.state.links import Link, LinkKey, Sysctl, SysctlKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

KERNEL = (6, 1)
NODE1 = Node(
    Name("", "node1"),
    addresses=("192.168.50.50", "fd00:50::50", "198.51.100.1"),
    pod_cidrs=("10.233.64.0/24", "10.233.70.0/24", "fd00:64::/64"),
)
LINKS = (
    Interface(Name("", "lo"), addresses=("127.0.0.1/8", "::1/128")),
    Interface(Name("", "up0"), addresses=("192.168.50.50/24", "10.0.2.15/24", "fd00:50::50/64", "fe80::1/64")),
    Interface(Name("", "kube-bridge"), addresses=("10.233.64.1/24",)),
    Interface(Name("", "kube-dummy-if"), addresses=("10.233.0.1/32",)),
    Interface(Name("", "docker0"), addresses=("172.17.0.1/16",)),
    Interface(Name("", "veth1"), addresses=("fe80::2/64",)),
)


ELSEWHERE = '"replies of other backends come back to this node"'


def around(families=(4,), node1: Node | None = NODE1, links=LINKS) -> Surroundings:
    return surroundings("node1", node1, links, families)


def state(families=(4,), *, kernel=KERNEL, links=LINKS, node1: Node | None = NODE1, **flags) -> dict[Key, Value]:
    return node(around(families, node1, links), defaults(node_name="node1", **flags), kernel).state


def members(wanted: dict[Key, Value], name: str) -> set[str]:
    return {key.entry for key in wanted if isinstance(key, SetMember) and key.set == name}


def sysctls(wanted: dict[Key, Value]) -> dict[str, Sysctl]:
    return {key.path: value for key, value in wanted.items() if isinstance(key, SysctlKey) and isinstance(value, Sysctl)}


def test_surroundings_of_a_node():
    assert around((4, 6)) == Surroundings(
        name="node1",
        primary={4: "192.168.50.50", 6: "fd00:50::50"},
        sources={4: "192.168.50.50", 6: "fd00:50::50"},
        local=frozenset({"127.0.0.1", "::1", "192.168.50.50", "10.0.2.15", "fd00:50::50"}),
        pod_cidrs=("10.233.64.0/24", "10.233.70.0/24", "fd00:64::/64"),
        links=("kube-bridge", "up0"),
        own=frozenset({"127.0.0.1", "::1", "192.168.50.50", "10.0.2.15", "fd00:50::50", "198.51.100.1", "172.17.0.1"}),
        node_ports={4: ("192.168.50.50",), 6: ("fd00:50::50",)},
    )


def test_an_address_that_is_on_no_link_is_no_source():
    assert around(links=LINKS[:1]).sources == {4: ""}
    assert around(links=LINKS[:1]).primary == {4: "192.168.50.50"}


def test_without_its_node_object_there_is_no_address():
    assert (around((4, 6), None).primary, around((4, 6), None).pod_cidrs) == ({4: "", 6: ""}, ())


def test_b10_pods_of_this_node_are_known_without_routing_of_ours():
    assert state(run_router=False) == state()


def test_three_sets_per_family_and_the_nodes_own_addresses_in_one():
    one_range = Node(NODE1.name, addresses=NODE1.addresses, pod_cidrs=("10.233.64.0/24", "fd00:64::/64"))
    wanted = state((4,), node1=one_range)
    assert {key.name: value for key, value in wanted.items() if isinstance(key, SetKey)} == {
        "kube-router-local-ips": SetSpec("hash:ip", 4),
        "kube-router-service-ips": SetSpec("hash:ip", 4),
        "kube-router-ipvs-services": SetSpec("hash:ip,port", 4),
    }
    assert members(wanted, "kube-router-local-ips") == {"127.0.0.1", "192.168.50.50", "10.0.2.15"}
    both = state((4, 6), node1=one_range, enable_ipv6=True)
    assert len([key for key in both if isinstance(key, SetKey)]) == 6
    assert both[SetKey("inet6:kube-router-ipvs-services")] == SetSpec("hash:ip,port", 6)
    assert members(both, "inet6:kube-router-local-ips") == {"::1", "fd00:50::50"}
    assert wanted[SetMember("kube-router-local-ips", "127.0.0.1")] == Member()


def test_the_address_of_node_ports_is_local_even_before_it_is_on_a_link():
    # Else the rule that refuses the rest of a VIP would cut off the node.
    assert "192.168.50.50" in members(state(links=LINKS[:1]), "kube-router-local-ips")


def test_the_dummy_link():
    assert state()[LinkKey("kube-dummy-if")] == Link("dummy")


def test_input_chain_of_ipv4():
    wanted = state()
    assert wanted[ChainKey(4, "filter", "KUBE-ROUTER-SERVICES")] == Chain(
        (
            '-p icmp -m comment --comment "allow icmp echo requests" -m icmp --icmp-type 8 -j ACCEPT',
            '-p icmp -m comment --comment "allow icmp destination unreachable messages" -m icmp --icmp-type 3 -j ACCEPT',
            '-p icmp -m comment --comment "allow icmp time exceeded messages" -m icmp --icmp-type 11 -j ACCEPT',
            '-m comment --comment "allow input traffic to ipvs services" -m set --match-set kube-router-ipvs-services dst,dst -j ACCEPT',
            '-m comment --comment "reject all unexpected traffic to service IPs" '
            "-m set ! --match-set kube-router-local-ips dst -j REJECT --reject-with icmp-port-unreachable",
        )
    )
    assert wanted[JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES")] == Jump(
        '-m comment --comment "handle traffic to IPVS service IPs in custom chain" -m set --match-set kube-router-service-ips dst', rank=10
    )


def test_input_chain_of_ipv6_also_lets_neighbours_and_packet_too_big_through():
    chain = state((4, 6))[ChainKey(6, "filter", "KUBE-ROUTER-SERVICES")]
    assert isinstance(chain, Chain)
    icmp = [rule.split("--icmpv6-type ")[1].split()[0] for rule in chain.rules if "icmpv6" in rule]
    assert icmp == ["128", "1", "2", "3", "135", "136", "129"]
    assert "inet6:kube-router-ipvs-services dst,dst -j ACCEPT" in chain.rules[-2]
    assert "! --match-set inet6:kube-router-local-ips dst -j REJECT --reject-with icmp6-port-unreachable" in chain.rules[-1]


def test_without_permit_all_the_chain_is_empty_and_nothing_leads_to_it():
    wanted = state(ipvs_permit_all=False)
    assert wanted[ChainKey(4, "filter", "KUBE-ROUTER-SERVICES")] == Chain(())
    assert JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES") not in wanted


def test_b09_masquerade_spares_all_pod_ranges_of_this_node_together_in_one_rule():
    wanted = state((4, 6))
    assert wanted[ChainKey(4, "nat", "KUBE-ROUTER-MASQ")] == Chain(
        (
            f"-m comment --comment {ELSEWHERE} -m set ! --match-set kube-router-own-pods src -m set ! --match-set kube-router-own-pods dst "
            "-j SNAT --to-source 192.168.50.50 --random-fully",
        )
    )
    assert wanted[SetKey("kube-router-own-pods")] == SetSpec("hash:net", 4)
    assert members(wanted, "kube-router-own-pods") == {"10.233.64.0/24", "10.233.70.0/24"}
    assert wanted[JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-MASQ")] == Jump("-m ipvs --vdir ORIGINAL --vmethod MASQ", rank=20)


def test_masquerade_of_a_single_pod_range_needs_no_set():
    wanted = state((4, 6))
    assert wanted[ChainKey(6, "nat", "KUBE-ROUTER-MASQ")] == Chain(
        (f"! -s fd00:64::/64 ! -d fd00:64::/64 -m comment --comment {ELSEWHERE} -j SNAT --to-source fd00:50::50 --random-fully",)
    )
    assert SetKey("inet6:kube-router-own-pods") not in wanted


@pytest.mark.parametrize(("flags", "node1"), [({"masquerade_all": True}, NODE1), ({}, Node(NODE1.name, addresses=NODE1.addresses))])
def test_everything_is_masqueraded_when_asked_or_when_no_pod_range_is_known(flags, node1):
    chain = state(node1=node1, **flags)[ChainKey(4, "nat", "KUBE-ROUTER-MASQ")]
    assert isinstance(chain, Chain)
    assert len(chain.rules) == 1
    assert chain.rules[0].endswith("-j SNAT --to-source 192.168.50.50 --random-fully")


def test_a_family_without_a_node_address_has_no_masquerade_and_a_note():
    desired = node(around((4, 6), Node(NODE1.name, addresses=("192.168.50.50",))), defaults(enable_ipv6=True), KERNEL)
    assert ChainKey(6, "nat", "KUBE-ROUTER-MASQ") not in desired.state
    assert ChainKey(6, "filter", "KUBE-ROUTER-SERVICES") in desired.state
    assert [(note.reason, note.message) for note in desired.notes] == [
        ("NoNodeAddress", "status.addresses holds no IPv6 address: no node ports and no masquerade for IPv6")
    ]


def test_sysctls():
    wanted = sysctls(state())
    assert {path: wish.value for path, wish in wanted.items() if not wish.only_if} == {
        "net/ipv4/vs/conntrack": "1",
        "net/ipv4/vs/expire_nodest_conn": "1",
        "net/ipv4/vs/expire_quiescent_template": "1",
        "net/ipv4/vs/conn_reuse_mode": "1",
        "net/ipv4/conf/all/arp_ignore": "1",
        "net/ipv4/conf/all/arp_announce": "2",
    }


@pytest.mark.parametrize(("kernel", "mode"), [((5, 8), "0"), ((5, 9), "1"), ((5, 10), "1"), ((6, 1), "1"), ((4, 19), "0")])
def test_reused_ports_are_balanced_anew_where_the_kernel_does_not_stall_them(kernel, mode):
    assert sysctls(state(kernel=kernel))["net/ipv4/vs/conn_reuse_mode"] == Sysctl(mode)


def test_strict_reverse_path_filters_become_loose_and_others_stay():
    loosened = {path for path, wish in sysctls(state()).items() if wish == Sysctl("2", only_if=("1",))}
    assert loosened == {f"net/ipv4/conf/{link}/rp_filter" for link in ("all", "kube-dummy-if", "kube-bridge", "up0")}
    assert "net/ipv4/conf/kube-bridge/rp_filter" not in sysctls(state(links=LINKS[:2])), "a link that is not there yet"
    only_ipv6 = sysctls(state((6,), enable_ipv4=False, enable_ipv6=True))
    assert not [path for path in only_ipv6 if "rp_filter" in path]


def test_ipvs_timeouts_are_wanted_where_a_flag_is_set_in_whole_seconds_and_never_as_none():
    assert IpvsTimeoutsKey() not in state()
    wanted = state(service_tcp_timeout=90.7, service_udp_timeout=0.2)[IpvsTimeoutsKey()]
    assert wanted == IpvsTimeouts(tcp=90, udp=1)
    assert state(service_tcpfin_timeout=5.0)[IpvsTimeoutsKey()] == IpvsTimeouts(tcp_fin=5)
