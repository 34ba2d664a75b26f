"""Rules and sets of the proxy over time: what a change costs, what is repaired, what the original left."""

from __future__ import annotations

import pytest

from kube_router.control.absent import Absent
from kube_router.control.controller import Controller
from kube_router.control.proxy import ProxyController
from kube_router.control.routing import RoutingController
from kube_router.model.objects import Kind, Name, Object
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.ipvs import DestinationKey, VirtualServer, VirtualServerKey
from kube_router.model.state.links import Link, LinkKey, Sysctl, SysctlKey
from kube_router.model.state.netfilter import (
    Chain,
    ChainKey,
    Jump,
    JumpKey,
    Leftover,
    LeftoverKey,
    Member,
    SetKey,
    SetMember,
    SetSpec,
)
from kube_router.plan.ownership import PROXY, ROUTING
from tests.engine import Node as LabNode
from tests.engine import after
from tests.fakes import World
from tests.proxy_services import BOTH, LINKS, NODE1, NODE2, OPTIONS, a_node, everywhere_reachable, on, piece, service

HAIRPIN = {"kube-router.io/service.hairpin": ""}
HERE = piece(*(on("node1", one.here) for one in BOTH), name="here")
THERE = piece(*(on("node2", one.there) for one in BOTH), name="there")
FILTERED = "KUBE-ROUTER-SOURCES", "KUBE-ROUTER-CLUSTER-MARKS", "KUBE-ROUTER-HAIRPIN"


def rules_in(changes: list[Change]) -> list[Key]:
    return [change.key for change in changes if isinstance(change.key, ChainKey | JumpKey | SetKey)]


# -- what a change costs --------------------------------------------------------------------------------------------------


def test_another_backend_of_a_hairpin_service_is_an_entry_and_no_rule():
    node = a_node(service(annotations=HAIRPIN), HERE)
    more = piece(*(on("node1", one.here) for one in BOTH), on("node1", "10.244.1.99"), name="here")
    written = after(node, more)
    assert rules_in(written) == []
    assert [change.key for change in written if isinstance(change.key, SetMember)] == [
        SetMember("kube-router-hairpin", "10.244.1.99,10.244.1.99")
    ]


def test_b21_hairpin_rules_are_written_when_a_vip_comes_or_goes_and_at_no_other_time():
    node = a_node(service(annotations=HAIRPIN), HERE)
    assert rules_in(after(node, piece(*(on("node2", one.there) for one in BOTH), name="there"))) == []
    assert rules_in(after(node, service(annotations=HAIRPIN, affinity_timeout=60))) == []
    for _ in range(3):
        assert node.sync(node.cycle.controller.writes).drifted == 0
        assert node.world.writes == [] or not rules_in(node.world.writes)
    other = service(Name("shop", "other"), cluster_ips=("10.96.0.51",), annotations=HAIRPIN)
    written = after(node, other, piece(on("node1", BOTH[0].here), of=other.name))
    assert rules_in(written) == [ChainKey(4, "nat", "KUBE-ROUTER-HAIRPIN")], "one chain of one family"
    assert rules_in(after(node, (Kind.SERVICE, other.name))) == [ChainKey(4, "nat", "KUBE-ROUTER-HAIRPIN")]


def test_services_that_share_rules_share_them_and_the_last_takes_them_along():
    local = {"external_policy": "Local", "source_ranges": ("192.0.2.0/24", "2001:db8:2::/64"), "annotations": HAIRPIN}
    node = a_node(everywhere_reachable(**local), HERE, THERE)
    before = dict(node.world.state)
    assert {key.name for key in before if isinstance(key, ChainKey)} >= set(FILTERED)
    twin = service(
        Name("shop", "twin"),
        cluster_ips=("10.96.0.60",),
        external_ips=("203.0.113.60",),
        type="LoadBalancer",
        external_policy="Local",
        created="2026",
    )
    written = after(node, twin, piece(on("node2", BOTH[0].there), of=twin.name))
    assert rules_in(written) == [], "a second Service of policy Local costs entries"
    after(node, (Kind.SERVICE, twin.name), (Kind.ENDPOINT_SLICE, Name("shop", "twin-1")))
    assert node.world.state == before
    after(node, (Kind.SERVICE, Name("shop", "web")))
    left = [key for key in node.world.state if isinstance(key, ChainKey | JumpKey) and (getattr(key, "chain", "") or key.name) in FILTERED]
    assert left == []
    assert {key.name.removeprefix("inet6:") for key in node.world.state if isinstance(key, SetKey)} == {
        "kube-router-local-ips",
        "kube-router-service-ips",
        "kube-router-ipvs-services",
    }


def test_a_node_that_joins_is_an_entry_where_pods_must_be_known_and_nothing_where_not():
    joins = replace_node("node3", "10.244.3.0/24")
    node = a_node(everywhere_reachable(external_policy="Local"), THERE)
    assert [change.key for change in after(node, joins)] == [SetMember("kube-router-cluster-pods", "10.244.3.0/24")]
    assert after(a_node(everywhere_reachable(), THERE), joins) == []


def replace_node(name: str, cidr: str) -> Object:
    return type(NODE1)(Name("", name), addresses=("192.0.2.13",), pod_cidrs=(cidr,))


def test_d08_a_change_of_one_entry_writes_that_entry_however_many_there_are():
    many = [service(Name("shop", f"s{n}"), cluster_ips=(f"10.96.{n >> 8}.{n & 255}",)) for n in range(1000, 1300)]
    node = a_node(*many)
    gone = after(node, (Kind.SERVICE, Name("shop", "s1007")))
    assert [str(change.key) for change in gone if isinstance(change.key, SetMember)] == [
        "SetMember(kube-router-ipvs-services, 10.96.3.239,tcp:80)",
        "SetMember(kube-router-service-ips, 10.96.3.239)",
    ]
    assert rules_in(gone) == []


# -- repair ---------------------------------------------------------------------------------------------------------------

DAMAGE: tuple[tuple[str, Key, Value | None], ...] = (
    ("chain emptied", ChainKey(4, "filter", "KUBE-ROUTER-SERVICES"), Chain(())),
    ("chain gone", ChainKey(6, "nat", "KUBE-ROUTER-MASQ"), None),
    ("jump gone", JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES"), None),
    ("jump behind others", JumpKey(6, "filter", "INPUT", "KUBE-ROUTER-SERVICES"), Jump("", rank=-1)),
    ("rules that mark gone", JumpKey(4, "mangle", "PREROUTING", "KUBE-ROUTER-CLUSTER-MARKS"), None),
    ("hairpin chain changed", ChainKey(4, "nat", "KUBE-ROUTER-HAIRPIN"), Chain(("-j RETURN",))),
    ("self chain gone", JumpKey(6, "nat", "POSTROUTING", "KUBE-ROUTER-SELF"), None),
    ("source restriction gone", JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SOURCES"), None),
    ("entry gone", SetMember("kube-router-service-ips", BOTH[0].cluster), None),
    ("entry of somebody else", SetMember("kube-router-allowed", "198.51.100.7,tcp:80,10.0.0.0/8"), Member()),
    ("mark changed", SetMember("kube-router-cluster-marks", f"{BOTH[0].node},tcp:30080"), Member(mark=5)),
    ("set without marks", SetKey("kube-router-cluster-marks"), SetSpec("hash:ip,port", 4)),
    ("sysctl changed", SysctlKey("net/ipv4/vs/conntrack"), Sysctl("0")),
    ("link down", LinkKey("kube-dummy-if"), Link("dummy", up=False)),
    ("link gone", LinkKey("kube-dummy-if"), None),
    ("service gone", VirtualServerKey(BOTH[0].cluster, 6, 80), None),
    ("scheduler changed", VirtualServerKey(BOTH[0].node, 6, 30080), VirtualServer("wrr")),
    ("backend gone", DestinationKey(VirtualServerKey(BOTH[0].cluster, 6, 80), BOTH[0].there, 8080), None),
)


def test_a05_whatever_somebody_else_changes_or_removes_is_found_and_mended():
    local = {"external_policy": "Local", "source_ranges": ("192.0.2.0/24",), "annotations": HAIRPIN}
    node = a_node(everywhere_reachable(**local), HERE, THERE)
    whole = dict(node.world.state)
    for what, key, value in DAMAGE:
        assert key in whole or value is not None, what
        if value is None:
            del node.world.state[key]
        else:
            node.world.state[key] = value
        outcome = node.sync(node.cycle.controller.writes)
        assert outcome.good, what
        assert outcome.drifted == 1, f"{what}: counted as drift"
        assert node.world.state == whole, what
        assert node.report.drifts[-1] == key
    assert node.sync(node.cycle.controller.writes).drifted == 0


# -- what the original left ---------------------------------------------------------------------------------------------

OLD_SNAT = (
    '! -s 10.244.1.0/24 ! -d 10.244.1.0/24 -m ipvs --vdir ORIGINAL --vmethod MASQ -m comment --comment "" -j SNAT --to-source 192.0.2.11'
)
LEFT: dict[Key, Value] = {
    SetKey("kube-router-svip"): SetSpec("hash:ip", 4),
    SetMember("kube-router-svip", BOTH[0].cluster): Member(),
    SetKey("inet6:kube-router-svip-prt"): SetSpec("hash:ip,port", 6),
    SetMember("inet6:kube-router-svip-prt", f"{BOTH[1].cluster},tcp:80"): Member(),
    ChainKey(4, "filter", "KUBE-ROUTER-SERVICES"): Chain(("-m set --match-set kube-router-svip dst -j ACCEPT",)),
    JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES"): Jump("-m set --match-set kube-router-svip dst", rank=-1),
    ChainKey(4, "nat", "KUBE-ROUTER-HAIRPIN"): Chain(()),
    JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-HAIRPIN"): Jump("-m ipvs --vdir ORIGINAL", rank=-1),
    LeftoverKey(4, "nat", "POSTROUTING", OLD_SNAT, PROXY): Leftover(2),
    LeftoverKey(4, "mangle", "PREROUTING", "-d 203.0.113.11/32 ... -j MARK", PROXY): Leftover(),
}
OF_ROUTING = LeftoverKey(4, "filter", "FORWARD", "-i kube-bridge ... -j ACCEPT", ROUTING)


def test_rules_of_the_original_go_once_ours_stand_and_those_of_another_part_are_left_to_it():
    world = World({**LEFT, OF_ROUTING: Leftover()})
    node = LabNode(lambda: ProxyController(OPTIONS, kernel=(6, 1)), world)
    for value in (NODE1, NODE2, *LINKS, service(), HERE):
        node.feed(value)
    node.settle()
    gone = [n for n, change in enumerate(world.writes) if isinstance(change.key, LeftoverKey)]
    masquerades = [n for n, change in enumerate(world.writes) if change.key == JumpKey(4, "nat", "POSTROUTING", "KUBE-ROUTER-MASQ")]
    assert len(gone) == 2
    assert min(gone) > max(masquerades)
    assert [key for key in world.state if isinstance(key, LeftoverKey)] == [OF_ROUTING]
    assert not [key for key in world.state if "svip" in str(key) or "HAIRPIN" in str(key)]
    never_away = [c for c in world.writes if c.key == JumpKey(4, "filter", "INPUT", "KUBE-ROUTER-SERVICES") and c.after is None]
    assert never_away == [], "the chain that lets Services in is changed in place"


@pytest.mark.parametrize(
    ("what", "keys"),
    [
        (
            "c01: masquerade rules, however many",
            [LeftoverKey(4, "nat", "POSTROUTING", OLD_SNAT.replace("1.0", f"{n}.0"), PROXY) for n in range(3)],
        ),
        ("c02: sets that it was filling", [SetKey("TMP-PRBJ7ASFQM5DJR3Q"), SetKey("TMP-54ALMNP65S4KA7CE")]),
        (
            "c02: sets of IPv6",
            [SetKey("inet6:kube-router-svip"), SetKey("inet6:kube-router-local-ips"), SetKey("inet6:kube-router-svip-prt")],
        ),
        (
            "c03: rules that mark",
            [LeftoverKey(f, "mangle", hook, "... -j MARK", PROXY) for f in (4, 6) for hook in ("PREROUTING", "OUTPUT")],
        ),
        ("c03: rules that clamp", [LeftoverKey(4, "mangle", "PREROUTING", "... -j TCPMSS", PROXY)]),
        ("c04: what pods are forwarded by", [OF_ROUTING]),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_c01_c02_c03_c04_a_cleanup_leaves_none_of(what: str, keys: list[Key]):
    values: dict[type[Key], Value] = {LeftoverKey: Leftover(), SetKey: SetSpec("hash:ip", 6)}
    foreign: dict[Key, Value] = {SetKey("theirs"): SetSpec("hash:ip", 4)}
    world = World({**{key: values[type(key)] for key in keys}, **foreign})
    for controller in (ProxyController, RoutingController):
        LabNode(lambda c=controller: absent(c), world).settle()
    assert world.state == foreign, what


def absent(controller: type[ProxyController] | type[RoutingController]) -> Controller:
    return Absent(controller.name, controller.writes)


def test_c05_a_cleanup_leaves_none_of_our_own_rules_and_sets():
    local = {"external_policy": "Local", "source_ranges": ("192.0.2.0/24",), "annotations": HAIRPIN}
    node = a_node(everywhere_reachable(**local), HERE, THERE)
    assert {key.name for key in node.world.state if isinstance(key, ChainKey)} >= {*FILTERED, "KUBE-ROUTER-SELF", "KUBE-ROUTER-MASQ"}
    LabNode(lambda: absent(ProxyController), node.world).settle()
    assert [key for key in node.world.state if not isinstance(key, SysctlKey)] == []


def test_a_service_is_served_where_the_kernel_lacks_what_hairpin_rules_need():
    world = World()
    missing = "the kernel has no set type hash:net,net (module ip_set_hash_netnet)"
    world.refuses = lambda change: missing if "hairpin" in str(change.key) else None
    plain, asking = World(), service(annotations=HAIRPIN)
    for state, one in ((plain, service()), (world, asking)):
        node = LabNode(lambda: ProxyController(OPTIONS, kernel=(6, 1)), state)
        for value in (NODE1, NODE2, *LINKS, one, HERE):
            node.feed(value)
        outcome = node.sync()
    assert outcome.refused, "it is told"
    assert world.state == plain.state
