"""The fixed part: the chains that built-in chains jump to, and what every isolated pod's packets pass first."""

from __future__ import annotations

from typing import Final

import msgspec

from kube_router.codec import rules
from kube_router.desired import NOTHING, Desired
from kube_router.desired.netpol import names
from kube_router.kit.net import Family, family_of
from kube_router.model.names import FORWARD_CHAIN, INPUT_CHAIN, IPVS_SERVICES, LOCAL_PODS, OUTPUT_CHAIN, set_name
from kube_router.model.state import State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, SetKey, SetSpec

# The comments by which the original knows its jumps (its pkg/controllers/netpol): an identical jump needs no rewriting when one
# takes over from the other.
_JUMPS: Final = {
    INPUT_CHAIN: ("INPUT", "kube-router netpol - 4IA2OSFRMVNDXBVV"),
    FORWARD_CHAIN: ("FORWARD", "kube-router netpol - TEMCG2JMHZYE7H7T"),
    OUTPUT_CHAIN: ("OUTPUT", "kube-router netpol - VEAAIY32XVBHCSCY"),
}

# Errors and probes that always pass: RFC 1122 3.2.2 and RFC 4890 4.3, neighbour discovery RFC 4861.
_ICMP: Final[dict[Family, tuple[str, ...]]] = {
    4: ("echo-request", "echo-reply", "destination-unreachable", "time-exceeded", "parameter-problem"),
    6: (
        "echo-request",
        "echo-reply",
        "destination-unreachable",
        "packet-too-big",
        "time-exceeded",
        "parameter-problem",
        "neighbor-solicitation",
        "neighbor-advertisement",
    ),
}


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What the fixed part depends on: families, the ranges of Services, and which of our other functions run on this node."""

    families: tuple[Family, ...]
    service_ranges: tuple[str, ...]  # cluster, external and load-balancer ranges
    node_ports: tuple[int, int]  # first and last
    proxied: bool  # our own service proxy runs: its set tells which addresses and ports are IPVS services
    routed: bool  # our own routing runs: it accepts forwarded traffic of pods that no policy isolates


def base_state(around: Surroundings) -> Desired:
    """Fixed chains, sets and jumps of all families."""
    state: State = {}
    for family in around.families:
        for name in names.ISOLATED.values():
            state[SetKey(set_name(name, family))] = SetSpec("hash:ip", family)
        if around.proxied:
            # Our rules name the proxy's set, which the proxy may not have made yet.
            state[SetKey(set_name(IPVS_SERVICES, family))] = SetSpec("hash:ip,port", family)
        if not around.routed:
            state[SetKey(set_name(LOCAL_PODS, family))] = SetSpec("hash:ip", family)
        chains = {
            INPUT_CHAIN: _input(family, around),
            FORWARD_CHAIN: _forward(family, around),
            OUTPUT_CHAIN: _output(family),
            names.COMMON: _common(family),
        }
        for chain, lines in chains.items():
            state[ChainKey(family, names.TABLE, chain)] = Chain(tuple(lines))
        for chain, (builtin, comment) in _JUMPS.items():
            state[JumpKey(family, names.TABLE, builtin, chain)] = Jump(rules.matching(rules.comment(comment)), first=True, rank=0)
    return Desired(state)


def self_state(around: Surroundings) -> Desired:
    """The set by which pods reach themselves through their Services. An item of its own: a kernel that lacks the type loses this only."""
    if not around.proxied:
        return NOTHING
    return Desired({SetKey(set_name(names.SELF, family)): SetSpec("hash:net,net", family) for family in around.families})


def _input(family: Family, around: Surroundings) -> list[str]:
    """From a pod to this node. VIPs and node ports come by here before IPVS has rewritten them: OUTPUT judges the real backend.

    Without our proxy, IPVS may be another's (or, behind kube-proxy's iptables rules, long past): then the ranges must do, and
    what listens on the node inside the node port range is out of egress policies' reach, as in the original.
    """
    isolated = set_name(names.ISOLATED["egress"], family)
    lines = [rules.rule(rules.RETURN, rules.match_set(isolated, "src", negate=True))]
    lines += [
        rules.rule(rules.RETURN, rules.comment("service range: judged in OUTPUT"), destination=cidr)
        for cidr in around.service_ranges
        if family_of(cidr) == family
    ]
    if around.proxied:
        services = rules.match_set(set_name(IPVS_SERVICES, family), "dst", "dst")
        lines.append(rules.rule(rules.RETURN, services, rules.comment("service: judged in OUTPUT")))
    else:
        local, ports = rules.addrtype(destination="LOCAL"), rules.multiport(around.node_ports)
        lines += [
            rules.rule(rules.RETURN, local, ports, rules.comment("node port: judged in OUTPUT"), protocol=protocol)
            for protocol in ("tcp", "udp", "sctp")
        ]
    return [*lines, rules.rule(rules.goto(names.DISPATCH["egress"]))]


def _forward(family: Family, around: Surroundings) -> list[str]:
    """Routed and bridged packets. Pods that no policy isolates leave here, and get answers, whatever the policy of FORWARD; what
    comes for them from outside is for FORWARD's other rules to decide."""
    lines = _judge(family)
    if not around.routed:
        pods = set_name(LOCAL_PODS, family)
        lines += [
            rules.rule(rules.ACCEPT, rules.match_set(pods, "src"), rules.comment("pods that no policy isolates")),
            rules.rule(
                rules.ACCEPT,
                rules.match_set(pods, "dst"),
                rules.ctstate("RELATED", "ESTABLISHED"),
                rules.comment("answers to pods that no policy isolates"),
            ),
        ]
    return lines


def _output(family: Family) -> list[str]:
    """From this node, and from pods by way of IPVS. A node may always talk to its own pods: kubelet's probes."""
    egress, ingress = _judge(family)
    isolated = rules.match_set(set_name(names.ISOLATED["ingress"], family), "dst")
    return [egress, rules.rule(rules.RETURN, isolated, rules.addrtype(source="LOCAL"), rules.comment("from this node")), ingress]


def _judge(family: Family) -> list[str]:
    return [
        rules.rule(
            rules.goto(names.DISPATCH[direction]),
            rules.match_set(set_name(names.ISOLATED[direction], family), names.OWN_SIDE[direction]),
        )
        for direction in ("egress", "ingress")
    ]


def _common(family: Family) -> list[str]:
    """Known flows first, for they are the bulk. ICMP errors before INVALID: an error about a flow that conntrack does not know
    (forwarded by IPVS, by another path) is INVALID to it and still needed, packet-too-big above all."""
    return [
        rules.rule(rules.ACCEPT, rules.ctstate("RELATED", "ESTABLISHED"), rules.comment("rule for stateful firewall for pod")),
        *(
            rules.rule(rules.ACCEPT, rules.icmp_type(family, name), rules.comment(f"allow icmp {name}"), protocol=_icmp(family))
            for name in _ICMP[family]
        ),
        rules.rule(rules.DROP, rules.ctstate("INVALID"), rules.comment("rule to drop invalid state for pod")),
    ]


def _icmp(family: Family) -> str:
    return rules.ICMP_PROTOCOL[family]
