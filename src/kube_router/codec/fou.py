"""Listeners for generic UDP encapsulation as generic netlink messages (linux/fou.h): the kernel takes packets that come in on a UDP
port out of their wrapping, and goes on with them as if they had come in bare."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import DUMP, GENERIC, REQUEST, Message, Reply, attribute, attributes
from kube_router.codec.rtnetlink import AF, family_in
from kube_router.kit.net import Family

NAME: Final = "fou"  # of the generic netlink family

_ADD, _DELETE, _GET = 1, 2, 3  # FOU_CMD_*
_PORT, _AF, _TYPE = 1, 2, 4  # FOU_ATTR_*
_GUE: Final = 2  # FOU_ENCAP_GUE
_BIG16: Final = struct.Struct(">H")
_BYTE: Final = struct.Struct("=B")


class Listener(NamedTuple):
    """A listener of a dump."""

    family: Family
    port: int
    gue: bool


def add(number: int, family: Family, port: int) -> Message:
    """Opens a listener; EALREADY or EADDRINUSE where one is. `number` is that of the netlink family."""
    return Message(number, REQUEST, GENERIC.pack(_ADD, 1, 0) + _identity(family, port) + attribute(_TYPE, _BYTE.pack(_GUE)))


def delete(number: int, family: Family, port: int) -> Message:
    """Closes a listener; EINVAL where there is none."""
    return Message(number, REQUEST, GENERIC.pack(_DELETE, 1, 0) + _identity(family, port))


def dump(number: int) -> Message:
    """Asks for all listeners."""
    return Message(number, REQUEST | DUMP, GENERIC.pack(_GET, 1, 0))


def parse(reply: Reply) -> Listener:
    """One listener of a dump."""
    found = attributes(reply.payload[GENERIC.size :])
    (kind,) = _BYTE.unpack(found[_TYPE])
    return Listener(family_in(_BYTE.unpack(found[_AF])[0]), _BIG16.unpack(found[_PORT])[0], kind == _GUE)


def _identity(family: Family, port: int) -> bytes:
    # No protocol: GUE says in each packet what is inside, and kernels refuse a 0 (6.1).
    return attribute(_PORT, _BIG16.pack(port)) + attribute(_AF, _BYTE.pack(AF[family]))
