"""Reading BGP off captured packets: the messages of one speaker, as far as the lab looks at them (RFC 4271, 5492). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lab.capture import Packet

PORT = 179
HEADER = 19
MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE = 1, 2, 3, 4
TYPES = {OPEN: "OPEN", UPDATE: "UPDATE", NOTIFICATION: "NOTIFICATION", KEEPALIVE: "KEEPALIVE", 5: "ROUTE-REFRESH"}
ORIGIN, AS_PATH, NEXT_HOP, LOCAL_PREF, MP_REACH, MP_UNREACH = 1, 2, 3, 5, 14, 15
IPV4_UNICAST, IPV6_UNICAST = (1, 1), (2, 1)

AfiSafi = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Open:
    """An OPEN: its fixed fields, and the values of each capability code in the order in which they came."""

    version: int
    asn: int
    hold_time: int
    identifier: str
    capabilities: Mapping[int, tuple[bytes, ...]]

    @property
    def families(self) -> set[AfiSafi]:
        """Multiprotocol extensions (1)."""
        return {(int.from_bytes(value[:2], "big"), value[3]) for value in self.capabilities.get(1, ())}

    @property
    def four_octet_asn(self) -> int | None:
        """Four-octet AS number (65)."""
        values = self.capabilities.get(65)
        return int.from_bytes(values[0], "big") if values else None

    @property
    def host_name(self) -> str | None:
        """FQDN (73): the host part."""
        values = self.capabilities.get(73)
        return values[0][1 : 1 + values[0][0]].decode() if values else None

    @property
    def graceful_restart(self) -> GracefulRestart | None:
        """Graceful restart (64)."""
        values = self.capabilities.get(64)
        if not values:
            return None
        flags_and_time, rest = int.from_bytes(values[0][:2], "big"), values[0][2:]
        families = {(int.from_bytes(rest[at : at + 2], "big"), rest[at + 2]): bool(rest[at + 3] & 0x80) for at in range(0, len(rest), 4)}
        return GracefulRestart(bool(flags_and_time & 0x8000), flags_and_time & 0x0FFF, families)

    @property
    def extended_next_hops(self) -> set[tuple[int, int, int]]:
        """Extended next hop encoding (5): (AFI, SAFI, AFI of the next hop)."""
        return {
            (int.from_bytes(v[at : at + 2], "big"), int.from_bytes(v[at + 2 : at + 4], "big"), int.from_bytes(v[at + 4 : at + 6], "big"))
            for v in self.capabilities.get(5, ())
            for at in range(0, len(v), 6)
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class GracefulRestart:
    """``families`` says for each whether its forwarding state was preserved."""

    restarting: bool
    time: int
    families: Mapping[AfiSafi, bool]


@dataclass(frozen=True, slots=True)
class Update:
    """An UPDATE. Prefixes of IPv6 and their next hop are those of MP_REACH_NLRI and MP_UNREACH_NLRI."""

    announced: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    next_hop: str = ""
    origin: int | None = None
    as_path: tuple[int, ...] = ()
    local_preference: int | None = None
    end_of_rib: AfiSafi | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``body`` is an Open, an Update, or the raw bytes of anything else."""

    at: float
    kind: int
    body: Open | Update | bytes

    @property
    def name(self) -> str:
        return TYPES.get(self.kind, str(self.kind))


def streams(packets: Iterable[Packet], *, source: str) -> list[list[tuple[float, bytes]]]:
    """What one address said in each of its TCP connections to or from port 179, duplicates removed, as (time, bytes)."""
    found: dict[tuple[str, int, int], dict[int, tuple[float, bytes]]] = {}
    for packet in packets:
        if packet.protocol == 6 and packet.source == source and packet.has_port(PORT) and packet.payload:
            sequence = _tcp_sequence(packet)
            flow = found.setdefault((packet.target, packet.source_port, packet.target_port), {})
            flow.setdefault(sequence, (packet.at, packet.payload))
    return [[flow[sequence] for sequence in sorted(flow)] for flow in found.values()]


def endings(packets: Iterable[Packet]) -> list[Packet]:
    """The packets that end a TCP connection to or from port 179: FIN or RST."""
    found = (one for one in packets if one.protocol == 6 and one.has_port(PORT))
    return [one for one in found if _tcp_header(one)[13] & 0x05]  # a frame with ports holds a whole header


def _tcp_header(packet: Packet) -> bytes:
    start = 14 + (40 if ":" in packet.source else (packet.frame[14] & 0x0F) * 4)
    return packet.frame[start : start + 20]


def _tcp_sequence(packet: Packet) -> int:
    return int.from_bytes(_tcp_header(packet)[4:8], "big")


def messages(pieces: Iterable[tuple[float, bytes]]) -> list[Message]:
    """The messages in a stream; ValueError when it is not BGP. A message that is cut off at the end is left out."""
    waiting, found = b"", []
    for at, piece in pieces:
        waiting += piece
        while len(waiting) >= HEADER:
            if not waiting.startswith(MARKER):
                raise ValueError(f"not BGP: {waiting[:HEADER].hex()}")
            length, kind = int.from_bytes(waiting[16:18], "big"), waiting[18]
            if len(waiting) < length:
                break
            found.append(Message(at, kind, _body(kind, waiting[HEADER:length])))
            waiting = waiting[length:]
    return found


def _body(kind: int, data: bytes) -> Open | Update | bytes:
    if kind == OPEN:
        return _open(data)
    return _update(data) if kind == UPDATE else data


def _open(data: bytes) -> Open:
    capabilities: dict[int, list[bytes]] = {}
    rest = data[10 : 10 + data[9]]
    while rest:
        kind, length = rest[0], rest[1]
        value, rest = rest[2 : 2 + length], rest[2 + length :]
        while kind == 2 and value:  # the optional parameter "capabilities"
            code, size = value[0], value[1]
            capabilities.setdefault(code, []).append(value[2 : 2 + size])
            value = value[2 + size :]
    return Open(
        version=data[0],
        asn=int.from_bytes(data[1:3], "big"),
        hold_time=int.from_bytes(data[3:5], "big"),
        identifier=str(ipaddress.IPv4Address(data[5:9])),
        capabilities={code: tuple(values) for code, values in capabilities.items()},
    )


@dataclass(slots=True)
class _Attributes:
    origin: int | None = None
    as_path: list[int] = field(default_factory=list)
    next_hop: str = ""
    local_preference: int | None = None
    reached: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    end: AfiSafi | None = None


def _update(data: bytes) -> Update:
    if data == b"\0\0\0\0":
        return Update(end_of_rib=IPV4_UNICAST)  # RFC 4724
    withdrawn_length = int.from_bytes(data[:2], "big")
    withdrawn, rest = data[2 : 2 + withdrawn_length], data[2 + withdrawn_length :]
    attribute_length = int.from_bytes(rest[:2], "big")
    seen = _attributes(rest[2 : 2 + attribute_length])
    return Update(
        announced=_prefixes(rest[2 + attribute_length :], 4) + seen.reached,
        withdrawn=_prefixes(withdrawn, 4) + seen.lost,
        next_hop=seen.next_hop,
        origin=seen.origin,
        as_path=tuple(seen.as_path),
        local_preference=seen.local_preference,
        end_of_rib=seen.end,
    )


def _attributes(data: bytes) -> _Attributes:
    seen = _Attributes()
    while data:
        flags, code = data[0], data[1]
        size = 2 if flags & 0x10 else 1  # extended length
        length = int.from_bytes(data[2 : 2 + size], "big")
        value, data = data[2 + size : 2 + size + length], data[2 + size + length :]
        if code == ORIGIN:
            seen.origin = value[0]
        elif code == AS_PATH:
            while value:
                count = value[1]
                seen.as_path += [int.from_bytes(value[2 + 4 * n : 6 + 4 * n], "big") for n in range(count)]
                value = value[2 + 4 * count :]
        elif code == NEXT_HOP:
            seen.next_hop = str(ipaddress.IPv4Address(value))
        elif code == LOCAL_PREF:
            seen.local_preference = int.from_bytes(value, "big")
        elif code == MP_REACH:
            family, length = 4 if value[1] == 1 else 6, value[3]
            seen.next_hop = str(ipaddress.ip_address(value[4 : 4 + min(length, 16)]))
            seen.reached = _prefixes(value[5 + length :], family)
        elif code == MP_UNREACH:
            seen.lost = _prefixes(value[3:], 4 if value[1] == 1 else 6)
            if not seen.lost:
                seen.end = (value[1], value[2])
    return seen


def _prefixes(data: bytes, family: int) -> tuple[str, ...]:
    size, found = 4 if family == 4 else 16, []
    while data:
        bits = data[0]
        octets = (bits + 7) // 8
        address = ipaddress.ip_address(data[1 : 1 + octets].ljust(size, b"\0"))
        found.append(f"{address}/{bits}")
        data = data[1 + octets :]
    return tuple(found)
