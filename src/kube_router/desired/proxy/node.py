"""What this node needs for Services whatever they are: dummy link, sysctls, sets, and rules for input and masquerade.

    INPUT, destination in the set of VIPs --> KUBE-ROUTER-SERVICES: ICMP that paths need, then address and port of a Service;
                                              anything else to a VIP is refused, to the node's own addresses left to others
    POSTROUTING, IPVS from client to backend --> KUBE-ROUTER-MASQ: from or to a pod of this node unchanged, else from the node

A reply must come back through this node, because only it knows the connection. It does when client or backend is a pod of
this node, and otherwise because the backend answers the node. That is one rule, whatever the number of pod ranges: one range stands
in the rule itself, several in a set, for packets from one range to another are from and to pods of this node, too.
"""

from __future__ import annotations

from typing import Final

from kube_router.codec.rules import ACCEPT, ICMP_PROTOCOL, comment, icmp_type, ipvs, match_set, reject, rule, snat
from kube_router.codec.sets import net_entry
from kube_router.config.options import Options
from kube_router.desired import Desired, Note
from kube_router.desired.proxy.surroundings import Surroundings
from kube_router.kit.net import Family, family_of, of_family
from kube_router.model import names
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import IpvsTimeouts, IpvsTimeoutsKey
from kube_router.model.state.links import Link, LinkKey, Sysctl, SysctlKey
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

INPUT_RANK: Final = 10  # behind the policies' jump (0): they judge first
MASQUERADE_RANK: Final = 20  # what gives a packet another source stands before it (hairpin.py)

_SET_TYPES: Final = {names.LOCAL_IPS: "hash:ip", names.SERVICE_IPS: "hash:ip", names.IPVS_SERVICES: "hash:ip,port"}
_MEMBER: Final = Member()

_ICMP: Final[dict[Family, tuple[str, ...]]] = {
    4: ("echo-request", "destination-unreachable", "time-exceeded"),
    6: (
        "echo-request",
        "destination-unreachable",
        "packet-too-big",  # without it a path of small MTU swallows whatever is sent from a VIP
        "time-exceeded",
        "neighbor-solicitation",
        "neighbor-advertisement",
        "echo-reply",
    ),
}
_ICMP_COMMENTS: Final = {"echo-request": "allow icmp echo requests"}

_STRICT, _LOOSE = "1", "2"  # rp_filter, RFC 3704
_REUSE_FIXED: Final = (5, 9)  # kernel since which conn_reuse_mode 1 does not stall reused ports (and 0 sticks to one backend)


def node(around: Surroundings, options: Options, kernel: tuple[int, int]) -> Desired:
    """The node's own state; `kernel` is version and patch level of the running kernel."""
    state: dict[Key, Value] = {LinkKey(names.DUMMY): Link("dummy")}
    notes: list[Note] = []
    for path, value in _sysctls(kernel).items():
        state[SysctlKey(path)] = Sysctl(value)
    timeouts = IpvsTimeouts(*map(_seconds, (options.service_tcp_timeout, options.service_tcpfin_timeout, options.service_udp_timeout)))
    if timeouts != IpvsTimeouts():
        state[IpvsTimeoutsKey()] = timeouts
    if 4 in around.primary:
        for link in ("all", names.DUMMY, *around.links):
            # Only strict filters are loosened: an admin's 0 stays.
            state[SysctlKey(f"net/ipv4/conf/{link}/rp_filter")] = Sysctl(_LOOSE, only_if=(_STRICT,))
    for family, primary in around.primary.items():
        state |= _sets(family, around)
        state |= _input(family, permit=options.ipvs_permit_all)
        if primary:
            state |= _masquerade(family, around, everything=options.masquerade_all)
        else:
            notes.append(_no_address(family, around))
    return Desired(state, tuple(notes))


def _sysctls(kernel: tuple[int, int]) -> dict[str, str]:
    return {
        "net/ipv4/vs/conntrack": "1",  # masquerade rules and policies see the connections
        "net/ipv4/vs/expire_nodest_conn": "1",  # a flow whose backend went is balanced anew
        "net/ipv4/vs/expire_quiescent_template": "1",
        "net/ipv4/vs/conn_reuse_mode": "1" if kernel >= _REUSE_FIXED else "0",
        "net/ipv4/conf/all/arp_ignore": "1",  # nobody but us may hear that VIPs are here
        "net/ipv4/conf/all/arp_announce": "2",
    }


def _seconds(period: float) -> int:
    """Whole seconds, as the kernel takes them; less than one is one, for 0 would say that nothing is asked for."""
    return max(int(period), 1) if period > 0 else 0


def _sets(family: Family, around: Surroundings) -> dict[Key, Value]:
    state: dict[Key, Value] = {SetKey(names.set_name(base, family)): SetSpec(kind, family) for base, kind in _SET_TYPES.items()}
    # The primary address may be in the set of VIPs for its node ports: it must be here before it is on a link, too.
    for address in {*around.local, around.primary[family]}:
        if address and family_of(address) == family:
            state[SetMember(names.set_name(names.LOCAL_IPS, family), address)] = _MEMBER
    return state


def _input(family: Family, *, permit: bool) -> dict[Key, Value]:
    key = ChainKey(family, "filter", names.SERVICES_CHAIN)
    if not permit:
        return {key: Chain(())}
    rules = [rule(ACCEPT, comment(_icmp_comment(name)), icmp_type(family, name), protocol=ICMP_PROTOCOL[family]) for name in _ICMP[family]]
    rules.append(
        rule(
            ACCEPT,
            comment("allow input traffic to ipvs services"),
            match_set(names.set_name(names.IPVS_SERVICES, family), "dst", "dst"),
        )
    )
    rules.append(
        rule(
            reject(family),
            comment("reject all unexpected traffic to service IPs"),
            match_set(names.set_name(names.LOCAL_IPS, family), "dst", negate=True),
        )
    )
    match = " ".join(
        (
            comment("handle traffic to IPVS service IPs in custom chain"),
            match_set(names.set_name(names.SERVICE_IPS, family), "dst"),
        )
    )
    return {
        key: Chain(tuple(rules)),
        JumpKey(family, "filter", "INPUT", names.SERVICES_CHAIN): Jump(match, rank=INPUT_RANK),
    }


def _icmp_comment(name: str) -> str:
    words = name.replace("-", " ")
    return _ICMP_COMMENTS.get(name, f"allow icmp {words} messages")


def _masquerade(family: Family, around: Surroundings, *, everything: bool) -> dict[Key, Value]:
    ranges = () if everything else of_family(around.pod_cidrs, family)
    target, words = snat(around.primary[family]), comment("replies of other backends come back to this node")
    state: dict[Key, Value] = {}
    if len(ranges) > 1:
        pods = names.set_name(names.OWN_PODS, family)
        state[SetKey(pods)] = SetSpec("hash:net", family)
        state |= {SetMember(pods, net_entry(cidr)): _MEMBER for cidr in ranges}
        masquerade = rule(target, words, match_set(pods, "src", negate=True), match_set(pods, "dst", negate=True))
    elif ranges:
        masquerade = rule(target, words, source=f"!{ranges[0]}", destination=f"!{ranges[0]}")
    else:
        masquerade = rule(target, words)
    return state | {
        ChainKey(family, "nat", names.MASQUERADE_CHAIN): Chain((masquerade,)),
        JumpKey(family, "nat", "POSTROUTING", names.MASQUERADE_CHAIN): Jump(
            ipvs(direction="ORIGINAL", method="MASQ"), rank=MASQUERADE_RANK
        ),
    }


def _no_address(family: Family, around: Surroundings) -> Note:
    return Note(
        Ref(Kind.NODE, Name("", around.name)),
        "NoNodeAddress",
        f"status.addresses holds no IPv{family} address: no node ports and no masquerade for IPv{family}",
    )
