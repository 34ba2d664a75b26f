"""The health check node port of a Service: what load balancers are told of this node, and that their question gets through.

    INPUT, a load-balancer IP and health check port in kube-router-health-ports --> KUBE-ROUTER-HEALTH: accepted

Some balancers ask at the address that they send traffic to, which is local here; the rules for Services would refuse a port of it that is
no port of the Service. Only Services of type LoadBalancer with external policy Local have such a port (core/v1 ServiceSpec).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from kube_router.codec.rules import ACCEPT, comment, match_set, matching, rule
from kube_router.codec.sets import port_entry
from kube_router.desired.proxy.endpoints import is_here
from kube_router.desired.proxy.frontends import Frontend, policies
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.kit.net import Family, family_of
from kube_router.model.names import HEALTH_CHAIN, HEALTH_PORTS, set_name
from kube_router.model.objects import EndpointSlice, Service
from kube_router.model.state import Key, Value
from kube_router.model.state.listeners import HealthPort, HealthPortKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

RANK: Final = 5  # after the policies' jump (0), before what refuses the other ports of an address (10)

_MEMBER: Final = Member()


def answers(service: Service, slices: Sequence[EndpointSlice], fronts: Iterable[Frontend], around: Surroundings) -> dict[Key, Value]:
    """How many ready endpoints the Service has here, counted in its first family; nothing where nobody is to be told."""
    port = service.health_check_node_port
    if not port or service.type != "LoadBalancer" or policies(service)[1] != "Local":
        return {}
    family = family_of(service.cluster_ips[0])
    here = {
        endpoint.addresses[0]
        for piece in slices
        for endpoint in piece.endpoints
        if endpoint.ready and family_of(endpoint.addresses[0]) == family and is_here(endpoint, around)
    }
    state: dict[Key, Value] = {HealthPortKey(port): HealthPort(service.name.namespace, service.name.name, len(here))}
    for front in fronts:
        if front.kind == "loadbalancer":
            state |= _rules(front.family)
            state[SetMember(set_name(HEALTH_PORTS, front.family), port_entry(front.address, "TCP", port))] = _MEMBER
    return state


@lru_cache(maxsize=2)
def _rules(family: Family) -> dict[Key, Value]:
    """Set and rule, the same for every Service; they go with the last one."""
    ports = set_name(HEALTH_PORTS, family)
    match = matching(comment("health checks of load balancers"), match_set(ports, "dst", "dst"))
    return {
        SetKey(ports): SetSpec("hash:ip,port", family),
        ChainKey(family, "filter", HEALTH_CHAIN): Chain((rule(ACCEPT, comment("health checks of load balancers")),)),
        JumpKey(family, "filter", "INPUT", HEALTH_CHAIN): Jump(match, rank=RANK),
    }
