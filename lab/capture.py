"""Packets as they pass a link, kept in memory and, if wanted, written as a pcap file for tcpdump or Wireshark."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.space import Space

ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD  # <linux/if_ether.h>
PACKET_OUTGOING = 4  # <linux/if_packet.h>
SNAP = 2048
EXTENSIONS = frozenset({0, 43, 44, 60})  # IPv6 extension headers that are stepped over: hop-by-hop, routing, fragment, options


@dataclass(frozen=True, slots=True)
class Packet:
    """One frame. ``protocol`` is the IP protocol number (0 for no IP); ports are 0 where there are none."""

    at: float
    frame: bytes
    outgoing: bool
    source: str = ""
    target: str = ""
    protocol: int = 0
    source_port: int = 0
    target_port: int = 0
    payload: bytes = b""

    def has_port(self, port: int) -> bool:
        return port in (self.source_port, self.target_port)


def parse(frame: bytes, *, at: float = 0.0, outgoing: bool = False) -> Packet:
    """Read Ethernet, IP and the ports; what is cut short or unknown leaves fields empty."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_P_IP and len(frame) >= 34:
        header = (frame[14] & 0x0F) * 4
        protocol, family, ends = frame[23], socket.AF_INET, (frame[26:30], frame[30:34])
        rest = frame[14 + header : 14 + int.from_bytes(frame[16:18], "big")]
    elif kind == ETH_P_IPV6 and len(frame) >= 54:
        protocol, family, ends = frame[20], socket.AF_INET6, (frame[22:38], frame[38:54])
        rest = frame[54 : 54 + int.from_bytes(frame[18:20], "big")]
        while protocol in EXTENSIONS and len(rest) >= 8:
            protocol, rest = rest[0], rest[8 if protocol == 44 else (rest[1] + 1) * 8 :]
    else:
        return Packet(at, frame, outgoing)
    source, target = (socket.inet_ntop(family, end) for end in ends)
    ports, skip = (0, 0), 0
    if protocol in (6, 17, 132) and len(rest) >= 8:
        ports = struct.unpack("!HH", rest[:4])
        skip = {6: (rest[12] >> 4) * 4 if len(rest) > 12 else 20, 17: 8, 132: 12}[protocol]
    return Packet(at, frame, outgoing, source, target, protocol, *ports, rest[skip:])


class Capture:
    """Captures on a link from its making until ``stop``; usable as a context."""

    def __init__(self, space: Space, link: str, *, keep: Callable[[Packet], bool] = lambda _: True) -> None:
        self.packets: list[Packet] = []
        self._keep = keep
        self._socket = space.call(_open, link)
        self._socket.settimeout(0.2)
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"capture-{space.name}-{link}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> Sequence[Packet]:
        """End it and hand back what was caught."""
        if self._running:
            self._running = False
            self._thread.join(timeout=30)
            self._socket.close()
        return self.packets

    def save(self, path: Path) -> None:
        """Write a pcap file."""
        with path.open("wb") as file:
            file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP, 1))  # link type 1: Ethernet
            for packet in self.packets:
                seconds = int(packet.at)
                micros = int((packet.at - seconds) * 1_000_000)
                file.write(struct.pack("<IIII", seconds, micros, len(packet.frame), len(packet.frame)) + packet.frame)

    def _run(self) -> None:
        while self._running:
            with contextlib.suppress(TimeoutError, OSError):
                frame, address = self._socket.recvfrom(SNAP)
                packet = parse(frame, at=time.time(), outgoing=address[2] == PACKET_OUTGOING)
                if self._keep(packet):
                    self.packets.append(packet)


def _open(link: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    made.bind((link, 0))
    return made
