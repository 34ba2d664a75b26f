"""What gobgpd tells: sessions and best paths, for the watch. Reads only; raises as the client does."""

from __future__ import annotations

from collections.abc import Iterator

from kube_router.apply.gobgp.client import Client, Refused
from kube_router.codec.gobgp.paths import Event, PathUpdate, best_of, event_of
from kube_router.codec.gobgp.speaker import PeerStatus, family, speaker_of, status_of
from kube_router.kit.errors import Busy
from kube_router.kit.net import FAMILIES


class Feed:
    """Reads through a client that the target may share."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def started(self) -> bool:
        """Whether BGP is started in the gobgpd that answers."""
        return speaker_of(self._client.send("GetBgp")) is not None

    def events(self) -> Iterator[Event]:
        """Peers and best paths, as they are and then as they change; blocks in between, and ends by `cancel`.

        A speaker that is not started may be watched too: it names no peers, and its first paths come once it has some.
        """
        generation = self._client.generation()
        pb = generation.pb
        best = pb.WatchEventRequest.Table.Filter(type=generation.watch_best, init=True)
        table = pb.WatchEventRequest.Table(filters=[best])
        try:
            for message in self._client.watch("WatchEvent", peer=pb.WatchEventRequest.Peer(), table=table):
                event = event_of(generation, message)
                if event is not None:
                    yield event
        except Refused as refusal:
            raise Busy(f"gobgpd refuses to be watched: {refusal}") from None

    def cancel(self) -> None:
        """Ends `events` in another thread."""
        self._client.cancel()

    def peers(self) -> dict[str, PeerStatus]:
        """How every session stands, by address; none while BGP is not started."""
        statuses = (status_of(reply.peer) for reply in self._client.list("ListPeer"))
        return {status.address: status for status in statuses}

    def best_paths(self) -> list[PathUpdate]:
        """The best path of every prefix. Stale while BGP is not started."""
        generation = self._client.generation()
        found: list[PathUpdate] = []
        for of in FAMILIES:
            for reply in self._client.list("ListPath", table_type=generation.table_global, family=family(generation, of)):
                found.extend(best_of(generation, reply.destination))
        return found
