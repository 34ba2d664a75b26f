"""Which rules of built-in chains are taken for the original's: all that it was seen to leave, and nothing that only looks alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_router.apply.kernel.iptables import is_ours
from kube_router.codec import tables
from kube_router.desired.proxy.marks import may_be
from kube_router.model.objects import Claim
from kube_router.plan import leftovers
from kube_router.plan.ownership import PROXY, ROUTING

RECORDED = Path(__file__).parent.parent / "data" / "original-2.11"
UPLINK = '-o up0 -m comment --comment "allow outbound node port traffic on node interface with which node ip is associated" -j ACCEPT'
TO_PODS = '-o kube-bridge -m comment --comment "allow inbound traffic to pods" -j ACCEPT'
FROM_PODS = '-i kube-bridge -m comment --comment "allow outbound traffic from pods" -j ACCEPT'
FORWARDED = [("filter", "FORWARD", rule, ROUTING) for rule in (UPLINK, TO_PODS, FROM_PODS)]
SNAT = '! -s {0} ! -d {0} -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j SNAT --to-source {1} --random-fully'
MARK = "-d 203.0.113.11/32 -p tcp -m tcp --dport 8080 -j MARK --set-xmark 0x34ca/0xffffffff"
MSS = "-s 203.0.113.11/32 -i kube-bridge -p tcp -m tcp --sport 8080 --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440"
MASQUERADE = (
    "-m set --match-set {0}kube-router-pod-subnets src -m set ! --match-set {0}kube-router-pod-subnets dst "
    "-m set ! --match-set {0}kube-router-node-ips dst -j MASQUERADE --random-fully"
)
IPV4 = [
    ("mangle", "PREROUTING", MARK, PROXY),
    ("mangle", "PREROUTING", MSS, PROXY),
    ("mangle", "OUTPUT", MARK, PROXY),
    *FORWARDED,
    ("nat", "POSTROUTING", MASQUERADE.format(""), ROUTING),
    ("nat", "POSTROUTING", SNAT.format("10.233.64.0/24", "192.168.50.50"), PROXY),
]
IPV6 = [
    *FORWARDED,
    ("nat", "POSTROUTING", MASQUERADE.format("inet6:"), ROUTING),
    ("nat", "POSTROUTING", SNAT.format("fd00:64::/64", "fd00:50::50"), PROXY),
]


def owner(table: str, builtin: str, rule: str) -> str | None:
    return leftovers.owner(table, builtin, rule, lambda mark, claim: may_be(mark, claim, "direct"))


@pytest.mark.parametrize("folder", ["default", "nftables-fou"])
@pytest.mark.parametrize(("tool", "expected"), [("iptables", IPV4), ("ip6tables", IPV6)])
def test_all_that_the_original_puts_into_built_in_chains_is_recognised(folder: str, tool: str, expected: list[tuple[str, ...]]) -> None:
    read = tables.parse_save((RECORDED / folder / f"{tool}-save.txt").read_text(), is_ours)
    found = [
        (name, builtin, rule, owner(name, builtin, rule))
        for name, table in read.items()
        for builtin, rules in table.builtin.items()
        for rule in rules
        if not is_ours(tables.rule_target(rule))
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("table", "builtin", "rule"),
    [
        ("nat", "POSTROUTING", SNAT.format("10.233.64.0/24", "192.168.50.50").replace(" --random-fully", "")),
        ("nat", "POSTROUTING", '-m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j SNAT --to-source 192.168.50.50'),
        ("nat", "POSTROUTING", '-m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j MASQUERADE'),
        ("mangle", "OUTPUT", "-d 147.160.180.44/32 -p udp -m udp --dport 80 -j MARK --set-xmark 0x3d48/0xffffffff"),
        ("mangle", "PREROUTING", "-d 2001:db8::1/128 -p tcp -m tcp --dport 443 -j MARK --set-xmark 0x23a9/0xffffffff"),
    ],
)
def test_forms_of_other_times_and_settings_are_recognised(table: str, builtin: str, rule: str) -> None:
    assert owner(table, builtin, rule) == PROXY


@pytest.mark.parametrize(
    ("table", "builtin", "rule"),
    [
        ("mangle", "PREROUTING", MARK.replace("0x34ca", "0x34cb")),  # a mark that no hash gives
        ("mangle", "PREROUTING", MARK.replace("0xffffffff", "0xffff")),
        ("mangle", "PREROUTING", MARK.replace("203.0.113.11/32", "203.0.113.0/24")),
        ("mangle", "PREROUTING", MARK.replace("8080", "8081")),
        ("mangle", "FORWARD", MARK),
        ("mangle", "PREROUTING", MSS.replace("kube-bridge", "eth0")),
        ("mangle", "POSTROUTING", MSS),
        ("filter", "FORWARD", TO_PODS.replace("kube-bridge", "br0")),
        ("filter", "FORWARD", TO_PODS.replace("ACCEPT", "DROP")),
        ("filter", "FORWARD", '-o kube-bridge -m comment --comment "allow inbound traffic" -j ACCEPT'),
        ("filter", "FORWARD", "-o kube-bridge -j ACCEPT"),
        ("filter", "INPUT", TO_PODS),
        ("nat", "POSTROUTING", SNAT.format("10.0.0.0/8", "10.0.0.1").replace('""', '"mine"')),
        ("nat", "POSTROUTING", "-m ipvs --vdir ORIGINAL --vmethod MASQ -j SNAT --to-source 10.0.0.1"),
        ("nat", "POSTROUTING", SNAT.format("10.0.0.0/8", "10.0.0.1") + " --persistent"),
        ("nat", "POSTROUTING", MASQUERADE.format("").replace("pod-subnets", "pod-subnets2")),
        ("nat", "POSTROUTING", "-m set --match-set kube-router-pod-subnets src -j MASQUERADE"),
        ("nat", "PREROUTING", SNAT.format("10.0.0.0/8", "10.0.0.1")),
        ("filter", "INPUT", "-j KUBE-ROUTER-SERVICES"),
    ],
)
def test_what_looks_alike_is_somebody_elses(table: str, builtin: str, rule: str) -> None:
    assert owner(table, builtin, rule) is None


def test_a_mark_is_read_with_what_it_stands_for() -> None:
    assert leftovers.marking("mangle", "OUTPUT", MARK) == (Claim("203.0.113.11", "TCP", 8080), 0x34CA)
    assert leftovers.marking("mangle", "OUTPUT", MARK.replace("203.0.113.11", "203.0.113.999")) is None
    assert leftovers.marking("mangle", "INPUT", MARK) is None
    assert leftovers.marking("mangle", "PREROUTING", MSS) is None
