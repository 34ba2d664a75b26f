"""Counters of our rules on the real kernel: in this process on legacy, by the tool on nft, with equal answers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_counters import RuleCounters
from kube_router.apply.kernel.iptables_tools import Backend, installed
from kube_router.codec.rules import ACCEPT, comment, rule
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey
from lab.kernel_netns import Netns

pytestmark = [pytest.mark.needs("root", "netns", "iptables_legacy", "iptables_nft"), pytest.mark.usefixtures("netns")]

CHAIN, OTHER = "KUBE-ROUTER-OUTPUT", "KUBE-ROUTER-INPUT"
ADDRESS: dict[Family, str] = {4: "127.0.0.1", 6: "::1"}


@pytest.fixture(autouse=True)
def loopback(netns: Netns) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("backend", "source"), [("legacy", "libiptc"), ("nft", "iptables-save")])
def test_packets_are_counted_rule_by_rule(backend: Backend, source: str, family: Family) -> None:
    tools = installed(Commands())[backend]
    protocol = "icmp" if family == 4 else "ipv6-icmp"
    state: State = {
        ChainKey(family, "filter", CHAIN): Chain((
            rule("", comment("udp, never"), protocol="udp"),
            rule("", protocol=protocol),
            rule(ACCEPT, protocol=protocol, destination=ADDRESS[family]),
        )),
        ChainKey(family, "filter", OTHER): Chain(()),
        JumpKey(family, "filter", "OUTPUT", CHAIN): Jump(),
    }  # fmt: skip
    target = IptablesTarget(tools)
    assert target.apply([Change(key, None, value) for key, value in state.items()]) == {}
    assert target.observe(state) == state
    counters = RuleCounters(tools)
    assert counters.source == source
    assert counters.read(family, "filter", [CHAIN, OTHER, "KUBE-NWPLCY-NOPE"]) == {CHAIN: [(0, 0)] * 3, OTHER: []}
    subprocess.run(["ping", "-c", "2", "-i", "0.01", "-s", "56", "-q", ADDRESS[family]], check=True, capture_output=True)
    header = 20 if family == 4 else 40
    size = 4 * (header + 8 + 56)  # requests and replies both leave through OUTPUT
    assert counters.read(family, "filter", [CHAIN]) == {CHAIN: [(0, 0), (4, size), (4, size)]}


def test_a_table_that_is_not_there_is_not_made_by_reading_it() -> None:
    counters = RuleCounters(installed(Commands())["legacy"])
    assert counters.source == "libiptc"
    assert counters.read(4, "mangle", [CHAIN]) == {}
    assert Path("/proc/thread-self/net/ip_tables_names").read_text() == ""


def test_reading_in_process_starts_no_process_once_the_library_is_there() -> None:
    commands = Commands()
    tools = installed(commands)["legacy"]
    IptablesTarget(tools).apply([Change(ChainKey(4, "filter", CHAIN), None, Chain((rule(ACCEPT),)))])
    counters = RuleCounters(tools, commands)
    before = commands.forks
    assert counters.read(4, "filter", [CHAIN]) == {CHAIN: [(0, 0)]}
    assert commands.forks == before
