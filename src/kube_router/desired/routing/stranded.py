"""What becomes of a pod when the ranges of its node change: its address stays what it was, and is nobody's."""

from __future__ import annotations

from kube_router.desired import NOTHING, Desired, Note
from kube_router.kit.net import Family, contains, family_of, of_family
from kube_router.model.objects import Kind, Node, Pod, Ref


def stranded(pod: Pod | None, own: Node | None, families: tuple[Family, ...]) -> Desired:
    """A note on a pod of this node with an address outside the node's ranges of its family; nothing about pods of others, of the host's
    network, or that run no more, nor while the node has no range."""
    if pod is None or own is None or pod.node_name != own.name.name or pod.host_network or pod.finished:
        return NOTHING
    lost = [ip for ip in pod.ips if family_of(ip) in families and _is_lost(ip, of_family(own.pod_cidrs, family_of(ip)))]
    if not lost:
        return NOTHING
    where = f"{', '.join(lost)} is in no pod range of node {own.name} ({', '.join(own.pod_cidrs)})"
    return Desired(notes=(Note(Ref(Kind.POD, pod.name), "AddressOutsidePodCIDR", f"{where}: nothing routes to it; recreate the pod"),))


def _is_lost(address: str, ranges: tuple[str, ...]) -> bool:
    return bool(ranges) and not any(contains(cidr, address) for cidr in ranges)
