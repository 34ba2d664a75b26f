"""The NetworkPolicy API in one page: what is allowed, decided from the objects alone and in the plainest way.

Source: the types' documentation in k8s.io/api/networking/v1 and "Network Policies" in the Kubernetes manual. Not shipped, shares
no code with what it judges. Where the API leaves a choice, ours: pods on their node's network are plain addresses; a port name
means the ports that the destination pod gives that name; a node always reaches its own pods.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kube_router.model.objects import IPBlock, NetworkPolicy, Peer, Pod, PolicyPort, PolicyRule, Selector


class Cluster(NamedTuple):
    """All that decides. `namespaces`: labels by name. `nodes`: addresses by node name."""

    policies: tuple[NetworkPolicy, ...]
    pods: tuple[Pod, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    nodes: Mapping[str, tuple[str, ...]]


class Probe(NamedTuple):
    """The first packet of a connection, by addresses as the destination's pod sees them."""

    source: str
    destination: str
    protocol: str
    port: int


def allowed(cluster: Cluster, probe: Probe) -> bool:
    """Whether the connection may be made."""
    return own_node(cluster, probe) or (may_leave(cluster, probe) and may_enter(cluster, probe))


def own_node(cluster: Cluster, probe: Probe) -> bool:
    """Whether a node talks to its own pod."""
    destination = pod_at(cluster, probe.destination)
    return destination is not None and probe.source in cluster.nodes.get(destination.node_name, ())


def may_leave(cluster: Cluster, probe: Probe) -> bool:
    """Whether the source's egress policies allow it."""
    source, destination = pod_at(cluster, probe.source), pod_at(cluster, probe.destination)
    return source is None or _passes(cluster, source, "egress", destination, probe.destination, destination, probe)


def may_enter(cluster: Cluster, probe: Probe) -> bool:
    """Whether the destination's ingress policies allow it."""
    source, destination = pod_at(cluster, probe.source), pod_at(cluster, probe.destination)
    return destination is None or _passes(cluster, destination, "ingress", source, probe.source, destination, probe)


def pod_at(cluster: Cluster, address: str) -> Pod | None:
    """The live pod whose own address it is."""
    for pod in cluster.pods:
        if address in pod.ips and not pod.host_network and pod.phase not in ("Succeeded", "Failed"):
            return pod
    return None


def _passes(cluster: Cluster, pod: Pod, direction: str, peer: Pod | None, peer_address: str, destination: Pod | None, probe: Probe) -> bool:
    isolating = [rules for policy in cluster.policies if (rules := _isolating(policy, pod, direction)) is not None]
    if not isolating:
        return True
    return any(
        _peers_match(cluster, rule, pod.name.namespace, peer, peer_address) and _ports_match(rule.ports, destination, probe)
        for rules in isolating
        for rule in rules
    )


def _isolating(policy: NetworkPolicy, pod: Pod, direction: str) -> tuple[PolicyRule, ...] | None:
    if policy.name.namespace != pod.name.namespace or not selects(policy.pods, pod.labels):
        return None
    return policy.ingress if direction == "ingress" else policy.egress


def _peers_match(cluster: Cluster, rule: PolicyRule, namespace: str, pod: Pod | None, address: str) -> bool:
    return not rule.peers or any(_peer_matches(cluster, peer, namespace, pod, address) for peer in rule.peers)


def _peer_matches(cluster: Cluster, peer: Peer, namespace: str, pod: Pod | None, address: str) -> bool:
    if peer.block is not None:
        return _in_block(peer.block, address)
    if pod is None or not selects(peer.pods, pod.labels):
        return False
    if peer.namespaces is None:
        return pod.name.namespace == namespace
    labels = cluster.namespaces.get(pod.name.namespace)
    return labels is not None and selects(peer.namespaces, labels)


def _in_block(block: IPBlock, address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return ip in ipaddress.ip_network(block.cidr) and not any(ip in ipaddress.ip_network(hole) for hole in block.excepts)


def _ports_match(ports: Iterable[PolicyPort], destination: Pod | None, probe: Probe) -> bool:
    ports = list(ports)
    return not ports or any(port.protocol == probe.protocol and _port_matches(port, destination, probe) for port in ports)


def _port_matches(port: PolicyPort, destination: Pod | None, probe: Probe) -> bool:
    if port.port is None:
        return True
    if isinstance(port.port, int):
        return probe.port == port.port or port.port <= probe.port <= port.end_port
    return destination is not None and any(
        named.name == port.port and named.protocol == port.protocol and named.port == probe.port for named in destination.ports
    )


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Label selector against labels."""
    for requirement in selector.requirements:
        present = requirement.key in labels
        among = present and labels[requirement.key] in requirement.values
        holds = {"In": among, "NotIn": not among, "Exists": present, "DoesNotExist": not present}[requirement.operator]
        if not holds:
            return False
    return True
