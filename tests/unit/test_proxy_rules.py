"""Rules and set entries of Services beside those that let them in: sources, hairpin, clients inside the cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_router.config.options import Options
from kube_router.control.proxy import ProxyController
from kube_router.desired.proxy.marks import CLUSTER
from kube_router.kit.net import Family
from kube_router.model.objects import Name, Object, ServicePort
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import DestinationKey, VirtualServerKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.proxy_services import BOTH, IPV4, IPV6, OPTIONS, entries, everywhere_reachable, on, piece, service, view_of, wants

HAIRPIN = {"kube-router.io/service.hairpin": ""}
OUTSIDE = {**HAIRPIN, "kube-router.io/service.hairpin.externalips": ""}
HERE = piece(*(on("node1", one.here) for one in BOTH), name="here")
THERE = piece(*(on("node2", one.there) for one in BOTH), name="there")
SAFE_PORTS = (ServicePort("http", "TCP", 80, 30080), ServicePort("http", "UDP", 80, 30080))


def node_state(*objects: Object, options: Options = OPTIONS) -> dict[Key, Value]:
    """All that node1 wants."""
    cache, controller = view_of(*objects), ProxyController(options, kernel=(6, 1))
    state: dict[Key, Value] = {}
    for item in controller.touched(cache.feed(controller.reads).take(), cache.view):
        state |= controller.want(item, cache.view).state
    return state


def chain(state: dict[Key, Value], name: str, family: Family = 4, table: str = "nat") -> tuple[str, ...] | None:
    value = state.get(ChainKey(family, table, name))
    return value.rules if isinstance(value, Chain) else None


def hairpin_vips(state: dict[Key, Value]) -> set[tuple[str, str]]:
    found = set()
    for family, prefix in ((4, ""), (6, "inet6:")):
        for rule in chain(state, "KUBE-ROUTER-HAIRPIN", family) or ():
            words = rule.split()
            address, port = words[words.index("--vaddr") + 1], words[words.index("--vport") + 1]
            assert rule == (
                f"-m set --match-set {prefix}kube-router-hairpin src,dst -m ipvs --vaddr {address} --vport {port} "
                f"-j SNAT --to-source {address} --random-fully"
            )
            found.add((address, port))
    return found


# -- sources --------------------------------------------------------------------------------------------------------------

RANGES = ("192.0.2.0/24", "10.244.0.0/16", "198.51.100.9/32", "2001:db8:9::/64")


def test_source_ranges_hold_for_the_load_balancer_and_nothing_else():
    state = wants(everywhere_reachable(source_ranges=RANGES), THERE).state
    assert entries(state, "kube-router-guarded") == {f"{one.balanced},tcp:80" for one in BOTH}
    assert entries(state, "kube-router-allowed") == {
        *(f"{IPV4.balanced},tcp:80,{source}" for source in ("192.0.2.0/24", "10.244.0.0/16", "198.51.100.9")),
        f"{IPV6.balanced},tcp:80,2001:db8:9::/64",
    }
    assert state[SetKey("kube-router-guarded")] == SetSpec("hash:ip,port", 4)
    assert state[SetKey("inet6:kube-router-allowed")] == SetSpec("hash:ip,port,net", 6)


def test_the_rules_that_restrict_are_the_same_for_all_and_come_before_whatever_accepts():
    one = node_state(everywhere_reachable(source_ranges=RANGES), THERE)
    assert chain(one, "KUBE-ROUTER-SOURCES", 4, "filter") == (
        '-m comment --comment "sources that the Service names" -m set --match-set kube-router-allowed dst,dst,src -j RETURN',
        '-m comment --comment "all other sources of a restricted load balancer" -j DROP',
    )
    ranks = {key.chain: value.rank for key, value in one.items() if isinstance(key, JumpKey) and isinstance(value, Jump) and value.first}
    assert ranks["KUBE-ROUTER-SOURCES"] < 0 < ranks["KUBE-ROUTER-SERVICES"], "policies' jump has rank 0"


@pytest.mark.parametrize("ranges", [(), ("0.0.0.0/0", "::/0")])
def test_everybody_is_nobody_excluded(ranges):
    state = wants(everywhere_reachable(source_ranges=ranges), THERE).state
    allowed = {entry.rpartition(",")[2] for entry in entries(state, "kube-router-allowed")}
    assert allowed == ({"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"} if ranges else set())
    assert (SetKey("kube-router-guarded") in state) == bool(ranges)


def test_a_family_of_which_no_range_is_named_lets_nobody_in():
    state = wants(everywhere_reachable(source_ranges=("192.0.2.0/24",)), THERE).state
    assert f"{IPV6.balanced},tcp:80" in entries(state, "kube-router-guarded")
    assert not [entry for entry in entries(state, "kube-router-allowed") if entry.startswith(IPV6.balanced)]


# -- hairpin --------------------------------------------------------------------------------------------------------------


def test_b21_whose_client_is_the_vip_is_a_matter_of_annotations_and_lb_ips_are_among_them():
    inside = {*((one.cluster, "80") for one in BOTH), *((one.node, "30080") for one in BOTH)}
    outside = {*((one.external, "80") for one in BOTH), *((one.balanced, "80") for one in BOTH)}
    assert hairpin_vips(node_state(everywhere_reachable(), HERE)) == set()
    assert hairpin_vips(node_state(everywhere_reachable(annotations=HAIRPIN), HERE)) == inside
    assert hairpin_vips(node_state(everywhere_reachable(annotations=OUTSIDE), HERE)) == inside | outside
    flag = replace(OPTIONS, hairpin_mode=True)
    assert hairpin_vips(node_state(everywhere_reachable(), HERE, options=flag)) == inside
    assert hairpin_vips(node_state(everywhere_reachable(annotations={"kube-router.io/service.hairpin.externalips": ""}), HERE)) == set()


def test_a_vip_and_port_has_one_rule_whatever_its_protocols_and_backends():
    many = piece(*(on("node1", f"10.244.1.{n}") for n in range(2, 52)), name="here")
    state = node_state(service(ports=SAFE_PORTS, annotations=HAIRPIN, facts=(IPV4,)), many)
    assert len(chain(state, "KUBE-ROUTER-HAIRPIN") or ()) == 2
    assert entries(state, "kube-router-hairpin") == {f"10.244.1.{n},10.244.1.{n}" for n in range(2, 52)}
    assert state[SetKey("kube-router-hairpin")] == SetSpec("hash:net,net", 4)


def test_b21_a_family_without_backends_here_has_no_chain_and_the_other_has():
    state = node_state(service(annotations=HAIRPIN), piece(on("node1", IPV4.here), on("node2", IPV6.there)))
    assert hairpin_vips(state) == {(IPV4.cluster, "80")}
    assert chain(state, "KUBE-ROUTER-HAIRPIN", 6) is None
    assert SetKey("inet6:kube-router-hairpin") not in state


def test_services_without_backends_here_have_no_rules():
    others = [service(Name("shop", f"s{n}"), cluster_ips=(f"10.96.1.{n}",), annotations=HAIRPIN) for n in range(9)]
    slices = [piece(on("node2", IPV4.there), of=one.name) for one in others]
    assert hairpin_vips(node_state(*others, *slices)) == set()


def test_a_pod_that_reaches_itself_gets_the_nodes_address_without_a_set_or_a_flag():
    state = node_state()
    assert chain(state, "KUBE-ROUTER-SELF") == (
        '-m comment --comment "a pod that reaches itself through a Service sees the node as client" '
        f"-j SNAT --to-source {IPV4.node} --random-fully",
    )
    jumps = {
        key.chain: value for key, value in state.items() if isinstance(key, JumpKey) and (key.family, key.builtin) == (6, "POSTROUTING")
    }
    assert jumps["KUBE-ROUTER-SELF"].match == (
        '-m ipvs --vdir ORIGINAL --vmethod MASQ -m bpf --bytecode "18,32 0 0 24,7 0 0 0,32 0 0 8,29 0 13 0,32 0 0 28,7 0 0 0,32 0 0 12,'
        '29 0 9 0,32 0 0 32,7 0 0 0,32 0 0 16,29 0 5 0,32 0 0 36,7 0 0 0,32 0 0 20,29 0 1 0,6 0 0 65535,6 0 0 0"'
    )
    assert jumps["KUBE-ROUTER-SELF"].rank < jumps["KUBE-ROUTER-MASQ"].rank
    assert not [key for key in state if isinstance(key, SetKey) and "hairpin" in key.name]
    hairpin = node_state(service(annotations=HAIRPIN), HERE)
    ranks = {key.chain: value.rank for key, value in hairpin.items() if isinstance(key, JumpKey) and key.builtin == "POSTROUTING"}
    assert ranks["KUBE-ROUTER-HAIRPIN"] < ranks["KUBE-ROUTER-SELF"]


# -- clients inside the cluster -----------------------------------------------------------------------------------------


def inside(state: dict[Key, Value]) -> dict[str, set[str]]:
    """Entry of the cluster's marks -> backends of the service by that mark."""
    marks = {
        key.entry: value.mark for key, value in state.items() if isinstance(key, SetMember) and isinstance(value, Member) and value.mark
    }
    assert len(set(marks.values())) == len(marks)
    assert all(mark & CLUSTER for mark in marks.values())
    found: dict[str, set[str]] = {entry: set() for entry in marks}
    for key in state:
        if isinstance(key, DestinationKey) and key.server.mark:
            found[next(entry for entry, mark in marks.items() if mark == key.server.mark)].add(key.address)
    return found


@pytest.mark.parametrize("slices", [(HERE, THERE), (THERE,), (HERE,), ()], ids=["here and there", "none here", "all here", "none at all"])
def test_under_policy_local_clients_inside_the_cluster_have_all_endpoints(slices):
    state = wants(everywhere_reachable(external_policy="Local", internal_policy="Local"), *slices).state
    vips = {(at, port, one) for one in BOTH for at, port in ((one.external, 80), (one.balanced, 80), (one.node, 30080))}
    everyone = {one: {*([one.there] if THERE in slices else []), *([one.here] if HERE in slices else [])} for one in BOTH}
    assert inside(state) == {f"{at},tcp:{port}": everyone[one] for at, port, one in vips}
    assert ChainKey(6, "mangle", "KUBE-ROUTER-CLUSTER-MARKS") in state
    for at, port, one in vips:
        outside = {key.address for key in state if isinstance(key, DestinationKey) and (key.server.address, key.server.port) == (at, port)}
        assert outside == ({one.here} if HERE in slices else set()), "clients outside have this node's"


def test_policy_cluster_needs_no_mark():
    state = wants(everywhere_reachable(), HERE, THERE).state
    assert not [key for key in state if isinstance(key, VirtualServerKey) and key.mark]
    assert SetKey("kube-router-cluster-marks") not in state


def test_rules_that_mark_know_pods_of_all_nodes_and_this_node_itself():
    local = everywhere_reachable(external_policy="Local")
    state = node_state(local, THERE)
    assert chain(state, "KUBE-ROUTER-CLUSTER-MARKS", 4, "mangle") == (
        '-m comment --comment "pods of this cluster are served by all endpoints" -m set --match-set kube-router-cluster-pods src '
        "-j SET --map-set kube-router-cluster-marks dst,dst --map-mark",
        '-m comment --comment "so is this node" -m addrtype --src-type LOCAL -j SET --map-set kube-router-cluster-marks dst,dst --map-mark',
    )
    assert {key.builtin for key in state if isinstance(key, JumpKey) and key.family == 4 and key.table == "mangle"} == {
        "PREROUTING",
        "OUTPUT",
    }
    assert entries(state, "kube-router-cluster-pods") == {*(one.pods_here for one in BOTH), *(one.pods_there for one in BOTH)}
    assert state[SetKey("kube-router-cluster-marks")] == SetSpec("hash:ip,port", 4, skbinfo=True)
    without = node_state(everywhere_reachable(), THERE)
    assert not [key for key in without if isinstance(key, SetKey) and "cluster" in key.name], "no set that nobody needs"


def test_b10_the_proxy_knows_pods_without_routing_of_ours():
    alone = replace(OPTIONS, run_router=False)
    assert node_state(everywhere_reachable(external_policy="Local"), THERE, options=alone) == node_state(
        everywhere_reachable(external_policy="Local"), THERE
    )


def test_a_plain_service_wants_nothing_of_all_this():
    state = wants(service(), HERE, THERE).state
    assert {type(key) for key in state if isinstance(key, ChainKey | JumpKey | SetKey)} == set()
    assert {key.set.removeprefix("inet6:") for key in state if isinstance(key, SetMember)} == {
        "kube-router-ipvs-services",
        "kube-router-service-ips",
    }
