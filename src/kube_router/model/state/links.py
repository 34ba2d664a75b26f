"""Links, addresses, routes and sysctls of the node."""

from __future__ import annotations

from typing import NamedTuple

from kube_router.model.state import Key, Value


class LinkKey(Key, frozen=True):
    """A network link by name."""

    name: str


class Link(Value, frozen=True):
    """A link of ours.

    `kind`: "bridge" or "dummy" (rtnetlink IFLA_INFO_KIND). `mtu` 0 leaves the MTU to the kernel. `filtered`: bridged packets
    pass iptables (IFLA_BR_NF_CALL_IPTABLES and its IPv6 twin, for this bridge alone). `only_in`: global addresses outside
    these CIDRs are taken off (a bridge whose pod range changed); empty leaves addresses alone. `hairpin`: ports of the bridge send frames
    back by the way that they came (IFLA_BRPORT_MODE). `up` is always wanted; false is only ever observed.
    """

    kind: str
    mtu: int = 0
    filtered: bool = False
    only_in: tuple[str, ...] = ()
    hairpin: bool = False
    up: bool = True


class AddressKey(Key, frozen=True):
    """An address on a link; `prefix` is the canonical address with its length, host bits kept ("10.233.0.1/32")."""

    link: str
    prefix: str


class Address(Value, frozen=True):
    """`scope`: "link" or "global" (IPv4 only; the kernel chooses it for IPv6). `source`: the preferred source that the address's local
    route (table local, scope host) must carry, so that the host talks to the address with the node's own address; "" makes no demand."""

    scope: str = "link"
    source: str = ""


class RouteKey(Key, frozen=True):
    """A route of ours to a prefix; `table` is the routing table's number (254 main). `metric` 0 is what the family gives by default
    (IPv4 0, IPv6 1024); routes to one prefix that differ in it stand side by side, the lowest counts."""

    prefix: str
    table: int = 254
    metric: int = 0


class Hop(NamedTuple):
    """One way on. `gateway` "": straight over the link; `link` "": left to the gateway's own route. `onlink`: the gateway is to be
    found on the link whatever the link's addresses say (RTNH_F_ONLINK)."""

    gateway: str = ""
    link: str = ""
    onlink: bool = False


class Route(Value, frozen=True):
    """`hops`: sorted, several make one multipath route; `source` "" leaves the source address to the kernel."""

    hops: tuple[Hop, ...] = ()
    source: str = ""


def through(*gateways: str) -> tuple[Hop, ...]:
    """Hops through gateways, over whatever links these are reached."""
    return tuple(Hop(gateway) for gateway in sorted(gateways))


class RuleKey(Key, frozen=True):
    """A policy routing rule: packets from `source` (a canonical CIDR) look into `table`."""

    source: str
    table: int


class Rule(Value, frozen=True):
    """Nothing beside its key: the kernel chooses the priority, below those that are there."""


class SysctlKey(Key, frozen=True):
    """A sysctl by its path below /proc/sys ("net/ipv4/vs/conntrack")."""

    path: str


class Sysctl(Value, frozen=True):
    """`only_if`: write only when the present value is one of these; empty writes whenever it differs."""

    value: str
    only_if: tuple[str, ...] = ()


class FileKey(Key, frozen=True):
    """A file that we share with its other editors (the CNI configuration)."""

    path: str


class CniConfig(Value, frozen=True):
    """What we manage in a CNI network configuration: the pod ranges of the bridge plugin's host-local IPAM and its MTU (0: not ours).
    All other keys of the file belong to whoever wrote them and stay."""

    ranges: tuple[str, ...]
    mtu: int = 0
    bridge: str = "kube-bridge"
