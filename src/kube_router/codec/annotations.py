"""Annotations of Nodes and Services: from their texts to typed values, each parsed by the one function that knows its format.

A function takes all annotations of an object and returns what its own say, or what no annotation means. It raises `Wrong` for a text
that it cannot read; past the gate (codec/accepted.py) only texts that parse are left, so that whoever decides may call it freely.
Formats are the original's, but for its oddities: lists are trimmed everywhere, numbers are read alike everywhere, and one wrong item
makes the whole annotation wrong.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec

from kube_router.kit.bgp import dotted
from kube_router.kit.net import canonical_address, canonical_network

PREFIX: Final = "kube-router.io/"
NODE_ASN: Final = PREFIX + "node.asn"
REFLECTOR_SERVER: Final = PREFIX + "rr.server"
REFLECTOR_CLIENT: Final = PREFIX + "rr.client"
PREPEND_AS: Final = PREFIX + "path-prepend.as"
PREPEND_REPEAT: Final = PREFIX + "path-prepend.repeat-n"
COMMUNITIES: Final = PREFIX + "node.bgp.communities"
IMPORT_REJECT: Final = PREFIX + "node.bgp.customimportreject"
LOCAL_ADDRESSES: Final = PREFIX + "bgp-local-addresses"
POD_CIDRS: Final = PREFIX + "pod-cidrs"
POD_CIDR: Final = PREFIX + "pod-cidr"
SERVICE_LOCAL: Final = PREFIX + "service.local"
SKIP_LOAD_BALANCER: Final = PREFIX + "service.skiplbips"
DSR: Final = PREFIX + "service.dsr"
SCHEDULER: Final = PREFIX + "service.scheduler"
SCHEDULER_FLAGS: Final = PREFIX + "service.schedflags"
HAIRPIN: Final = PREFIX + "service.hairpin"
HAIRPIN_OUTSIDE: Final = PREFIX + "service.hairpin.externalips"
ADVERTISE: Final = PREFIX + "service.advertise."
OF_PEERS: Final = (NODE_ASN, REFLECTOR_SERVER, REFLECTOR_CLIENT)  # what a node reads of others to know which sessions to have
OF_PROXY: Final = frozenset({SERVICE_LOCAL, DSR, SCHEDULER, SCHEDULER_FLAGS})  # of which the proxy tells, where it runs

Annotations = Mapping[str, str]
Role = Literal["server", "client"]
Scheduler = Literal["rr", "lc", "dh", "sh", "mh"]
VipKind = Literal["clusterip", "externalip", "loadbalancerip"]
T = TypeVar("T")

DEFAULT_SCHEDULER: Final[Scheduler] = "rr"
SCHEDULERS: Final[dict[str, Scheduler]] = {"rr": "rr", "lc": "lc", "dh": "dh", "sh": "sh", "mh": "mh"}
# IP_VS_SVC_F_SCHED1 and the two after it (linux/ip_vs.h); for mh: fallback, port, and none.
FLAG_BITS: Final = {"flag-1": 0x8, "flag-2": 0x10, "flag-3": 0x20}

_LONGEST_SHOWN: Final = 120
_AS_TRANS: Final = 23456  # RFC 6793
# What Go's strconv.ParseUint reads with base 0; underscores are left out.
_NUMBER: Final = re.compile(r"0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]*)")
_BASES: Final = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})  # Go's strconv.ParseBool
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})

# IANA's registry of well-known BGP communities, by the names that gobgpd knows.
WELL_KNOWN: Final = {
    "internet": 0x00000000,
    "planned-shut": 0xFFFF0000,
    "accept-own": 0xFFFF0001,
    "route-filter-translated-v4": 0xFFFF0002,
    "route-filter-v4": 0xFFFF0003,
    "route-filter-translated-v6": 0xFFFF0004,
    "route-filter-v6": 0xFFFF0005,
    "llgr-stale": 0xFFFF0006,
    "no-llgr": 0xFFFF0007,
    "blackhole": 0xFFFF029A,
    "no-export": 0xFFFFFF01,
    "no-advertise": 0xFFFFFF02,
    "no-export-subconfed": 0xFFFFFF03,
    "no-peer": 0xFFFFFF04,
}


class Wrong(ValueError):
    """A text that is not what its annotation takes. `value` is what may be shown of it."""

    def __init__(self, annotation: str, value: str, reason: str, advice: str) -> None:
        super().__init__(f"{annotation}={value}: {reason}; {advice}")
        self.annotation, self.reason, self.advice = annotation, reason, advice
        self.value = value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "..."


class Reflector(msgspec.Struct, frozen=True):
    """A node's part in route reflection, and its cluster id as a dotted quad."""

    role: Role
    cluster_id: str


# -- a node -----------------------------------------------------------------------------------------------------------


def node_asn(annotations: Annotations) -> int | None:
    """AS number of a node without full mesh; None without the annotation."""
    return _asn(annotations, NODE_ASN)


def reflector(annotations: Annotations) -> Reflector | None:
    """A node's part in route reflection; a server that is a client as well is a server."""
    roles: tuple[tuple[Role, str], ...] = (("client", REFLECTOR_CLIENT), ("server", REFLECTOR_SERVER))
    found = None
    for role, annotation in roles:
        if annotation in annotations:
            found = Reflector(role, _cluster_id(annotation, annotations[annotation].strip()))
    return found


def prepend(annotations: Annotations) -> tuple[int, int] | None:
    """AS number and how often it is put before the AS path towards external peers; None for not at all."""
    if PREPEND_AS not in annotations and PREPEND_REPEAT not in annotations:
        return None
    for annotation, other in ((PREPEND_AS, PREPEND_REPEAT), (PREPEND_REPEAT, PREPEND_AS)):
        if annotation not in annotations:
            raise Wrong(other, annotations[other], f"{annotation} is missing", "give both or none")
    asn = _asn(annotations, PREPEND_AS)
    assert asn is not None
    text = annotations[PREPEND_REPEAT].strip()
    repeat = number(text)
    if repeat is None or repeat > 255:
        raise Wrong(PREPEND_REPEAT, text, "not a number from 0 to 255", "say how often the AS number is to be prepended, such as 3")
    return (asn, repeat) if repeat else None


def communities(annotations: Annotations) -> tuple[str, ...]:
    """Communities that go with routes to external peers, each "65000:1", in the order given, each once."""
    return tuple(dict.fromkeys(_community(item) for item in items(annotations, COMMUNITIES)))


def import_reject(annotations: Annotations) -> tuple[str, ...]:
    """Canonical CIDRs whose routes are refused from all peers, with everything inside them."""
    return _networks(annotations, IMPORT_REJECT)


def local_addresses(annotations: Annotations) -> tuple[str, ...]:
    """Addresses that the speaker listens on; () for the node's own."""
    found = []
    for item in items(annotations, LOCAL_ADDRESSES):
        address = parsed_address(item)
        if address is None or ipaddress.ip_address(address).is_multicast or ipaddress.ip_address(address).is_unspecified:
            raise Wrong(LOCAL_ADDRESSES, item, "not an address to listen on", "give addresses of this node, comma separated")
        found.append(address)
    return tuple(dict.fromkeys(found))


def pod_cidrs(annotations: Annotations) -> tuple[str, ...]:
    """Pod ranges of a node in place of those of its spec; () without the annotation."""
    return _networks(annotations, POD_CIDRS)


def pod_cidr(annotations: Annotations) -> tuple[str, ...]:
    """The same in the older form, which holds one range only and gives way to `pod_cidrs`."""
    found = _networks(annotations, POD_CIDR)
    if len(found) > 1:
        raise Wrong(POD_CIDR, annotations[POD_CIDR], "several ranges", f"give them in {POD_CIDRS}")
    return found


# -- a Service --------------------------------------------------------------------------------------------------------


def advertises(annotations: Annotations, kind: VipKind) -> bool | None:
    """Whether addresses of this kind are announced; None leaves it to the flag."""
    annotation = ADVERTISE + kind
    if annotation not in annotations:
        return None
    text = annotations[annotation].strip()
    if text not in _TRUE | _FALSE:
        raise Wrong(annotation, text, "neither true nor false", 'write "true" or "false"')
    return text in _TRUE


def is_local(annotations: Annotations) -> bool:
    """Whether external and load-balancer addresses are served and announced by nodes with a local endpoint only."""
    text = annotations.get(SERVICE_LOCAL, "false")
    if text != "true" and text not in _FALSE:
        # The original takes nothing but "true", and a node beside us may run it.
        raise Wrong(SERVICE_LOCAL, text, "not exactly true", 'write "true", or leave the annotation out')
    return text == "true"


def skips_load_balancer(annotations: Annotations) -> bool:
    """Whether load-balancer addresses are neither served nor announced: by presence, whatever the value."""
    return SKIP_LOAD_BALANCER in annotations


def is_direct(annotations: Annotations) -> bool:
    """Whether backends answer clients of external and load-balancer addresses themselves (direct server return)."""
    text = annotations.get(DSR)
    if text is not None and text.strip() != "tunnel":
        raise Wrong(DSR, text, "not a way of direct server return", 'write "tunnel", or leave the annotation out')
    return text is not None


def hairpins(annotations: Annotations) -> bool:
    """Whether backends that reach themselves through the Service see the VIP as client: by presence, whatever the value."""
    return HAIRPIN in annotations


def hairpins_outside(annotations: Annotations) -> bool:
    """Whether that also holds for external and load-balancer addresses: by presence, whatever the value."""
    return HAIRPIN_OUTSIDE in annotations


def scheduler(annotations: Annotations) -> Scheduler:
    """How IPVS chooses a backend."""
    text = annotations.get(SCHEDULER, DEFAULT_SCHEDULER)
    found = SCHEDULERS.get(text.strip())
    if found is None:
        raise Wrong(SCHEDULER, text, "not a scheduler that is offered", f"write one of {', '.join(SCHEDULERS)}")
    return found


def scheduler_flags(annotations: Annotations) -> int:
    """Bits of the scheduler's flags, as IPVS has them in the flags of a service."""
    bits = 0
    for item in items(annotations, SCHEDULER_FLAGS):
        if item not in FLAG_BITS:
            raise Wrong(SCHEDULER_FLAGS, item, "not a flag", f"write some of {', '.join(FLAG_BITS)}, comma separated")
        bits |= FLAG_BITS[item]
    return bits


# -- words ------------------------------------------------------------------------------------------------------------


def items(annotations: Annotations, annotation: str) -> list[str]:
    """Items of a comma list, trimmed; none for an absent or blank one. A blank item among others is one."""
    text = annotations.get(annotation, "").strip()
    return [item.strip() for item in text.split(",")] if text else []


def number(text: str, most: int = 2**32 - 1) -> int | None:
    """An unsigned number as Go reads it: decimal, 0x, 0o or a plain 0 before octal digits, 0b. None when it is none, or too large."""
    match = _NUMBER.fullmatch(text)
    if match is None or match.lastgroup is None:
        return None
    value = int(match[match.lastgroup], _BASES[match.lastgroup])
    return value if value <= most else None


def parsed_address(text: str) -> str | None:
    """Canonical address; None when it is none. IPv4 in the form of IPv6 is none."""
    try:
        address = canonical_address(text)
    except ValueError:
        return None
    return None if ":" in address and ipaddress.IPv6Address(address).ipv4_mapped else address


def _asn(annotations: Annotations, annotation: str) -> int | None:
    if annotation not in annotations:
        return None
    text = annotations[annotation].strip()
    asn = number(text)
    if asn is None or asn in (0, _AS_TRANS, 2**32 - 1):
        raise Wrong(annotation, text, "not an AS number", f"give a number from 1 to 4294967294 but {_AS_TRANS}, which is reserved")
    return asn


def _cluster_id(annotation: str, text: str) -> str:
    value = number(text)
    if value is not None:
        return dotted(value)
    address = parsed_address(text)
    if address is None or ":" in address:
        raise Wrong(annotation, text, "not a cluster id", "give a number of 32 bits such as 42, or an IPv4 address")
    return address


def _community(item: str) -> str:
    if item in WELL_KNOWN:
        return _halves(WELL_KNOWN[item])
    if item.isascii() and item.isdigit() and int(item) < 2**32:
        return _halves(int(item))
    high, _, low = item.partition(":")
    if all(half.isascii() and half.isdigit() and int(half) < 2**16 for half in (high, low)):
        return f"{int(high)}:{int(low)}"
    advice = f"give numbers of 32 bits, pairs such as 65000:1, or names: {', '.join(WELL_KNOWN)}"
    raise Wrong(COMMUNITIES, item, "not a community", advice)


def _halves(value: int) -> str:
    return f"{value >> 16}:{value & 0xFFFF}"


def _networks(annotations: Annotations, annotation: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_network(annotation, item) for item in items(annotations, annotation)))


def _network(annotation: str, item: str) -> str:
    try:
        if "/" not in item or "%" in item:
            raise ValueError
        cidr = canonical_network(item)
        if ":" in cidr and ipaddress.IPv6Network(cidr).network_address.ipv4_mapped:
            raise ValueError
    except ValueError:
        raise Wrong(annotation, item, "not a CIDR", "give CIDRs such as 10.0.0.0/24 or fd00::/64, comma separated") from None
    return cidr
