"""Rule text as `iptables-save` prints it. That the real tools agree is tests/kernel/test_rule_spelling.py."""

from __future__ import annotations

import pytest

from kube_router.codec import rules as r

EXPECTED = [
    (r.rule(r.ACCEPT), "-j ACCEPT"),
    (r.rule(""), ""),
    (r.rule("", protocol="icmp"), "-p icmp"),
    (r.rule(r.ACCEPT, r.comment("pods talk"), in_link="kube-bridge"), '-i kube-bridge -m comment --comment "pods talk" -j ACCEPT'),
    (r.rule(r.goto("C"), source="10.0.0.1", destination="10.0.0.0/8"), "-s 10.0.0.1/32 -d 10.0.0.0/8 -g C"),
    (r.rule(r.jump("C"), source="fd00::1", destination="!fd00::/8"), "-s fd00::1/128 ! -d fd00::/8 -j C"),
    (r.rule(r.DROP, source="0.0.0.0/0", destination="::/0", protocol="all"), "-j DROP"),
    (r.rule(r.DROP, "", r.comment("x"), ""), "-m comment --comment x -j DROP"),
    (
        r.rule(r.DROP, protocol="tcp", out_link="!b", in_link="a", destination="10.0.0.2", source="! 10.0.0.1"),
        "! -s 10.0.0.1/32 -d 10.0.0.2/32 -i a ! -o b -p tcp -j DROP",
    ),
    (r.rule(r.ACCEPT, r.ports("SCTP", 80), protocol="SCTP"), "-p sctp -m sctp --dport 80 -j ACCEPT"),
    (r.rule(r.ACCEPT, r.ports("tcp", 80, 80), protocol="TCP"), "-p tcp -m tcp --dport 80 -j ACCEPT"),
    (r.rule(r.ACCEPT, r.ports("udp", 80, 90), protocol="17"), "-p udp -m udp --dport 80:90 -j ACCEPT"),
    (r.rule(r.ACCEPT, r.ports("tcp", 0, 65535), protocol="tcp"), "-p tcp -m tcp -j ACCEPT"),
    (r.matching(r.comment("a b")), '-m comment --comment "a b"'),
    (r.matching(), ""),
    (r.match_set("S", "src"), "-m set --match-set S src"),
    (r.match_set("S", "dst", "dst", negate=True), "-m set ! --match-set S dst,dst"),
    (r.multiport(80, 443, (8080, 8090), (5, 5)), "-m multiport --dports 80,443,8080:8090,5"),
    (r.ctstate("ESTABLISHED", "RELATED"), "-m conntrack --ctstate RELATED,ESTABLISHED"),
    (r.ctstate("INVALID", negate=True), "-m conntrack ! --ctstate INVALID"),
    (r.addrtype(source="LOCAL"), "-m addrtype --src-type LOCAL"),
    (r.icmp_type(4, "destination-unreachable"), "-m icmp --icmp-type 3"),
    (r.icmp_type(6, "packet-too-big"), "-m icmp6 --icmpv6-type 2"),
    (r.match_mark(0x20000, 0x20000), "-m mark --mark 0x20000/0x20000"),
    (r.match_mark(5, negate=True), "-m mark ! --mark 0x5"),
    (r.limit(60, "min"), "-m limit --limit 1/sec"),
    (r.limit(10, "min", burst=10), "-m limit --limit 10/min --limit-burst 10"),
    (r.limit(24, "day"), "-m limit --limit 1/hour"),
    (r.ipvs(), "-m ipvs --ipvs"),
    (r.ipvs(protocol=6, address="fd00::1", port=80), "-m ipvs --vproto 6 --vaddr fd00::1 --vport 80"),
    (r.reject(4), "-j REJECT --reject-with icmp-port-unreachable"),
    (r.reject(6), "-j REJECT --reject-with icmp6-port-unreachable"),
    (r.reject(6, "tcp-reset"), "-j REJECT --reject-with tcp-reset"),
    (r.snat("fd00::1"), "-j SNAT --to-source fd00::1 --random-fully"),
    (r.masquerade(random_fully=False), "-j MASQUERADE"),
    (r.set_mark(0, 0x10000), "-j MARK --set-xmark 0x0/0x10000"),
    (r.set_mark(5), "-j MARK --set-xmark 0x5/0xffffffff"),
    (r.nflog(100), "-j NFLOG --nflog-group 100"),
    (r.nflog(100, "a b"), '-j NFLOG --nflog-prefix "a b" --nflog-group 100'),
]


@pytest.mark.parametrize(("text", "expected"), EXPECTED, ids=[expected for _, expected in EXPECTED])
def test_a_rule_is_spelled_as_it_will_be_printed(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("plain-1_x", "plain-1_x"),
        ("", '""'),
        ("a b", '"a b"'),
        ("it's", '"it\\\'s"'),
        ('"', '"\\""'),
        ("\\", '"\\\\"'),
        ("é", '"é"'),
        ("!", '"!"'),
    ],
)
def test_text_is_quoted_as_the_tools_quote_it(text: str, spelled: str) -> None:
    assert r.quoted(text) == spelled


def test_a_comment_holds_no_control_characters_and_no_more_than_the_kernel_keeps() -> None:
    assert r.comment("a\tb\nc") == '-m comment --comment "a b c"'
    assert r.comment("x" * 300) == "-m comment --comment " + "x" * 255
    assert r.comment("é" * 200) == '-m comment --comment "' + "é" * 127 + '"', "no character is cut in two"


@pytest.mark.parametrize("name", ["", "a b", "X" * 29])
def test_what_cannot_name_a_chain_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a chain"):
        r.jump(name)


def test_a_condition_that_excludes_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="excludes everything"):
        r.rule(r.ACCEPT, source="!0.0.0.0/0")


def test_an_unknown_connection_state_is_refused() -> None:
    with pytest.raises(ValueError, match="OPEN"):
        r.ctstate("OPEN")
