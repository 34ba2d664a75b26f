"""How we know, after a restart with no memory, what is ours, and which controller answers for it.

| kind of state        | ours when                                                                                   |
|----------------------|---------------------------------------------------------------------------------------------|
| link                 | its name is one of ours                                                                     |
| address              | it is on `kube-dummy-if`, which is ours alone, and not link-local                           |
| route                | its protocol number is 17 in a table of ours; in table 77 also one over a tunnel of ours     |
| tunnel               | its name is one of ours and it is a tunnel: `tun-` and 11 hex digits, `kube-vxlan`           |
| neighbour, fdb entry | it is permanent, on `kube-vxlan`                                                            |
| listener (FOU)       | it takes in GUE on the configured port, or on one that a tunnel of ours sends to             |
| policy rule          | it sends packets of a source, and nothing else about them, into table 77                    |
| delivery, mark rule  | it is in table 78 or 79: a default route over lo, a rule by mark and nothing else; the       |
|                      | original's rule of priority 32765 that sends every packet to its table 79                   |
| tunnel in a pod      | its name is `kube-tunnel-if` or `kube-tunnel-v6`, in a network namespace other than ours;    |
|                      | all addresses on it; port translation: the nftables table `kube-router` in there            |
| sysctl, file         | never: others share them; we only say which values or parts we want; as with IPVS timeouts  |
| set                  | its name is one of ours, or has a prefix of ours (IPv6 twins carry "inet6:" before it)       |
| chain                | its name is one of ours, or has a prefix of ours                                            |
| jump                 | it leads to a chain of ours                                                                 |
| rule left over       | it has the exact shape of one that the original writes: plan/leftovers.py                   |
| IPVS service         | we made it; or, when we start, an earlier run did, which left its address and port in      |
|                      | kube-router-ipvs-services, or its address alone in kube-router-service-ips (or in the       |
|                      | original's later names); the second does not count for an address of the node itself,       |
|                      | which node ports put there and which others may serve on other ports; by mark: one that an  |
|                      | entry of kube-router-service-marks or -cluster-marks, or a rule left over, gives; never what is found    |
|                      | at an address inside --excluded-cidrs                                                       |
| health check port    | this process listens on it: it ends with the process                                        |
| annotation           | it is one of ours, on our own Node                                                          |
| speaker              | its configuration is ours as a whole: the sidecar serves nobody else                        |

Everything else is invisible: never listed in a plan, never written, never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kube_router.kit.net import contains
from kube_router.model import names
from kube_router.model.state import Key
from kube_router.model.state.bgp import (
    AssignmentKey,
    DefinedSetKey,
    DefinedSetMember,
    NeighborKey,
    PathKey,
    PolicyKey,
    SpeakerKey,
)
from kube_router.model.state.cluster import AnnotationKey
from kube_router.model.state.direct import DeliveryKey, MarkRuleKey, PodPortKey, PodTunnelKey, PodVipKey
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import AddressKey, FileKey, LinkKey, RouteKey, RuleKey, SysctlKey
from kube_router.model.state.listeners import HealthPortKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetKey, SetMember
from kube_router.model.state.tunnels import FdbKey, FouKey, NeighbourKey, TunnelKey

ROUTING: Final = "routing"  # bridge, CNI, sets of nodes and pods, egress
SPEAKER: Final = "speaker"  # what the BGP speaker is told
FIB: Final = "fib"  # routes learned from the speaker
STRANDED: Final = "stranded"  # owns nothing: tells of pods whose range is gone
DATAPATH: Final = "datapath"  # what this node tells others about itself
PROXY: Final = "proxy"
NETPOL: Final = "netpol"


LINKS: Final = {names.BRIDGE: ROUTING, names.DUMMY: PROXY}

# Set names without the IPv6 prefix. The original's later names (2.x) are recognised, so that they are migrated.
SETS: Final = {
    names.POD_SUBNETS: ROUTING,
    names.NODE_IPS: ROUTING,
    names.LOCAL_IPS: PROXY,
    names.SERVICE_IPS: PROXY,
    names.IPVS_SERVICES: PROXY,
    names.SERVICE_MARKS: PROXY,
    names.CLUSTER_MARKS: PROXY,
    names.CLUSTER_PODS: PROXY,
    names.OWN_PODS: PROXY,
    names.HAIRPIN_PAIRS: PROXY,
    names.GUARDED: PROXY,
    names.ALLOWED: PROXY,
    names.HEALTH_PORTS: PROXY,
    names.LATER_SERVICE_IPS: PROXY,
    names.LATER_IPVS_SERVICES: PROXY,
    names.LOCAL_PODS: NETPOL,
    **dict.fromkeys(names.LATER_SCRATCH, PROXY),
}
SET_PREFIXES: Final = {"KUBE-SRC-": NETPOL, "KUBE-DST-": NETPOL, "KUBE-POD-": NETPOL}

CHAINS: Final = {
    names.PODS_CHAIN: ROUTING,
    names.EGRESS_CHAIN: ROUTING,
    names.SERVICES_CHAIN: PROXY,
    names.MASQUERADE_CHAIN: PROXY,
    names.HAIRPIN_CHAIN: PROXY,
    names.CLAMP_CHAIN: PROXY,
    names.TOO_BIG_CHAIN: PROXY,
    names.REFUSED_CHAIN: PROXY,
    names.UNMARK_CHAIN: PROXY,
    names.SELF_CHAIN: PROXY,
    names.MARKS_CHAIN: PROXY,
    names.CLUSTER_MARKS_CHAIN: PROXY,
    names.SOURCES_CHAIN: PROXY,
    names.HEALTH_CHAIN: PROXY,
    names.INPUT_CHAIN: NETPOL,
    names.FORWARD_CHAIN: NETPOL,
    names.OUTPUT_CHAIN: NETPOL,
    names.TRIAL_CHAIN: NETPOL,
}
CHAIN_PREFIXES: Final = {"KUBE-POD-FW-": NETPOL, "KUBE-NWPLCY-": NETPOL}

_BY_KIND: Final[dict[type[Key], str]] = {
    AddressKey: PROXY,
    AnnotationKey: DATAPATH,
    VirtualServerKey: PROXY,
    DestinationKey: PROXY,
    DeliveryKey: PROXY,
    MarkRuleKey: PROXY,
    PodTunnelKey: PROXY,
    PodVipKey: PROXY,
    PodPortKey: PROXY,
    HealthPortKey: PROXY,
    RouteKey: FIB,
    FouKey: FIB,
    FdbKey: FIB,
    NeighbourKey: FIB,
    SpeakerKey: SPEAKER,
    NeighborKey: SPEAKER,
    DefinedSetKey: SPEAKER,
    DefinedSetMember: SPEAKER,
    PolicyKey: SPEAKER,
    AssignmentKey: SPEAKER,
    PathKey: SPEAKER,
}


def adopted_services(members: Iterable[SetMember], marks: Iterable[int] = ()) -> Callable[[VirtualServerKey], bool]:
    """The test for IPVS services that an earlier run of ours, or of the original, left behind; `members`: of all our sets; `marks`: what
    sets and rules give to packets."""
    entries: dict[str, set[str]] = {}
    for member in members:
        entries.setdefault(member.set.removeprefix(names.IPV6_SET_PREFIX), set()).add(member.entry)
    ports = entries.get(names.IPVS_SERVICES, set()) | entries.get(names.LATER_IPVS_SERVICES, set())
    addresses = entries.get(names.SERVICE_IPS, set()) | entries.get(names.LATER_SERVICE_IPS, set())
    vips = addresses - entries.get(names.LOCAL_IPS, set())
    given = frozenset(marks)

    def ours(key: VirtualServerKey) -> bool:
        if key.mark:
            return key.mark in given
        return key.address in vips or f"{key.address},{names.PROTOCOLS.get(key.protocol, key.protocol)}:{key.port}" in ports

    return ours


def outside(cidrs: Sequence[str], owned: Callable[[VirtualServerKey], bool]) -> Callable[[VirtualServerKey], bool]:
    """The same test, but for addresses inside these ranges (--excluded-cidrs): what an earlier run left there is nobody's to remove.
    Services by mark have no address."""

    def ours(key: VirtualServerKey) -> bool:
        return owned(key) and not (key.address and any(contains(cidr, key.address) for cidr in cidrs))

    return ours


def set_owner(name: str) -> str | None:
    """Controller that owns a set of this name; None when it is not ours."""
    plain = name.removeprefix(names.IPV6_SET_PREFIX)
    return SETS.get(plain) or _by_prefix(plain, SET_PREFIXES)


def chain_owner(name: str) -> str | None:
    """Controller that owns a chain of this name; None when it is not ours."""
    return CHAINS.get(name) or _by_prefix(name, CHAIN_PREFIXES)


def owner(key: Key) -> str | None:
    """Controller that answers for a key; None when it is not ours, or (sysctl, file, timeouts) nobody's."""
    match key:
        case SetKey(name=name) | SetMember(set=name):
            return set_owner(name)
        case ChainKey(name=name) | JumpKey(chain=name):
            return chain_owner(name)
        case LeftoverKey(owner=who):
            return who
        case LinkKey(name=name):
            return LINKS.get(name)
        case TunnelKey(name=name):
            return FIB if names.is_tunnel(name) else None
        case RuleKey(table=table):
            return FIB if table == names.OVERLAY_TABLE else None
        case SysctlKey() | FileKey() | IpvsTimeoutsKey():
            return None
        case _:
            return _BY_KIND.get(type(key))


def _by_prefix(name: str, prefixes: dict[str, str]) -> str | None:
    return next((who for prefix, who in prefixes.items() if name.startswith(prefix)), None)
