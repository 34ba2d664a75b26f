"""The kinds that the lab's API server knows, as a table; a kind more is a line more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Fields = Mapping[str, str]


def _no_fields(_: Json) -> dict[str, str]:
    return {}


def _pod_fields(pod: Json) -> dict[str, str]:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return {
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
        "spec.restartPolicy": spec.get("restartPolicy", ""),
        "status.phase": status.get("phase", ""),
        "status.podIP": status.get("podIP", ""),
    }


def _service_fields(service: Json) -> dict[str, str]:
    spec = service.get("spec") or {}
    return {"spec.clusterIP": spec.get("clusterIP", ""), "spec.type": spec.get("type", "")}


def _node_fields(node: Json) -> dict[str, str]:
    return {"spec.unschedulable": "true" if (node.get("spec") or {}).get("unschedulable") else "false"}


def _event_fields(event: Json) -> dict[str, str]:
    about = event.get("regarding") or event.get("involvedObject") or {}
    fields = {f"regarding.{name}": about.get(name, "") for name in ("kind", "namespace", "name", "uid")}
    fields |= {f"involvedObject.{name}": about.get(name, "") for name in ("kind", "namespace", "name", "uid")}
    return fields | {"reason": event.get("reason", ""), "type": event.get("type", "")}


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource: how it is named in a path and in an object, and what a field selector may ask of it.

    ``fields`` gives the selectable fields beside ``metadata.name`` and ``metadata.namespace``; like the real server, a
    selector that names any other field is refused. ``status`` says that status is a sub-resource.
    """

    name: str
    plural: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    status: bool = False
    short: tuple[str, ...] = ()
    fields: Callable[[Json], dict[str, str]] = _no_fields

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def type_meta(self) -> bytes:
        """The opening of an object's JSON; stored bodies lack it, as the items of a real typed list do."""
        return f'{{"kind":"{self.name}","apiVersion":"{self.api_version}",'.encode()


KINDS: tuple[Kind, ...] = (
    Kind("Node", "nodes", namespaced=False, status=True, short=("no",), fields=_node_fields),
    Kind("Namespace", "namespaces", namespaced=False, status=True, short=("ns",)),
    Kind("Pod", "pods", status=True, short=("po",), fields=_pod_fields),
    Kind("Service", "services", status=True, short=("svc",), fields=_service_fields),
    Kind("ConfigMap", "configmaps", short=("cm",)),
    Kind("Event", "events", short=("ev",), fields=_event_fields),
    Kind("EndpointSlice", "endpointslices", "discovery.k8s.io"),
    Kind("NetworkPolicy", "networkpolicies", "networking.k8s.io", short=("netpol",)),
    Kind("Event", "events", "events.k8s.io", fields=_event_fields),
    Kind("Lease", "leases", "coordination.k8s.io"),
)

BY_PATH: Mapping[tuple[str, str, str], Kind] = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
BY_TYPE: Mapping[tuple[str, str], Kind] = {(kind.api_version, kind.name): kind for kind in KINDS}
BY_WORD: Mapping[str, Kind] = {
    word: kind
    for kind in reversed(KINDS)  # the first of two kinds with one name (Event of "v1") wins
    for word in (kind.name.lower(), kind.plural, *kind.short)
}


def kind_of(thing: Json) -> Kind:
    """The kind of an object by its ``apiVersion`` and ``kind``; KeyError when the table lacks it."""
    return BY_TYPE[(thing.get("apiVersion", ""), thing.get("kind", ""))]
