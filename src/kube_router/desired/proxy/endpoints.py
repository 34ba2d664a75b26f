"""Which backends serve a port of a Service on this node: ready ones, and where there is none those that still serve while they end.

Slices are merged; a backend that stands in several (as it moves from one to another) counts once, as ready if it is ready
in any. Ports are matched by their name in the slice, so target ports by name need nothing here. Traffic policy Cluster means
all backends that topology hints leave to this node; Local means those of this node, whatever their hints (kube-proxy's
CategorizeEndpoints). What a policy has none of is empty: refusing is the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.desired.proxy.topology import preferred
from kube_router.kit.net import Family, family_of
from kube_router.model.objects import Endpoint, EndpointSlice

Backend = tuple[str, int]  # address and port
PortName = tuple[str, str]  # name in the Service and slice, and protocol


class Choice(NamedTuple):
    """Backends of one family: `everyone` under policy Cluster, `here` under Local; `ignored`: why hints were not followed."""

    everyone: list[Backend]
    here: list[Backend]
    ignored: str = ""


def backends(slices: Iterable[EndpointSlice]) -> dict[PortName, dict[Backend, Endpoint]]:
    """All usable backends by port: ready, or serving although terminating."""
    found: dict[PortName, dict[Backend, Endpoint]] = {}
    for piece in slices:
        usable = [endpoint for endpoint in piece.endpoints if endpoint.ready or (endpoint.serving and endpoint.terminating)]
        for port in piece.ports:
            if not port.port:
                continue  # "all ports": nothing that IPVS could be told
            group = found.setdefault((port.name, port.protocol), {})
            for endpoint in usable:
                for address in endpoint.addresses:
                    backend = address, port.port
                    known = group.get(backend)
                    if known is None or (endpoint.ready and not known.ready):
                        group[backend] = endpoint
    return found


def choose(group: Mapping[Backend, Endpoint], family: Family, around: Surroundings) -> Choice:
    """Backends that get new connections; the terminating ones only as a last resort, of each policy by itself."""
    ready: list[tuple[Backend, Endpoint]] = []
    ending, here, ending_here = [], [], []
    hinted = False
    for pair in group.items():
        backend, endpoint = pair
        if family_of(backend[0]) != family:
            continue
        is_local = is_here(endpoint, around)
        if not endpoint.ready:
            ending.append(backend)
            if is_local:
                ending_here.append(backend)
            continue
        ready.append(pair)
        if is_local:
            here.append(backend)
        if endpoint.hint_zones or endpoint.hint_nodes:
            hinted = True
    if not ready:
        return Choice(ending, ending_here)
    if not hinted:
        return Choice([backend for backend, _ in ready], here or ending_here)
    everyone, ignored = preferred(ready, around.name, around.zone)
    return Choice(everyone, here or ending_here, ignored)


def is_here(endpoint: Endpoint, around: Surroundings) -> bool:
    """Whether an endpoint is on this node: by its node's name, or where nobody named one, by an address of this node."""
    if endpoint.node_name:
        return endpoint.node_name == around.name
    return not around.own.isdisjoint(endpoint.addresses)
