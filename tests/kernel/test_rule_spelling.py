"""The law of codec/rules.py on the real tools: whatever it spells is printed by `iptables-save` as it was loaded."""

from __future__ import annotations

import subprocess

import pytest

from kube_router.codec import rules as r
from kube_router.codec import tables
from kube_router.codec.sets import create_line
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.state.netfilter import SetSpec

ADDRESS: dict[Family, str] = {4: "10.1.2.3", 6: "fd00:1::3"}
NETWORK: dict[Family, str] = {4: "10.0.0.0/8", 6: "fd00::/8"}
WORLD: dict[Family, str] = {4: "0.0.0.0/0", 6: "::/0"}
SET: dict[Family, str] = {4: "KUBE-SRC-ABCDEFGHIJKLMNOP", 6: "inet6:KUBE-SRC-ABCDEFGHIJKLMNOP"}
SOURCE_SET: dict[Family, str] = {4: "kube-router-allowed", 6: "inet6:kube-router-allowed"}
MARK_SET: dict[Family, str] = {4: "kube-router-service-marks", 6: "inet6:kube-router-service-marks"}
PORT_SET: dict[Family, str] = {4: "kube-router-ipvs-services", 6: "inet6:kube-router-ipvs-services"}

COMMENTS = (
    "", "plain", "two words", "ns/name ingress pods", "it's", 'with "quotes" in it', "back\\slash", "\\", '"', "'", "!", "-j", "--match",
    "-A INPUT -j ACCEPT", "COMMIT", "#hash", "$HOME `id` $(id) ; & | < > * ?", "häß 漢字 🐙", "tab\tand\nnewline", "x" * 300, "é" * 200,
    "a_b-c", "trailing space ", " leading", "%s %d", "[1:2] -A X", ":X - [0:0]",
)  # fmt: skip

RATES = (
    (10, "min"), (60, "min"), (90, "min"), (120, "min"), (7, "hour"), (50, "day"), (1, "sec"), (100, "sec"), (1000, "sec"), (7, "min"),
)  # fmt: skip
STATES = (("ESTABLISHED", "RELATED"), ("INVALID",), ("SNAT", "NEW", "DNAT", "UNTRACKED"))


def filter_rules(family: Family) -> list[str]:
    a, n, s = ADDRESS[family], NETWORK[family], SET[family]
    icmp = r.ICMP_PROTOCOL[family]
    return [
        r.rule(""),
        *(r.rule(target) for target in (r.ACCEPT, r.DROP, r.RETURN, r.jump("OTHER"), r.goto("OTHER"), r.reject(family))),
        r.rule(r.ACCEPT, source=a),
        r.rule(r.ACCEPT, source=n, destination=a),
        r.rule(r.ACCEPT, source=WORLD[family], destination=WORLD[family]),
        r.rule(r.DROP, source=f"!{n}", destination=f"! {a}", in_link="!eth0", out_link="! kube-bridge", protocol="!tcp"),
        r.rule(r.ACCEPT, in_link="kube-bridge", out_link="eth+", protocol="udp"),
        *(r.rule(r.ACCEPT, protocol=name) for name in ("tcp", "UDP", "SCTP", "132", "all", icmp)),
        *(r.rule(r.ACCEPT, r.ports(name, 80), protocol=name) for name in ("tcp", "udp", "sctp", "SCTP")),
        *(r.rule(r.ACCEPT, r.ports("tcp", *span), protocol="tcp") for span in ((80, 80), (80, 90), (0, 5), (1, 65535), (0, 65535))),
        *(r.rule(r.ACCEPT, r.ports("sctp", *span), protocol="sctp") for span in ((80, 90), (0, 65535))),
        *(r.rule(r.ACCEPT, r.source_ports(name, 1024, 65535), protocol=name) for name in ("tcp", "udp")),
        r.rule(r.ACCEPT, r.multiport(80), protocol="tcp"),
        r.rule(r.ACCEPT, r.multiport(80, 443, (8080, 8090), *range(1, 12)), protocol="sctp"),
        r.rule(r.RETURN, r.multiport((30000, 32767)), r.addrtype(destination="LOCAL"), protocol="udp"),
        r.rule(r.RETURN, r.addrtype(destination="LOCAL"), r.multiport((30000, 32767)), protocol="udp"),
        *(r.rule(r.ACCEPT, r.comment(text)) for text in COMMENTS),
        r.rule(r.ACCEPT, r.match_set(s, "src"), r.comment("last")),
        r.rule(r.ACCEPT, r.comment("first"), r.match_set(s, "dst"), r.ports("tcp", 80), protocol="tcp"),
        r.rule(r.ACCEPT, r.ports("tcp", 80), r.comment("between"), r.match_set(s, "dst"), protocol="tcp"),
        r.rule(r.reject(family), r.match_set(s, "dst", negate=True)),
        r.rule(r.goto("OTHER"), r.match_set(s, "src"), r.match_set(s, "dst", negate=True)),
        r.rule(r.ACCEPT, r.match_set(PORT_SET[family], "dst", "dst")),
        *(r.rule(r.ACCEPT, r.ctstate(*states)) for states in STATES),
        r.rule(r.ACCEPT, r.ctstate("NEW", negate=True)),
        r.rule(r.ACCEPT, r.addrtype(source="LOCAL")),
        r.rule(r.ACCEPT, r.addrtype(source="LOCAL", destination="UNICAST")),
        *(r.rule(r.ACCEPT, r.icmp_type(family, name), protocol=icmp) for name in r.ICMP_TYPES[family]),
        r.rule(r.ACCEPT, r.match_mark(0x20000, 0x20000)),
        r.rule(r.ACCEPT, r.match_mark(0x10000, 0x10000, negate=True)),
        *(r.rule(r.ACCEPT, r.match_mark(value)) for value in (0, 5, 0xFFFFFFFF)),
        r.rule(r.ACCEPT, r.match_mark(0, 0x10000)),
        *(r.rule(r.set_mark(*mark)) for mark in ((0x10000, 0x10000), (0, 0x10000), (5,), (0xFFFFFFFF,))),
        *(r.rule(r.ACCEPT, r.limit(*rate)) for rate in RATES),
        *(r.rule(r.nflog(100), r.limit(10, "min", burst=burst)) for burst in (1, 5, 10)),
        *(r.rule(r.nflog(100, prefix)) for prefix in ("plain", "two words", "it's", "x" * 63)),
        r.rule(r.ACCEPT, r.PHYSDEV_BRIDGED),
        r.rule(r.reject(family, "tcp-reset"), protocol="tcp"),
        r.rule(r.ACCEPT, r.TCP_SYN, protocol="tcp"),
        r.rule(r.ACCEPT, r.to_itself(family)),
        r.rule(r.DROP, r.comment("before it"), r.to_itself(family), source=n),
        r.rule(r.RETURN, r.match_set(SOURCE_SET[family], "dst", "dst", "src")),
    ]


def nat_rules(family: Family) -> list[str]:
    a, n, s = ADDRESS[family], NETWORK[family], SET[family]
    return [
        *(r.rule(r.snat(a, random_fully=fully), source=n, destination=f"!{n}") for fully in (True, False)),
        *(r.rule(r.masquerade(random_fully=fully), r.match_set(s, "src")) for fully in (True, False)),
    ]


def mangle_rules(family: Family) -> list[str]:
    return [
        r.rule(r.CLAMP_MSS, r.TCP_SYN, protocol="tcp"),
        r.rule(r.set_mss(1400), r.TCP_SYN, protocol="tcp", destination=ADDRESS[family]),
        r.rule(r.set_mark(0x1234)),
        r.rule(r.map_mark(MARK_SET[family], "dst", "dst")),
        r.rule(r.map_mark(MARK_SET[family], "dst", "dst"), r.comment("pods"), r.match_set(SET[family], "src")),
    ]


RULES = {"filter": filter_rules, "nat": nat_rules, "mangle": mangle_rules}
STEM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}


def saved_after_restoring(backend: str, family: Family, table: str, chain: str, rules: list[str]) -> list[str]:
    lines = [tables.declare("OTHER"), tables.declare(chain), *(tables.append(chain, rule) for rule in rules)]
    text = tables.text(tables.section(table, [tables.Line(line) for line in lines]))
    stem = f"{STEM[family]}-{backend}"
    subprocess.run([f"{stem}-restore", "--noflush", "--wait=20"], input=text, text=True, check=True)
    saved = subprocess.run([f"{stem}-save", "-t", table], text=True, check=True, capture_output=True).stdout
    return tables.parse_save(saved, {chain}.__contains__)[table].chains[chain]


@pytest.mark.needs("root", "netns", "ipset", "ipset_marks", "xt_set", "xt_bpf", "iptables_legacy", "iptables_nft")
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("table", RULES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_every_shape_of_rule_is_saved_as_it_was_restored(backend: str, family: Family, table: str) -> None:
    sets = [
        create_line(SET[family], SetSpec("hash:ip", family)),
        create_line(PORT_SET[family], SetSpec("hash:ip,port", family)),
        create_line(SOURCE_SET[family], SetSpec("hash:ip,port,net", family)),
        create_line(MARK_SET[family], SetSpec("hash:ip,port", family, skbinfo=True)),
    ]
    subprocess.run(["ipset", "restore"], input="\n".join(sets) + "\n", text=True, check=True)
    rules = RULES[table](family)
    assert saved_after_restoring(backend, family, table, "KUBE-ROUTER-PODS", rules) == rules


@pytest.mark.needs("root", "netns", "ip_vs", "ipset_netport", "xt_bpf", "iptables_legacy", "iptables_nft")
@pytest.mark.usefixtures("netns")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_every_match_on_ipvs_connections_is_saved_as_it_was_restored(backend: str, family: Family) -> None:
    a, pairs = ADDRESS[family], f"{'' if family == 4 else 'inet6:'}kube-router-hairpin"
    subprocess.run(["ipset", "restore"], input=create_line(pairs, SetSpec("hash:net,net", family)) + "\n", text=True, check=True)
    rules = [
        r.rule(r.snat(a), r.match_set(pairs, "src", "dst"), r.ipvs(address=a, port=80)),
        r.rule(r.snat(a), r.ipvs(direction="ORIGINAL", method="MASQ"), r.to_itself(family)),
        r.rule(r.snat(a), r.comment(""), r.ipvs(direction="ORIGINAL", method="MASQ"), source=f"!{NETWORK[family]}"),
        r.rule(r.snat(a), r.ipvs(address=a, port=30080), source=a, destination=a),
        r.rule(r.snat(a), r.ipvs(protocol=6, address=a, port=80, direction="REPLY", method="GATE")),
        r.rule(r.snat(a), r.ipvs()),
        *(r.rule(r.snat(a), r.ipvs(direction=way)) for way in ("ORIGINAL", "REPLY")),
        *(r.rule(r.snat(a), r.ipvs(method=method)) for method in ("GATE", "IPIP", "MASQ")),
    ]
    assert saved_after_restoring(backend, family, "nat", "KUBE-ROUTER-MASQ", rules) == rules
