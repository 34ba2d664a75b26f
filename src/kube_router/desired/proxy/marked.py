"""Packets that IPVS knows by their mark rather than by their address: one set and one rule for all, whatever the number of Services.

    PREROUTING, OUTPUT (mangle) --> KUBE-ROUTER-MARKS:         address and port in kube-router-service-marks: the entry's mark
                                --> KUBE-ROUTER-CLUSTER-MARKS: from a pod of the cluster or from this node, address and port in
                                                               kube-router-cluster-marks: the entry's mark

The second is for frontends of traffic policy Local. To IPVS such an address is two services: by address, with the backends of this node
only (none: it refuses), and by mark with all of them, which a packet with the mark prefers. So outside clients are sent to this
node's backends and keep their address, while whoever is inside the cluster is served as by policy Cluster, as kube-proxy does.

A mark is written whole, for IPVS compares it whole: the jumps stand behind other tools' rules, so that theirs does not follow ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from kube_router.codec.rules import addrtype, comment, map_mark, match_set, rule
from kube_router.codec.sets import net_entry, port_entry
from kube_router.desired.proxy.frontends import Binding
from kube_router.desired.proxy.marks import MarkOf
from kube_router.kit.net import Family, of_family
from kube_router.model.names import CLUSTER_MARKS, CLUSTER_MARKS_CHAIN, CLUSTER_PODS, MARKS_CHAIN, SERVICE_MARKS, set_name
from kube_router.model.objects import Node
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServerKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

RANK: Final = 0
CLUSTER_RANK: Final = 10  # after the marks that hold for everybody

_HOOKS: Final = ("PREROUTING", "OUTPUT")
_DESTINATION: Final = Destination()
_MEMBER: Final = Member()


def in_cluster(binding: Binding, mark_of: MarkOf) -> dict[Key, Value]:
    """The service by mark for clients inside the cluster; nothing where policy does not tell them from others.

    It stands even while both services have the same backends: were it to go then, the connections through it would be cut.
    """
    front = binding.frontend
    if not tells_apart(binding):
        return {}
    mark = mark_of(binding.claim, "cluster")
    server = VirtualServerKey("", 0, 0, mark, front.family)
    state: dict[Key, Value] = {server: binding.value}
    for backend, port in binding.everyone:
        state[DestinationKey(server, backend, port)] = _DESTINATION
    state |= _cluster_rules(front.family)
    entry = port_entry(front.address, binding.protocol, binding.port)
    state[SetMember(set_name(CLUSTER_MARKS, front.family), entry)] = Member(mark=mark)
    return state


def tells_apart(binding: Binding) -> bool:
    """Whether the traffic policy has other backends for clients inside the cluster than for those outside."""
    return binding.frontend.policy == "Local" and binding.frontend.kind != "cluster"


def marks_everywhere(family: Family) -> dict[Key, Value]:
    """Set and rules that mark packets to a Service wherever they come from. Every Service that has an entry there wants them too."""
    return dict(_service_rules(family))


def pods_of(node: Node, families: Iterable[Family]) -> dict[Key, Value]:
    """Pods of one node as sources inside the cluster."""
    state: dict[Key, Value] = {}
    for family in families:
        for cidr in of_family(node.pod_cidrs, family):
            name = set_name(CLUSTER_PODS, family)
            state[SetKey(name)] = SetSpec("hash:net", family)
            state[SetMember(name, net_entry(cidr))] = _MEMBER
    return state


@lru_cache(maxsize=2)
def _service_rules(family: Family) -> dict[Key, Value]:
    marks = set_name(SERVICE_MARKS, family)
    rules = (rule(map_mark(marks, "dst", "dst"), comment("Services that IPVS knows by mark")),)
    return {SetKey(marks): SetSpec("hash:ip,port", family, skbinfo=True), **_chain(family, MARKS_CHAIN, rules, RANK)}


@lru_cache(maxsize=2)
def _cluster_rules(family: Family) -> dict[Key, Value]:
    marks, pods = set_name(CLUSTER_MARKS, family), set_name(CLUSTER_PODS, family)
    target = map_mark(marks, "dst", "dst")
    rules = (
        rule(target, comment("pods of this cluster are served by all endpoints"), match_set(pods, "src")),
        rule(target, comment("so is this node"), addrtype(source="LOCAL")),
    )
    return {
        SetKey(marks): SetSpec("hash:ip,port", family, skbinfo=True),
        SetKey(pods): SetSpec("hash:net", family),
        **_chain(family, CLUSTER_MARKS_CHAIN, rules, CLUSTER_RANK),
    }


def _chain(family: Family, chain: str, rules: tuple[str, ...], rank: int) -> dict[Key, Value]:
    state: dict[Key, Value] = {ChainKey(family, "mangle", chain): Chain(rules)}
    for hook in _HOOKS:
        state[JumpKey(family, "mangle", hook, chain)] = Jump(first=False, rank=rank)
    return state
