"""The BGP speaker's best paths and sessions become events; who speaks to it is told when it goes and when it is back.

    gobgpd --stream--> thread --> mailbox --> event loop --> LearnedPaths (what holds, speaker_paths.py) --> sink

Four cases come to the same steps, since everything that we hold is stale until the present speaker names it:

- We restart, the speaker lives: the kernel's routes are stale paths, the first table names nearly all of them, and what it does not
  name goes once its peers are decided. Nothing moves.
- The speaker restarts, we live: all paths are stale, `returned` has it programmed anew, sessions come up, and paths are named again.
- Both: as the first, and as with the second the speaker knows nothing yet. Peers that were never up decide nothing.
- No speaker: nothing is listed, so nobody acts on the kernel's routes; once listed, paths hold until there is one.

It writes nothing to the speaker and removes nothing from the kernel.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from kube_router.codec.gobgp.paths import Event as Told
from kube_router.codec.gobgp.paths import Paths, PathUpdate, PeersListed
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.kit.errors import TargetError
from kube_router.model.objects import BestPath
from kube_router.watch.events import Batch, Event, Sink
from kube_router.watch.mailbox import Mailbox
from kube_router.watch.speaker_paths import LearnedPaths

FIRST_WAIT: Final = 0.1  # seconds until the first new attempt; a speaker that restarts must be programmed within three
LONGEST_WAIT: Final = 1.0
PACE: Final = 0.005  # seconds between batches: a table that is being told is taken in a thousand pieces, not in a hundred thousand
TICK: Final = 1.0  # seconds between looks at the sessions while paths are stale

Mail = Mailbox[Told | Exception | None]


class Speaker(Protocol):
    """Reads from the speaker; calls block, are made in threads, and raise TargetError when there is none."""

    def started(self) -> bool:
        """Whether it is programmed at all."""

    def events(self) -> Iterator[Told]:
        """Sessions and best paths, for ever."""

    def cancel(self) -> None:
        """Ends `events` in its thread."""

    def peers(self) -> Mapping[str, PeerStatus]:
        """All sessions, with what only a listing tells."""

    def best_paths(self) -> Sequence[PathUpdate]:
        """The whole table."""


class SpeakerWatch:
    """Follows one speaker. `received` counts best paths that it told of, our own included (the original's metric)."""

    def __init__(
        self,
        speaker: Speaker,
        sink: Sink,
        *,
        wanted: Callable[[], Collection[str] | None],
        held: Callable[[], Iterable[BestPath]] = tuple,
        returned: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: None,
        paths: LearnedPaths | None = None,
        tick: float = TICK,
        first_wait: float = FIRST_WAIT,
    ) -> None:
        """`wanted`: addresses of the peers that the speaker is told to have, None while that is not known. `held`: what the kernel
        routes for us, called once in a thread. `returned` and `lost` are called on the event loop."""
        self._speaker = speaker
        self._sink = sink
        self._wanted = wanted
        self._held = held
        self._returned = returned
        self._lost = lost
        self._paths = paths or LearnedPaths()
        self._tick = tick
        self._first_wait = first_wait
        self._peers: dict[str, PeerStatus] = {}
        self._next_look = 0.0
        self.received = 0
        self.connected = False
        self.problem = "not asked yet"

    @property
    def peers(self) -> tuple[PeerStatus, ...]:
        """Every wanted peer that the speaker has told of, as it stood last; idle when the speaker is gone. Sorted by address."""
        wanted = self._wanted()
        known = (self._peers[address] for address in sorted(self._peers) if wanted is None or address in wanted)
        return tuple(known if self.connected else (msgspec.structs.replace(peer, state="idle") for peer in known))

    @property
    def stale(self) -> frozenset[str]:
        """Prefixes that hold although the present speaker has not named them."""
        return self._paths.stale

    async def run(self) -> None:
        """Follow, lose, and find again, for ever; ends by cancellation. Only a bug raises."""
        wait = self._first_wait
        adopted = False
        while True:
            try:
                if not adopted:
                    self._paths.adopt(await asyncio.to_thread(self._held))
                    adopted = True
                started = await asyncio.to_thread(self._speaker.started)
            except TargetError as failure:
                self.problem = str(failure)
            else:
                self._returned()
                if await self._follow(started):
                    wait = self._first_wait
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    # -- one stream ---------------------------------------------------------------------------------------------------

    async def _follow(self, started: bool) -> bool:
        """Until the stream ends; returns whether it ever spoke."""
        loop = asyncio.get_running_loop()
        mail: Mail = Mailbox(weight=lambda item: len(item.updates) if isinstance(item, Paths) else 1)
        threading.Thread(target=self._pump, args=(mail,), name="speaker-watch", daemon=True).start()
        self._paths.opened(loop.time())
        self._peers, self._next_look = {}, loop.time() + self._tick
        try:
            while not await self._step(mail, started):
                await asyncio.sleep(PACE)
        finally:
            mail.close()
            self._speaker.cancel()
            spoke, self.connected = self.connected, False
        if spoke:
            self._lost()
        return spoke

    def _pump(self, mail: Mail) -> None:
        end: Exception | None = None
        try:
            for told in self._speaker.events():
                mail.put(told)
        except Exception as failure:  # noqa: BLE001  handed to the event loop, which knows what to do with each
            end = failure
        mail.put(end)

    async def _step(self, mail: Mail, started: bool) -> bool:
        """Take in all that has been told; look at the sessions when there is reason to. True when the stream has ended."""
        loop = asyncio.get_running_loop()
        waiting = not self._paths.listed or self._paths.stale
        told = await mail.take(max(0.0, self._next_look - loop.time()) if waiting else None)
        if not told:
            self._tell(self._paths.list())
        ended, _ = self._take(told, started)
        if not ended and loop.time() >= self._next_look:
            if self.connected and self._paths.stale:
                ended = await self._settle(mail, started)
            self._next_look = loop.time() + self._tick
        return ended

    def _take(self, told: Iterable[Told | Exception | None], started: bool) -> tuple[bool, set[str]]:
        """Returns whether the stream has ended, and the prefixes that were named."""
        changes: list[Paths] = []
        ended, table = False, False
        for item in told:
            match item:
                case Paths():
                    changes.append(item)
                    table = True
                case PeersListed():
                    self.connected, self.problem = True, ""
                    table = table or not started
                case PeerStatus(address=address):
                    self._peers[address] = item
                case TargetError():
                    self.problem, ended = str(item), True
                case None:
                    self.problem, ended = "the stream of the speaker's events ended", True
                case _:
                    raise item
        self.received += sum(not update.withdrawn for change in changes for update in change.updates)
        events = self._paths.learn(changes)
        self._tell(events + (self._paths.list() if table else ()))
        return ended, {update.prefix for change in changes for update in change.updates}

    async def _settle(self, mail: Mail, started: bool) -> bool:
        """Let stale paths go that need not hold any longer. True when the stream has ended."""
        loop = asyncio.get_running_loop()
        try:
            peers = await asyncio.to_thread(self._speaker.peers)
            due = self._paths.due(loop.time(), self._wanted(), peers)
            table = await asyncio.to_thread(self._speaker.best_paths) if due else ()
        except TargetError:
            return False  # the stream will tell, or a later look will succeed
        ended, named = self._take(mail.take_now(), started)
        if due and not ended:
            self._tell(self._paths.release(due, table, named))
        return ended

    def _tell(self, events: tuple[Event, ...]) -> None:
        if events:
            self._sink(Batch(events))
