"""The walker is a judge: it must know what the kernel knows, and refuse to guess."""

from __future__ import annotations

import pytest

from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.walk.walker import FELL_THROUGH, Packet, UnknownRule, Walker


def table(**chains: tuple[str, ...]) -> dict:
    state: dict = {ChainKey(4, "filter", name): Chain(rules) for name, rules in chains.items()}
    state[JumpKey(4, "filter", "FORWARD", "TOP")] = Jump()
    return state


@pytest.mark.parametrize(
    "rule",
    [
        "-m recent --set -j ACCEPT",
        "-m set --match-set absent src -j ACCEPT",
        "-m addrtype --src-type UNICAST -j ACCEPT",
        "-j MARK --set-xmark 0x1/0x1",
        "-m ipvs --vdir REPLY -j ACCEPT",
        "-m ipvs --vproto 6 -j ACCEPT",
        '-m bpf --bytecode "2,6 0 0 1" -j ACCEPT',
        "-j SET --map-set absent dst,dst --map-mark",
        "-j SNAT --to-source 10.0.0.1 --persistent",
        "--fragment -j ACCEPT",
        "-p tcp",
        "-m comment text -j ACCEPT",
    ],
)
def test_it_refuses_a_rule_that_it_does_not_understand(rule):
    with pytest.raises((UnknownRule, IndexError)):
        Walker(table(TOP=(rule,)), 4)


def test_it_refuses_a_chain_that_is_not_there():
    with pytest.raises(KeyError):
        Walker(table(TOP=("-j NOWHERE",)), 4).run("FORWARD", Packet("10.0.0.1", "10.0.0.2"))


def test_it_refuses_rules_that_loop():
    with pytest.raises(UnknownRule):
        Walker(table(TOP=("-g A",), A=("-g TOP",)), 4).run("FORWARD", Packet("10.0.0.1", "10.0.0.2"))


@pytest.mark.parametrize(
    ("chains", "verdict"),
    [
        ({"TOP": ("-j A", "-j DROP"), "A": ("-j RETURN", "-j ACCEPT")}, "DROP"),
        ({"TOP": ("-g A", "-j DROP"), "A": ("-p udp -j ACCEPT",)}, FELL_THROUGH),
        ({"TOP": ("-j A", "-j DROP"), "A": ("-g B", "-j ACCEPT"), "B": ("-j RETURN",)}, "DROP"),
        ({"TOP": ("-j NFLOG --nflog-group 100", "-j REJECT --reject-with icmp-port-unreachable")}, "REJECT"),
        ({"TOP": ("! -s 10.0.0.0/8 -j DROP", "-p tcp -m tcp --dport 80:90 -j ACCEPT")}, "ACCEPT"),
        ({"TOP": ("-p tcp -m multiport --dports 1,79:80 -j ACCEPT",)}, "ACCEPT"),
        ({"TOP": ("-m conntrack ! --ctstate NEW -j ACCEPT",)}, FELL_THROUGH),
        ({"TOP": ("-m addrtype --dst-type LOCAL -j ACCEPT",)}, "ACCEPT"),
    ],
)
def test_it_follows_jumps_gotos_and_returns(chains, verdict):
    assert Walker(table(**chains), 4, frozenset({"10.0.0.2"})).run("FORWARD", Packet("10.0.0.1", "10.0.0.2")) == verdict


@pytest.mark.parametrize(
    ("kind", "entry", "fields", "holds"),
    [
        ("hash:ip", "10.0.0.1", "src", True),
        ("hash:ip", "10.0.0.1", "dst", False),
        ("hash:ip,port", "10.0.0.2,tcp:80", "dst,dst", True),
        ("hash:ip,port", "10.0.0.2,udp:80", "dst,dst", False),
        ("hash:net,net", "10.0.0.1,10.0.0.2", "src,dst", True),
        ("hash:net,net", "10.0.0.1,10.0.0.1", "src,dst", False),
        ("hash:net", "10.0.0.0/30", "src", True),
    ],
)
def test_it_looks_into_sets_as_the_kernel_does(kind, entry, fields, holds):
    state = table(TOP=(f"-m set --match-set s {fields} -j ACCEPT",))
    state |= {SetKey("s"): SetSpec(kind, 4), SetMember("s", entry): Member()}
    assert (Walker(state, 4).run("FORWARD", Packet("10.0.0.1", "10.0.0.2")) == "ACCEPT") == holds


def test_in_a_set_of_ranges_the_longest_prefix_decides():
    state = table(TOP=("-m set --match-set s src -j ACCEPT",))
    entries = {"10.0.0.0/8": False, "10.1.0.0/16": True, "10.1.2.0/24": False}
    state |= {SetKey("s"): SetSpec("hash:net", 4), **{SetMember("s", cidr): Member(nomatch) for cidr, nomatch in entries.items()}}
    walker = Walker(state, 4)
    verdicts = [walker.run("FORWARD", Packet(source, "10.0.0.2")) for source in ("10.0.0.1", "10.1.0.1", "10.1.2.1")]
    assert verdicts == ["ACCEPT", FELL_THROUGH, "ACCEPT"]
