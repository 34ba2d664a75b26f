"""Classes of local pods and the dispatch that finds a packet's class."""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.cache.policies import Direction, PolicyClass, PolicyIndex, Use
from kube_router.codec import rules
from kube_router.desired import NOTHING, Desired
from kube_router.desired.netpol import names
from kube_router.kit.net import Family
from kube_router.model.names import set_name
from kube_router.model.state import State
from kube_router.model.state.netfilter import Chain, ChainKey, SetKey, SetSpec


def class_state(known: PolicyClass, *, index: PolicyIndex, families: Iterable[Family]) -> Desired:
    """Chain and set of a class that local pods are of; nothing otherwise."""
    if not index.has(known):
        return NOTHING
    state: State = {}
    for family in families:
        state[SetKey(names.class_set(known, family))] = SetSpec("hash:ip", family)
        state[ChainKey(family, names.TABLE, names.class_chain(known))] = Chain(_class_rules(known, family))
    return Desired(state)


def _class_rules(known: PolicyClass, family: Family) -> tuple[str, ...]:
    policies = [
        rules.rule(rules.jump(names.policy_chain(Use(known.direction, name))), names.comment(name, f"{known.direction} policy"))
        for name in known.policies
    ]
    everyone = ", ".join(str(name) for name in known.policies) or "pods that share an address"
    log = rules.rule(rules.nflog(names.LOG_GROUP), rules.limit(10, "min", burst=10), names.comment(everyone, f"{known.direction} log-drop"))
    return (*policies, log, rules.rule(rules.reject(family), names.comment(everyone, f"{known.direction} reject")))


def dispatch_state(direction: Direction, *, index: PolicyIndex, families: Iterable[Family], to_self: bool) -> Desired:
    """The chain that sends a packet to the class of its isolated end.

    `to_self`: pods may reach themselves through their Services. An isolated address without a class is one whose chain the kernel
    refused: its packets are dropped.
    """
    known = sorted(index.classes(direction), key=names.class_chain)
    side = names.OWN_SIDE[direction]
    state: State = {}
    for family in families:
        lines = [rules.rule(rules.jump(names.COMMON))]
        if direction == "ingress":
            isolated = set_name(names.ISOLATED[direction], family)
            lines.insert(0, rules.rule(rules.ACCEPT, rules.match_set(isolated, side, negate=True)))
        if to_self:
            lines.append(rules.rule(rules.ACCEPT, rules.match_set(set_name(names.SELF, family), "src", "dst")))
        lines += [rules.rule(rules.goto(names.class_chain(one)), rules.match_set(names.class_set(one, family), side)) for one in known]
        lines.append(rules.rule(rules.DROP, rules.comment("isolated, but in no class")))
        state[ChainKey(family, names.TABLE, names.DISPATCH[direction])] = Chain(tuple(lines))
    return Desired(state)
