"""Which learned paths hold, and for how long after the speaker that told us is gone. No I/O; time is handed in.

The kernel's routes follow these paths, so a path may only go when it is known to be gone, not when nobody can tell. It becomes
*stale* when the watch on the speaker ends, whatever the reason, and stale is also what the kernel still routes when we start
(`adopt`): a start without memory is the end of a watch that we did not see. A stale path holds

- while there is no speaker to ask, however long that lasts;
- then until the speaker names the prefix again, which makes it an ordinary path with whatever next hops it has now;
- else until every wanted peer is *decided*, or those peers are that are its next hops, or `patience` has passed since
  the watch began and the wanted peers were known; then the speaker's table is read once more (`release`), and what is not in it goes.

A peer is decided when its session has been up for `settle` seconds and it owes us no End-of-RIB (RFC 4724 3); or when it is down but
has been up in this speaker's life: then the speaker itself, as receiver of a graceful restart, keeps what is to be kept. A peer
that was never up says nothing: a speaker that has just been started, by us or by the instance of us before, knows no routes yet.
`settle` spans the time that a peer which restarted along with us may hold its routes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from kube_router.codec.gobgp.paths import Paths, PathUpdate
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.model.objects import BestPath, Kind, Name, Ref
from kube_router.watch.events import Event, Put, Removed, Replaced

PATIENCE: Final = 90.0  # seconds; the default restart time, after which a receiving speaker gives up too
SETTLE: Final = 6.0  # seconds; more than our nodes' longest silence after a restart (desired/routing/peers.py)

_Choice = tuple[tuple[str, str], ...]  # neighbours that told of equal paths, and the next hop of each; sorted


class LearnedPaths:
    """Paths by prefix. What changes for the cache comes back as events; nothing does before `listed`."""

    def __init__(self, *, patience: float = PATIENCE, settle: float = SETTLE) -> None:
        self._patience = patience
        self._settle = settle
        self._paths: dict[str, _Choice] = {}
        # Next hops are few and paths many: each choice of hops is one object, wherever it is kept.
        self._choices: dict[_Choice, _Choice] = {}
        self._hops: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._stale: set[str] = set()
        self._listed = False
        self._since = 0.0
        self._up_since: dict[str, float] = {}

    @property
    def stale(self) -> frozenset[str]:
        """Prefixes that hold although the present speaker has not named them."""
        return frozenset(self._stale)

    @property
    def listed(self) -> bool:
        """Whether the cache has had a complete list."""
        return self._listed

    def adopt(self, paths: Iterable[BestPath]) -> None:
        """What the kernel routes for us when we start."""
        for path in paths:
            # Who told of them is not known, and need not be: whoever names a stale prefix first says all there is to it.
            self._paths.setdefault(path.prefix, self._choice((hop, hop) for hop in path.next_hops))
            self._stale.add(path.prefix)

    def opened(self, now: float) -> None:
        """A watch begins: until the speaker names them, all paths are stale."""
        self._stale = set(self._paths)
        self._since = now
        self._up_since = {}

    def list(self) -> tuple[Event, ...]:
        """The first complete list, stale paths included; later nothing, since changes tell all."""
        if self._listed:
            return ()
        self._listed = True
        return (Replaced(Kind.BEST_PATH, tuple(self._best(prefix, choice) for prefix, choice in self._paths.items())),)

    def learn(self, changes: Iterable[Paths]) -> tuple[Event, ...]:
        """Changes of best paths, in the order in which they came.

        Equal paths of one prefix are one multipath choice. A path of our own leads nowhere: it only says that no learned path is the
        best one.
        """
        now: dict[str, _Choice] = {}  # of prefixes that are named
        for change in changes:
            named: set[str] = set()
            for update in change.updates:
                prefix = update.prefix
                if prefix not in now or (prefix not in named and not change.delta):
                    goes_on = change.delta and prefix not in self._stale
                    now[prefix] = self._paths.get(prefix, ()) if goes_on else ()
                named.add(prefix)
                others = [pair for pair in now[prefix] if pair[0] != update.source]
                if not (update.withdrawn or update.local):
                    others.append((update.source, update.next_hop))
                now[prefix] = self._choice(others)
        events: list[Event] = []
        for prefix, choice in now.items():
            self._stale.discard(prefix)
            events.extend(self._set(prefix, choice))
        return tuple(events) if self._listed else ()

    def due(self, now: float, wanted: Collection[str] | None, peers: Mapping[str, PeerStatus]) -> frozenset[str]:
        """Stale prefixes that need not hold any longer. `wanted`: addresses of the peers that the speaker is told to have,
        None while that is not known; `peers`: those that it has."""
        if not self._stale:
            return frozenset()
        for address in self._up_since.keys() - {address for address, peer in peers.items() if peer.established}:
            del self._up_since[address]
        for address, peer in peers.items():
            if peer.established:
                self._up_since.setdefault(address, now)
        if wanted is None:
            self._since = now
            return frozenset()
        if now >= self._since + self._patience:
            return frozenset(self._stale)
        decided = {address for address in wanted if self._is_decided(peers.get(address), now)}
        if len(decided) == len(wanted):
            return frozenset(self._stale)
        return frozenset(prefix for prefix in self._stale if decided.issuperset(_hops(self._paths[prefix])) and self._paths[prefix])

    def release(self, due: Iterable[str], table: Iterable[PathUpdate], named_since: Collection[str]) -> tuple[Event, ...]:
        """Let due prefixes go that are not in the speaker's table. `named_since`: prefixes that events named after the table was
        asked for; the events know better."""
        found: dict[str, list[PathUpdate]] = {}
        for update in table:
            found.setdefault(update.prefix, []).append(update)
        asked = [prefix for prefix in due if prefix in self._stale and prefix not in named_since]
        updates = [update for prefix in asked for update in found.get(prefix, [PathUpdate(prefix, withdrawn=True)])]
        return self.learn([Paths(tuple(updates))])

    def _choice(self, pairs: Iterable[tuple[str, str]]) -> _Choice:
        choice = tuple(sorted(pairs))
        return self._choices.setdefault(choice, choice)

    def _is_decided(self, peer: PeerStatus | None, now: float) -> bool:
        if peer is None:
            return False
        if not peer.established:
            return peer.up_once
        return not peer.listening and now >= self._up_since[peer.address] + self._settle

    def _best(self, prefix: str, choice: _Choice) -> BestPath:
        hops = _hops(choice)
        return BestPath(Name("", prefix), self._hops.setdefault(hops, hops))

    def _set(self, prefix: str, choice: _Choice) -> Iterable[Event]:
        before = self._paths.get(prefix)
        if choice:
            self._paths[prefix] = choice
            if before is None or _hops(choice) != _hops(before):
                yield Put(self._best(prefix, choice))
        elif before is not None:
            del self._paths[prefix]
            yield Removed(Ref(Kind.BEST_PATH, Name("", prefix)))


def _hops(choice: _Choice) -> tuple[str, ...]:
    return tuple(sorted({hop for _, hop in choice}))
