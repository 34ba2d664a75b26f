"""Connection tracking entries of UDP as netlink messages (linux/netfilter/nfnetlink_conntrack.h): find them, end them.

Only UDP and only what it takes to recognise a flow towards a Service: where the client sent to, and which backend answers.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import ATTRIBUTE, DUMP, NESTED, REQUEST, U32, Message, Reply, attribute, attributes
from kube_router.kit.net import Family, canonical_address, family_of

UDP: Final = 17
ANY_PORT: Final = 0

_GET: Final = 0x0101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
_DELETE: Final = 0x0102

_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER
_IP, _PROTO = 1, 2  # CTA_TUPLE_IP, CTA_TUPLE_PROTO
_SOURCE: Final[dict[Family, int]] = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_TARGET: Final[dict[Family, int]] = {4: 2, 6: 4}
_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3  # CTA_PROTO_*
_ORIGINAL_FLAGS: Final = 1  # CTA_FILTER_ORIG_FLAGS

# Fields of the original tuple that a dump compares (net/netfilter/nf_internals.h: CTA_FILTER_F_*)
_BY_TARGET: Final = 1 << 1
_BY_PROTOCOL: Final = 1 << 3
_BY_TARGET_PORT: Final = 1 << 5

_AF: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_GENERAL: Final = struct.Struct("!BBH")  # nfgenmsg: family, version, resource id


class Flow(NamedTuple):
    """Flows to an address and port, or with port 0 to any; to one backend of it, or with backend "" to any. Of an address that nobody
    balances, the address itself is the backend."""

    address: str
    port: int
    backend: str = ""
    backend_port: int = 0


class Entry(NamedTuple):
    """One tracked flow: where the client sent to, who answers, and the octets that name the entry to the kernel."""

    flow: Flow
    family: Family
    identity: bytes


def dump(family: Family, target: tuple[str, int] | None = None) -> Message:
    """Asks for UDP entries of a family, if told so only for those sent to an address and port (or any port of it).

    The answer has to be looked through all the same: kernels before 5.8 do not know the filter and send everything, and of
    IPv6 only the port is asked for, because kernels (6.18 still) take the comparison of IPv6 addresses the wrong way round.
    """
    protocol = attribute(_NUMBER, bytes([UDP]))
    flags = _BY_PROTOCOL
    inside = b""
    if target is not None:
        address, port = target
        if port != ANY_PORT:
            protocol += attribute(_TARGET_PORT, port.to_bytes(2, "big"))
            flags |= _BY_TARGET_PORT
        if family == 4:
            inside = attribute(_IP | NESTED, attribute(_TARGET[family], socket.inet_pton(_AF[family], address)))
            flags |= _BY_TARGET
    wanted = attribute(_ORIGINAL | NESTED, inside + attribute(_PROTO | NESTED, protocol))
    choice = attribute(_FILTER | NESTED, attribute(_ORIGINAL_FLAGS, U32.pack(flags)))
    return Message(_GET, REQUEST | DUMP, _GENERAL.pack(_AF[family], 0, 0) + wanted + choice)


def parse(reply: Reply) -> Entry | None:
    """One entry of a dump; None when it is not UDP. ValueError when it lacks what every entry has."""
    try:
        family: Family = 6 if reply.payload[0] == socket.AF_INET6 else 4
        found = attributes(reply.payload[4:])
        original, answer = attributes(found[_ORIGINAL]), attributes(found[_REPLY])
        sent, answered = attributes(original[_PROTO]), attributes(answer[_PROTO])
        if sent[_NUMBER][0] != UDP:
            return None
        flow = Flow(
            _address(attributes(original[_IP])[_TARGET[family]], family),
            int.from_bytes(sent[_TARGET_PORT], "big"),
            _address(attributes(answer[_IP])[_SOURCE[family]], family),
            int.from_bytes(answered[_SOURCE_PORT], "big"),
        )
        identity = b"".join(_again(kind, found[kind]) for kind in (_ORIGINAL, _ID, _ZONE) if kind in found)
    except (KeyError, IndexError) as fault:
        raise ValueError(f"conntrack entry without {fault}") from fault
    return Entry(flow, family, identity)


def delete(entry: Entry) -> Message:
    """Ends this very entry: its id tells it from a later one of the same addresses and ports."""
    return Message(_DELETE, REQUEST, _GENERAL.pack(_AF[entry.family], 0, 0) + entry.identity)


def family(flow: Flow) -> Family:
    """Family of a flow."""
    return family_of(flow.address)


def _again(kind: int, value: memoryview) -> bytes:
    nested = NESTED if kind == _ORIGINAL else 0
    return ATTRIBUTE.pack(4 + len(value), kind | nested) + bytes(value) + bytes(-len(value) % 4)


def _address(data: memoryview, family: Family) -> str:
    text = socket.inet_ntop(_AF[family], data)
    return canonical_address(text) if family == 6 and "." in text else text
