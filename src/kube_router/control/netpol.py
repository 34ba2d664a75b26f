"""Network policy: which chains, sets and members this node's pods and everyone's policies come to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import msgspec

from kube_router.cache.cache import Changes, View
from kube_router.cache.policies import DIRECTIONS, Direction, PolicyClass, PolicyIndex, Touched, Use
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.netpol.base import Surroundings, base_state, self_state
from kube_router.desired.netpol.classes import class_state, dispatch_state
from kube_router.desired.netpol.pods import pod_state
from kube_router.desired.netpol.policy import policy_state
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.netfilter import ChainKey, JumpKey, SetKey, SetMember
from kube_router.plan import ownership


class BaseItem(msgspec.Struct, frozen=True):
    """The fixed chains, sets and jumps."""


class SelfItem(msgspec.Struct, frozen=True):
    """The set of addresses with themselves."""


class DispatchItem(msgspec.Struct, frozen=True):
    """The chain that finds the class of a packet's isolated end."""

    direction: Direction


class ClassItem(msgspec.Struct, frozen=True):
    """Chain and set of a class of local pods."""

    known: PolicyClass


class UseItem(msgspec.Struct, frozen=True):
    """Chain and sets of a policy in one direction."""

    use: Use

    @property
    def about(self) -> Ref:
        """The policy."""
        return Ref(Kind.NETWORK_POLICY, self.use.policy)


class PodItem(msgspec.Struct, frozen=True):
    """A pod's membership of sets."""

    name: Name

    @property
    def about(self) -> Ref:
        """The pod."""
        return Ref(Kind.POD, self.name)


class NetpolController:
    """The iptables backend. The index is derived from the view alone (cache/policies.py): it makes answers cheap, not different."""

    name = ownership.NETPOL
    reads = frozenset({Kind.POD, Kind.NAMESPACE, Kind.NETWORK_POLICY})
    writes: tuple[type[Key], ...] = (SetKey, SetMember, ChainKey, JumpKey)

    def __init__(self, options: Options) -> None:
        self._around = surroundings(options)
        self._index = PolicyIndex(options.node_name)
        self._begun = False

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """What the index finds to have changed; the fixed part once."""
        return list(self._items(self._index.refresh(changes, view)))

    def _items(self, touched: Touched) -> Iterator[Hashable]:
        if not self._begun:
            self._begun = True
            yield BaseItem()
            yield SelfItem()
            yield from (DispatchItem(direction) for direction in DIRECTIONS)
        yield from (DispatchItem(direction) for direction in {known.direction for known in touched.classes})
        yield from (ClassItem(known) for known in touched.classes)
        yield from (UseItem(use) for use in touched.uses)
        yield from (PodItem(name) for name in touched.pods)

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/netpol."""
        families = self._around.families
        match item:
            case PodItem(name=name):
                return pod_state(name, view, index=self._index, around=self._around)
            case UseItem(use=use):
                return policy_state(view.policies.get(use.policy), use, index=self._index, families=families)
            case ClassItem(known=known):
                return class_state(known, index=self._index, families=families)
            case DispatchItem(direction=direction):
                return dispatch_state(direction, index=self._index, families=families, to_self=self._around.proxied)
            case SelfItem():
                return self_state(self._around)
            case _:
                return base_state(self._around)


def surroundings(options: Options) -> Surroundings:
    """What the options say about the rest of the node."""
    return Surroundings(
        families=options.families,
        service_ranges=(
            *options.service_cluster_ip_range,
            *options.service_external_ip_range,
            *options.loadbalancer_ip_range,
        ),
        node_ports=options.node_ports,
        proxied=options.run_service_proxy,
        routed=options.run_router,
    )
