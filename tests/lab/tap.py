"""Every netlink request on a node, seen by the kernel's own tap (nlmon): who asked does not matter, and nothing can hide.

It shows what no multicast group tells of, IPVS and ipset among them. Legacy iptables does not speak netlink.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator

from lab.node import Node

LINK = "tap0"
ETH_P_ALL = 0x0003  # <linux/if_ether.h>
ROUTE, NETFILTER, GENERIC = 0, 12, 16  # <linux/netlink.h>: protocols
REQUEST, FIRST_TYPE = 0x1, 0x10  # NLM_F_REQUEST; types below are netlink's own
DUMP = 0x300  # NLM_F_DUMP: whatever bears it is a question to a generic family (net/netlink/genetlink.c)
CONTROL = 0x10  # <linux/genetlink.h>: GENL_ID_CTRL, which is only ever asked
HEADER = struct.Struct("=IHHII")
# Requests that change nothing. <linux/ip_vs.h>: GET_SERVICE, GET_DEST, GET_DAEMON, GET_CONFIG, GET_INFO
IPVS_QUESTIONS = frozenset({4, 8, 11, 13, 15})
# by nfnetlink's subsystem. <linux/netfilter/...>: ctnetlink GET; ipset PROTOCOL, LIST, SAVE, HEADER, TYPE, GET_*; nf_tables GET*;
# nft_compat GET
NETFILTER_QUESTIONS = {
    1: frozenset({1, 4, 5}),
    6: frozenset({1, 7, 8, 12, 13, 14, 15}),
    10: frozenset({1, 4, 7, 10, 13, 16, 19, 21, 23}),
    11: frozenset({0}),
}


class Tap:
    """Listens while this context lasts; the link stays on the node. `writes` is read afterwards."""

    def __init__(self, node: Node) -> None:
        self.writes: Counter[str] = Counter()
        self._socket = node.space.call(_open, LINK)
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"tap-{node.name}", daemon=True)
        self._thread.start()

    @staticmethod
    def install(node: Node) -> None:
        """Make the link, once for a node."""
        node.space.ip([f"link add {LINK} type nlmon", f"link set {LINK} up"])

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join(timeout=30)
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                data, address = self._socket.recvfrom(1 << 20)
            except TimeoutError:
                if not self._running:
                    return
                continue
            self.writes.update(writes(address[1], data))


def writes(protocol: int, data: bytes) -> Iterator[str]:
    """Requests in a packet that change something: "ipset 9", "ipvs 5", "route 24"."""
    while len(data) >= HEADER.size:
        length, kind, flags, _, _ = HEADER.unpack_from(data)
        body, data = data[HEADER.size : max(length, HEADER.size)], data[max((length + 3) & ~3, HEADER.size) :]
        if not flags & REQUEST or kind < FIRST_TYPE:
            continue
        if protocol == ROUTE and kind % 4 != 2:  # types come in fours: new, del, get, set
            yield f"route {kind}"
        elif protocol == GENERIC and kind != CONTROL and flags & DUMP != DUMP and body and body[0] not in IPVS_QUESTIONS:
            yield f"ipvs {body[0]}"
        elif protocol == NETFILTER and kind >> 8 and (kind & 0xFF) not in NETFILTER_QUESTIONS.get(kind >> 8, ()):
            yield f"{ {6: 'ipset', 10: 'nftables', 1: 'flows'}.get(kind >> 8, kind >> 8) } {kind & 0xFF}"


def _open(link: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, 33, 16 * 1024 * 1024)  # SO_RCVBUFFORCE: a burst must not be lost
    made.bind((link, 0))
    made.settimeout(0.3)
    return made
