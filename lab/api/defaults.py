"""What the real server fills in when an object is created or updated, as far as this project's reader depends on it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab.api.kinds import Json


def _fill(target: Json, **values: Any) -> None:
    for name, value in values.items():
        target.setdefault(name, value)


def _service(service: Json) -> None:
    spec = service.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] == "ExternalName":
        return
    _fill(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})
    for port in spec.get("ports") or ():
        _fill(port, protocol="TCP", targetPort=port["port"])
    service.setdefault("status", {"loadBalancer": {}})


def _pod(pod: Json) -> None:
    spec = pod.setdefault("spec", {})
    _fill(spec, restartPolicy="Always", terminationGracePeriodSeconds=30, enableServiceLinks=True)
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            _fill(port, protocol="TCP")
    pod.setdefault("status", {}).setdefault("phase", "Pending")


def _policy(policy: Json) -> None:
    spec = policy.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    spec.setdefault("policyTypes", ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    for rule in (*(spec.get("ingress") or ()), *(spec.get("egress") or ())):
        for port in rule.get("ports") or ():
            _fill(port, protocol="TCP")


def _slice(piece: Json) -> None:
    for port in piece.get("ports") or ():
        _fill(port, name="", protocol="TCP")


def _namespace(namespace: Json) -> None:
    metadata = namespace["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    namespace.setdefault("spec", {"finalizers": ["kubernetes"]})
    namespace.setdefault("status", {"phase": "Active"})


DEFAULTS: dict[str, Callable[[Json], None]] = {
    "EndpointSlice": _slice,
    "Namespace": _namespace,
    "NetworkPolicy": _policy,
    "Pod": _pod,
    "Service": _service,
}


def fill_defaults(thing: Json) -> None:
    """Fill ``thing`` in place; kinds without defaults stay as they are."""
    if fill := DEFAULTS.get(thing.get("kind", "")):
        fill(thing)
