"""Netlink messages: the parts that every family of them shares (linux/netlink.h, linux/genetlink.h).

A message here is its type, its flags and its payload; sequence numbers and lengths are put on when it is sent, because
only the sender knows them. Native byte order throughout, as netlink has it; attributes padded to 4 octets.

It refuses to know any particular family: IPVS, addresses and flows have their own modules.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
GENERIC: Final = struct.Struct("=BBH")  # genlmsghdr: command, version, reserved
ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length with this header, type
ERRNO: Final = struct.Struct("=i")
U16: Final = struct.Struct("=H")
U32: Final = struct.Struct("=I")

REQUEST: Final = 0x01  # NLM_F_*
ACK: Final = 0x04
DUMP: Final = 0x300
REPLACE: Final = 0x100
EXCLUSIVE: Final = 0x200
CREATE: Final = 0x400
INTERRUPTED: Final = 0x10  # NLM_F_DUMP_INTR: what is dumped changed meanwhile
CAPPED: Final = 0x100  # of an acknowledgement: the request's payload is not repeated in it
HAS_ATTRIBUTES: Final = 0x200  # of an acknowledgement: attributes with the kernel's words follow

ERROR: Final = 2  # NLMSG_ERROR, also the acknowledgement
DONE: Final = 3

NESTED: Final = 0x8000  # NLA_F_NESTED
TYPE_MASK: Final = 0x3FFF  # NLA_TYPE_MASK

ERROR_TEXT: Final = 1  # NLMSGERR_ATTR_MSG

CONTROLLER: Final = 0x10  # GENL_ID_CTRL, the family that knows the others' numbers
_GET_FAMILY: Final = 3
_FAMILY_ID: Final = 1
_FAMILY_NAME: Final = 2


class Message(NamedTuple):
    """One request: `payload` is everything behind the netlink header, padded."""

    type: int
    flags: int
    payload: bytes


class Reply(NamedTuple):
    """One message of an answer, its payload a view that stays valid as long as it is held. `port`: of a notice, the port id of the
    socket that asked for the change, 0 for the kernel's own."""

    type: int
    flags: int
    sequence: int
    payload: memoryview
    port: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: memoryview) -> dict[int, memoryview]:
    """Attributes by type, flags of the type cleared; of a type that occurs twice the last counts. ValueError when cut short."""
    found: dict[int, memoryview] = {}
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"attribute of {length} octets at {offset} of {end}")
        found[kind & TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def replies(data: bytes) -> Iterator[Reply]:
    """Messages of one datagram; ValueError when cut short."""
    view = memoryview(data)
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            raise ValueError(f"netlink message of {length} octets at {offset} of {end}")
        yield Reply(kind, flags, sequence, view[offset + 16 : offset + length], port)
        offset += (length + 3) & ~3


def errno_of(reply: Reply) -> int:
    """The positive error number of an ERROR message, 0 for an acknowledgement."""
    (number,) = ERRNO.unpack_from(reply.payload)
    return -int(number)


def error_text(reply: Reply) -> str:
    """The kernel's own words in an ERROR message, if it had any (needs NETLINK_EXT_ACK and NETLINK_CAP_ACK)."""
    if not reply.flags & HAS_ATTRIBUTES:
        return ""
    (length,) = U32.unpack_from(reply.payload, 4)
    echoed = 16 if reply.flags & CAPPED else (length + 3) & ~3
    text = attributes(reply.payload[4 + echoed :]).get(ERROR_TEXT)
    return "" if text is None else bytes(text).rstrip(b"\0").decode(errors="replace")


def family_request(name: str) -> Message:
    """Asks for the number of a generic netlink family."""
    return Message(CONTROLLER, REQUEST, GENERIC.pack(_GET_FAMILY, 1, 0) + attribute(_FAMILY_NAME, name.encode() + b"\0"))


def families_request() -> Message:
    """Asks for all generic netlink families that are there: unlike asking for one by its name it loads none."""
    return Message(CONTROLLER, REQUEST | DUMP, GENERIC.pack(_GET_FAMILY, 1, 0))


def parse_family(reply: Reply) -> tuple[str, int]:
    """Name and number of a generic netlink family."""
    found = attributes(reply.payload[GENERIC.size :])
    return bytes(found[_FAMILY_NAME]).rstrip(b"\0").decode(), int(U16.unpack(found[_FAMILY_ID])[0])
