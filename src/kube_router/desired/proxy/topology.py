"""Which ready endpoints a node prefers, by the hints that the slice controller wrote (kube-proxy's topologyModeFromHints).

Hints of nodes come before hints of zones. Either counts only if every ready endpoint bears one and some endpoint is meant for
this node or zone; otherwise all are used, for a node must not be left alone with an overloaded or empty share. This is all that
`trafficDistribution` comes down to in a proxy: the controller reads it, and writes hints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from kube_router.model.objects import Endpoint

ZONE_LABEL: Final = "topology.kubernetes.io/zone"

T = TypeVar("T")


def preferred(ready: Sequence[tuple[T, Endpoint]], node: str, zone: str) -> tuple[list[T], str]:
    """Those that this node is to use, and why hints were not followed where there are some ("" where they were, or there are none)."""
    ignored = ""
    with_nodes = sum(1 for _, endpoint in ready if endpoint.hint_nodes)
    with_zones = sum(1 for _, endpoint in ready if endpoint.hint_zones)
    if with_nodes == len(ready):
        mine = [one for one, endpoint in ready if node in endpoint.hint_nodes]
        if mine:
            return mine, ""
        ignored = f"none is meant for node {node}"
    elif with_nodes:
        ignored = f"{len(ready) - with_nodes} of {len(ready)} ready endpoints have no hint of a node"
    if with_zones == len(ready):
        mine = [one for one, endpoint in ready if zone in endpoint.hint_zones] if zone else []
        if mine:
            return mine, ""
        ignored = f"none is meant for zone {zone}" if zone else f"node {node} has no label {ZONE_LABEL}"
    elif with_zones:
        ignored = f"{len(ready) - with_zones} of {len(ready)} ready endpoints have no hint of a zone"
    return [one for one, _ in ready], ignored
