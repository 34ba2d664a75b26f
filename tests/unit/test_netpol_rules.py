"""Rules, sets and members, one by one."""

from __future__ import annotations

import pytest

from kube_router.cache.policies import NamedPort, PolicyClass, Use
from kube_router.control.netpol import NetpolController, PodItem, UseItem
from kube_router.desired.netpol import names
from kube_router.desired.netpol.blocks import PeerMatch, block_matches
from kube_router.desired.netpol.ports import port_matches
from kube_router.model.objects import ContainerPort, IPBlock, Name, Namespace, Object, Pod, PolicyPort
from kube_router.model.state import State
from kube_router.model.state.netfilter import Chain, ChainKey, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.walk.paths import cache_of, node_options, wanted
from tests.walk.words import ALL, blocks, in_ns, label, pods, policy, rule, tcp

DEFAULTS = node_options("n1")


def pod(name: str, *ips: str, node: str = "n1", ns: str = "x", **fields: object) -> Pod:
    return Pod(Name(ns, name), labels={"app": name.partition("-")[0]}, node_name=node, ips=ips, **fields)


def state_of(*objects: Object, **overrides: object) -> State:
    return wanted(list(objects), node_options("n1", **overrides))


def members(state: State, prefix: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key in state:
        if isinstance(key, SetMember) and key.set.startswith(prefix):
            found.setdefault(key.set, set()).add(key.entry)
    return found


def chains(state: State, prefix: str, family: int = 4) -> dict[str, tuple[str, ...]]:
    return {
        key.name: value.rules
        for key, value in state.items()
        if isinstance(key, ChainKey) and isinstance(value, Chain) and key.family == family and key.name.startswith(prefix)
    }


FIXED = {"KUBE-NWPLCY-COMMON", "KUBE-NWPLCY-EGRESS", "KUBE-NWPLCY-INGRESS"}
WEB = label(app="web")


# -- what exists ----------------------------------------------------------------------------------------------------------


def test_policies_that_select_no_local_pod_leave_nothing():
    elsewhere = [pod("web-1", "10.0.0.1", node="n2"), policy(WEB, ingress=(rule(pods(label(app="db"))),))]
    assert state_of(*elsewhere, Namespace(Name("", "x"))) == state_of()


def test_rules_grow_with_classes_and_not_with_pods():
    policies = [policy(WEB, ingress=ALL), policy(name="q", ingress=())]
    few = state_of(*policies, pod("web-1", "10.0.0.1"), pod("db-1", "10.0.0.2"))
    many = state_of(
        *policies, *(pod(f"web-{n}", f"10.0.1.{n}") for n in range(1, 100)), *(pod(f"db-{n}", f"10.0.2.{n}") for n in range(1, 100))
    )
    assert chains(few, "") == chains(many, "")
    assert {key for key in few if isinstance(key, SetKey)} == {key for key in many if isinstance(key, SetKey)}


def test_pods_that_no_policy_selects_are_in_no_set():
    assert not members(state_of(policy(WEB, ingress=()), pod("db-1", "10.0.0.1", "fd00::1")), "")


def test_a_pod_costs_one_member_per_set_that_it_belongs_to():
    state = state_of(policy(WEB, ingress=(), egress=()), pod("web-1", "10.0.0.1"))
    assert sorted(members(state, "")) == sorted(
        [
            "KUBE-POD-EGRESS",
            "KUBE-POD-INGRESS",
            "KUBE-POD-SELF",
            names.class_set(PolicyClass("egress", (Name("x", "p"),)), 4),
            names.class_set(PolicyClass("ingress", (Name("x", "p"),)), 4),
        ]
    )


def test_policies_whose_peers_say_the_same_share_a_set_across_names_and_ports():
    db = label(app="db")
    state = state_of(
        pod("web-1", "10.0.0.1"),
        pod("db-1", "10.0.0.2"),
        policy(WEB, name="one", ingress=(rule(pods(db), ports=(tcp(80),)),)),
        policy(WEB, name="two", ingress=(rule(pods(db), ports=(tcp(81),)),)),
        policy(WEB, name="three", ingress=(rule(pods(db), pods(label(app="none"))),)),
    )
    assert list(members(state, "KUBE-SRC-").values()) == [{"10.0.0.2"}]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (policy(WEB, ns="x", name="yz", ingress=ALL), policy(WEB, ns="xy", name="z", ingress=ALL)),
        (policy(WEB, name="p", ingress=ALL), policy(WEB, name="p", egress=ALL)),
    ],
)
def test_names_that_read_alike_are_not_alike(first, second):
    uses = [Use("ingress" if one.ingress is not None else "egress", one.name) for one in (first, second)]
    assert names.policy_chain(uses[0]) != names.policy_chain(uses[1])


@pytest.mark.parametrize("family", [4, 6])
def test_no_name_is_longer_than_the_kernel_takes(family):
    state = state_of(
        pod("web-1", "10.0.0.1", "fd00::1", ports=(ContainerPort("http", "TCP", 80),)),
        policy(WEB, ingress=(rule(pods(WEB), *blocks("10.0.0.0/8 10.1.0.0/16", "::/0 fd00::/8"), ports=(tcp("http"),)),), egress=ALL),
    )
    assert {len(key.name) for key in state if isinstance(key, ChainKey)} <= set(range(29))
    assert {len(key.name) for key in state if isinstance(key, SetKey)} <= set(range(32))


def test_comments_lead_with_the_policy_and_keep_to_120_bytes():
    long = policy(WEB, ns="n" * 63, name="p" * 253, ingress=(rule(ports=(tcp(80),)),))
    state = state_of(pod("web-1", "10.0.0.1", ns="n" * 63), long)
    lines = [line for name, lines in chains(state, "KUBE-").items() if name not in FIXED for line in lines]
    texts = [line.split('"')[1] for line in lines if f'"{"n" * 63}/ppp' in line]
    assert len(texts) == 4  # the rule, the jump to it, the log and the refusal
    assert all(len(text.encode()) == 120 for text in texts)


def test_jumps_stand_first_and_are_the_originals():
    jumps = {key.builtin: value for key, value in state_of().items() if isinstance(key, JumpKey) and key.family == 4}
    assert sorted(jumps) == ["FORWARD", "INPUT", "OUTPUT"]
    assert all(jump.first and jump.rank == 0 and "kube-router netpol - " in jump.match for jump in jumps.values())


def test_no_rule_reads_or_writes_a_mark():
    state = state_of(pod("web-1", "10.0.0.1"), policy(WEB, ingress=(rule(pods(WEB)),), egress=(rule(pods(WEB)),)))
    assert not [line for lines in chains(state, "").values() for line in lines if "mark" in line.lower()]


# -- blocks ---------------------------------------------------------------------------------------------------------------


def entries(state: State) -> dict[str, bool]:
    return {key.entry: value.nomatch for key, value in state.items() if isinstance(key, SetMember) and isinstance(value, Member)}


@pytest.mark.parametrize(
    ("block", "family", "expected"),
    [
        (IPBlock("10.0.0.0/8", ("10.1.0.0/16", "10.2.3.4/32")), 4, {"10.0.0.0/8": False, "10.1.0.0/16": True, "10.2.3.4": True}),
        (IPBlock("0.0.0.0/0", ("10.0.0.0/8",)), 4, {"0.0.0.0/1": False, "128.0.0.0/1": False, "10.0.0.0/8": True}),
        (IPBlock("0.0.0.0/0", ("128.0.0.0/1",)), 4, {"0.0.0.0/1": False, "128.0.0.0/1": True}),
        (IPBlock("::/0", ("fc00::/7",)), 6, {"::/1": False, "8000::/1": False, "fc00::/7": True}),
        (IPBlock("fd00::/8", ("fd00::1/128",)), 6, {"fd00::/8": False, "fd00::1": True}),
        (IPBlock("10.0.0.0/8", ("10.1.0.0/16", "11.0.0.0/8")), 4, {"10.0.0.0/8": False, "10.1.0.0/16": True}),
    ],
)
def test_a_block_with_exceptions_has_a_set_of_its_own(block, family, expected):
    matches, state = block_matches([block], "ingress", family)
    assert entries(state) == expected
    assert [spec for spec in state.values() if isinstance(spec, SetSpec)] == [SetSpec("hash:net", family)]
    (name,) = (key.name for key in state if isinstance(key, SetKey))
    assert matches == [PeerMatch("cidr", f"-m set --match-set {name} src")]


@pytest.mark.parametrize(
    ("block", "family"),
    [
        (IPBlock("10.0.0.0/8", ("10.0.0.0/8",)), 4),
        (IPBlock("10.0.0.0/8", ("0.0.0.0/0",)), 4),
        (IPBlock("10.0.0.0/8"), 6),
        (IPBlock("::/0"), 4),
        (IPBlock("fd00::/8", ("fd00::/8",)), 6),
    ],
)
def test_of_some_blocks_nothing_is_left(block, family):
    assert block_matches([block], "egress", family) == ([], {})


@pytest.mark.parametrize(
    ("cidrs", "family", "matches"),
    [
        (["10.0.0.0/8"], 4, [PeerMatch("cidr", cidr="10.0.0.0/8")]),
        (["0.0.0.0/0"], 4, [PeerMatch("cidr")]),
        (["::/0", "fd00::/8"], 6, [PeerMatch("cidr")]),
        (["10.0.0.0/8", "10.0.0.0/8", "fd00::/8"], 4, [PeerMatch("cidr", cidr="10.0.0.0/8")]),
    ],
)
def test_plain_blocks_need_no_set_where_one_rule_can_say_it(cidrs, family, matches):
    assert block_matches([IPBlock(cidr) for cidr in cidrs], "egress", family) == (matches, {})


def test_many_plain_blocks_are_one_set_in_any_order_and_blocks_with_exceptions_stay_apart():
    plain = [IPBlock("10.0.0.0/8"), IPBlock("10.1.0.0/16"), IPBlock("192.0.2.1/32")]
    apart = IPBlock("10.0.0.0/8", ("10.1.0.0/16",))
    matches, state = block_matches([*plain, apart], "egress", 4)
    assert len(matches) == 2
    assert block_matches([apart, *reversed(plain)], "egress", 4) == (matches, state)
    sets = {key.set: set() for key in state if isinstance(key, SetMember)}
    for key in state:
        if isinstance(key, SetMember):
            sets[key.set].add(key.entry)
    assert sorted(map(sorted, sets.values())) == [["10.0.0.0/8", "10.1.0.0/16"], ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"]]


# -- ports ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ((), [("", "")]),
        ((tcp(80),), [("TCP", "-m tcp --dport 80")]),
        ((tcp(80, 90),), [("TCP", "-m tcp --dport 80:90")]),
        ((tcp(80, 79),), [("TCP", "-m tcp --dport 80")]),
        ((tcp(1, 65535),), [("TCP", "-m tcp --dport 1:65535")]),
        ((tcp(None), tcp(80)), [("TCP", "")]),
        ((tcp(81), tcp(80), tcp(80)), [("TCP", "-m tcp --dport 80:81")]),
        ((tcp(443), tcp(80), tcp(8000, 8010)), [("TCP", "-m multiport --dports 80,443,8000:8010")]),
        ((PolicyPort("SCTP", 80),), [("SCTP", "-m multiport --dports 80")]),
        ((PolicyPort("UDP", 53), tcp(53)), [("TCP", "-m tcp --dport 53"), ("UDP", "-m udp --dport 53")]),
        (
            tuple(tcp(port) for port in range(2, 34, 2)),
            [("TCP", "-m multiport --dports " + ",".join(map(str, range(2, 32, 2)))), ("TCP", "-m multiport --dports 32")],
        ),
        (
            tuple(tcp(port, port + 1) for port in range(10, 90, 10)),
            [("TCP", "-m multiport --dports 10:11,20:21,30:31,40:41,50:51,60:61,70:71"), ("TCP", "-m multiport --dports 80:81")],
        ),
    ],
)
def test_ports_become_as_few_matches_as_possible(ports, expected):
    assert port_matches(ports, "ingress", 4) == expected


@pytest.mark.parametrize(("family", "prefix"), [(4, ""), (6, "inet6:")])
def test_a_port_name_is_a_set_of_addresses_and_ports(family, prefix):
    name = names.port_set(NamedPort("egress", "TCP", "http"), family)
    assert name.startswith(f"{prefix}KUBE-DST-")
    assert port_matches((tcp("http"),), "egress", family) == [("", f"-m set --match-set {name} dst,dst")]


def test_for_ingress_only_this_nodes_pods_say_what_a_port_name_means():
    http = (ContainerPort("http", "TCP", 8080),)
    pair = (pod("web-1", "10.0.0.1", ports=http), pod("web-2", "10.0.0.2", node="n2", ports=http))
    for direction, expected in (("ingress", {"10.0.0.1,tcp:8080"}), ("egress", {"10.0.0.1,tcp:8080", "10.0.0.2,tcp:8080"})):
        state = state_of(*pair, policy(WEB, **{direction: (rule(ports=(tcp("http"),)),)}))
        assert members(state, "KUBE-DST-") == {names.port_set(NamedPort(direction, "TCP", "http"), 4): expected}


# -- what people are told -------------------------------------------------------------------------------------------------


def notes(item: object, *objects: Object) -> list[tuple[str, str, str]]:
    cache = cache_of(list(objects))
    controller = NetpolController(DEFAULTS)
    items = controller.touched(cache.feed(controller.reads).take(), cache.view)
    assert item in items
    return [(str(note.about), note.reason, note.message) for note in controller.want(item, cache.view).notes]


@pytest.mark.parametrize(
    ("ports", "told"),
    [
        ((), True),
        ((ContainerPort("http", "UDP", 80),), True),
        ((ContainerPort("http", "TCP", 80),), False),
    ],
)
def test_a_port_name_that_nobody_bears_is_told(ports, told):
    objects = (pod("web-1", "10.0.0.1", ports=ports), policy(WEB, ingress=(rule(ports=(tcp("http"),)),)))
    found = notes(UseItem(Use("ingress", Name("x", "p"))), *objects)
    assert [(about, reason) for about, reason, _ in found] == [("NetworkPolicy x/p", "UnresolvedPortName")] * told
    assert all("TCP port 'http'" in message for _, _, message in found)


def test_two_pods_with_one_address_are_told_of_each_other():
    objects = (pod("web-1", "10.0.0.1"), pod("web-2", "10.0.0.1"))
    ((about, reason, message),) = notes(PodItem(Name("x", "web-1")), *objects)
    assert (about, reason) == ("Pod x/web-1", "AddressConflict")
    assert "x/web-2" in message
    assert not notes(PodItem(Name("x", "web-1")), objects[0], pod("web-2", "10.0.0.1", phase="Succeeded"))


def test_an_address_of_two_pods_is_a_peer_only_where_both_are():
    into_web = policy(WEB, ingress=(rule(pods(label(app="a"))), rule(in_ns(label(ns="x"), label(app="a"))), rule(pods(label()))))
    target, a, b = pod("web-1", "10.0.0.9"), pod("a-1", "10.0.0.1"), pod("b-1", "10.0.0.1")
    alone = members(state_of(target, a, into_web, Namespace(Name("", "x"), {"ns": "x"})), "KUBE-SRC-")
    both = members(state_of(target, a, b, into_web, Namespace(Name("", "x"), {"ns": "x"})), "KUBE-SRC-")
    assert sorted(map(sorted, alone.values())) == [["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1", "10.0.0.9"]]
    assert sorted(map(sorted, both.values())) == [["10.0.0.1", "10.0.0.9"]]
