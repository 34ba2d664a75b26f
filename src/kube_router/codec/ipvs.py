"""IPVS services and destinations as generic netlink messages, and back (linux/ip_vs.h; family "IPVS", version 1).

Only what the vocabulary of model/state/ipvs.py can say: masquerade or tunnel, no thresholds, no sync daemon. One layout
serves both families, since the kernel's address field has 16 octets for either. Packing is on the hot path: what is equal
for many messages is packed once.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from kube_router.codec.netlink import DUMP, GENERIC, REQUEST, TYPE_MASK, U16, U32, Message, Reply, attributes
from kube_router.kit.net import Family, canonical_address
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServer, VirtualServerKey

GENL_NAME: Final = "IPVS"
GENL_VERSION: Final = 1

NEW_SERVICE: Final = 1
SET_SERVICE: Final = 2
DEL_SERVICE: Final = 3
GET_SERVICE: Final = 4
NEW_DEST: Final = 5
SET_DEST: Final = 6
DEL_DEST: Final = 7
GET_DEST: Final = 8

HASHED: Final = 0x2  # IP_VS_SVC_F_HASHED: the kernel's own bit
FORWARD_MASK: Final = 0x7  # IP_VS_CONN_F_FWD_MASK
NO_PREFIX: Final = -1  # a netmask whose bits are not contiguous, such as the 32.0.0.0 that kube-router 2.x writes

_SERVICE: Final = 1  # IPVS_CMD_ATTR_*
_DEST: Final = 2

_AF: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_FAMILY: Final[dict[int, Family]] = {int(number): family for family, number in _AF.items()}
_OCTETS: Final[dict[Family, int]] = {4: 4, 6: 16}

# Nested attributes, headers written out: IPVS_SVC_ATTR_AF 1, PROTOCOL 2, ADDR 3, PORT 4 (big endian)
_ADDRESSED: Final = struct.Struct("=HHH2x HHH2x HH16s HH2s2x")
# IPVS_SVC_ATTR_AF 1, FWMARK 5
_MARKED: Final = struct.Struct("=HHH2x HHI")
# IPVS_SVC_ATTR_FLAGS 7 (value and mask), TIMEOUT 8, NETMASK 9
_SETTINGS: Final = struct.Struct("=HHII HHI HHI")
# IPVS_DEST_ATTR_ADDR 1, PORT 2, ADDR_FAMILY 11
_REAL: Final = struct.Struct("=HH16s HH2s2x HHH2x")
# IPVS_DEST_ATTR_FWD_METHOD 3, WEIGHT 4, U_THRESH 5, L_THRESH 6
_BALANCE: Final = struct.Struct("=HHI HHI HHI HHI")
_NEST: Final = struct.Struct("=HH")
# What a dumped destination begins with: IPVS_CMD_ATTR_DEST, then IPVS_DEST_ATTR_ADDR 1, PORT 2, FWD_METHOD 3, WEIGHT 4
_USUAL: Final = struct.Struct("=4x HH HH16s HH2s2x HHI HHI")
_USUAL_HEADERS: Final = (_DEST, 20, 1, 6, 2, 8, 3, 0, 8, 4)
_MASKS: Final = tuple((0xFFFFFFFF << (32 - n) & 0xFFFFFFFF).to_bytes(4, "big") for n in range(33))
_PREFIXES: Final = {mask: n for n, mask in enumerate(_MASKS)}


class Packer:
    """Makes messages for the generic netlink family number that this kernel gave to IPVS."""

    def __init__(self, family: int) -> None:
        self._family = family
        self._commands = {command: GENERIC.pack(command, GENL_VERSION, 0) for command in range(1, 9)}

    def service(self, command: int, key: VirtualServerKey, value: VirtualServer | None = None) -> Message:
        """NEW, SET (with a value) or DEL (without) of a service."""
        body = _identity(key) if value is None else _identity(key) + _settings(value, key.family)
        return Message(self._family, REQUEST, self._commands[command] + _NEST.pack(4 + len(body), _SERVICE) + body)

    def destination(self, command: int, key: DestinationKey, value: Destination | None = None) -> Message:
        """NEW, SET (with a value) or DEL (without) of a destination."""
        address = key.address
        number = socket.AF_INET6 if ":" in address else socket.AF_INET
        real = _REAL.pack(20, 1, socket.inet_pton(number, address), 6, 2, key.port.to_bytes(2, "big"), 6, 11, number)
        balance = b"" if value is None else _balance(value)
        nest = _NEST.pack(4 + len(real) + len(balance), _DEST)
        return Message(self._family, REQUEST, b"".join((self._commands[command], _nested_service(key.server), nest, real, balance)))

    def dump_services(self) -> Message:
        """Asks for all services."""
        return Message(self._family, REQUEST | DUMP, self._commands[GET_SERVICE])

    def dump_destinations(self, key: VirtualServerKey) -> Message:
        """Asks for all destinations of a service."""
        return Message(self._family, REQUEST | DUMP, self._commands[GET_DEST] + _nested_service(key))


def parse_service(reply: Reply) -> tuple[VirtualServerKey, VirtualServer]:
    """One service of a dump. ValueError when it lacks what every service has."""
    try:
        found = attributes(attributes(reply.payload[4:])[_SERVICE])
        key = service_key(found)
        value = VirtualServer(
            scheduler=bytes(found[6]).rstrip(b"\0").decode(),
            flags=_u32(found[7][:4]) & ~HASHED,  # a mask follows
            timeout=_u32(found[8]),
            prefix=_prefix(_u32(found[9]), 6 if key.family == 6 else 4),
        )
    except (KeyError, struct.error) as fault:
        raise ValueError(f"IPVS service without attribute {fault}") from fault
    return key, value


def service_key(found: Mapping[int, memoryview]) -> VirtualServerKey:
    """Identity of a service by its attributes. KeyError when it lacks one."""
    family = _FAMILY[_u16(found[1])]
    if 5 in found:
        return VirtualServerKey("", 0, 0, mark=_u32(found[5]), family=family)
    return VirtualServerKey(_address(found[3], family), _u16(found[2]), int.from_bytes(found[4], "big"), family=family)


def parse_destination(reply: Reply, server: VirtualServerKey) -> tuple[DestinationKey, Destination]:
    """One destination in the dump of a service. ValueError when it lacks what every destination has."""
    return _parse_usual(reply.payload, server) or _parse_any(reply, server)


def _parse_usual(payload: memoryview, server: VirtualServerKey) -> tuple[DestinationKey, Destination] | None:
    """The layout that kernels have used so far, in a fraction of the time; None when it is another, or not masquerading, for
    only then family and flags need a closer look."""
    if len(payload) < _USUAL.size:
        return None
    _, nest, a, b, address, c, d, port, e, f, forward, g, h, weight = _USUAL.unpack_from(payload)
    if (nest & TYPE_MASK, a, b, c, d, e, f, forward, g, h) != _USUAL_HEADERS:
        return None
    text = socket.inet_ntop(socket.AF_INET6, address) if server.family == 6 else socket.inet_ntop(socket.AF_INET, address[:4])
    if server.family == 6 and "." in text:
        return None
    return DestinationKey(server, text, int.from_bytes(port, "big")), _weighted(weight)


def _parse_any(reply: Reply, server: VirtualServerKey) -> tuple[DestinationKey, Destination]:
    try:
        found = attributes(attributes(reply.payload[4:])[_DEST])
        family = _FAMILY[_u16(found[11])]
        key = DestinationKey(server, _address(found[1], family), int.from_bytes(found[2], "big"))
        value = Destination(weight=_u32(found[4]), forward=_u32(found[3]) & FORWARD_MASK)
    except (KeyError, struct.error) as fault:
        raise ValueError(f"IPVS destination without attribute {fault}") from fault
    return key, value


@lru_cache(maxsize=64)
def _nested_service(key: VirtualServerKey) -> bytes:
    # A service's destinations follow one another, so a small cache serves all but the first of them.
    body = _identity(key)
    return _NEST.pack(4 + len(body), _SERVICE) + body


def _identity(key: VirtualServerKey) -> bytes:
    family = _AF[6 if key.family == 6 else 4]
    if key.mark:
        return _MARKED.pack(6, 1, family, 8, 5, key.mark)
    return _ADDRESSED.pack(6, 1, family, 6, 2, key.protocol, 20, 3, _packed(key.address), 6, 4, key.port.to_bytes(2, "big"))


@lru_cache(maxsize=64)
def _settings(value: VirtualServer, family: int) -> bytes:
    name = value.scheduler.encode() + b"\0"
    scheduler = _NEST.pack(4 + len(name), 6) + name + bytes(-len(name) % 4)
    # Flags are written with a full mask, so that a bit that is not wanted goes; the kernel keeps its own (HASHED).
    return scheduler + _SETTINGS.pack(12, 7, value.flags, 0xFFFFFFFF, 8, 8, value.timeout, 8, 9, _netmask(value.prefix, family))


@lru_cache(maxsize=64)
def _weighted(weight: int) -> Destination:
    return Destination(weight, 0)


@lru_cache(maxsize=64)
def _balance(value: Destination) -> bytes:
    return _BALANCE.pack(8, 3, value.forward, 8, 4, value.weight, 8, 5, 0, 8, 6, 0)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _address(data: memoryview, family: Family) -> str:
    text = socket.inet_ntop(_AF[family], data[: _OCTETS[family]])
    # The C library writes the last 32 bits of some IPv6 addresses as IPv4, which is not our canonical text.
    return canonical_address(text) if family == 6 and "." in text else text


def _netmask(prefix: int, family: int) -> int:
    # IPv6: a number of bits. IPv4: a mask in network order, whatever the order of this machine.
    if family == 6:
        return prefix
    return int(U32.unpack(_MASKS[prefix])[0])


def _prefix(netmask: int, family: Family) -> int:
    if family == 6:
        return netmask
    return _PREFIXES.get(U32.pack(netmask), NO_PREFIX)


def _u16(data: memoryview) -> int:
    return int(U16.unpack(data)[0])


def _u32(data: memoryview) -> int:
    return int(U32.unpack(data)[0])
