"""Sets and rules of the service proxy: processes counted, damage repaired. They are real but for the nat table, which
matches what IPVS did, and this kernel may have no IPVS."""

from __future__ import annotations

import asyncio
import re
import subprocess

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import installed
from kube_router.control.cycle import Cycle
from kube_router.control.proxy import ProxyController
from kube_router.model.objects import EndpointSlice, Kind, Name, Node, Service
from kube_router.model.state import Change
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec
from tests.engine import Event, Recorder, inline
from tests.fakes import FakeTarget, World
from tests.kernel.test_shared_sets import WithoutNat
from tests.proxy_services import BOTH, OPTIONS, everywhere_reachable, on, piece, service, view_of

pytestmark = [
    pytest.mark.needs("root", "netns", "ipset", "ipset_marks", "xt_set", "iptables_nft"),
    pytest.mark.usefixtures("netns"),
]

MANY = 300
LOCAL = Name("shop", "local")


class Proxy:
    """One node's proxy over many Services; `forks(...)` are those of one pass."""

    def __init__(self) -> None:
        self.commands, self.report = Commands(), Recorder()
        self.sets, self.rules = SetTarget(self.commands), IptablesTarget(installed(self.commands)["nft"], self.commands)
        controller = ProxyController(OPTIONS, kernel=(6, 1))
        self.cache = view_of(*(one for n in range(MANY) for one in plain(n)))
        ranges = ("192.0.2.0/24", "2001:db8:2::/64")
        self.cache.put(everywhere_reachable(name=LOCAL, external_policy="Local", source_ranges=ranges))
        self.cache.put(piece(*(on("node2", one.there) for one in BOTH), of=LOCAL))
        real = (*self.sets.kinds, *WithoutNat.kinds)
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=[
                self.sets,
                WithoutNat(self.rules),
                FakeTarget(World(), [kind for kind in controller.writes if kind not in real]),
            ],
            report=self.report,
            call=inline,
        )

    def forks(self, *events: Event, audit: bool = False) -> int:
        for event in events:
            if isinstance(event, Service | EndpointSlice | Node):
                self.cache.put(event)
            else:
                self.cache.remove(*event)  # type: ignore[misc]
        before = self.commands.forks
        outcome = asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))
        assert outcome.good
        return self.commands.forks - before


def plain(n: int) -> tuple[Service, EndpointSlice]:
    name = Name("shop", f"s{n}")
    at = (f"10.96.{n >> 8}.{n & 255}", f"fd00:96::{n + 1:x}")
    return service(name, cluster_ips=at, node_port=30100 + n), piece(*(on("node2", one.there) for one in BOTH), of=name)


def test_d09_what_a_pass_forks_depends_on_what_it_changes_and_not_on_what_there_is() -> None:
    proxy = Proxy()
    # A look at what is there (names of sets, rules of each family), sets, their entries, and rules of each family in one go, for which the
    # places of jumps in two tables are read.
    assert proxy.forks() == 3 + 2 + 2 * 3
    lines = proxy.sets.lines
    more = piece(*(on("node2", one.there) for one in BOTH), on("node2", "10.244.2.99"), of=LOCAL)
    assert proxy.forks(more) == 0, "an endpoint is a matter of IPVS alone"
    assert proxy.forks(*plain(MANY)) == 1, "entries of both families go to one restore"
    assert proxy.sets.lines - lines == 6, "address and port, node port, address; twice"
    assert proxy.forks((Kind.SERVICE, Name("shop", "s7"))) == 1
    assert proxy.forks(Node(Name("", "node3"), addresses=("192.0.2.13",), pod_cidrs=("10.244.3.0/24",))) == 1
    local = everywhere_reachable(name=LOCAL, external_policy="Local", source_ranges=("192.0.2.0/24", "2001:db8:2::/64", "10.0.0.0/8"))
    assert proxy.forks(local) == 1, "a range is an entry"
    assert proxy.forks() == 0
    assert proxy.forks(audit=True) == 4, "a look at all of it"


def test_d08_sets_have_room_for_more_than_the_kernel_gives_them_and_grow_by_entries() -> None:
    target = SetTarget()
    name, spec = "kube-router-ipvs-services", SetSpec("hash:ip,port", 4)
    entries = [SetMember(name, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255},tcp:80") for n in range(66_000)]
    assert target.apply([Change(SetKey(name), None, spec), *(Change(key, None, Member()) for key in entries)]) == {}
    held = target.observe({SetKey(name): spec})
    assert len(held) == 66_001
    assert held[SetKey(name)] == spec, "larger than asked for is as asked for"
    lines, restores = target.lines, target.restores
    assert target.apply([Change(SetMember(name, "10.9.9.9,udp:53"), None, Member())]) == {}
    assert (target.lines - lines, target.restores - restores) == (1, 1)


DAMAGE = (
    "iptables-nft -F",
    "ip6tables-nft -F KUBE-ROUTER-SERVICES",
    "printf '*filter\\nCOMMIT\\n' | iptables-nft-restore",
    "printf '*mangle\\nCOMMIT\\n' | ip6tables-nft-restore",
    "iptables-nft -D INPUT 1",
    "iptables-nft -I INPUT -s 198.18.0.9 -j ACCEPT && iptables-nft -D INPUT -s 198.18.0.9 -j ACCEPT && iptables-nft -F INPUT",
    "iptables-nft -t mangle -F PREROUTING",
    "ipset flush kube-router-service-ips",
    "ipset flush",
    "ipset del inet6:kube-router-ipvs-services fd00:96::5,tcp:80",
    "ipset add kube-router-allowed 198.51.100.7,tcp:80,10.0.0.0/8",
    "ipset add -exist kube-router-cluster-marks 198.51.100.7,tcp:80 timeout 0 skbmark 0x7",
    "iptables-nft -F && iptables-nft -X && iptables-nft -t mangle -F && iptables-nft -t mangle -X && "
    "ip6tables-nft -F && ip6tables-nft -X && ip6tables-nft -t mangle -F && ip6tables-nft -t mangle -X && ipset destroy",
)


def shell(line: str) -> list[str]:
    done = subprocess.run(["sh", "-ec", line], check=True, capture_output=True, text=True)
    return [one for one in done.stdout.splitlines() if not one.startswith("#")]


def all_of_it() -> list[str]:
    lines = shell("ipset save; iptables-nft-save; ip6tables-nft-save")
    # How the kernel lays a hash out is its own affair, and tables that were wiped come back in another order.
    return sorted(re.sub(r" (initval|hashsize) \S+", "", line) for line in lines if not line.startswith(("*", "COMMIT")))


def test_a05_what_others_flush_delete_or_change_in_sets_and_rules_is_whole_after_the_next_look() -> None:
    proxy = Proxy()
    proxy.forks()
    whole = all_of_it()
    for line in DAMAGE:
        shell(line)
        assert all_of_it() != whole, line
        drifts = len(proxy.report.drifts)
        proxy.forks(audit=True)
        assert all_of_it() == whole, line
        assert len(proxy.report.drifts) > drifts, "it is counted"
    shell("iptables-nft -I INPUT -s 198.18.0.9 -j ACCEPT")
    proxy.forks(audit=True)
    first, *_, last = shell("iptables-nft -S INPUT | grep -v -- '-P INPUT'")
    assert "KUBE-ROUTER-SOURCES" in first
    assert "198.18.0.9" in last, "the rule of others stays, behind ours"
