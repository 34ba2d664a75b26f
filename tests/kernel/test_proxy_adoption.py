"""A node that the original has run on, as recorded: rules and sets are taken over without a gap, and a cleanup leaves nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kube_router.app.controllers import everything
from kube_router.app.found_marks import found_marks
from kube_router.apply.kernel.commands import Commands, Ran
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.cache.cache import Cache
from kube_router.codec import tables
from kube_router.codec.objects import decode_item
from kube_router.config.options import defaults
from kube_router.control.controller import Controller
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.marks import MarkBook
from kube_router.control.proxy import ProxyController
from kube_router.model.names import SERVICE_MARKS
from kube_router.model.objects import Interface, Kind, Name
from kube_router.model.state.netfilter import LeftoverKey, Member, SetMember
from tests.engine import Recorder, inline
from tests.fakes import FakeTarget, World

pytestmark = [
    pytest.mark.needs("root", "netns", "ip_vs", "ipset", "ipset_netport", "ipset_marks", "xt_set", "xt_bpf", "iptables_nft"),
    pytest.mark.usefixtures("netns"),
]

DATA = Path(__file__).parent.parent / "data" / "original-2.11"
OPTIONS = defaults(
    node_name="node1",
    enable_ipv6=True,
    service_cluster_ip_range=("10.233.0.0/18", "fd00:233::/112"),
    service_external_ip_range=("203.0.113.0/24",),
    loadbalancer_ip_range=("198.51.100.0/24",),
)
FOREIGN = """*filter
:KUBE-ROUTER - [0:0]
-A INPUT -s 198.18.0.9/32 -j DROP
-A FORWARD -o kube-bridge -m comment --comment mine -j ACCEPT
-A KUBE-ROUTER -j RETURN
COMMIT
*nat
-A POSTROUTING -s 198.18.0.9/32 -m ipvs --vdir ORIGINAL --vmethod MASQ -j MASQUERADE
COMMIT
*mangle
-A PREROUTING -d 198.18.0.9/32 -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x7/0xffffffff
COMMIT
"""


class Noted(Commands):
    """Tools as they are, and what they were fed."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[str] = []

    def run(self, arguments: Sequence[str], feed: str = "") -> Ran:
        if feed:
            self.fed.append(feed)
        return super().run(arguments, feed)


class Host:
    """The node's namespace with what was recorded in it, and what somebody else has there."""

    def __init__(self, folder: str) -> None:
        self.commands = Noted()
        self.sets, self.rules = SetTarget(self.commands), IptablesTarget(installed(self.commands)["nft"], self.commands)
        self.world = World()
        recorded = DATA / folder
        _feed(
            ["ipset", "restore"],
            f"create theirs hash:ip\ncreate TMP-TF3INM4IEYGA443O hash:ip,port timeout 0\n{(recorded / 'ipset-save.txt').read_text()}",
        )
        _feed(["iptables-nft-restore"], (recorded / "iptables-save.txt").read_text())
        _feed(["ip6tables-nft-restore"], (recorded / "ip6tables-save.txt").read_text())
        _feed(["iptables-nft-restore", "--noflush"], FOREIGN)

    def run(self, controller: Controller, cache: Cache) -> Outcome:
        """Passes until all is done; sets and rules are real, all else is not."""
        real = (*self.sets.kinds, *self.rules.kinds)
        fake = FakeTarget(self.world, [kind for kind in controller.writes if kind not in real])
        cycle = Cycle(
            controller,
            feed=cache.feed(controller.reads),
            view=cache.view,
            targets=[self.sets, self.rules, fake],
            report=Recorder(),
            call=inline,
        )
        outcome = asyncio.run(cycle.sync())
        for _ in range(3):
            if outcome.good:
                break
            outcome = asyncio.run(cycle.sync())
        return outcome

    def foreign_rules(self) -> Mapping[str, list[str]]:
        """Rules of others in built-in chains, and their chain."""
        text = subprocess.run(["iptables-nft-save"], check=True, capture_output=True, text=True).stdout
        found: dict[str, list[str]] = {}
        for name, table in tables.parse_save(text, {"KUBE-ROUTER"}.__contains__).items():
            for chain, rules in (table.builtin | table.chains).items():
                theirs = [rule for rule in rules if "198.18.0.9" in rule or "mine" in rule or rule == "-j RETURN"]
                if theirs:
                    found[f"{name} {chain}"] = theirs
        return found

    def everything(self) -> list[str]:
        """Sets, chains and rules of both families, whoever's."""
        lines = subprocess.run(["ipset", "list", "-name"], check=True, capture_output=True, text=True).stdout.split()
        for save in ("iptables-nft-save", "ip6tables-nft-save"):
            text = subprocess.run([save], check=True, capture_output=True, text=True).stdout
            lines += [line for line in text.splitlines() if line.startswith("-A ") or (line.startswith(":") and " - " in line)]
        return lines


def _feed(command: Sequence[str], text: str) -> None:
    subprocess.run(command, input=text, text=True, check=True)


def the_cluster() -> Cache:
    cache = Cache()
    of = {kind.value: kind for kind in (Kind.NODE, Kind.SERVICE, Kind.ENDPOINT_SLICE)}
    for item in json.loads((DATA / "cluster.json").read_text())["items"]:
        if item["kind"] in of:
            cache.put(decode_item(of[item["kind"]], json.dumps(item).encode()).object)
    cache.put(Interface(Name("", "up0"), addresses=("192.168.50.50/24", "fd00:50::50/64")))
    return cache


THEIRS = ["theirs", "KUBE-ROUTER", "198.18.0.9", "--comment mine"]


@pytest.mark.parametrize("folder", ["default", "nftables-fou"])
def test_what_the_original_left_is_taken_over_and_a_cleanup_leaves_nothing_of_either(folder: str) -> None:
    host = Host(folder)
    before = host.sets.observe({})
    foreign = host.foreign_rules()
    controller = ProxyController(OPTIONS, kernel=(6, 1), marks=MarkBook(lambda: found_marks(host.sets.observe({}), host.rules.observe({}))))
    assert host.run(controller, the_cluster()).good

    # Every port that was let in still is, and by the same marks.
    after = host.sets.observe({})
    for old, new in (("kube-router-svip-prt", "kube-router-ipvs-services"), ("kube-router-svip", "kube-router-service-ips")):
        for prefix in ("", "inet6:"):
            entries = {key.entry for key in before if isinstance(key, SetMember) and key.set == prefix + old}
            assert entries
            assert entries <= {key.entry for key in after if isinstance(key, SetMember) and key.set == prefix + new}
            assert not [key for key in after if str(key).startswith((f"Set({prefix}{old}", f"SetMember({prefix}{old}"))]
    assert after[SetMember(SERVICE_MARKS, "203.0.113.11,tcp:8080")] == Member(mark=0x34CA)

    # Old sets went after the rules that named them were replaced, each family in one step.
    switched = [n for n, text in enumerate(host.commands.fed) if ":KUBE-ROUTER-SERVICES - " in text]
    destroyed = [n for n, text in enumerate(host.commands.fed) if "destroy kube-router-svip" in text]
    assert len(switched) == 2
    assert min(destroyed) > max(switched)
    emptied = [text for text in host.commands.fed[: max(switched)] if "del kube-router-svip" in text or "flush" in text]
    assert emptied == []

    # Nothing of the original is left that is the proxy's, and nobody else's rule was touched.
    assert [key for key in host.rules.observe({}) if isinstance(key, LeftoverKey) and key.owner == controller.name] == []
    assert host.foreign_rules() == foreign
    writes = host.sets.restores, host.rules.restores
    again = ProxyController(OPTIONS, kernel=(6, 1), marks=MarkBook(lambda: found_marks(host.sets.observe({}), host.rules.observe({}))))
    assert host.run(again, the_cluster()).written == 0, "a restart finds all as it should be"
    assert (host.sets.restores, host.rules.restores) == writes

    for absent in everything():
        assert host.run(absent, Cache()).good
    assert [line for line in host.everything() if not any(word in line for word in THEIRS)] == []
    assert host.foreign_rules() == foreign


@pytest.mark.parametrize("folder", ["default", "nftables-fou"])
def test_c01_c02_c03_a_cleanup_alone_leaves_nothing_of_the_original(folder: str) -> None:
    host = Host(folder)
    foreign = host.foreign_rules()
    for absent in everything():
        assert host.run(absent, Cache()).good
    assert [line for line in host.everything() if not any(word in line for word in THEIRS)] == []
    assert host.foreign_rules() == foreign
