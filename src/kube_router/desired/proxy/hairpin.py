"""Pods that reach themselves through their own Service: their packets need another source, or the pod takes them for forged.

    POSTROUTING, IPVS from client to backend --> KUBE-ROUTER-HAIRPIN: of a backend to itself, by VIP and port: from that VIP
                                             --> KUBE-ROUTER-SELF:    of anybody to itself: from the node

The second always stands and needs to know no pod: it compares the packet's source with its destination. The first is what the flag
and the annotations ask for: at most one rule for a VIP and port of a Service with backends on this node, whose pods stand in
one set, so that a backend that comes or goes is an entry. Which frame leaves by the port that it came in by is the bridge's business,
told by the CNI configuration (hairpinMode).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kube_router.codec import annotations as said
from kube_router.codec.rules import comment, ipvs, match_set, matching, rule, snat, to_itself
from kube_router.codec.sets import pair_entry
from kube_router.config.options import Options
from kube_router.desired.proxy.frontends import Binding, FrontendKind
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.kit.net import Family
from kube_router.model.names import HAIRPIN_CHAIN, HAIRPIN_PAIRS, SELF_CHAIN, set_name
from kube_router.model.objects import Service
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

RANK: Final = 10  # before the masquerade, which might give the packet the node's address
SELF_RANK: Final = 15  # after what asks for a VIP as source

_MEMBER: Final = Member()
_OUTSIDE: Final[frozenset[FrontendKind]] = frozenset({"external", "loadbalancer"})


def asks(service: Service, options: Options) -> bool:
    """Whether packets of a Service's backends to themselves are to come from the VIP."""
    return options.hairpin_mode or said.hairpins(service.annotations)


def chains(bindings: Iterable[Binding], options: Options) -> dict[Key, Value]:
    """Rules and pods of all Services together; no chain for a family of which there are none.

    No Service wants these itself: where the kernel lacks what they need, it is served all the same.
    """
    found: dict[Family, set[tuple[str, int]]] = {}
    state: dict[Key, Value] = {}
    for binding in bindings:
        if _applies(binding, options):
            family = binding.frontend.family
            found.setdefault(family, set()).add((binding.frontend.address, binding.port))
            for address, _ in binding.here:
                state[SetMember(set_name(HAIRPIN_PAIRS, family), pair_entry(address, address))] = _MEMBER
    for family, vips in found.items():
        name = set_name(HAIRPIN_PAIRS, family)
        match = match_set(name, "src", "dst")
        rules = tuple(rule(snat(address), match, ipvs(address=address, port=port)) for address, port in sorted(vips))
        state[SetKey(name)] = SetSpec("hash:net,net", family)
        state[ChainKey(family, "nat", HAIRPIN_CHAIN)] = Chain(rules)
        state[JumpKey(family, "nat", "POSTROUTING", HAIRPIN_CHAIN)] = Jump(ipvs(direction="ORIGINAL"), rank=RANK)
    return state


def to_themselves(around: Surroundings) -> dict[Key, Value]:
    """The last rule, for whoever reaches itself by what VIP ever."""
    state: dict[Key, Value] = {}
    for family, primary in around.primary.items():
        if primary:
            rules = (rule(snat(primary), comment("a pod that reaches itself through a Service sees the node as client")),)
            match = matching(ipvs(direction="ORIGINAL", method="MASQ"), to_itself(family))
            state[ChainKey(family, "nat", SELF_CHAIN)] = Chain(rules)
            state[JumpKey(family, "nat", "POSTROUTING", SELF_CHAIN)] = Jump(match, rank=SELF_RANK)
    return state


def _applies(binding: Binding, options: Options) -> bool:
    if not binding.here or not asks(binding.service, options):
        return False
    return binding.frontend.kind not in _OUTSIDE or said.hairpins_outside(binding.service.annotations)
