"""Rules of the service proxy in the kernel: real packets between addresses of one host, in both families and backends of iptables."""

from __future__ import annotations

import re
import socket
import subprocess
from contextlib import closing

import pytest

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import Backend, installed
from kube_router.codec.rules import ACCEPT, match_mark, rule, to_itself
from kube_router.desired.proxy.marked import in_cluster, marks_everywhere, pods_of
from kube_router.desired.proxy.marks import MarkKind
from kube_router.desired.proxy.sources import restrict
from kube_router.kit.net import FAMILIES, Family, host_prefix
from kube_router.model.objects import Claim, Name, Node
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetMember
from kube_router.plan.order import ordered
from tests.proxy_services import IPV4, IPV6, Facts, binding, everywhere_reachable

pytestmark = [
    pytest.mark.needs("root", "netns", "ipset", "ipset_marks", "xt_set", "xt_bpf", "iptables_legacy", "iptables_nft"),
    pytest.mark.usefixtures("netns"),
    pytest.mark.parametrize("family", FAMILIES),
    pytest.mark.parametrize("backend", ["legacy", "nft"]),
]

FACTS: dict[Family, Facts] = {4: IPV4, 6: IPV6}
OUTSIDER: dict[Family, str] = {4: "192.0.2.200", 6: "2001:db8:2::c8"}
STEM: dict[Family, str] = {4: "iptables", 6: "ip6tables"}
SOCKET: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}


class Host:
    """This namespace: addresses on its loopback link, sets and rules through the targets of the daemon."""

    def __init__(self, family: Family, backend: Backend, *addresses: str) -> None:
        self.family, self.backend = family, backend
        self.sets, self.rules = SetTarget(), IptablesTarget(installed(Commands())[backend])
        self.ip("link", "set", "lo", "up")
        for address in addresses:
            self.ip("address", "add", host_prefix(address), "dev", "lo", *(("nodad",) if family == 6 else ()))

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def hold(self, state: dict[Key, Value]) -> None:
        """Bring it about, in the order of the plan."""
        for change in ordered(Change(key, None, value) for key, value in state.items()):
            target = next((one for one in (self.sets, self.rules) if type(change.key) in one.kinds), None)
            if target is not None:
                assert target.apply([change]) == {}

    def drop_all(self) -> None:
        """Take away whatever is ours."""
        for target in (self.rules, self.sets):
            assert target.apply(ordered(Change(key, value, None) for key, value in target.observe({}).items())) == {}

    def arrives(self, source: str, to: str, port: int) -> bool:
        """Whether a datagram gets through."""
        with closing(socket.socket(SOCKET[self.family], socket.SOCK_DGRAM)) as taker:
            taker.bind((to, port))
            taker.settimeout(0.2)
            with closing(socket.socket(SOCKET[self.family], socket.SOCK_DGRAM)) as giver:
                giver.bind((source, 0))
                giver.sendto(b"x", (to, port))
            try:
                return taker.recv(1) == b"x"
            except TimeoutError:
                return False

    def counted(self, table: str, hook: str) -> list[int]:
        """Packets of each rule of a built-in chain."""
        save = f"{STEM[self.family]}-{self.backend}-save"
        text = subprocess.run([save, "-c", "-t", table], check=True, capture_output=True, text=True).stdout
        return [int(found[1]) for line in text.splitlines() if (found := re.match(rf"\[(\d+):\d+\] -A {hook} ", line))]

    def append(self, table: str, hook: str, text: str) -> None:
        restore = f"{STEM[self.family]}-{self.backend}-restore"
        subprocess.run([restore, "--noflush", "--wait=20"], input=f"*{table}\n-A {hook} {text}\nCOMMIT\n", check=True, text=True)


def mark_of(claim: Claim, kind: MarkKind) -> int:
    return {"direct": 0x34CA, "cluster": 0x234CA}[kind]


def test_a_packet_whose_source_is_its_destination_is_told_from_all_others(family: Family, backend: Backend) -> None:
    facts = FACTS[family]
    # Addresses that differ in one word of four only, the first and the last.
    near = {4: ["10.244.1.6", "11.244.1.5"], 6: ["fd00:244:1::6", "fd01:244:1::5"]}[family]
    host = Host(family, backend, facts.here, *near)
    host.append("filter", "OUTPUT", rule(ACCEPT, to_itself(family)))
    host.arrives(facts.here, facts.here, 9999)
    for other in near:
        host.arrives(facts.here, other, 9999)
        host.arrives(other, facts.here, 9999)
    assert host.counted("filter", "OUTPUT") == [1]


def test_packets_get_the_mark_of_their_address_and_port_and_clients_in_the_cluster_theirs(family: Family, backend: Backend) -> None:
    facts = FACTS[family]
    node, away = OUTSIDER[family], facts.there
    host = Host(family, backend, facts.here, node, facts.external)
    local = binding(everywhere_reachable(external_policy="Local"), facts, protocol="UDP", everyone=[(away, 8080)])
    state: dict[Key, Value] = {
        **marks_everywhere(family),
        SetMember({4: "", 6: "inet6:"}[family] + "kube-router-service-marks", f"{facts.external},udp:81"): Member(mark=0x34CA),
        **in_cluster(local, mark_of),
        **pods_of(Node(Name("", "node2"), pod_cidrs=(facts.pods_here,)), (family,)),
    }
    for mark in (0x34CA, 0x234CA):
        host.append("mangle", "POSTROUTING", rule(ACCEPT, match_mark(mark)))
    host.hold(state)
    assert host.arrives(facts.here, facts.external, 81)
    assert host.counted("mangle", "POSTROUTING") == [1, 0], "a mark that holds for everybody"
    assert host.arrives(facts.here, facts.external, 80)
    assert host.counted("mangle", "POSTROUTING") == [1, 1], "a pod is inside the cluster"
    assert host.arrives(node, facts.external, 80)
    assert host.counted("mangle", "POSTROUTING") == [1, 2], "so is this node"
    assert host.arrives(node, facts.external, 82)
    assert host.counted("mangle", "POSTROUTING") == [1, 2], "a port of no Service"
    assert host.rules.observe(state).items() <= {key: value for key, value in state.items() if type(key) in host.rules.kinds}.items()
    assert host.sets.observe(state) == {key: value for key, value in state.items() if type(key) in host.sets.kinds}
    host.drop_all()
    assert (host.rules.observe({}), host.sets.observe({})) == ({}, {})


def test_load_balancers_drop_whom_they_do_not_name_and_nobody_else_does(family: Family, backend: Backend) -> None:
    facts = FACTS[family]
    outsider = OUTSIDER[family]
    host = Host(family, backend, facts.here, outsider, facts.balanced, facts.external)
    ranged = everywhere_reachable(source_ranges=(f"{outsider}/{32 if family == 4 else 128}", "2001:db8:77::/64", "172.16.0.0/12"))
    front = binding(ranged, facts, kind="loadbalancer", protocol="UDP")
    # Others accept everything from the start, as policies do at rank 0.
    chain = "KUBE-ROUTER-INPUT"
    host.hold({ChainKey(family, "filter", chain): Chain((ACCEPT,)), JumpKey(family, "filter", "INPUT", chain): Jump(rank=0)})
    assert host.arrives(facts.here, facts.balanced, 80)
    host.hold(restrict(front))
    assert host.arrives(outsider, facts.balanced, 80)
    assert not host.arrives(facts.here, facts.balanced, 80)
    assert host.arrives(facts.here, facts.balanced, 81), "another port"
    assert host.arrives(facts.here, facts.external, 80), "another address"
    host.hold(restrict(binding(everywhere_reachable(source_ranges=("0.0.0.0/0", "::/0")), facts, kind="loadbalancer", protocol="UDP")))
    assert host.arrives(facts.here, facts.balanced, 80)
    host.drop_all()
    assert host.sets.observe({}) == {}
