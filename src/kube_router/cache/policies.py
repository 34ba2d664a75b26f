"""What policies mean for this node: classes of local pods, policies in use, and the selections and port names they ask about.

A *class* is one direction and the policies that isolate an address in it; local pods with the same policies are of one class.
A policy is *in use* in a direction while a class names it, and what its rules ask about (selections of pods, names of ports) is
*active* while a policy in use asks. Policies of other nodes' pods are thereby out of sight.

All of it is derived from the objects: kept up change by change at the cost of what a change concerns, and equal, after any
history, to what a fresh index makes of the same objects. Nothing here knows of chains, sets or families.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Final, Literal, NamedTuple, TypeVar

import msgspec

from kube_router.cache.cache import Changes, View
from kube_router.cache.selectors import Labels, Selection, SelectorIndex, selection_id
from kube_router.model.objects import Kind, Name, NetworkPolicy, Peer, Pod, PolicyRule

K = TypeVar("K", bound=Hashable)
Direction = Literal["ingress", "egress"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("ingress", "egress")

_FEW: Final = 8  # selections up to which asking each in turn beats looking for candidates


class PolicyClass(NamedTuple):
    """What isolates an address in a direction. No policy at all means that nothing is allowed (see `_class`)."""

    direction: Direction
    policies: tuple[Name, ...]  # sorted


class Use(NamedTuple):
    """A policy in one direction."""

    direction: Direction
    policy: Name


class NamedPort(NamedTuple):
    """A port name as a rule of a direction asks about it: of this node's pods for ingress, of any pod for egress."""

    direction: Direction
    protocol: str
    name: str


class Touched(msgspec.Struct):
    """Whose answer may have changed."""

    pods: set[Name] = msgspec.field(default_factory=set)
    uses: set[Use] = msgspec.field(default_factory=set)
    classes: set[PolicyClass] = msgspec.field(default_factory=set)


def actionable(pod: Pod) -> bool:
    """Whether policies concern the pod: it has an address of its own and has not finished. Its phase and readiness do not matter."""
    return bool(pod.ips) and not pod.host_network and not pod.finished


def rules_of(policy: NetworkPolicy, direction: Direction) -> tuple[PolicyRule, ...] | None:
    """Its rules in a direction; None when it does not isolate in it."""
    return policy.ingress if direction == "ingress" else policy.egress


def selection_of(peer: Peer, namespace: str) -> Selection:
    """What a pod peer of a policy in the namespace picks."""
    return Selection("" if peer.namespaces is not None else namespace, peer.namespaces, peer.pods)


class PolicyIndex:
    """The index of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._policies: dict[Name, NetworkPolicy] = {}
        self._targets: SelectorIndex[Name] = SelectorIndex()
        self._labels: dict[str, Labels] = {}  # of namespaces
        self._local: dict[Name, tuple[str, ...]] = {}  # addresses of local pods
        self._local_in: dict[str, set[Name]] = {}
        self._class_of: dict[tuple[Direction, str], PolicyClass] = {}
        self._sizes: dict[PolicyClass, int] = {}
        self._in_use: dict[Use, int] = {}
        self._asks: dict[Use, tuple[dict[str, Selection], frozenset[NamedPort]]] = {}
        self._active: dict[Direction, SelectorIndex[str]] = {"ingress": SelectorIndex(), "egress": SelectorIndex()}
        self._askers: dict[Hashable, set[Use]] = {}
        self._bearers: dict[NamedPort, set[Name]] = {}

    # -- reading ------------------------------------------------------------------------------------------------------

    def is_local(self, pod: Pod) -> bool:
        """Whether policies are enforced on the pod here."""
        return pod.node_name == self._node and actionable(pod)

    def class_of(self, direction: Direction, address: str) -> PolicyClass | None:
        """Class of an address of a local pod; None when no policy isolates it."""
        return self._class_of.get((direction, address))

    def classes(self, direction: Direction) -> Iterator[PolicyClass]:
        """All classes that local pods are of."""
        return (known for known in self._sizes if known.direction == direction)

    def has(self, known: PolicyClass) -> bool:
        """Whether a local pod is of the class."""
        return known in self._sizes

    def in_use(self, use: Use) -> bool:
        """Whether a class of local pods names the policy."""
        return use in self._in_use

    def picking(self, direction: Direction, pod: Pod, namespace_labels: Labels | None) -> list[str]:
        """Active selections of a direction that pick the pod, by identity, in no order."""
        return self._active[direction].matching(pod.name.namespace, namespace_labels, pod.labels)

    def asked(self, port: NamedPort) -> bool:
        """Whether a policy in use asks about the port name."""
        return port in self._bearers

    def bearers(self, port: NamedPort) -> frozenset[Name]:
        """Pods anywhere that bear an asked port name."""
        return frozenset(self._bearers.get(port, ()))

    def facts(self) -> Mapping[str, object]:
        """All that is derived, comparable."""
        return {
            "classes": dict(self._class_of),
            "sizes": dict(self._sizes),
            "in use": dict(self._in_use),
            "active": {direction: {key: index[key] for key in index} for direction, index in self._active.items()},
            "askers": {key: set(uses) for key, uses in self._askers.items()},
            "bearers": {port: set(pods) for port, pods in self._bearers.items()},
            "local": dict(self._local),
        }

    # -- keeping up ---------------------------------------------------------------------------------------------------

    def refresh(self, changes: Changes, view: View) -> Touched:
        """Take in what changed. Safe to repeat; namespaces come last, so that what a vanishing label had picked is found."""
        touched = Touched()
        addresses: set[str] = set()
        rewritten: set[Use] = set()
        for ref, before in changes.items():
            if ref.kind is Kind.POD:
                addresses |= self._take_pod(ref.name, before if isinstance(before, Pod) else None, view, touched)
        for ref in changes:
            if ref.kind is Kind.NETWORK_POLICY:
                addresses |= self._take_policy(ref.name, view, rewritten)
        for address in addresses:
            self._classify(address, view, touched, rewritten)
        self._ask(rewritten, view, touched)
        for ref in changes:
            if ref.kind is Kind.NAMESPACE:
                self._take_namespace(ref.name.name, view, touched)
        return touched

    def _take_pod(self, name: Name, before: Pod | None, view: View, touched: Touched) -> set[str]:
        pod = view.pods.get(name)
        alive = pod is not None and actionable(pod)
        local = pod.ips if pod is not None and self.is_local(pod) else ()
        addresses = set(self._local.get(name, ())) | set(local)
        if local:
            self._local[name] = local
            self._local_in.setdefault(name.namespace, set()).add(name)
        elif self._local.pop(name, None) is not None:
            self._local_in[name.namespace].discard(name)
            if not self._local_in[name.namespace]:
                del self._local_in[name.namespace]
        touched.pods.add(name)
        shared = set(pod.ips) if alive and pod is not None else set()
        if before is not None and actionable(before):
            shared |= set(before.ips)
        for address in shared:
            touched.pods.update(other.name for other in view.pods.each("ip", address))
        for port, bearers in self._bearers.items():
            self._bear(port, bearers, name, alive and pod is not None and _bears(pod, port), touched)
        return addresses

    def _bear(self, port: NamedPort, bearers: set[Name], name: Name, bears: bool, touched: Touched) -> None:
        had_any = bool(bearers)
        if bears:
            bearers.add(name)
        else:
            bearers.discard(name)
        if had_any != bool(bearers):
            touched.uses |= self._askers[port]

    def _take_policy(self, name: Name, view: View, rewritten: set[Use]) -> set[str]:
        old, new = self._policies.get(name), view.policies.get(name)
        if old == new:
            return set()
        if new is None:
            self._policies.pop(name)
            self._targets.remove(name)
        else:
            self._policies[name] = new
            self._targets.put(name, Selection(name.namespace, None, new.pods))
        rewritten |= {use for direction in DIRECTIONS if (use := Use(direction, name)) in self._in_use}
        if old is not None and new is not None and old.pods == new.pods and _covers(old) == _covers(new):
            return set()
        return {
            address
            for pod in self._local_in.get(name.namespace, ())
            if any(policy.pods.matches(view.pods[pod].labels) for policy in (old, new) if policy is not None)
            for address in self._local[pod]
        }

    # -- classes ------------------------------------------------------------------------------------------------------

    def _classify(self, address: str, view: View, touched: Touched, rewritten: set[Use]) -> None:
        pods = [pod for pod in view.pods.each("ip", address) if self.is_local(pod)]
        for direction in DIRECTIONS:
            old, new = self._class_of.get((direction, address)), self._class(pods, direction)
            if old == new:
                continue
            touched.pods.update(pod.name for pod in pods)
            if new is None:
                del self._class_of[direction, address]
            else:
                self._class_of[direction, address] = new
                self._count(new, 1, touched, rewritten)
            if old is not None:
                self._count(old, -1, touched, rewritten)

    def _class(self, pods: Iterable[Pod], direction: Direction) -> PolicyClass | None:
        """Class of an address that these pods claim. Should more than one claim it, only what all of those that are isolated agree on
        is allowed, which may be nothing: whoever answers there, the stricter verdict holds."""
        isolating = [policies for pod in pods if (policies := self._isolating(pod, direction))]
        if not isolating:
            return None
        return PolicyClass(direction, tuple(sorted(frozenset.intersection(*isolating))))

    def _isolating(self, pod: Pod, direction: Direction) -> frozenset[Name]:
        names = self._targets.matching(pod.name.namespace, None, pod.labels)
        return frozenset(name for name in names if rules_of(self._policies[name], direction) is not None)

    def _count(self, known: PolicyClass, by: int, touched: Touched, rewritten: set[Use]) -> None:
        size = _add(self._sizes, known, by)
        if (size, by) not in ((1, 1), (0, -1)):
            return
        touched.classes.add(known)
        for policy in known.policies:
            use = Use(known.direction, policy)
            if (_add(self._in_use, use, by), by) in ((1, 1), (0, -1)):
                rewritten.add(use)

    # -- what rules ask about -----------------------------------------------------------------------------------------

    def _ask(self, rewritten: Iterable[Use], view: View, touched: Touched) -> None:
        """Policies that came into use, went out of it, or changed while in it."""
        touched.uses.update(rewritten)
        turned: SelectorIndex[tuple[Direction, str]] = SelectorIndex()
        for use in rewritten:
            policy = self._policies.get(use.policy) if use in self._in_use else None
            before = self._asks.pop(use, ({}, frozenset()))
            after = _asks(policy, use.direction) if policy is not None else ({}, frozenset())
            if policy is not None:
                self._asks[use] = after
            for key in after[0].keys() - before[0].keys():
                if self._join((use.direction, key), use):
                    self._active[use.direction].put(key, after[0][key])
                    turned.put((use.direction, key), after[0][key])
            for key in before[0].keys() - after[0].keys():
                if self._leave((use.direction, key), use):
                    self._active[use.direction].remove(key)
                    turned.put((use.direction, key), before[0][key])
            for port in after[1] - before[1]:
                if self._join(port, use):
                    self._bearers[port] = {pod.name for pod in view.pods.values() if actionable(pod) and _bears(pod, port)}
                    touched.pods |= self._bearers[port]
            for port in before[1] - after[1]:
                if self._leave(port, use):
                    touched.pods |= self._bearers.pop(port)
        if len(turned):
            self._touch_picked(turned, view, touched)

    def _join(self, what: Hashable, use: Use) -> bool:
        askers = self._askers.setdefault(what, set())
        askers.add(use)
        return len(askers) == 1

    def _leave(self, what: Hashable, use: Use) -> bool:
        askers = self._askers[what]
        askers.discard(use)
        if askers:
            return False
        del self._askers[what]
        return True

    def _touch_picked(self, turned: SelectorIndex[tuple[Direction, str]], view: View, touched: Touched) -> None:
        selections = [turned[key] for key in turned]
        namespaces = {selection.namespace for selection in selections if selection.namespaces is None}
        if any(selection.namespaces is not None for selection in selections):
            namespaces |= self._labels.keys()
        for namespace in namespaces:
            labels = self._labels.get(namespace)
            reaching = turned.reaching(namespace, labels)
            if len(reaching) <= _FEW:
                _touch_pods(namespace, [turned[key] for key in reaching], view, touched)
                continue
            touched.pods.update(
                pod.name
                for pod in view.pods.each("namespace", namespace)
                if pod.name not in touched.pods and turned.matching(namespace, labels, pod.labels)
            )

    def _take_namespace(self, name: str, view: View, touched: Touched) -> None:
        namespace = view.namespaces.get(Name("", name))
        before, after = self._labels.get(name), namespace.labels if namespace is not None else None
        if before == after:
            return
        if after is None:
            del self._labels[name]
        else:
            self._labels[name] = after
        turned = [index[key] for index in self._active.values() for key in index.reaching(name, before) ^ index.reaching(name, after)]
        picked = Touched()
        _touch_pods(name, turned, view, picked)
        # Who shares an address with one of them is a peer only together with it, wherever it lives.
        touched.pods |= {other.name for pod in picked.pods for address in view.pods[pod].ips for other in view.pods.each("ip", address)}


def _touch_pods(namespace: str, selections: list[Selection], view: View, touched: Touched) -> None:
    if selections:
        touched.pods.update(
            pod.name
            for pod in view.pods.each("namespace", namespace)
            if any(selection.pods.matches(pod.labels) for selection in selections)
        )


def _covers(policy: NetworkPolicy) -> tuple[bool, bool]:
    return policy.ingress is not None, policy.egress is not None


def _bears(pod: Pod, port: NamedPort) -> bool:
    return any(own.name == port.name and own.protocol == port.protocol for own in pod.ports)


def _asks(policy: NetworkPolicy, direction: Direction) -> tuple[dict[str, Selection], frozenset[NamedPort]]:
    rules = rules_of(policy, direction) or ()
    selections = [selection_of(peer, policy.name.namespace) for rule in rules for peer in rule.peers if peer.block is None]
    ports = frozenset(NamedPort(direction, port.protocol, port.port) for rule in rules for port in rule.ports if isinstance(port.port, str))
    return {selection_id(selection): selection for selection in selections}, ports


def _add(counts: dict[K, int], key: K, by: int) -> int:
    count = counts.get(key, 0) + by
    if count:
        counts[key] = count
    else:
        del counts[key]
    return count
