"""Services and EndpointSlices: from wire structs to the model, with the API's defaults."""

from __future__ import annotations

from sys import intern
from typing import Final

from kube_router.codec.objects_cluster import annotations_of, labels_of, name_of
from kube_router.codec.objects_fault import Faults
from kube_router.codec.objects_wire import EndpointWire, ServiceSpec, ServiceWire, SliceWire
from kube_router.model.objects import Endpoint, EndpointPort, EndpointSlice, Ingress, Name, Service, ServicePort

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
DEFAULT_AFFINITY_TIMEOUT: Final = 10800  # core/v1 DefaultClientIPServiceAffinitySeconds
LONGEST_AFFINITY_TIMEOUT: Final = 86400  # core/v1 MaxClientIPServiceAffinitySeconds
_TRAFFIC: Final = ("Cluster", "Local")
_TYPES: Final = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


def service(wire: ServiceWire, faults: Faults) -> Service:
    """A Service. Headless and ExternalName ones have no cluster IP."""
    spec = wire.spec or ServiceSpec()
    kind = faults.choice("spec.type", spec.type, allowed=_TYPES, default="ClusterIP")
    ingress = _ingress(wire, faults)
    asked = spec.load_balancer_source_ranges or ()
    ranges = faults.networks("spec.loadBalancerSourceRanges", asked)
    if asked and not ranges and ingress:
        # No range means "from everywhere", which nobody asked for.
        faults.add("spec.loadBalancerSourceRanges", asked, "none is valid; load-balancer addresses are not served")
        ingress = ()
    return Service(
        name=name_of(wire.metadata),
        uid=wire.metadata.uid,
        created=wire.metadata.creation_timestamp or "",
        labels=labels_of(wire.metadata),
        annotations=annotations_of(wire.metadata),
        type=kind,
        cluster_ips=() if kind == "ExternalName" else _cluster_ips(spec, faults),
        external_ips=faults.addresses("spec.externalIPs", spec.external_ips or ()),
        ingress=ingress,
        ports=_service_ports(spec, faults),
        affinity_timeout=_affinity_timeout(spec, faults),
        internal_policy=faults.choice("spec.internalTrafficPolicy", spec.internal_traffic_policy, allowed=_TRAFFIC, default="Cluster"),
        external_policy=faults.choice("spec.externalTrafficPolicy", spec.external_traffic_policy, allowed=_TRAFFIC, default="Cluster"),
        health_check_node_port=(faults.port("spec.healthCheckNodePort", spec.health_check_node_port) if spec.health_check_node_port else 0),
        load_balancer_class=spec.load_balancer_class or "",
        source_ranges=ranges,
    )


def _cluster_ips(spec: ServiceSpec, faults: Faults) -> tuple[str, ...]:
    if spec.cluster_ips:
        return faults.addresses("spec.clusterIPs", [ip for ip in spec.cluster_ips if ip not in ("", "None")])
    if spec.cluster_ip and spec.cluster_ip != "None":
        address = faults.address("spec.clusterIP", spec.cluster_ip)
        return (address,) if address else ()
    return ()


def _service_ports(spec: ServiceSpec, faults: Faults) -> tuple[ServicePort, ...]:
    ports = []
    for n, port in enumerate(spec.ports or ()):
        number = faults.port(f"spec.ports[{n}].port", port.port)
        protocol = faults.protocol(f"spec.ports[{n}].protocol", port.protocol)
        node_port = faults.port(f"spec.ports[{n}].nodePort", port.node_port) if port.node_port else 0
        if number and protocol:
            ports.append(ServicePort(name=port.name or "", protocol=protocol, port=number, node_port=node_port))
    return tuple(ports)


def _ingress(wire: ServiceWire, faults: Faults) -> tuple[Ingress, ...]:
    """Entries with only a host name are somebody else's load balancer: nothing for us, and no fault."""
    balancer = wire.status.load_balancer if wire.status is not None else None
    found: dict[Ingress, None] = {}
    for n, entry in enumerate((balancer.ingress if balancer is not None else None) or ()):
        if not entry.ip:
            continue
        address = faults.address(f"status.loadBalancer.ingress[{n}].ip", entry.ip)
        mode = faults.choice(f"status.loadBalancer.ingress[{n}].ipMode", entry.ip_mode, allowed=("VIP", "Proxy"), default="VIP")
        if address:
            found[Ingress(address=address, mode=mode)] = None
    return tuple(found)


def _affinity_timeout(spec: ServiceSpec, faults: Faults) -> int:
    if faults.choice("spec.sessionAffinity", spec.session_affinity, allowed=("None", "ClientIP"), default="None") == "None":
        return 0
    client_ip = spec.session_affinity_config.client_ip if spec.session_affinity_config is not None else None
    timeout = client_ip.timeout_seconds if client_ip is not None else None
    if timeout is None:
        return DEFAULT_AFFINITY_TIMEOUT
    if 1 <= timeout <= LONGEST_AFFINITY_TIMEOUT:
        return timeout
    faults.add(
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        timeout,
        f"not 1 to {LONGEST_AFFINITY_TIMEOUT} seconds; taken as {DEFAULT_AFFINITY_TIMEOUT}",
    )
    return DEFAULT_AFFINITY_TIMEOUT


def endpoint_slice(wire: SliceWire, faults: Faults) -> EndpointSlice:
    """An EndpointSlice; one of host names (addressType FQDN) has no endpoint for a proxy."""
    name = name_of(wire.metadata)
    owner = (wire.metadata.labels or {}).get(SERVICE_NAME_LABEL, "")
    endpoints = wire.endpoints or () if wire.address_type != "FQDN" else ()
    decoded = [_endpoint(n, endpoint, faults) for n, endpoint in enumerate(endpoints)]
    ports = []
    for n, port in enumerate(wire.ports or ()):
        number = faults.port(f"ports[{n}].port", port.port) if port.port is not None else 0
        protocol = faults.protocol(f"ports[{n}].protocol", port.protocol)
        if protocol and (number or port.port is None):
            ports.append(EndpointPort(name=intern(port.name or ""), protocol=protocol, port=number))
    return EndpointSlice(
        name=name,
        service=Name(name.namespace, owner),
        endpoints=tuple(endpoint for endpoint in decoded if endpoint is not None),
        ports=tuple(ports),
    )


def _endpoint(n: int, wire: EndpointWire, faults: Faults) -> Endpoint | None:
    addresses = faults.addresses(f"endpoints[{n}].addresses", wire.addresses or ())
    if not addresses:
        return None
    conditions, hints = wire.conditions, wire.hints
    return Endpoint(
        addresses=addresses,
        ready=conditions is None or conditions.ready is not False,
        serving=conditions is None or conditions.serving is not False,
        terminating=conditions is not None and conditions.terminating is True,
        node_name=intern(wire.node_name or ""),
        zone=intern(wire.zone or ""),
        hint_zones=tuple(intern(zone.name) for zone in (hints.for_zones if hints is not None else None) or ()),
        hint_nodes=tuple(intern(node.name) for node in (hints.for_nodes if hints is not None else None) or ()),
    )
