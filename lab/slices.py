"""EndpointSlices of a Service from its pods, as the controller manager's slice controller makes them. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from lab.api.kinds import Json
from lab.api.selectors import simple_selector

MOST_ENDPOINTS = 100  # the controller's default
MANAGED_BY = "endpointslice-controller.k8s.io"

Ports = tuple[tuple[str, str, int], ...]
"""Name, protocol, number of each port: pods that agree on these share slices."""


def _pod_ports(service: Json, pod: Json) -> Ports:
    """The Service's ports as this pod has them; a named port that the pod does not have is left out."""
    named = {
        (port.get("name"), port.get("protocol", "TCP")): port["containerPort"]
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
    }
    found = []
    for port in service["spec"].get("ports") or ():
        protocol, target = port.get("protocol", "TCP"), port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else named.get((target, protocol))
        if number:
            found.append((port.get("name", ""), protocol, number))
    return tuple(found)


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _endpoint(service: Json, pod: Json, address: str, zones: dict[str, str]) -> Json:
    terminating = "deletionTimestamp" in pod["metadata"]
    published = bool(service["spec"].get("publishNotReadyAddresses"))
    serving = is_ready(pod)
    node = pod["spec"].get("nodeName", "")
    endpoint: Json = {
        "addresses": [address],
        "conditions": {
            "ready": published or (serving and not terminating),
            "serving": published or serving,
            "terminating": terminating,
        },
        "nodeName": node,
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    }
    zone = zones.get(node, "")
    if zone:
        endpoint["zone"] = zone
    if endpoint["conditions"]["ready"] and (hints := _hints(service["spec"].get("trafficDistribution", ""), node, zone)):
        endpoint["hints"] = hints
    return endpoint


def _hints(wish: str, node: str, zone: str) -> Json:
    """For whom an endpoint is meant: its own zone, and its own node where the Service prefers that. Only ready ones have hints."""
    hints: Json = {}
    if wish in ("PreferClose", "PreferSameZone", "PreferSameNode") and zone:
        hints["forZones"] = [{"name": zone}]
    if wish == "PreferSameNode" and node:
        hints["forNodes"] = [{"name": node}]
    return hints


def _slice(service: Json, family: int, ports: Ports, number: int, endpoints: Sequence[Json]) -> Json:
    name = service["metadata"]["name"]
    digest = hashlib.sha256(repr((name, family, ports, number)).encode()).hexdigest()[:5]
    labels = {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": MANAGED_BY}
    if service["spec"].get("clusterIP") == "None":
        labels["service.kubernetes.io/headless"] = ""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{digest}",
            "namespace": service["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": name, "uid": service["metadata"]["uid"], "controller": True}
            ],
        },
        "addressType": f"IPv{family}",
        "endpoints": list(endpoints),
        "ports": [{"name": port, "protocol": protocol, "port": number} for port, protocol, number in ports],
    }  # fmt: skip


def _families(service: Json) -> list[int]:
    return [int(name[-1]) for name in service["spec"].get("ipFamilies") or ()]


def endpoint_slices(service: Json, pods: Iterable[Json], zones: dict[str, str]) -> list[Json]:
    """All slices of a Service with a selector: per family and set of ports, at most a hundred endpoints each.

    ``zones`` gives the zone of a node. A Service without a selector has no slices of ours.
    """
    selector = service["spec"].get("selector")
    if not selector or service["spec"].get("type") == "ExternalName":
        return []
    wanted = simple_selector(selector)
    grouped: dict[tuple[int, Ports], list[Json]] = {(family, ()): [] for family in _families(service)}
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") or not wanted.matches(pod["metadata"].get("labels") or {}):
            continue
        for entry in status.get("podIPs") or ():
            family = 6 if ":" in entry["ip"] else 4
            if family in _families(service):
                endpoint = _endpoint(service, pod, entry["ip"], zones)
                grouped.setdefault((family, _pod_ports(service, pod)), []).append(endpoint)
    made = []
    for (family, ports), endpoints in sorted(grouped.items()):
        if not endpoints and any(other[0] == family and found for other, found in grouped.items()):
            continue  # an empty slice stands only where a family has no other
        endpoints.sort(key=lambda endpoint: endpoint["targetRef"]["name"])
        made += [
            _slice(service, family, ports, start, endpoints[start : start + MOST_ENDPOINTS])
            for start in range(0, max(len(endpoints), 1), MOST_ENDPOINTS)
        ]
    return made
