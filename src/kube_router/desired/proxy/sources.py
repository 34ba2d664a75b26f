"""Who may reach a load balancer's address: the ranges of loadBalancerSourceRanges, as entries of two sets and one chain for all.

    INPUT, address and port in kube-router-guarded --> KUBE-ROUTER-SOURCES: with the source in kube-router-allowed, back to INPUT;
                                                       dropped else, before any other rule of ours lets it in

Pods are judged by their own address, like anybody; what this node itself sends never passes INPUT and is not restricted. A family of
which no range is named lets nobody in: ranges say who is let in, and nobody of that family is among them. Cluster IPs, external IPs
and node ports are not concerned (core/v1 ServiceSpec).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from kube_router.codec.rules import DROP, RETURN, comment, match_set, matching, rule
from kube_router.codec.sets import port_entry, source_entry
from kube_router.desired.proxy.frontends import Binding
from kube_router.kit.net import Family, of_family
from kube_router.model.names import ALLOWED, GUARDED, SOURCES_CHAIN, set_name
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

RANK: Final = -10  # before the policies' jump (0), which ends in ACCEPT for what policies let through; this chain only drops

_MEMBER: Final = Member()
# The kernel has no entry of length 0.
_HALVES: Final = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}


def restrict(binding: Binding) -> dict[Key, Value]:
    """What one port at one address comes to; nothing where everybody may reach it."""
    front = binding.frontend
    if front.kind != "loadbalancer" or not binding.service.source_ranges:
        return {}
    family = front.family
    state = dict(_rules(family))
    state[SetMember(set_name(GUARDED, family), port_entry(front.address, binding.protocol, binding.port))] = _MEMBER
    for cidr in _ranges(binding.service.source_ranges, family):
        state[SetMember(set_name(ALLOWED, family), source_entry(front.address, binding.protocol, binding.port, cidr))] = _MEMBER
    return state


def _ranges(asked: tuple[str, ...], family: Family) -> Iterator[str]:
    for cidr in of_family(asked, family):
        yield from _HALVES.get(cidr, (cidr,))


@lru_cache(maxsize=2)
def _rules(family: Family) -> dict[Key, Value]:
    """Sets and rules, the same for every Service that restricts anything; they go with the last one."""
    guarded, allowed = set_name(GUARDED, family), set_name(ALLOWED, family)
    rules = (
        rule(RETURN, comment("sources that the Service names"), match_set(allowed, "dst", "dst", "src")),
        rule(DROP, comment("all other sources of a restricted load balancer")),
    )
    match = matching(comment("load balancers that only some sources may reach"), match_set(guarded, "dst", "dst"))
    return {
        SetKey(guarded): SetSpec("hash:ip,port", family),
        SetKey(allowed): SetSpec("hash:ip,port,net", family),
        ChainKey(family, "filter", SOURCES_CHAIN): Chain(rules),
        JumpKey(family, "filter", "INPUT", SOURCES_CHAIN): Jump(match, rank=RANK),
    }
