"""IPVS services and destinations of this network namespace.

A change is one message; a batch of changes is a train of messages in their order (netlink_socket.py). What the kernel holds
decides between "new" and "set": when the guess from `Change.before` was wrong, the other message follows.

Destinations of services that hash are kept in order (ipvs_order.py): one that stands elsewhere is drift, as a wrong weight is.

Ours are the services that `adopted` names when we first look, those that are wanted, and those that we made; all others
are never listed and never touched. Connections of a removed UDP destination are ended here as well (flows.py), for
without that a steady sender would hit a dead address for ever; and flows from before a destination was there, which go past IPVS.

It refuses to decide what is served: weights, schedulers and order come from `desired`.
"""

from __future__ import annotations

import errno
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from kube_router.apply.kernel.flows import Flows
from kube_router.apply.kernel.ipvs_order import EXPIRE, connections_kept, is_ordered, misplaced
from kube_router.apply.kernel.netlink_socket import GENERIC, Fault, NetlinkSocket, NetlinkTarget
from kube_router.codec import ipvs, ipvs_config, ipvs_table
from kube_router.codec.conntrack import UDP, Flow
from kube_router.codec.netlink import Message, Reply
from kube_router.kit.errors import Rejected, Stale
from kube_router.model.state import Change, Key, State, Value
from kube_router.model.state.ipvs import (
    HASHING,
    DestinationKey,
    IpvsTimeouts,
    IpvsTimeoutsKey,
    VirtualServer,
    VirtualServerKey,
)

Owned = Callable[[VirtualServerKey], bool]

_MODULE: Final = "ip_vs"
_TABLE: Final = Path("/proc/thread-self/net/ip_vs")
_SETTLED: Final = 0.1  # seconds after a removal until the kernel has ended the connections of what was removed
_GONE: Final = frozenset({errno.ESRCH, errno.ENOENT})
_NO_SCHEDULER: Final = errno.ENOENT  # of a new service: request_module("ip_vs_<name>") brought nothing


class _Commands(NamedTuple):
    create: int
    change: int
    delete: int


_SERVICE: Final = _Commands(ipvs.NEW_SERVICE, ipvs.SET_SERVICE, ipvs.DEL_SERVICE)
_DESTINATION: Final = _Commands(ipvs.NEW_DEST, ipvs.SET_DEST, ipvs.DEL_DEST)


class IpvsTarget(NetlinkTarget):
    """`adopted` is asked until the first look has succeeded: it returns the test for services that an earlier run left behind.

    Opening it loads the kernel module where it is missing; raises Rejected where IPVS cannot be had.
    `flows` ends UDP flows; without it that is left to the kernel. `socket`, `table` and `expire` stand for the kernel: its netlink, its
    text of all services, and its switch for connections whose destination went.
    """

    kinds: tuple[type[Key], ...] = (VirtualServerKey, DestinationKey, IpvsTimeoutsKey)

    def __init__(
        self,
        *,
        adopted: Callable[[], Owned],
        flows: Flows | None,
        socket: NetlinkSocket | None = None,
        table: Callable[[], str] | None = None,
        expire: Path = EXPIRE,
    ) -> None:
        super().__init__(GENERIC, socket)
        self._family = _family(self._socket)
        self._packer = ipvs.Packer(self._family)
        self._table = table or _table_text
        self._expire = expire
        self._flows = flows
        self._adopt = adopted
        self._looked = False
        self._made: set[VirtualServerKey] = set()
        self._hashing: set[VirtualServerKey] = set()  # of those made, those whose scheduler hashes
        self._removed = 0.0  # when the last destination was

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our services with their destinations; of `wanted` those that exist, whoever made them."""
        with self._lock:
            adopted = _nothing if self._looked else self._adopt()
            services: dict[VirtualServerKey, VirtualServer] = {}
            for reply in self._dump(self._packer.dump_services()):
                key, value = ipvs.parse_service(reply)
                if key in self._made or key in wanted or adopted(key):
                    self._made.add(key)
                    services[key] = value
            found: dict[Key, Value] = {}
            table = ipvs_table.parse(self._table())
            self._hashing.clear()
            for server, held in services.items():
                shown = ipvs_table.destinations(table, server)
                destinations = self._destinations(server) if shown is None else shown
                found[server] = held
                found.update(destinations)
                self._serve(server, served=True)
                if held.scheduler in HASHING:
                    self._hashing.add(server)
                    if not is_ordered(destinations):
                        found[server] = replace(held, ordered=False)
            self._made.intersection_update(services)
            self._looked = True
            demand = wanted.get(IpvsTimeoutsKey())
            if isinstance(demand, IpvsTimeouts):
                found[IpvsTimeoutsKey()] = ipvs_config.demanded(self._timeouts(), demand)
            return found

    def connections(self, servers: Collection[VirtualServerKey]) -> Mapping[DestinationKey, int]:
        """Connections of all destinations of these services, in one reading; what IPVS does not show is left out."""
        table = ipvs_table.parse(self._table())
        return {key: number for server in servers for key, number in ipvs_table.connections(table, server).items()}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Make the changes in order. A service that goes takes its destinations along."""
        with self._lock:
            # What a removal leaves behind must not end connections of what only changes its place.
            first = next((n for n, change in enumerate(changes) if change.after is None), len(changes))
            servers = self._to_order(changes[:first])
            if not servers:
                return self._write(changes)
            rejected = self._write(changes[:first])
            self._put_in_order(servers)
            return rejected | self._write(changes[first:])

    def _write(self, changes: Sequence[Change]) -> dict[Key, str]:
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

    def _to_order(self, puts: Sequence[Change]) -> list[VirtualServerKey]:
        """Services that hash whose destinations may stand in another order after these changes."""
        new: dict[VirtualServerKey, list[DestinationKey]] = {}  # made here, with the destinations that they get in this order
        found: dict[VirtualServerKey, None] = {}
        for change in puts:
            key, after = change.key, change.after
            if isinstance(key, VirtualServerKey) and after.scheduler in HASHING:
                if change.before is None:
                    new[key] = []
                elif change.before.scheduler not in HASHING or not change.before.ordered:
                    found[key] = None
            elif isinstance(key, DestinationKey) and change.before is None:
                if key.server in new:
                    new[key.server].append(key)
                elif key.server in self._hashing:
                    found[key.server] = None
        return [*found, *(server for server, keys in new.items() if keys != sorted(keys))]

    def _put_in_order(self, servers: Iterable[VirtualServerKey]) -> None:
        """Take out and add again what stands in the wrong place. Stale when that fails: some may be missing by then."""
        for server in servers:
            held = self._destinations(server)
            moving = misplaced(held)
            if not moving:
                continue
            time.sleep(max(0.0, self._removed + _SETTLED - time.monotonic()))
            steps = [Change(key, *step) for key in moving for step in ((held[key], None), (None, held[key]))]
            with connections_kept(self._expire):
                faults = self._socket.send([self._message(step, retry=False) for step in steps])
                missing = [steps[n] for n in sorted(faults) if steps[n].after is not None]
                faults = self._socket.send([self._message(step, retry=False) for step in missing])
            if any(fault.number != errno.EEXIST for fault in faults.values()):
                raise Stale(f"destinations of {server} could not be put in order: {next(iter(faults.values()))}")

    def _timeouts(self) -> IpvsTimeouts:
        try:
            return ipvs_config.parse_timeouts(self._socket.ask(ipvs_config.get_timeouts(self._family)))
        except OSError as fault:
            raise Stale(f"IPVS timeouts cannot be read: {fault}") from fault

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
        if isinstance(key, IpvsTimeoutsKey):
            # Nobody's wish any more, they stay as they are.
            return ipvs_config.set_timeouts(self._family, after) if after is not None else ipvs_config.get_timeouts(self._family)
        commands = _SERVICE if isinstance(key, VirtualServerKey) else _DESTINATION
        put = commands.create if (change.before is None) != retry else commands.change
        command = commands.delete if after is None else put
        if isinstance(key, VirtualServerKey):
            return self._packer.service(command, key, after)
        assert isinstance(key, DestinationKey)
        return self._packer.destination(command, key, after)

    def _remember(self, changes: Sequence[Change], rejected: Mapping[Key, str]) -> None:
        for change in changes:
            key, after = change.key, change.after
            if key in rejected:
                continue
            if isinstance(key, DestinationKey) and after is None:
                self._removed = time.monotonic()
            elif isinstance(key, VirtualServerKey):
                (self._made.discard if after is None else self._made.add)(key)
                self._serve(key, served=after is not None)
                hashes = after is not None and after.scheduler in HASHING
                (self._hashing.add if hashes else self._hashing.discard)(key)

    def _serve(self, server: VirtualServerKey, *, served: bool) -> None:
        if self._flows is not None and server.protocol == UDP:
            self._flows.serve(server.address, server.port, served=served)

    def _end_flows(self, changes: Sequence[Change], rejected: Mapping[Key, str], *, adopted: Iterable[int]) -> dict[Key, str]:
        """UDP flows of destinations and services that went, and those that go past IPVS because they were there first."""
        if self._flows is None:
            return {}
        skipped = set(adopted)
        ending = {
            change.key: _flow(change)
            for n, change in enumerate(changes)
            if n not in skipped and change.key not in rejected and _ends_flows(change)
        }
        if not ending:
            return {}
        try:
            self._flows.end(ending.values())
        except OSError as fault:
            # Refused although it is done: it will be asked for again, and with it the end of the flows.
            return dict.fromkeys(ending, f"it is done, but UDP flows from before have not ended: {fault}")
        return {}


def _nothing(_key: VirtualServerKey) -> bool:
    return False


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
            return server.protocol == UDP and (change.after is None) != (change.before is None)
        case VirtualServerKey(protocol=protocol):
            return protocol == UDP and (change.after is None) != (change.before is None)
    return False


def _flow(change: Change) -> Flow:
    key = change.key
    if isinstance(key, DestinationKey):
        at = key.server
        # Before the first destination came nobody but the address itself could answer.
        return Flow(at.address, at.port, at.address, at.port) if change.before is None else Flow(at.address, at.port, key.address, key.port)
    assert isinstance(key, VirtualServerKey)
    return Flow(key.address, key.port)
