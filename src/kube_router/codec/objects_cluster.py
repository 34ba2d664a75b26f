"""Nodes, Namespaces and Pods: from wire structs to the model.

Strings that thousands of pods share (namespace, node, labels, named ports) are shared here too: 10,000 pods of a
cluster have a few hundred distinct sets of labels.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from sys import intern
from typing import Final, TypeVar

from kube_router.codec.annotation_peers import ADDRESSES as PEER_ADDRESSES
from kube_router.codec.annotation_peers import PEERS
from kube_router.codec.objects_fault import Faults
from kube_router.codec.objects_wire import Container, Metadata, NamespaceWire, NodeWire, PodWire
from kube_router.model.names import DATAPATH_ANNOTATION
from kube_router.model.objects import ContainerPort, Name, Namespace, Node, Pod

T = TypeVar("T")

NO_LABELS: Final[Mapping[str, str]] = {}
ANNOTATION_PREFIX: Final = "kube-router.io/"
_MOST_SHARED: Final = 512  # lists come sorted by name, so equal neighbours are near; full, it starts anew


class _Shared:
    """Equal values become one object."""

    def __init__(self) -> None:
        self._values: dict[Hashable, object] = {}

    def one(self, key: Hashable, value: T) -> T:
        """The first value seen with this key, which must be equal to this one."""
        if len(self._values) >= _MOST_SHARED:
            self._values.clear()
        return self._values.setdefault(key, value)  # type: ignore[return-value]  # the key carries the type


_shared: Final = _Shared()


def name_of(metadata: Metadata) -> Name:
    """Identity of an object."""
    return Name(intern(metadata.namespace), metadata.name)


def labels_of(metadata: Metadata) -> Mapping[str, str]:
    """Labels, one mapping for all objects whose labels are equal."""
    labels = metadata.labels
    if not labels:
        return NO_LABELS
    return _shared.one(("labels", frozenset(labels.items())), labels)


def annotations_of(metadata: Metadata) -> Mapping[str, str]:
    """Annotations that we read, which all bear our prefix.

    The others belong to tools that write them often (leader elections, autoscalers) or at length (the last applied manifest):
    without them such a change is no change to us, and five thousand Services weigh some megabytes less.
    """
    ours = {key: value for key, value in (metadata.annotations or {}).items() if key.startswith(ANNOTATION_PREFIX)}
    return ours or NO_LABELS


def node(wire: NodeWire, faults: Faults) -> Node:
    """A Node. Host names and addresses of unknown type are left out."""
    spec, status = wire.spec, wire.status
    cidrs: tuple[str, ...] = ()
    if spec is not None and spec.pod_cidrs:
        cidrs = faults.networks("spec.podCIDRs", spec.pod_cidrs)
    elif spec is not None and spec.pod_cidr:
        cidr = faults.network("spec.podCIDR", spec.pod_cidr)
        cidrs = (cidr,) if cidr else ()
    found: dict[str, list[str]] = {"InternalIP": [], "ExternalIP": []}
    for n, entry in enumerate((status.addresses if status is not None else None) or ()):
        if entry.type in found:
            address = faults.address(f"status.addresses[{n}].address", entry.address)
            if address:
                found[entry.type].append(address)
    return Node(
        name=name_of(wire.metadata),
        uid=wire.metadata.uid,
        labels=labels_of(wire.metadata),
        annotations=annotations_of(wire.metadata),
        pod_cidrs=cidrs,
        addresses=tuple(dict.fromkeys((*found["InternalIP"], *found["ExternalIP"]))),
        provider_id=spec.provider_id if spec is not None else "",
        unschedulable=spec.unschedulable if spec is not None else False,
        created=wire.metadata.creation_timestamp or "",
        datapath=_datapath(wire.metadata, faults),
        names_peers=any((wire.metadata.annotations or {}).get(name, "").strip() for name in (PEERS, PEER_ADDRESSES)),
    )


def _datapath(metadata: Metadata, faults: Faults) -> tuple[str, ...]:
    text = (metadata.annotations or {}).get(DATAPATH_ANNOTATION)
    return faults.addresses(f"metadata.annotations[{DATAPATH_ANNOTATION}]", [item.strip() for item in text.split(",")]) if text else ()


def namespace(wire: NamespaceWire, _faults: Faults) -> Namespace:
    """A Namespace."""
    return Namespace(name=name_of(wire.metadata), labels=labels_of(wire.metadata))


def pod(wire: PodWire, faults: Faults) -> Pod:
    """A Pod."""
    spec, status = wire.spec, wire.status
    ips: tuple[str, ...] = ()
    host_ip = ""
    if status is not None:
        if status.pod_ips:
            ips = faults.addresses("status.podIPs", [entry.ip for entry in status.pod_ips])
        elif status.pod_ip:
            ip = faults.address("status.podIP", status.pod_ip)
            ips = (ip,) if ip else ()
        host_ip = intern(faults.address("status.hostIP", status.host_ip)) if status.host_ip else ""
    return Pod(
        name=name_of(wire.metadata),
        uid=wire.metadata.uid,
        labels=labels_of(wire.metadata),
        node_name=intern((spec.node_name if spec is not None else None) or ""),
        phase=intern((status.phase if status is not None else None) or ""),
        host_network=bool(spec is not None and spec.host_network),
        ips=ips,
        host_ip=host_ip,
        ports=_ports(wire, faults),
    )


def _ports(wire: PodWire, faults: Faults) -> tuple[ContainerPort, ...]:
    ports: list[ContainerPort] = []
    for where, container in _serving_containers(wire):
        for n, port in enumerate(container.ports or ()):
            if not port.name:
                continue
            number = faults.port(f"{where}.ports[{n}].containerPort", port.container_port)
            protocol = faults.protocol(f"{where}.ports[{n}].protocol", port.protocol)
            if number and protocol:
                ports.append(ContainerPort(name=port.name, protocol=protocol, port=number))
    if not ports:
        return ()
    whole = tuple(ports)
    return _shared.one(("ports", whole), whole)


def _serving_containers(wire: PodWire) -> Iterator[tuple[str, Container]]:
    """Containers, and init containers that go on running beside them (sidecars: restartPolicy Always)."""
    if wire.spec is None:
        return
    for n, container in enumerate(wire.spec.containers or ()):
        yield f"spec.containers[{n}]", container
    for n, container in enumerate(wire.spec.init_containers or ()):
        if container.restart_policy == "Always":
            yield f"spec.initContainers[{n}]", container
