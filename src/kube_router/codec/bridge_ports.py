"""Ports of a bridge as rtnetlink messages (linux/if_link.h, linux/if_bridge.h): whether a port sends frames back by the way that they
came. A pod that reaches itself through a Service needs that."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import DUMP, NESTED, REQUEST, U32, Message, Reply, attribute, attributes

_GET_LINK, _SET_LINK = 18, 19  # RTM_*
_MESSAGE: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_BRIDGE: Final = 7  # AF_BRIDGE
_MASTER, _PORT = 10, 12  # IFLA_MASTER, IFLA_PROTINFO
_HAIRPIN: Final = 4  # IFLA_BRPORT_MODE
_ON: Final = b"\1"


class Port(NamedTuple):
    """A link by its number, and the number of the bridge that it is a port of."""

    link: int
    bridge: int
    hairpin: bool


def dump() -> Message:
    """Asks for all ports of all bridges."""
    return Message(_GET_LINK, REQUEST | DUMP, _MESSAGE.pack(_BRIDGE, 0, 0, 0, 0))


def parse(reply: Reply) -> Port | None:
    """One link of a dump; None for one that is no port."""
    _, _, link, _, _ = _MESSAGE.unpack_from(reply.payload)
    found = attributes(reply.payload[_MESSAGE.size :])
    if _MASTER not in found or _PORT not in found:
        return None
    (bridge,) = U32.unpack_from(found[_MASTER])
    return Port(link, bridge, bytes(attributes(found[_PORT]).get(_HAIRPIN, memoryview(b"")))[:1] == _ON)


def turn_on(link: int) -> Message:
    """Lets a port send frames back; ENODEV when the link is gone, EINVAL or EOPNOTSUPP when it is no port any more."""
    return Message(_SET_LINK, REQUEST, _MESSAGE.pack(_BRIDGE, 0, link, 0, 0) + attribute(_PORT | NESTED, attribute(_HAIRPIN, _ON)))
