"""The watch on the speaker: it connects, loses and finds again; who programs the speaker hears of it, the routes do not."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any

import pytest

from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.paths import Event, Paths, PathUpdate, PeersListed
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.kit.errors import Busy, Stale
from kube_router.model.objects import BestPath, Kind, Name
from kube_router.watch.events import Batch, write
from kube_router.watch.speaker import SpeakerWatch
from kube_router.watch.speaker_paths import LearnedPaths

N2, P2, P3 = "192.168.50.51", "10.233.66.0/24", "10.233.65.0/24"


class FakeSpeaker:
    """A speaker that tells what it is made to; `None` in its queue ends the stream."""

    def __init__(self) -> None:
        self.alive = True
        self.programmed = True
        self.told: queue.Queue[Event | Exception | None] = queue.Queue()
        self.statuses: dict[str, PeerStatus] = {}
        self.table: list[PathUpdate] = []
        self.looks = 0
        self._watched = False

    def started(self) -> bool:
        if not self.alive:
            raise Busy("no gobgpd answers")
        return self.programmed

    def events(self) -> Iterator[Event]:
        self._watched = True
        try:
            while (item := self.told.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._watched = False

    def cancel(self) -> None:
        if self._watched:
            self.told.put(None)

    def peers(self) -> dict[str, PeerStatus]:
        self.looks += 1
        return self.statuses

    def best_paths(self) -> list[PathUpdate]:
        if not self.programmed:
            raise Stale("BGP is not started")
        return self.table

    def tell(self, *events: Event) -> None:
        for event in events:
            self.told.put(event)

    def die(self) -> None:
        self.alive = False
        self.told.put(Busy("no gobgpd answers: the connection broke"))


class Lab:
    """A watch that runs, its speaker and its cache."""

    def __init__(self, *, kernel: tuple[BestPath, ...] = (), patience: float = 90.0, settle: float = 0.0) -> None:
        self.speaker = FakeSpeaker()
        self.cache = Cache()
        self.heard: list[str] = []
        self.wanted: Collection[str] | None = frozenset({N2})
        self.watch = SpeakerWatch(
            self.speaker,
            self._sink,
            wanted=lambda: self.wanted,
            held=lambda: kernel,
            returned=lambda: self.heard.append("returned"),
            lost=lambda: self.heard.append("lost"),
            paths=LearnedPaths(patience=patience, settle=settle),
            tick=0.01,
            first_wait=0.001,
        )

    def _sink(self, batch: Batch) -> None:
        write(batch.events, self.cache)

    @property
    def routes(self) -> dict[str, tuple[str, ...]] | None:
        if not self.cache.listed([Kind.BEST_PATH]):
            return None
        return {name.name: path.next_hops for name, path in self.cache.view.paths.items()}

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.002)


def play(script: Callable[[Lab], Awaitable[None]], **settings: Any) -> Lab:
    """Run the watch while the script plays."""

    async def run() -> Lab:
        lab = Lab(**settings)
        task = asyncio.create_task(lab.watch.run())
        try:
            await script(lab)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return lab

    return asyncio.run(run())


def test_a_table_is_listed_whole_when_it_has_come() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths((PathUpdate(P2, N2), PathUpdate(P3, "192.168.50.50", local=True))))
        await lab.until(lambda: lab.routes is not None)
        assert lab.routes == {P2: (N2,)}
        assert lab.watch.connected
        assert lab.watch.problem == ""

    lab = play(script)
    assert lab.heard == ["returned"]
    assert lab.watch.received == 2


def test_an_absent_speaker_is_tried_again_and_lists_nothing() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.alive = False
        await lab.until(lambda: lab.watch.problem == "no gobgpd answers")
        assert lab.heard == []
        lab.speaker.alive = True
        await lab.until(lambda: lab.heard)
        assert lab.routes is None

    assert play(script).heard == ["returned"]


def test_a_speaker_that_dies_takes_no_route_along_and_is_programmed_when_it_is_back() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths((PathUpdate(P2, N2),)))
        await lab.until(lambda: lab.routes)
        lab.speaker.die()
        await lab.until(lambda: "lost" in lab.heard)
        assert not lab.watch.connected
        lab.speaker.alive, lab.speaker.programmed = True, False
        await lab.until(lambda: lab.heard == ["returned", "lost", "returned"])
        lab.speaker.tell(PeersListed())
        await lab.until(lambda: lab.watch.connected)
        await asyncio.sleep(0.05)
        assert lab.routes == {P2: (N2,)}
        lab.speaker.programmed = True
        lab.speaker.tell(Paths((PathUpdate(P2, "192.168.50.52"),)))
        await lab.until(lambda: lab.routes == {P2: ("192.168.50.52",)})

    play(script)


def test_routes_that_the_kernel_has_when_we_start_hold_until_their_peer_is_decided() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths(()))
        await lab.until(lambda: lab.routes is not None)
        assert lab.routes == {P2: (N2,)}
        assert lab.watch.stale == {P2}
        lab.speaker.statuses = {N2: PeerStatus(N2, 64512, internal=True, state="established", up_once=True)}
        await lab.until(lambda: lab.routes == {})

    play(script, kernel=(BestPath(Name("", P2), (N2,)),))


def test_a_speaker_that_is_not_started_lists_what_the_kernel_has() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.programmed, lab.wanted = False, None
        lab.speaker.tell(PeersListed())
        await lab.until(lambda: lab.routes is not None)
        await asyncio.sleep(0.05)
        assert lab.routes == {P2: (N2,)}

    play(script, kernel=(BestPath(Name("", P2), (N2,)),), patience=0.0)


def test_sessions_are_looked_at_only_while_paths_are_stale() -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths((PathUpdate(P2, N2),)))
        await lab.until(lambda: lab.routes)
        await asyncio.sleep(0.05)
        assert lab.speaker.looks == 0

    play(script)


def test_sessions_are_told_as_they_stand_and_idle_when_the_speaker_is_gone() -> None:
    async def script(lab: Lab) -> None:
        stranger = PeerStatus("192.168.50.99", 64512, internal=True, state="idle")
        lab.speaker.tell(PeerStatus(N2, 64512, internal=True, state="active"), stranger, PeersListed())
        lab.speaker.tell(PeerStatus(N2, 64512, internal=True, state="established"))
        await lab.until(lambda: [peer.state for peer in lab.watch.peers] == ["established"])
        assert lab.watch.peers[0].internal
        lab.speaker.die()
        await lab.until(lambda: "lost" in lab.heard)
        assert [(peer.address, peer.state) for peer in lab.watch.peers] == [(N2, "idle")]

    play(script)


@pytest.mark.parametrize("failure", [Stale("another generation"), None])
def test_any_end_of_the_stream_is_a_loss(failure: Exception | None) -> None:
    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths((PathUpdate(P2, N2),)))
        await lab.until(lambda: lab.routes)
        lab.speaker.told.put(failure)
        await lab.until(lambda: lab.heard == ["returned", "lost", "returned"])
        assert lab.routes == {P2: (N2,)}

    play(script)


def test_a_bug_ends_the_watch_loudly() -> None:
    async def run() -> None:
        lab = Lab()
        lab.speaker.told.put(ZeroDivisionError("a bug"))
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(5):
                await lab.watch.run()

    asyncio.run(run())


def test_a_thousand_paths_one_by_one_are_all_learned() -> None:
    prefixes = [f"10.{n // 250}.{n % 250}.0/24" for n in range(1000)]

    async def script(lab: Lab) -> None:
        lab.speaker.tell(PeersListed(), Paths(()))
        for prefix in prefixes:
            lab.speaker.tell(Paths((PathUpdate(prefix, N2),)))
        await lab.until(lambda: lab.routes is not None and len(lab.routes) == 1000)

    assert play(script).watch.received == 1000
