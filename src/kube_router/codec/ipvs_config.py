"""Timeouts of IPVS as generic netlink messages (linux/ip_vs.h: IPVS_CMD_SET_CONFIG, IPVS_CMD_GET_CONFIG)."""

from __future__ import annotations

from typing import Final

from kube_router.codec.ipvs import GENL_VERSION
from kube_router.codec.netlink import GENERIC, REQUEST, U32, Message, Reply, attribute, attributes
from kube_router.model.state.ipvs import IpvsTimeouts

SET_CONFIG: Final = 12
GET_CONFIG: Final = 13
TIMEOUT_TCP: Final = 4  # IPVS_CMD_ATTR_TIMEOUT_*
TIMEOUT_TCP_FIN: Final = 5
TIMEOUT_UDP: Final = 6


def get_timeouts(family: int) -> Message:
    """Asks for them; `family` is the number of the generic netlink family."""
    return Message(family, REQUEST, GENERIC.pack(GET_CONFIG, GENL_VERSION, 0))


def set_timeouts(family: int, value: IpvsTimeouts) -> Message:
    """Sets those that a demand is made for; the kernel keeps the others."""
    fields = ((TIMEOUT_TCP, value.tcp), (TIMEOUT_TCP_FIN, value.tcp_fin), (TIMEOUT_UDP, value.udp))
    body = b"".join(attribute(kind, U32.pack(seconds)) for kind, seconds in fields if seconds)
    return Message(family, REQUEST, GENERIC.pack(SET_CONFIG, GENL_VERSION, 0) + body)


def parse_timeouts(reply: Reply) -> IpvsTimeouts:
    """What is in force. ValueError when one is missing."""
    found = attributes(reply.payload[4:])
    try:
        tcp, tcp_fin, udp = (int(U32.unpack(found[kind])[0]) for kind in (TIMEOUT_TCP, TIMEOUT_TCP_FIN, TIMEOUT_UDP))
    except KeyError as fault:
        raise ValueError(f"IPVS configuration without attribute {fault}") from fault
    return IpvsTimeouts(tcp, tcp_fin, udp)


def demanded(held: IpvsTimeouts, wanted: IpvsTimeouts) -> IpvsTimeouts:
    """What is in force where a demand is made, and 0 elsewhere: equal to what is wanted if that is met."""
    return IpvsTimeouts(
        held.tcp if wanted.tcp else 0,
        held.tcp_fin if wanted.tcp_fin else 0,
        held.udp if wanted.udp else 0,
    )
