"""Permanent entries of a VXLAN link as rtnetlink messages (linux/neighbour.h): which link-layer address an IP address has there, and
behind which other end that link-layer address is."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from kube_router.codec.netlink import CREATE, DUMP, REPLACE, REQUEST, U32, Message, Reply, attribute, attributes
from kube_router.codec.rtnetlink import AF, packed, text
from kube_router.kit.net import Family, family_of

NEW_NEIGHBOUR, DELETE_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30  # RTM_*
_MESSAGE: Final = struct.Struct("=BxxxiHBB")  # ndmsg: family, link, state, flags, type
_DESTINATION, _MAC, _LINK = 1, 2, 8  # NDA_*
_BRIDGE: Final = 7  # AF_BRIDGE: forwarding entries
_PERMANENT, _NO_ARP = 0x80, 0x40  # NUD_*
_SELF: Final = 2  # NTF_SELF: the entry is in the link's own table, not in a bridge's


class Entry(NamedTuple):
    """`mac` is behind `address`: in a forwarding table (`forwarding`) the other end's, else the neighbour's own. "" where not told."""

    link: int
    forwarding: bool
    address: str
    mac: str
    permanent: bool


def put(link: int, mac: str, address: str, *, forwarding: bool) -> Message:
    """Makes an entry, in the place of one of the same link-layer address (forwarding) or the same address."""
    return Message(NEW_NEIGHBOUR, REQUEST | CREATE | REPLACE, _head(link, address, forwarding=forwarding) + _body(mac, address))


def delete(link: int, mac: str, address: str, *, forwarding: bool) -> Message:
    """Takes an entry away; ENOENT where there is none. Of a forwarding entry both count, of a neighbour the address alone."""
    return Message(DELETE_NEIGHBOUR, REQUEST, _head(link, address, forwarding=forwarding) + _body(mac if forwarding else "", address))


def dump(link: int, family: Family | None) -> Message:
    """Asks for a link's neighbours of a family, or (None) for its forwarding entries. Look at what comes: not every kernel picks."""
    number = _BRIDGE if family is None else AF[family]
    head = _MESSAGE.pack(number, link if family is None else 0, 0, 0, 0)
    return Message(_GET_NEIGHBOUR, REQUEST | DUMP, head if family is None else head + attribute(_LINK, U32.pack(link)))


def parse(reply: Reply) -> Entry | None:
    """One entry of a dump or notice; None for another family's."""
    number, link, state, flags, _ = _MESSAGE.unpack_from(reply.payload)
    if number == _BRIDGE and not flags & _SELF:
        return None
    if number != _BRIDGE and number not in AF.values():
        return None
    found = attributes(reply.payload[_MESSAGE.size :])
    octets = found.get(_DESTINATION)
    address = "" if octets is None else text(octets, 4 if len(octets) == 4 else 6)
    mac = bytes(found[_MAC]).hex(":") if _MAC in found else ""
    return Entry(link, number == _BRIDGE, address, mac, bool(state & _PERMANENT))


def _head(link: int, address: str, *, forwarding: bool) -> bytes:
    if forwarding:
        return _MESSAGE.pack(_BRIDGE, link, _PERMANENT | _NO_ARP, _SELF, 0)
    return _MESSAGE.pack(AF[family_of(address)], link, _PERMANENT, 0, 0)


def _body(mac: str, address: str) -> bytes:
    body = attribute(_DESTINATION, packed(address, family_of(address))) if address else b""
    return body + attribute(_MAC, bytes.fromhex(mac.replace(":", ""))) if mac else body
