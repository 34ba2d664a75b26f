"""Kubernetes objects with only the fields that we use, parsed and canonical.

`codec/objects.py` builds these from API JSON and refuses what does not parse; past it, an address is a canonical string
(kit/net.py), a missing tri-state condition has the meaning that the API gives it, and a tuple is never None unless the
docstring says what None means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import msgspec


class Kind(Enum):
    """Kinds of object that the cache holds; the first six come from the API server."""

    NODE = "Node"
    POD = "Pod"
    SERVICE = "Service"
    ENDPOINT_SLICE = "EndpointSlice"
    NETWORK_POLICY = "NetworkPolicy"
    NAMESPACE = "Namespace"
    INTERFACE = "Interface"  # links of this host, with their addresses, from netlink
    BEST_PATH = "BestPath"  # what the BGP speaker chose, from its watch stream
    CNI_FILE = "CniFile"  # this host's CNI configuration file and plugins


class Name(NamedTuple):
    """Namespace and name; the namespace is empty for cluster-wide kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Ref(NamedTuple):
    """One object of one kind."""

    kind: Kind
    name: Name

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


class Rejected(NamedTuple):
    """A wrong annotation. `value` is safe to show. `held`: the last good value of what it concerns is in force, else nothing is."""

    annotation: str
    value: str
    reason: str
    advice: str
    held: bool


class Node(msgspec.Struct, frozen=True, gc=False):
    """v1 Node. `addresses`: InternalIPs in order, then ExternalIPs; host names left out. `annotations`: those with our prefix that parse;
    `rejected`: the others of this node, if it is ours (codec/accepted.py).
    `datapath`: addresses that it published for pod traffic, at most one a family counts. `created`: creationTimestamp text (RFC 3339
    sorts as text). `names_peers`: annotations name external peers, whatever they say; of other nodes the gate lets no more through."""

    name: Name
    uid: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    pod_cidrs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    provider_id: str = ""
    unschedulable: bool = False
    created: str = ""
    datapath: tuple[str, ...] = ()
    names_peers: bool = False
    rejected: tuple[Rejected, ...] = ()


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """A named container port: what a policy's port name resolves to. Protocol is upper case."""

    name: str
    protocol: str
    port: int


class Pod(msgspec.Struct, frozen=True, gc=False):
    """v1 Pod. `ips`: every address of status.podIPs, else status.podIP. `ports`: named ports of containers and init sidecars."""

    name: Name
    uid: str = ""
    labels: Mapping[str, str] = {}
    node_name: str = ""
    phase: str = ""
    host_network: bool = False
    ips: tuple[str, ...] = ()
    host_ip: str = ""
    ports: tuple[ContainerPort, ...] = ()

    @property
    def finished(self) -> bool:
        """No process of it runs any more, so its address may serve another pod."""
        return self.phase in ("Succeeded", "Failed")


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a Service. Protocol is "TCP", "UDP" or "SCTP"; `node_port` 0 means none."""

    name: str
    protocol: str
    port: int
    node_port: int = 0


class Ingress(msgspec.Struct, frozen=True, gc=False):
    """One address of status.loadBalancer.ingress; `mode` is "VIP" or "Proxy"."""

    address: str
    mode: str = "VIP"


class Claim(NamedTuple):
    """What one Service asks every node to serve, and no other Service can have at the same time. `address` "" is the node's own."""

    address: str
    protocol: str
    port: int


class Service(msgspec.Struct, frozen=True, gc=False):
    """v1 Service. `created`: creationTimestamp text (RFC 3339 sorts as text). Policies are "Cluster" or "Local".

    `annotations`: those with our prefix that parse; `rejected`: the others (codec/accepted.py)."""

    name: Name
    uid: str = ""
    created: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    affinity_timeout: int = 0  # seconds; 0 = no ClientIP affinity
    internal_policy: str = "Cluster"
    external_policy: str = "Cluster"
    health_check_node_port: int = 0
    load_balancer_class: str = ""
    source_ranges: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()

    def addresses(self) -> tuple[str, ...]:
        """Every address that it names; some may be named twice."""
        return (*self.cluster_ips, *self.external_ips, *(entry.address for entry in self.ingress))

    def claims_outside(self) -> Iterator[Claim]:
        """Every port at its external and load-balancer IPs."""
        for port in self.ports:
            for address in (*self.external_ips, *(entry.address for entry in self.ingress)):
                yield Claim(address, port.protocol, port.port)

    def claims(self) -> Iterator[Claim]:
        """Every address and port that it names, and its node ports; some may be named twice."""
        addresses = self.addresses()
        for port in self.ports:
            for address in addresses:
                yield Claim(address, port.protocol, port.port)
            if port.node_port:
                yield Claim("", port.protocol, port.node_port)


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One endpoint of a slice, conditions read as the API says (absent ready and serving mean true, absent terminating false)."""

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    zone: str = ""
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()


class EndpointPort(msgspec.Struct, frozen=True, gc=False):
    """One port of a slice; `port` 0 means all ports (never usable by a proxy)."""

    name: str
    protocol: str
    port: int


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """discovery.k8s.io/v1 EndpointSlice. `service`: the Service it belongs to, from its label."""

    name: Name
    service: Name
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class Requirement(msgspec.Struct, frozen=True, gc=False, order=True):
    """One expression of a label selector: operator is In, NotIn, Exists or DoesNotExist; values are sorted."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, gc=False, order=True):
    """A label selector as sorted requirements (matchLabels become In with one value); no requirement selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy every requirement (apimachinery labels.Requirement: NotIn also matches an absent key)."""
        for r in self.requirements:
            if r.operator == "In":
                if labels.get(r.key) not in r.values:
                    return False
            elif r.operator == "NotIn":
                if labels.get(r.key) in r.values:
                    return False
            elif (r.key in labels) != (r.operator == "Exists"):
                return False
        return True


class IPBlock(msgspec.Struct, frozen=True, gc=False):
    """An address range less its exceptions, all canonical CIDRs."""

    cidr: str
    excepts: tuple[str, ...] = ()


class Peer(msgspec.Struct, frozen=True, gc=False):
    """One policy peer: either a block, or pods by selectors. `namespaces` None means the policy's own namespace."""

    pods: Selector = Selector()
    namespaces: Selector | None = None
    block: IPBlock | None = None


class PolicyPort(msgspec.Struct, frozen=True, gc=False):
    """One port entry: `port` None means every port of the protocol; a string is a port name; `end_port` 0 means no range."""

    protocol: str = "TCP"
    port: int | str | None = None
    end_port: int = 0


class PolicyRule(msgspec.Struct, frozen=True, gc=False):
    """One ingress or egress rule; empty `peers` means everyone, empty `ports` every port of every protocol."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


class NetworkPolicy(msgspec.Struct, frozen=True, gc=False):
    """networking.k8s.io/v1 NetworkPolicy. `ingress`/`egress` None: the policy does not cover that direction."""

    name: Name
    uid: str = ""
    pods: Selector = Selector()
    ingress: tuple[PolicyRule, ...] | None = None
    egress: tuple[PolicyRule, ...] | None = None


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """v1 Namespace."""

    name: Name
    labels: Mapping[str, str] = {}


class Interface(msgspec.Struct, frozen=True, gc=False):
    """A link of this host. `addresses`: "address/prefix length" as configured, host bits kept. `gateways`: of default routes over it."""

    name: Name
    index: int = 0
    kind: str = ""
    up: bool = True
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()


class BestPath(msgspec.Struct, frozen=True, gc=False):
    """A prefix that the speaker learned, and the next hops of its best path(s). The name is the prefix."""

    name: Name
    next_hops: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """The destination, a canonical CIDR."""
        return self.name.name


class CniFile(msgspec.Struct, frozen=True, gc=False):
    """What others decide about this host's CNI configuration; the name is the file's path.

    `mtu`: the one that the file names (0: none, or no file), `mtu_is_ours`: an MTU that we wrote; `missing`: plugins that it needs and
    the host does not have, sorted.
    """

    name: Name
    mtu: int = 0
    mtu_is_ours: bool = False
    missing: tuple[str, ...] = ()


Object = Node | Pod | Service | EndpointSlice | NetworkPolicy | Namespace | Interface | BestPath | CniFile
