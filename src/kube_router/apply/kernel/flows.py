"""Ends tracked UDP flows of Services: a flow is pinned to its backend for as long as its client keeps sending.

Reads the connection tracking table once per batch (asked only for what it needs), deletes the entries that match. It starts
no process. IPVS's own entries go with their destination: net.ipv4.vs.expire_nodest_conn is on.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from typing import Final

from kube_router.apply.kernel.netlink_socket import NETFILTER, NetlinkSocket
from kube_router.codec import conntrack
from kube_router.codec.conntrack import ANY_PORT, Entry, Flow
from kube_router.kit.net import FAMILIES, Family

_FEW: Final = 4  # up to so many Services get a question each; more are looked for in one full reading
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})


class Flows:
    """`ended` counts the entries that were deleted. `balanced`: the UDP ports that IPVS serves, by their address; flows to other
    addresses need not be looked for."""

    def __init__(self) -> None:
        self.ended = 0
        self.balanced: dict[str, set[int]] = {}
        self._socket: NetlinkSocket | None = None
        self._lock = threading.Lock()

    def serve(self, address: str, port: int, *, served: bool) -> None:
        """IPVS serves this UDP port from now on, or it does not any more."""
        if served:
            self.balanced.setdefault(address, set()).add(port)
        elif address in self.balanced:
            self.balanced[address].discard(port)
            if not self.balanced[address]:
                del self.balanced[address]

    def end(self, flows: Iterable[Flow]) -> None:
        """Delete all entries of these flows. OSError when the kernel refuses, Busy or Stale as the socket says."""
        wanted = frozenset(flows)
        with self._lock:
            if self._socket is None:
                self._socket = NetlinkSocket(NETFILTER)
            for family in FAMILIES:
                targets = {(flow.address, flow.port) for flow in wanted if conntrack.family(flow) == family}
                if targets:
                    self._delete(self._socket, [entry for entry in self._read(self._socket, family, targets) if _matches(entry, wanted)])

    def _read(self, socket: NetlinkSocket, family: Family, targets: set[tuple[str, int]]) -> list[Entry]:
        questions = [conntrack.dump(family, target) for target in sorted(targets)] if len(targets) <= _FEW else [conntrack.dump(family)]
        entries = (conntrack.parse(reply) for question in questions for reply in socket.dump(question))
        return [entry for entry in entries if entry is not None]

    def _delete(self, socket: NetlinkSocket, entries: list[Entry]) -> None:
        faults = socket.send([conntrack.delete(entry) for entry in entries])
        self.ended += len(entries) - len(faults)
        for fault in faults.values():
            if fault.number not in _GONE:
                raise OSError(fault.number, f"conntrack: {fault}")


def _matches(entry: Entry, wanted: frozenset[Flow]) -> bool:
    flow = entry.flow
    if flow in wanted or Flow(flow.address, flow.port) in wanted:
        return True
    return flow.backend == flow.address and Flow(flow.address, ANY_PORT, flow.address, ANY_PORT) in wanted
