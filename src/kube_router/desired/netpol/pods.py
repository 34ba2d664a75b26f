"""A pod as a member of sets: of its own class when it runs here, and of every active selection that picks it, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kube_router.cache.cache import View
from kube_router.cache.policies import DIRECTIONS, Direction, NamedPort, PolicyIndex, actionable
from kube_router.codec.sets import pair_entry, port_entry
from kube_router.desired import NOTHING, Desired, Note
from kube_router.desired.netpol import names
from kube_router.desired.netpol.base import Surroundings
from kube_router.kit.net import Family, family_of
from kube_router.model.names import LOCAL_PODS, set_name
from kube_router.model.objects import Kind, Name, Pod, Ref
from kube_router.model.state import State
from kube_router.model.state.netfilter import Member, SetMember

_MEMBER = Member()


def pod_state(name: Name, view: View, *, index: PolicyIndex, around: Surroundings) -> Desired:
    """Everything that the pod is a member of; nothing for a pod that is gone, has finished, or lives on its node's addresses.

    An address that several live pods claim is a peer only where a rule admits all of them.
    """
    pod = view.pods.get(name)
    if pod is None or not actionable(pod):
        return NOTHING
    local = index.is_local(pod)
    picked = _picking(pod, view, index)
    state: State = {}
    rivals: set[Name] = set()
    for address in pod.ips:
        family = family_of(address)
        if family not in around.families:
            continue
        sharers = [other for other in view.pods.each("ip", address) if other.name != name and actionable(other)]
        rivals.update(other.name for other in sharers)
        shared = [picked, *(_picking(other, view, index) for other in sharers)]
        for direction in DIRECTIONS:
            for selection in set.intersection(*(one[direction] for one in shared)):
                state[SetMember(names.selection_set(direction, selection, family), address)] = _MEMBER
        for member in _as_port(pod, sharers, address, index, family):
            state[member] = _MEMBER
        if local:
            for member in _as_target(address, index, around, family):
                state[member] = _MEMBER
    return Desired(state, _notes(name, rivals) if local else ())


def _as_target(address: str, index: PolicyIndex, around: Surroundings, family: Family) -> Iterable[SetMember]:
    isolated = False
    for direction in DIRECTIONS:
        known = index.class_of(direction, address)
        if known is None:
            continue
        isolated = True
        yield SetMember(set_name(names.ISOLATED[direction], family), address)
        yield SetMember(names.class_set(known, family), address)
    if isolated and around.proxied:
        yield SetMember(set_name(names.SELF, family), pair_entry(address, address))
    if not around.routed:
        yield SetMember(set_name(LOCAL_PODS, family), address)


def _as_port(pod: Pod, sharers: Sequence[Pod], address: str, index: PolicyIndex, family: Family) -> Iterable[SetMember]:
    for direction in DIRECTIONS:
        if direction == "ingress" and not index.is_local(pod):
            continue
        for own in pod.ports:
            port = NamedPort(direction, own.protocol, own.name)
            if index.asked(port) and all(own in other.ports for other in sharers):
                yield SetMember(names.port_set(port, family), port_entry(address, own.protocol, own.port))


def _picking(pod: Pod, view: View, index: PolicyIndex) -> dict[Direction, set[str]]:
    namespace = view.namespaces.get(Name("", pod.name.namespace))
    labels = namespace.labels if namespace is not None else None
    return {direction: set(index.picking(direction, pod, labels)) for direction in DIRECTIONS}


def _notes(name: Name, rivals: set[Name]) -> tuple[Note, ...]:
    if not rivals:
        return ()
    others = ", ".join(sorted(str(rival) for rival in rivals))
    return (
        Note(
            Ref(Kind.POD, name),
            "AddressConflict",
            f"shares an address with {others}: until one of them is gone, only what is allowed to all of them passes",
        ),
    )
