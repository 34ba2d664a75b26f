"""A policy in one direction: its chain, and the sets that its rules name.

A packet enters the chain when the policy isolates one of its ends. What a rule admits leaves by the rule's target, the rest
comes back to the class, which tries its next policy. Members of the sets of pods are the pods' business (pods.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.cache.policies import Direction, NamedPort, PolicyIndex, Use, rules_of, selection_of
from kube_router.cache.selectors import selection_id
from kube_router.codec import rules
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.netpol import names
from kube_router.desired.netpol.blocks import PeerMatch, block_matches
from kube_router.desired.netpol.ports import PortMatch, port_matches
from kube_router.kit.net import Family
from kube_router.model.objects import Kind, NetworkPolicy, PolicyRule, Ref
from kube_router.model.state import State
from kube_router.model.state.netfilter import Chain, ChainKey, SetKey, SetSpec

PEER_MAXELEM = 1 << 20  # the kernel's default of 65,536 is fewer than large clusters have pods; the bound costs nothing until reached


def policy_state(policy: NetworkPolicy | None, use: Use, *, index: PolicyIndex, families: Iterable[Family]) -> Desired:
    """Chain and sets of a policy that a class of this node names; nothing otherwise."""
    if policy is None or not index.in_use(use):
        return NOTHING
    own_rules = rules_of(policy, use.direction) or ()
    state: State = {}
    for family in families:
        lines: dict[str, None] = {}
        for rule in own_rules:
            added, sets = _rule(policy, rule, use.direction, family)
            lines |= dict.fromkeys(added)
            state |= sets
        state[ChainKey(family, names.TABLE, names.policy_chain(use))] = Chain(tuple(lines))
    return Desired(state, _notes(policy, own_rules, use.direction, index))


def _rule(policy: NetworkPolicy, rule: PolicyRule, direction: Direction, family: Family) -> tuple[list[str], State]:
    peers, state = _peers(policy, rule, direction, family)
    for port in rule.ports:
        if isinstance(port.port, str):
            name = names.port_set(NamedPort(direction, port.protocol, port.port), family)
            state[SetKey(name)] = SetSpec("hash:ip,port", family, PEER_MAXELEM)
    return [
        _line(peer, port, direction, names.comment(policy.name, f"{direction} {peer.word}"))
        for peer in peers
        for port in port_matches(rule.ports, direction, family)
    ], state


def _peers(policy: NetworkPolicy, rule: PolicyRule, direction: Direction, family: Family) -> tuple[list[PeerMatch], State]:
    if not rule.peers:
        return [PeerMatch("any")], {}
    blocks, state = block_matches((peer.block for peer in rule.peers if peer.block is not None), direction, family)
    selections = {selection_id(selection_of(peer, policy.name.namespace)) for peer in rule.peers if peer.block is None}
    pods = []
    for selection in sorted(selections):
        name = names.selection_set(direction, selection, family)
        state[SetKey(name)] = SetSpec("hash:ip", family, PEER_MAXELEM)
        pods.append(PeerMatch("pods", rules.match_set(name, names.PEER_SIDE[direction])))
    return [*pods, *blocks], state


def _line(peer: PeerMatch, port: PortMatch, direction: Direction, comment: str) -> str:
    matches = (peer.match, port.match, comment)
    if direction == "ingress":
        return rules.rule(rules.ACCEPT, *matches, source=peer.cidr, protocol=port.protocol)
    return rules.rule(rules.goto(names.DISPATCH["ingress"]), *matches, destination=peer.cidr, protocol=port.protocol)


def _notes(policy: NetworkPolicy, own_rules: Iterable[PolicyRule], direction: Direction, index: PolicyIndex) -> tuple[Note, ...]:
    asked = {NamedPort(direction, port.protocol, port.port) for rule in own_rules for port in rule.ports if isinstance(port.port, str)}
    return tuple(
        Note(
            Ref(Kind.NETWORK_POLICY, policy.name),
            "UnresolvedPortName",
            f"{direction} rule asks for {port.protocol} port {port.name!r}, which no container of any pod names: it allows nothing",
        )
        for port in sorted(asked)
        if not index.bearers(port)
    )
