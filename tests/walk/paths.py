"""A cluster's nodes with the state that policy comes to on each, and the hooks that a packet passes on its way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kube_router.cache.cache import Cache
from kube_router.config.options import Options, defaults
from kube_router.control.netpol import NetpolController
from kube_router.kit.net import family_of
from kube_router.model.objects import Name, Namespace, Object
from kube_router.model.state import State
from tests.walk.model import Cluster, Probe, pod_at
from tests.walk.walker import FELL_THROUGH, Packet, Walker


class Hop(NamedTuple):
    """A built-in chain on a node that a packet passes."""

    node: str
    hook: str


def node_options(node: str, **overrides: object) -> Options:
    """Options of a dual-stack node."""
    return defaults(node_name=node, enable_ipv6=True, **overrides)


def objects_of(cluster: Cluster) -> list[Object]:
    """The API's objects."""
    namespaces = [Namespace(Name("", name), labels) for name, labels in cluster.namespaces.items()]
    return [*namespaces, *cluster.pods, *cluster.policies]


def cache_of(objects: list[Object]) -> Cache:
    """A cache in which every kind is listed."""
    cache = Cache()
    for value in objects:
        cache.put(value)
    for kind in NetpolController.reads:
        cache.replace(kind, cache.view.store(kind).values())
    return cache


def wanted(objects: list[Object], options: Options) -> State:
    """The whole desired state of a node."""
    cache = cache_of(objects)
    controller = NetpolController(options)
    state: State = {}
    for item in controller.touched(cache.feed(controller.reads).take(), cache.view):
        state |= controller.want(item, cache.view).state
    return state


class Nodes:
    """All nodes of a cluster, with their rules."""

    def __init__(self, cluster: Cluster, **overrides: object) -> None:
        self.cluster = cluster
        self.states = {node: wanted(objects_of(cluster), node_options(node, **overrides)) for node in cluster.nodes}
        self._walkers = {
            (node, family): Walker(self.states[node], family, frozenset(addresses))
            for node, addresses in cluster.nodes.items()
            for family in (4, 6)
        }

    def admits(self, probe: Probe) -> bool:
        """Whether every hook on the way lets the packet pass."""
        packet = Packet(probe.source, probe.destination, probe.protocol.lower(), probe.port)
        return all(self.verdict(hop, packet) in ("ACCEPT", FELL_THROUGH) for hop in self.way(probe))

    def verdict(self, hop: Hop, packet: Packet) -> str:
        """What one hook says."""
        return self._walkers[hop.node, family_of(packet.source)].run(hop.hook, packet)

    def way(self, probe: Probe) -> Iterator[Hop]:
        """Hooks from source to destination, where both are of this cluster or outside it."""
        source_node, destination_node = self.home(probe.source), self.home(probe.destination)
        from_host, to_host = self.is_host(probe.source), self.is_host(probe.destination)
        if source_node:
            yield Hop(source_node, "OUTPUT" if from_host else "INPUT" if to_host and destination_node == source_node else "FORWARD")
        if destination_node and destination_node != source_node:
            yield Hop(destination_node, "INPUT" if to_host else "FORWARD")

    def home(self, address: str) -> str:
        """The node that an address is on; "" for the world."""
        pod = pod_at(self.cluster, address)
        if pod is not None:
            return pod.node_name
        return next((node for node, addresses in self.cluster.nodes.items() if address in addresses), "")

    def is_host(self, address: str) -> bool:
        """Whether it is a node's own address."""
        return any(address in addresses for addresses in self.cluster.nodes.values())
