"""The host side of routing: bridge, CNI configuration, sets of nodes and pods, forwarding and egress rules."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from kube_router.cache.cache import Changes, View
from kube_router.config.options import Options
from kube_router.desired import Desired
from kube_router.desired.routing.host import host, members
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Key
from kube_router.model.state.links import FileKey, LinkKey, SysctlKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetKey, SetMember
from kube_router.plan import ownership


class Host(NamedTuple):
    """The item that is this host; what goes wrong with it is told about its Node."""

    about: Ref


class RoutingController:
    """Items: the host itself, and every node as a member of the shared sets."""

    name = ownership.ROUTING
    reads = frozenset({Kind.NODE, Kind.INTERFACE, Kind.CNI_FILE})
    writes: tuple[type[Key], ...] = (LinkKey, SysctlKey, SetKey, SetMember, ChainKey, JumpKey, LeftoverKey, FileKey)

    def __init__(self, options: Options) -> None:
        self._options = options
        self._own = Name("", options.node_name)
        self._host = Host(Ref(Kind.NODE, self._own))

    def touched(self, changes: Changes, view: View) -> Iterable[Hashable]:
        """A node touches itself; our own node, our links and the CNI file touch the host."""
        del view
        yield self._host
        for ref in changes:
            if ref.kind is Kind.NODE:
                yield ref

    def want(self, item: Hashable, view: View) -> Desired:
        """Pure; see desired/routing/host.py."""
        if isinstance(item, Ref):
            return members(view.nodes.get(item.name), self._options)
        cni = view.cni_files.get(Name("", self._options.cni_conf_file))
        return host(view.nodes.get(self._own), tuple(view.interfaces.values()), cni, self._options)
