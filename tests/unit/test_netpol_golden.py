"""The whole of a small node's rules and sets, to be read by a person."""

from __future__ import annotations

import pytest

from kube_router.codec import sets
from kube_router.config.options import Options, defaults
from kube_router.model.objects import ContainerPort, Name, Namespace, Object, Pod, PolicyPort
from kube_router.model.state import State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.walk.paths import wanted
from tests.walk.words import ALL, blocks, in_ns, label, pods, policy, rule, tcp


def pod(name: str, *ips: str, node: str = "node1", **fields: object) -> Pod:
    return Pod(Name("shop", name), labels={"app": name.partition("-")[0]}, node_name=node, ips=ips, **fields)


OBJECTS: list[Object] = [
    Namespace(Name("", "shop"), {"team": "shop"}),
    Namespace(Name("", "ops"), {"team": "ops"}),
    pod("web-1", "10.233.64.5", "fd00:64::5", ports=(ContainerPort("http", "TCP", 8080),)),
    pod("web-2", "10.233.64.6", "fd00:64::6", ports=(ContainerPort("http", "TCP", 8081),)),
    pod("db-1", "10.233.64.7", "fd00:64::7"),
    pod("cart-1", "10.233.66.4", "fd00:66::4", node="node2"),
    Pod(Name("ops", "probe"), labels={"app": "probe"}, node_name="node2", ips=("10.233.66.9",)),
    policy(ns="shop", name="deny-all", ingress=(), egress=()),
    policy(
        label(app="web"),
        ns="shop",
        name="web-in",
        ingress=(
            rule(pods(label(app="cart")), in_ns(label(team="ops")), ports=(tcp("http"), tcp(80), tcp(8000, 8010), PolicyPort("UDP"))),
            rule(*blocks("198.51.100.0/24", "0.0.0.0/0 10.0.0.0/8 192.168.1.1/32", "::/0 fd00::/8"), ports=(PolicyPort("SCTP", 5000),)),
        ),
    ),
    policy(
        label(app="db"),
        ns="shop",
        name="db-both",
        ingress=(rule(pods(label(app="web")), ports=(tcp(5432),)),),
        egress=(rule(*blocks("203.0.113.0/25", "203.0.113.200/32", "2001:db8::/32")), rule(pods(label(app="cart")))),
    ),
    policy(label(app="cart"), ns="shop", name="elsewhere", ingress=ALL),
]


def text_of(state: State, family: int) -> str:
    """What `ipset save` and `iptables-save` would print."""
    lines: list[str] = []
    specs = {key.name: value for key, value in state.items() if isinstance(key, SetKey)}
    for name, spec in sorted(specs.items()):
        if isinstance(spec, SetSpec) and spec.family == family:
            lines.append(sets.create_line(name, spec))
            members = {key.entry: value for key, value in state.items() if isinstance(key, SetMember) and key.set == name}
            lines += [sets.add_line(name, entry, value) for entry, value in sorted(members.items()) if isinstance(value, Member)]
    lines.append("*filter")
    for key, value in state.items():
        if isinstance(key, JumpKey) and isinstance(value, Jump) and key.family == family:
            lines.append(f"-I {key.builtin} {value.match} -j {key.chain}")
    chains = {key.name: value for key, value in state.items() if isinstance(key, ChainKey) and key.family == family}
    for name, chain in sorted(chains.items()):
        assert isinstance(chain, Chain)
        lines += [f":{name}", *(f"-A {name} {text}" for text in chain.rules)]
    return "\n".join(lines) + "\n"


def options(**overrides: object) -> Options:
    ranges = ("10.233.0.0/18", "fd00:233::/112")
    return defaults(node_name="node1", enable_ipv6=True, service_cluster_ip_range=ranges, **overrides)


@pytest.mark.parametrize("family", [4, 6])
def test_the_rules_of_a_small_node(golden, family):
    golden(f"netpol/node-ipv{family}.txt", text_of(wanted(OBJECTS, options()), family))


@pytest.mark.parametrize("family", [4, 6])
def test_the_rules_of_a_node_that_runs_policy_alone_and_has_no_policies(golden, family):
    state = wanted([], options(run_router=False, run_service_proxy=False))
    golden(f"netpol/alone-ipv{family}.txt", text_of(state, family))
