"""Which backends serve a port of a Service: ready ones, and where there is none those that still serve while they end.

Slices are merged; a backend that stands in several (as it moves from one to another) counts once, as ready if it is ready
in any. Ports are matched by their name in the slice, so target ports by name need nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kube_router.kit.net import Family, family_of
from kube_router.model.objects import Endpoint, EndpointSlice

Backend = tuple[str, int]  # address and port
PortName = tuple[str, str]  # name in the Service and slice, and protocol


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


def serving(group: Mapping[Backend, Endpoint], family: Family, *, node: str = "") -> list[Backend]:
    """Backends of one family (of one node, if named) that get new connections: the terminating ones only as a last resort."""
    mine = [
        (backend, endpoint.ready)
        for backend, endpoint in group.items()
        if family_of(backend[0]) == family and (not node or endpoint.node_name == node)
    ]
    ready = [backend for backend, is_ready in mine if is_ready]
    return ready or [backend for backend, _ in mine]
