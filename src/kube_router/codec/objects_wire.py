"""The API's JSON, field by field as it is on the wire, and only the fields that we use.

These structs say what JSON types the API promises (kubernetes.io API reference, core/v1, discovery.k8s.io/v1 and
networking.k8s.io/v1) and nothing about meaning: defaults and canonical forms are the business of the modules that turn
them into model structs. Go writes an absent list as null or not at all, so both are taken.
"""

from __future__ import annotations

import msgspec


class Wire(msgspec.Struct, rename="camel", gc=False):
    """Base: JSON names are camelCase; instances hold no cycles and live for microseconds."""


class Metadata(Wire):
    """ObjectMeta."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Nameless(Wire):
    """The part of ObjectMeta that a bookmark has."""

    resource_version: str = ""


class Identifying(Wire):
    """The part of ObjectMeta that says which object this is; the rest may be unreadable."""

    name: str
    namespace: str = ""
    resource_version: str = ""


class Identity(Wire):
    """Any object, for as much as its name."""

    metadata: Identifying


# -- Node, Namespace, Pod ---------------------------------------------------------------------------------------------


class NodeAddress(Wire):
    """status.addresses of a Node."""

    type: str = ""
    address: str = ""


class NodeSpec(Wire):
    """spec of a Node."""

    pod_cidr: str = msgspec.field(name="podCIDR", default="")
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    provider_id: str = msgspec.field(name="providerID", default="")
    unschedulable: bool = False


class NodeStatus(Wire):
    """status of a Node."""

    addresses: list[NodeAddress] | None = None


class NodeWire(Wire):
    """v1 Node."""

    metadata: Metadata
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class NamespaceWire(Wire):
    """v1 Namespace."""

    metadata: Metadata


class ContainerPortWire(Wire):
    """ports of a container."""

    container_port: int = 0
    name: str | None = None
    protocol: str | None = None


class Container(Wire):
    """A container, or an init container."""

    ports: list[ContainerPortWire] | None = None
    restart_policy: str | None = None


class PodSpec(Wire):
    """spec of a Pod."""

    node_name: str | None = None
    host_network: bool | None = None
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodIP(Wire):
    """status.podIPs of a Pod."""

    ip: str = ""


class PodStatus(Wire):
    """status of a Pod."""

    phase: str | None = None
    host_ip: str | None = msgspec.field(name="hostIP", default=None)
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: list[PodIP] | None = msgspec.field(name="podIPs", default=None)


class PodWire(Wire):
    """v1 Pod."""

    metadata: Metadata
    spec: PodSpec | None = None
    status: PodStatus | None = None


# -- Service, EndpointSlice -------------------------------------------------------------------------------------------


class ServicePortWire(Wire):
    """ports of a Service."""

    port: int
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIP(Wire):
    """sessionAffinityConfig.clientIP."""

    timeout_seconds: int | None = None


class AffinityConfig(Wire):
    """sessionAffinityConfig."""

    client_ip: ClientIP | None = msgspec.field(name="clientIP", default=None)


class ServiceSpec(Wire):
    """spec of a Service."""

    type: str | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    ports: list[ServicePortWire] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfig | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None
    load_balancer_class: str | None = None
    load_balancer_source_ranges: list[str] | None = None


class IngressWire(Wire):
    """status.loadBalancer.ingress of a Service."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(Wire):
    """status.loadBalancer of a Service."""

    ingress: list[IngressWire] | None = None


class ServiceStatus(Wire):
    """status of a Service."""

    load_balancer: LoadBalancer | None = None


class ServiceWire(Wire):
    """v1 Service."""

    metadata: Metadata
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Conditions(Wire):
    """conditions of an endpoint."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(Wire):
    """A zone or node of a hint."""

    name: str = ""


class Hints(Wire):
    """hints of an endpoint."""

    for_zones: list[Named] | None = None
    for_nodes: list[Named] | None = None


class EndpointWire(Wire):
    """endpoints of a slice."""

    addresses: list[str] | None = None
    conditions: Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: Hints | None = None


class EndpointPortWire(Wire):
    """ports of a slice."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class SliceWire(Wire):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Metadata
    address_type: str = ""
    endpoints: list[EndpointWire] | None = None
    ports: list[EndpointPortWire] | None = None


# -- NetworkPolicy ----------------------------------------------------------------------------------------------------


class Expression(Wire):
    """matchExpressions of a label selector."""

    key: str
    operator: str
    values: list[str] | None = None


class LabelSelector(Wire):
    """A label selector."""

    match_labels: dict[str, str] | None = None
    match_expressions: list[Expression] | None = None


class IPBlockWire(Wire):
    """ipBlock of a peer."""

    cidr: str
    excepts: list[str] | None = msgspec.field(name="except", default=None)


class PeerWire(Wire):
    """from or to of a rule."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    ip_block: IPBlockWire | None = None


class PolicyPortWire(Wire):
    """ports of a rule."""

    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class IngressRule(Wire):
    """ingress of a policy."""

    peers: list[PeerWire] | None = msgspec.field(name="from", default=None)
    ports: list[PolicyPortWire] | None = None


class EgressRule(Wire):
    """egress of a policy."""

    peers: list[PeerWire] | None = msgspec.field(name="to", default=None)
    ports: list[PolicyPortWire] | None = None


class PolicySpec(Wire):
    """spec of a NetworkPolicy."""

    pod_selector: LabelSelector | None = None
    policy_types: list[str] | None = None
    ingress: list[IngressRule] | None = None
    egress: list[EgressRule] | None = None


class PolicyWire(Wire):
    """networking.k8s.io/v1 NetworkPolicy."""

    metadata: Metadata
    spec: PolicySpec | None = None


# -- lists, watches, errors -------------------------------------------------------------------------------------------


class ListMetadata(Wire):
    """ListMeta."""

    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)
    remaining_item_count: int | None = None


class ListWire(Wire):
    """A list of any kind; items stay bytes, so that one bad item does not spoil the others."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None


class WatchLine(Wire):
    """One line of a watch stream."""

    type: str
    object: msgspec.Raw


class Bookmark(Wire):
    """The object of a BOOKMARK."""

    metadata: Nameless


class StatusDetails(Wire):
    """details of a Status."""

    retry_after_seconds: int | None = None


class StatusWire(Wire):
    """v1 Status: what the API server says when it says no."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None
