"""Few words for policies, so that a table of cases reads as one."""

from __future__ import annotations

from kube_router.model.objects import IPBlock, Name, NetworkPolicy, Peer, PolicyPort, PolicyRule, Requirement, Selector

ALL = (PolicyRule(),)
EVERY = Selector()


def label(**labels: str) -> Selector:
    return Selector(tuple(Requirement(key, "In", (value,)) for key, value in sorted(labels.items())))


def one_of(key: str, *values: str, operator: str = "In") -> Selector:
    return Selector((Requirement(key, operator, values),))


def pods(selector: Selector) -> Peer:
    return Peer(pods=selector)


def in_ns(namespaces: Selector, selector: Selector = EVERY) -> Peer:
    return Peer(pods=selector, namespaces=namespaces)


def blocks(*texts: str) -> tuple[Peer, ...]:
    """Each text: a range, then its exceptions."""
    return tuple(Peer(block=IPBlock(cidr, tuple(excepts))) for cidr, *excepts in (text.split() for text in texts))


def rule(*peers: Peer, ports: tuple[PolicyPort, ...] = ()) -> PolicyRule:
    return PolicyRule(peers, ports)


def tcp(port: int | str | None, end: int = 0) -> PolicyPort:
    return PolicyPort("TCP", port, end)


def policy(
    selector: Selector = EVERY,
    *,
    ingress: tuple[PolicyRule, ...] | None = None,
    egress: tuple[PolicyRule, ...] | None = None,
    ns: str = "x",
    name: str = "p",
) -> NetworkPolicy:
    return NetworkPolicy(Name(ns, name), pods=selector, ingress=ingress, egress=egress)
