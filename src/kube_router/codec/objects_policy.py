"""NetworkPolicies: from wire structs to the model.

Everything here fails closed. A policy is a list of permissions, so a wrong permission is left out. But an empty list of
peers or ports means "all" to the API: when the last peer or port of a rule is wrong, the rule goes. A wrong exception
would widen its block, so the block goes. A policy whose own pod selector is wrong says nothing at all and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kube_router.codec.objects_cluster import name_of
from kube_router.codec.objects_fault import Faults
from kube_router.codec.objects_wire import (
    EgressRule,
    IngressRule,
    IPBlockWire,
    LabelSelector,
    PeerWire,
    PolicyPortWire,
    PolicySpec,
    PolicyWire,
)
from kube_router.model.objects import IPBlock, NetworkPolicy, Peer, PolicyPort, PolicyRule, Requirement, Selector

_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
_DIRECTIONS: Final = ("Ingress", "Egress")


def network_policy(wire: PolicyWire, faults: Faults) -> NetworkPolicy | None:
    """A NetworkPolicy; None when it cannot be told which pods or which directions it is about."""
    spec = wire.spec or PolicySpec()
    pods = _selector("spec.podSelector", spec.pod_selector or LabelSelector(), faults)
    directions = _directions(spec, faults)
    if pods is None or directions is None:
        return None
    return NetworkPolicy(
        name=name_of(wire.metadata),
        uid=wire.metadata.uid,
        pods=pods,
        ingress=_rules("spec.ingress", "from", spec.ingress or [], faults) if "Ingress" in directions else None,
        egress=_rules("spec.egress", "to", spec.egress or [], faults) if "Egress" in directions else None,
    )


def _directions(spec: PolicySpec, faults: Faults) -> frozenset[str] | None:
    """policyTypes, or the API's default: always ingress, and egress when there are egress rules."""
    if not spec.policy_types:
        return frozenset(_DIRECTIONS if spec.egress else _DIRECTIONS[:1])
    for n, direction in enumerate(spec.policy_types):
        if direction not in _DIRECTIONS:
            faults.add(f"spec.policyTypes[{n}]", direction, "not one of Ingress, Egress; the policy is refused")
            return None
    return frozenset(spec.policy_types)


def _rules(field: str, peers: str, wires: Sequence[IngressRule | EgressRule], faults: Faults) -> tuple[PolicyRule, ...]:
    found = [_rule(f"{field}[{n}]", peers, wire, faults) for n, wire in enumerate(wires)]
    return tuple(rule for rule in found if rule is not None)


def _rule(field: str, side: str, wire: IngressRule | EgressRule, faults: Faults) -> PolicyRule | None:
    peers = [_peer(f"{field}.{side}[{n}]", peer, faults) for n, peer in enumerate(wire.peers or ())]
    ports = [_port(f"{field}.ports[{n}]", port, faults) for n, port in enumerate(wire.ports or ())]
    rule = PolicyRule(
        peers=tuple(peer for peer in peers if peer is not None),
        ports=tuple(port for port in ports if port is not None),
    )
    return None if (peers and not rule.peers) or (ports and not rule.ports) else rule


def _peer(field: str, wire: PeerWire, faults: Faults) -> Peer | None:
    if wire.ip_block is not None:
        if wire.pod_selector is not None or wire.namespace_selector is not None:
            faults.add(field, wire.ip_block.cidr, "has both ipBlock and a selector; left out")
            return None
        block = _block(f"{field}.ipBlock", wire.ip_block, faults)
        return Peer(block=block) if block is not None else None
    if wire.pod_selector is None and wire.namespace_selector is None:
        faults.add(field, {}, "has neither a selector nor an ipBlock; left out")
        return None
    pods = _selector(f"{field}.podSelector", wire.pod_selector or LabelSelector(), faults)
    if wire.namespace_selector is None:
        return Peer(pods=pods) if pods is not None else None
    namespaces = _selector(f"{field}.namespaceSelector", wire.namespace_selector, faults)
    return Peer(pods=pods, namespaces=namespaces) if pods is not None and namespaces is not None else None


def _block(field: str, wire: IPBlockWire, faults: Faults) -> IPBlock | None:
    cidr = faults.network(f"{field}.cidr", wire.cidr)
    excepts = [faults.network(f"{field}.except[{n}]", text) for n, text in enumerate(wire.excepts or ())]
    if not cidr or "" in excepts:
        return None
    return IPBlock(cidr=cidr, excepts=tuple(dict.fromkeys(excepts)))


def _port(field: str, wire: PolicyPortWire, faults: Faults) -> PolicyPort | None:
    protocol = faults.protocol(f"{field}.protocol", wire.protocol)
    if not protocol:
        return None
    port = wire.port
    if isinstance(port, int):
        if not faults.port(f"{field}.port", port):
            return None
    elif port == "":
        faults.add(f"{field}.port", port, "neither a number nor a name; left out")
        return None
    end = wire.end_port
    if end is None:
        return PolicyPort(protocol=protocol, port=port)
    if not isinstance(port, int) or not port <= end <= 65535:
        faults.add(f"{field}.endPort", end, "needs a numeric port that is not greater, and is at most 65535; left out")
        return None
    return PolicyPort(protocol=protocol, port=port, end_port=end)


def _selector(field: str, wire: LabelSelector, faults: Faults) -> Selector | None:
    """None when an expression has no meaning: a selector without it would select more."""
    found = {Requirement(key=key, operator="In", values=(value,)) for key, value in (wire.match_labels or {}).items()}
    for n, expression in enumerate(wire.match_expressions or ()):
        where = f"{field}.matchExpressions[{n}]"
        if expression.operator not in _OPERATORS:
            faults.add(f"{where}.operator", expression.operator, f"not one of {', '.join(_OPERATORS)}; left out with its selector")
            return None
        values = tuple(sorted(set(expression.values or ())))
        if bool(values) != (expression.operator in ("In", "NotIn")):
            faults.add(f"{where}.values", list(values), f"{expression.operator} takes {'no' if values else 'some'} values; left out")
            return None
        found.add(Requirement(key=expression.key, operator=expression.operator, values=values))
    return Selector(requirements=tuple(sorted(found)))
