"""Network namespaces of this node's pods: finding one by the pod's address, and working inside.

Work inside runs in a thread of its own, which ends there: no thread that anybody uses afterwards has ever been elsewhere. Namespaces are
held by nobody between two pieces of work, so none outlives its pod because of us.

A namespace is found through the container runtime where one is named, else (and where the runtime does not help) by looking into all of
them that processes of this node are in or that are mounted below /run/netns. Only those count that a link joins to our own: it is that
node's pods that we answer for, and no other container's. Whether a namespace is the pod's is judged by its addresses, every time.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket
from kube_router.codec import addresses as codec
from kube_router.codec.netlink import REQUEST, U32, Message, attribute, attributes
from kube_router.kit.errors import TargetError
from kube_router.kit.net import FAMILIES

T = TypeVar("T")

# Paths under which the runtime says that a pod's namespace is to be found, by the pod's address. Raises a TargetError.
Runtime = Callable[[str], Sequence[str]]

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_GET_NSID: Final = 90  # RTM_GETNSID (linux/rtnetlink.h)
_NSID, _FD = 1, 3  # NETNSA_* (linux/net_namespace.h)
_UNKNOWN: Final = 0xFFFFFFFF  # NETNSA_NSID_NOT_ASSIGNED
_MOUNTS: Final = ("run/netns", "1/root/run/netns", "1/root/var/run/netns")  # below /proc, the first below /


class Place(NamedTuple):
    """A network namespace: a path that led there, and its number, which tells whether it still does."""

    path: str
    inode: int


class Gone(Exception):
    """The path leads to another namespace by now, or nowhere."""


def inside(place: Place, work: Callable[[], T]) -> T:
    """What `work` returns or raises inside, in a thread that ends there. Raises Gone, and OSError when the kernel does not let us in."""
    outcome: list[T] = []
    faults: list[Exception] = []

    def run() -> None:
        try:
            _enter(place)
            outcome.append(work())
        except Exception as fault:  # noqa: BLE001  handed to whoever asked
            faults.append(fault)

    thread = threading.Thread(target=run, name="inside-a-pod")
    thread.start()
    thread.join()
    if faults:
        raise faults[0]
    return outcome[0]


class Namespaces:
    """Those of this node's pods, as seen from the network namespace in which it was made. `proc` is /proc but in tests."""

    def __init__(self, *, runtime: Runtime | None = None, proc: Path = Path("/proc")) -> None:
        self._runtime = runtime
        self._proc = proc
        self._socket = NetlinkSocket(ROUTE)
        self._own = os.stat("/proc/thread-self/ns/net").st_ino
        self._by_address: dict[str, Place] = {}
        self._addresses: dict[int, frozenset[str]] = {}
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the runtime did not help when it was asked last; "" when it did, or is not asked."""
        return self._trouble

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def find(self, address: str) -> Place | None:
        """The namespace of the pod of this address; None where there is none, or none any more."""
        known = self._by_address.get(address)
        if known is not None and address in self._look_into([known]).get(known.inode, ()):
            return known
        self._by_address.pop(address, None)
        told = self._ask_runtime(address)
        if told is not None:
            self._by_address[address] = told
            return told
        self.all()
        return self._by_address.get(address)

    def all(self) -> list[Place]:
        """All that a link joins to ours. Those that were not known before are looked into."""
        places = {place.inode: place for place in self._candidates()}
        fresh = [place for inode, place in places.items() if inode not in self._addresses]
        addresses = {inode: self._addresses[inode] for inode in places if inode in self._addresses}
        self._addresses = addresses | self._look_into(fresh)
        self._by_address = {address: places[inode] for inode, held in self._addresses.items() if inode in places for address in held}
        return list(places.values())

    def _ask_runtime(self, address: str) -> Place | None:
        self._trouble = ""
        if self._runtime is None:
            return None
        try:
            paths = self._runtime(address)
        except TargetError as fault:
            self._trouble = str(fault)
            return None
        for path in paths:
            for place in _places([path, f"{self._proc}/1/root{path}"]):
                if place.inode != self._own and address in self._look_into([place]).get(place.inode, ()):
                    return place
        return None

    def _candidates(self) -> Iterator[Place]:
        """One place for each namespace that is joined to ours."""
        seen = {self._own}
        for place in _places(self._paths()):
            if place.inode not in seen:
                seen.add(place.inode)
                if self._is_joined(place):
                    yield place

    def _paths(self) -> Iterator[str]:
        for entry in os.listdir(self._proc):
            if entry.isdigit():
                yield f"{self._proc}/{entry}/ns/net"
        for folder in (f"/{_MOUNTS[0]}", *(f"{self._proc}/{mount}" for mount in _MOUNTS[1:])):
            with suppress(OSError):
                yield from (f"{folder}/{name}" for name in os.listdir(folder))

    def _is_joined(self, place: Place) -> bool:
        try:
            with _Opened(place) as descriptor:
                reply = self._socket.ask(Message(_GET_NSID, REQUEST, bytes(4) + attribute(_FD, U32.pack(descriptor))))
        except (OSError, Gone):
            return False
        found = attributes(reply.payload[4:])
        return _NSID in found and U32.unpack(found[_NSID])[0] != _UNKNOWN

    def _look_into(self, places: Iterable[Place]) -> dict[int, frozenset[str]]:
        found: dict[int, frozenset[str]] = {}
        for place in places:
            with suppress(OSError, Gone, TargetError):
                found[place.inode] = inside(place, _own_addresses)
        return found


class _Opened:
    """A namespace's descriptor. Raises Gone where the path leads elsewhere by now."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._descriptor = -1

    def __enter__(self) -> int:
        try:
            self._descriptor = os.open(self._place.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as fault:
            raise Gone(f"{self._place.path}: {fault}") from fault
        if os.fstat(self._descriptor).st_ino != self._place.inode:
            os.close(self._descriptor)
            raise Gone(f"{self._place.path} is another namespace by now")
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _places(paths: Iterable[str]) -> Iterator[Place]:
    for path in paths:
        with suppress(OSError):
            yield Place(path, os.stat(path).st_ino)


def _enter(place: Place) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with _Opened(place) as descriptor:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter {place.path}: {os.strerror(number)}")


def _own_addresses() -> frozenset[str]:
    """Addresses of the calling thread's namespace but for those of loopback and of link scope."""
    socket = NetlinkSocket(ROUTE)
    try:
        held = set()
        for family in FAMILIES:
            for reply in socket.dump(codec.dump_addresses(family, link=0)):
                found = codec.parse_address(reply)
                if found is not None and found.scope == "global":
                    held.add(found.address)
        return frozenset(held)
    finally:
        socket.close()
