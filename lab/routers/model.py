"""What an external router is told and what it tells, in the same words for FRR and BIRD. Pure, but for `Router.until`.

router = cluster.router("frr")
router.peer(Peering("192.168.50.50", 64512, password="secret"))
router.start()
router.until_established("192.168.50.50")
router.announce("198.18.1.0/24", communities=["64601:7"])
assert router.received("192.168.50.50")["10.233.64.0/24"].as_path == (64512,)
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab.addresses import Host
from lab.space import Space
from lab.waiting import wait_for

BGP_PORT = 179
HOLD_TIME = 90


@dataclass(frozen=True, slots=True)
class Peering:
    """A session that a router shall have.

    ``port`` is the peer's; ``ttl`` of 2 and more makes it multihop; ``passive`` waits for the peer to dial; ``families`` are
    offered both on one session; ``bfd`` is asked of the peer as well.
    """

    address: str
    asn: int
    password: str = ""
    port: int = BGP_PORT
    ttl: int = 0
    local_address: str = ""
    hold_time: int = HOLD_TIME
    passive: bool = False
    bfd: bool = False
    families: tuple[int, ...] = (4, 6)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the router sees it. What the peer said in its OPEN is kept only while the session stands.

    ``count`` is how often it came up; ``restart_time`` is None where the peer has no graceful restart; ``preserved`` are the
    families whose forwarding state the peer says it kept; ``problem`` is why it was last lost, in the router's own words.
    """

    established: bool
    count: int = 0
    hold_time: int = 0
    families: frozenset[int] = frozenset()
    restart_time: int | None = None
    restart_families: frozenset[int] = frozenset()
    preserved: frozenset[int] = frozenset()
    host_name: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A path that a peer sent. ``stale`` is one that is kept for a peer that restarts."""

    next_hop: str
    as_path: tuple[int, ...] = ()
    communities: frozenset[str] = frozenset()
    local_preference: int | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Announcement:
    """A prefix that the router originates. Without a next hop it names itself."""

    prefix: str
    next_hop: str = ""
    communities: tuple[str, ...] = ()

    @property
    def family(self) -> int:
        return 6 if ":" in self.prefix else 4


@dataclass(slots=True)
class Wanted:
    """The whole of what a router shall do; configurations are rendered from it."""

    peers: dict[str, Peering] = field(default_factory=dict)
    announced: dict[str, Announcement] = field(default_factory=dict)


class Router(ABC):
    """An external router in a space of its own: a file system, a network namespace, no service of the machine.

    It takes every route that it is offered, puts the best (several, where they are equal) into its own kernel, and tells peers
    nothing but what `announce` says. ``port`` is where it listens. Changes take effect at once, or at the start.
    """

    def __init__(self, space: Space, host: Host, *, asn: int, work: Path, port: int = BGP_PORT) -> None:
        self.space, self.host, self.asn, self.port = space, host, asn, port
        self.work = work
        self.wanted = Wanted()

    def address(self, family: int = 4) -> str:
        return self.host.address(family)

    # to be told

    def peer(self, *peerings: Peering) -> None:
        """Have these sessions beside those that are there; one with the same address is replaced."""
        before = self._copy()
        self.wanted.peers |= {peering.address: peering for peering in peerings}
        self._changed(before)

    def unpeer(self, *addresses: str) -> None:
        """Give up the sessions with these addresses."""
        before = self._copy()
        for address in addresses:
            self.wanted.peers.pop(address, None)
        self._changed(before)

    def announce(self, *prefixes: str, next_hop: str = "", communities: Iterable[str] = ()) -> None:
        """Originate prefixes, with communities as "64601:7"."""
        before = self._copy()
        self.wanted.announced |= {prefix: Announcement(prefix, next_hop, tuple(communities)) for prefix in prefixes}
        self._changed(before)

    def withdraw(self, *prefixes: str) -> None:
        """Originate these prefixes no longer."""
        before = self._copy()
        for prefix in prefixes:
            self.wanted.announced.pop(prefix, None)
        self._changed(before)

    def _copy(self) -> Wanted:
        return replace(self.wanted, peers=dict(self.wanted.peers), announced=dict(self.wanted.announced))

    def _changed(self, before: Wanted) -> None:
        if self.alive:
            self._reconfigure(before)

    @abstractmethod
    def _reconfigure(self, before: Wanted) -> None:
        """Make the running router do `wanted`."""

    # life

    @property
    @abstractmethod
    def alive(self) -> bool: ...

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it takes questions."""

    @abstractmethod
    def kill(self) -> None:
        """End it without a word to its peers."""

    @abstractmethod
    def output(self) -> str:
        """Everything that it has logged."""

    # to be asked

    @abstractmethod
    def sessions(self) -> Mapping[str, Session]:
        """Its sessions, by the peer's address."""

    @abstractmethod
    def received(self, peer: str, *, families: Collection[int] = (4, 6)) -> dict[str, Route]:
        """What a peer has announced to it and not withdrawn, by prefix."""

    @abstractmethod
    def bfd_up(self, peer: str) -> bool:
        """Whether its BFD session with a peer is up."""

    def kernel_routes(self, prefix: str) -> frozenset[str]:
        """The gateways that its kernel uses for a prefix."""
        command = ["ip", "-6", "route", "show", prefix] if ":" in prefix else ["ip", "route", "show", prefix]
        words = self.space.run(command).split()
        return frozenset(after for word, after in itertools.pairwise(words) if word == "via")

    # to be waited for

    def until_established(self, *peers: str, seconds: float = 20.0) -> None:
        """Wait until the sessions with these peers stand; with nobody named, all."""

        def stand() -> bool:
            found = self.sessions()
            return all(peer in found and found[peer].established for peer in peers or self.wanted.peers)

        wait_for(f"{self.host.name}: sessions stand", stand, seconds=seconds, so_far=self._told)

    def until_received(self, peer: str, *prefixes: str, seconds: float = 10.0) -> dict[str, Route]:
        """Wait until a peer has announced exactly these prefixes; what it announced."""

        got: list[dict[str, Route]] = []

        def exactly() -> bool:
            got.append(self.received(peer))
            return set(got[-1]) == set(prefixes)

        what = f"{self.host.name}: receives {', '.join(prefixes) or 'nothing'} from {peer}"
        wait_for(what, exactly, seconds=seconds, so_far=lambda: (got[-1:], self._told()))
        return got[-1]

    def _told(self) -> object:
        return dict(self.sessions()), self.output()[-1500:]


def canonical_community(text: str) -> str:
    """A community as two decimal numbers: routers differ in which of them they call by name, and in the spelling (RFC 1997)."""
    return WELL_KNOWN.get(text.replace("-", "").lower(), text)


WELL_KNOWN = {
    "noexport": "65535:65281",
    "noadvertise": "65535:65282",
    "localas": "65535:65283",
    "nopeer": "65535:65284",
    "blackhole": "65535:666",
    "gracefulshutdown": "65535:0",
    "gshut": "65535:0",
}
