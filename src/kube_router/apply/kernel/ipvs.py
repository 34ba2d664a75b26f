"""IPVS services and destinations of this network namespace.

A change is one message; a batch of changes is a train of messages in their order (netlink_socket.py). What the kernel holds
decides between "new" and "set": when the guess from `Change.before` was wrong, the other message follows.

Ours are the services that `adopted` names when we first look, those that are wanted, and those that we made; all others
are never listed and never touched. Connections of a removed UDP destination are ended here as well (flows.py), for
without that a steady sender would hit a dead address for ever.

It refuses to decide what is served: weights, schedulers and order come from `desired`.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kube_router.apply.kernel.flows import Flows
from kube_router.apply.kernel.netlink_socket import GENERIC, Fault, NetlinkSocket, NetlinkTarget
from kube_router.codec import ipvs, ipvs_table
from kube_router.codec.conntrack import UDP, Flow
from kube_router.codec.netlink import Message, Reply
from kube_router.kit.errors import Rejected, Stale
from kube_router.model.state import Change, Key, State, Value
from kube_router.model.state.ipvs import DestinationKey, VirtualServer, VirtualServerKey

Owned = Callable[[VirtualServerKey], bool]

_MODULE: Final = "ip_vs"
_TABLE: Final = Path("/proc/thread-self/net/ip_vs")
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})
_NO_SCHEDULER: Final = errno.ENOENT  # of a new service: request_module("ip_vs_<name>") brought nothing


class _Commands(NamedTuple):
    create: int
    change: int
    delete: int


_SERVICE: Final = _Commands(ipvs.NEW_SERVICE, ipvs.SET_SERVICE, ipvs.DEL_SERVICE)
_DESTINATION: Final = _Commands(ipvs.NEW_DEST, ipvs.SET_DEST, ipvs.DEL_DEST)


class IpvsTarget(NetlinkTarget):
    """`adopted` is asked once, at the first look: it returns the test for services that an earlier run left behind.

    Opening it loads the kernel module where it is missing; raises Rejected where IPVS cannot be had.
    `flows` ends UDP flows; without it that is left to the kernel.
    """

    kinds: tuple[type[Key], ...] = (VirtualServerKey, DestinationKey)

    def __init__(self, *, adopted: Callable[[], Owned], flows: Flows | None) -> None:
        super().__init__(GENERIC)
        self._packer = ipvs.Packer(_family(self._socket))
        self._flows = flows
        self._adopt = adopted
        self._adopted: Owned | None = None
        self._made: set[VirtualServerKey] = set()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our services with their destinations; of `wanted` those that exist, whoever made them."""
        with self._lock:
            first = self._adopted is None
            if self._adopted is None:
                self._adopted = self._adopt()
            found: dict[Key, Value] = {}
            for reply in self._dump(self._packer.dump_services()):
                key, value = ipvs.parse_service(reply)
                if key in self._made or key in wanted or (first and self._adopted(key)):
                    self._made.add(key)
                    found[key] = value
            table = ipvs_table.parse(_table_text())
            for server in [key for key in found if isinstance(key, VirtualServerKey)]:
                shown = ipvs_table.destinations(table, server)
                found.update(self._destinations(server) if shown is None else shown)
            self._made.intersection_update(found)
            return found

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make the changes in order. A service that goes takes its destinations along."""
        with self._lock:
            faults = self._socket.send([self._message(change, retry=False) for change in changes])
            # Not as `before` said: it exists after all, or it does not.
            again = [n for n, fault in faults.items() if _other_way(changes[n], fault)]
            if again:
                repeated = self._socket.send([self._message(changes[n], retry=True) for n in again])
                faults = {n: fault for n, fault in faults.items() if n not in again}
                faults |= {again[n]: fault for n, fault in repeated.items()}
            rejected: dict[Key, str] = {}
            for n, fault in sorted(faults.items()):
                if not (changes[n].after is None and fault.number in _GONE):
                    rejected[changes[n].key] = _reason(changes[n], fault, rejected)
            self._remember(changes, rejected)
            return rejected | self._end_flows(changes, rejected, adopted=again)

    def _destinations(self, server: VirtualServerKey) -> State:
        replies = self._dump(self._packer.dump_destinations(server))
        return dict(ipvs.parse_destination(reply, server) for reply in replies)

    def _dump(self, request: Message) -> list[Reply]:
        try:
            return self._socket.dump(request)
        except OSError as fault:
            if fault.errno in _GONE:
                return []  # the service went while we looked
            raise Stale(f"IPVS cannot be read: {fault}") from fault

    def _message(self, change: Change, *, retry: bool) -> Message:
        key, after = change.key, change.after
        commands = _SERVICE if isinstance(key, VirtualServerKey) else _DESTINATION
        put = commands.create if (change.before is None) != retry else commands.change
        command = commands.delete if after is None else put
        if isinstance(key, VirtualServerKey):
            return self._packer.service(command, key, after)
        assert isinstance(key, DestinationKey)
        return self._packer.destination(command, key, after)

    def _remember(self, changes: Sequence[Change], rejected: Mapping[Key, str]) -> None:
        for change in changes:
            if isinstance(change.key, VirtualServerKey) and change.key not in rejected:
                if change.after is None:
                    self._made.discard(change.key)
                else:
                    self._made.add(change.key)

    def _end_flows(self, changes: Sequence[Change], rejected: Mapping[Key, str], *, adopted: Iterable[int]) -> dict[Key, str]:
        """UDP flows of destinations and services that went, and those from before a service came."""
        if self._flows is None:
            return {}
        skipped = set(adopted)
        ending = {
            change.key: _flow(change.key)
            for n, change in enumerate(changes)
            if n not in skipped and change.key not in rejected and _ends_flows(change)
        }
        if not ending:
            return {}
        try:
            self._flows.end(ending.values())
        except OSError as fault:
            # Refused although it is gone: it will be asked for again, and with it the end of its flows.
            return dict.fromkeys(ending, f"it is gone, but its UDP flows are not: {fault}")
        return {}


def _table_text() -> str:
    """What IPVS shows of the calling thread's network namespace; nothing where it shows nothing."""
    try:
        return _TABLE.read_text()
    except OSError:
        return ""


def _family(socket: NetlinkSocket) -> int:
    family = socket.generic_family(ipvs.GENL_NAME)
    if family:
        return family
    try:
        done = subprocess.run(["modprobe", _MODULE], capture_output=True, text=True, timeout=30, check=False)
        trouble = f" (modprobe: {done.stderr.strip() or 'no error'})"
    except (OSError, subprocess.TimeoutExpired) as fault:
        trouble = f" (modprobe could not be run: {fault})"
    family = socket.generic_family(ipvs.GENL_NAME)
    if not family:
        raise Rejected(f"the kernel has no IPVS: module {_MODULE} is not loaded{trouble}")
    return family


def _other_way(change: Change, fault: Fault) -> bool:
    """Whether a put failed only because the thing exists already, or does not exist yet."""
    if change.after is None:
        return False
    if change.before is None:
        return fault.number == errno.EEXIST
    # Without its service a destination cannot be made either (ESRCH); a service that is missing can.
    return fault.number == (errno.ESRCH if isinstance(change.key, VirtualServerKey) else errno.ENOENT)


def _reason(change: Change, fault: Fault, rejected: Mapping[Key, str]) -> str:
    key, after = change.key, change.after
    if isinstance(key, DestinationKey) and fault.number == errno.ESRCH:
        return "its service was refused" if key.server in rejected else "its service does not exist"
    if isinstance(after, VirtualServer) and fault.number == _NO_SCHEDULER:
        return f"the kernel has no scheduler {after.scheduler!r} (module ip_vs_{after.scheduler})"
    if fault.number == errno.EPROTONOSUPPORT:
        return "IPVS of this kernel does not know the protocol"
    return str(fault)


def _ends_flows(change: Change) -> bool:
    match change.key:
        case DestinationKey(server=server):
            return change.after is None and server.protocol == UDP
        case VirtualServerKey(protocol=protocol):
            return protocol == UDP and (change.after is None) != (change.before is None)
    return False


def _flow(key: Key) -> Flow:
    if isinstance(key, DestinationKey):
        return Flow(key.server.address, key.server.port, key.address, key.port)
    assert isinstance(key, VirtualServerKey)
    return Flow(key.address, key.port)
