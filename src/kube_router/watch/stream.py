"""One source, listed in pages and then watched, in one thread, until it is told to stop.

What it promises:
- A list is delivered as a whole or not at all. One cut short, one that says that more is left but not how to get it, and one whose
  pages expire on the way are begun again.
- **An empty list is believed only from a server that knows this cluster.** An API server that has just come up with an
  empty or another store answers "nothing" with status 200, and a node that believed it would take everything down. So an empty
  list (of anything but what was empty already) counts only when the same server also has the Node that we run on, read through to
  its store; an empty list of Nodes never counts. Meanwhile nothing changes and the status says why.
- A watch goes on from the last version seen, whatever ended it. After a connection was lost it first asks how new the
  server's store is: one that is older than what we have seen (restored, or begun anew) is listed from the start, since a watch
  from a version that it has not reached would stay silent. Such a store is believed only once it has our Node.
- A watch that carries nothing, not even a bookmark, for `Timing.silence` is taken for dead and opened again.
- Nothing is removed because of an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from kube_router.codec.objects import Decoded, Malformed, Refusal, Signal, decode_page, decode_refusal, decode_signal
from kube_router.kit.apiserver import ApiError
from kube_router.model.objects import Kind
from kube_router.telemetry.logging import get_logger
from kube_router.watch.gate import Backoff, Gate
from kube_router.watch.sources import NODES_PATH, Source

log = get_logger("watch")

GONE: Final = 410
LONGEST_LINE: Final = 64 * 1024 * 1024  # bytes; etcd's largest object is 1.5 MB
LONGEST_RETRY_AFTER: Final = 60.0
# Refusals that say something about us or the moment, not about the version that we asked for.
_NOT_THE_VERSION: Final = frozenset({401, 403, 404, 408, 429})


class Timing(msgspec.Struct, frozen=True):
    """Sizes and times of all streams; seconds."""

    page: int = 500
    list_timeout: float = 30.0
    silence: float = 90.0  # API servers send a bookmark a minute
    watch: tuple[float, float] = (300.0, 600.0)  # a watch ends by itself after a random time between
    backoff: Backoff = Backoff()
    linger: float = 0.3  # how long a removal waits for the arrival in a neighbouring source (merge.py)


class Status(msgspec.Struct, frozen=True):
    """How a source does. `error` "" while all is well; `since`: monotonic seconds of the last change of this status."""

    listed: bool = False
    error: str = ""
    since: float = 0.0


class Reply(Protocol):
    """A body to be read: see kit/apiserver.py."""

    server: str

    def read(self) -> bytes:
        """All of it."""

    def piece(self) -> bytes:
        """What has arrived."""

    def interrupt(self) -> None:
        """End a read in another thread."""

    def close(self) -> None:
        """Give it up."""


class Client(Protocol):
    """Requests to the API server: see kit/apiserver.py."""

    def get(
        self, path: str, query: Mapping[str, str] | None = None, *, read_timeout: float, server: str = "", compressed: bool = False
    ) -> Reply:
        """GET."""


class Audience(Protocol):
    """Who hears what a stream hears. Called from the stream's thread; returns False when nobody listens any more."""

    def listed(self, source: int, items: Sequence[Decoded]) -> bool:
        """A complete list."""

    def changed(self, source: int, signals: Sequence[Signal]) -> bool:
        """Signals of type ADDED, MODIFIED and DELETED, in order."""


class Expired(Exception):
    """The version that we asked for is too old, or does not exist: list again."""


class Distrusted(Exception):
    """An answer that is well-formed and not to be believed."""


class Stream:
    """Lists and watches one source. `run` is the thread's body; the other methods may be called from any thread."""

    def __init__(
        self,
        source: Source,
        number: int,
        *,
        client: Client,
        gate: Gate,
        audience: Audience,
        own_node: str,
        timing: Timing,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.source = source
        self.number = number
        self._client = client
        self._gate = gate
        self._audience = audience
        self._own_node = own_node
        self._timing = timing
        self._clock = clock
        self._random = random
        self._stopped = threading.Event()
        self._reply: Reply | None = None
        self._version = ""  # to watch from; "" when the next thing to do is a list
        self._empty = True  # what was last delivered; nothing yet, so that an empty first list must be believed too
        self._doubt = False  # a connection was lost since the server last showed how new its store is
        self._lost = False  # the store went back in time, and has not been believed since
        self._expired_pages = 0
        self._failures = 0
        self._status = Status(since=clock())

    @property
    def status(self) -> Status:
        """How it does now."""
        return self._status

    def stop(self) -> None:
        """Make `run` return soon; at once when it waits for a watch."""
        self._stopped.set()
        reply = self._reply
        if reply is not None:
            reply.interrupt()

    def run(self) -> None:
        """List and watch until stopped. Raises only on a bug."""
        while not self._stopped.is_set() and self._gate.enter():
            try:
                self._turn()
            except Expired as expired:
                log.step("listing anew", kind=self._kind.value, reason=str(expired))
                self._version = ""
                self._pause(None)
            except ApiError as error:
                self._failed(error)
            except (Malformed, Distrusted) as error:
                self._trouble(str(error))
                self._pause(None)

    # -- one turn -----------------------------------------------------------------------------------------------------------

    @property
    def _kind(self) -> Kind:
        return self.source.kind

    def _turn(self) -> None:
        if not self._version:
            self._list()
        elif self._doubt:
            self._look_for_a_lost_store()
        if self._version:
            self._watch()

    def _list(self) -> None:
        began = self._clock()
        items, version, server = self._pages()
        if self._stopped.is_set():
            return
        if self._lost or not items:
            self._believe(items, server)
        self._doubt = self._lost = False
        self._empty = not items
        if self._audience.listed(self.number, items):
            self._version = version
            self._well(listed=True)
            log.step("listed", kind=self._kind.value, objects=len(items), seconds=self._clock() - began)

    def _pages(self) -> tuple[list[Decoded], str, str]:
        """All items, the version of the first page, and the server that they all come from."""
        items: list[Decoded] = []
        version, token, server = "", "", ""
        # Where pages expire faster than they can be read, the list is asked for in one piece, as other clients do.
        limit = {"limit": str(self._timing.page)} if self._expired_pages < 2 else {}
        while not self._stopped.is_set():
            more = {"continue": token} if token else {}
            try:
                reply = self._get(self.source.query(**limit, **more), server=server)
            except Expired:
                self._expired_pages += 1
                raise
            server = reply.server
            page = decode_page(self._kind, reply.read())
            items.extend(page.items)
            version, token = version or page.version, page.next
            if not token and page.remaining:
                raise Distrusted(f"a list of {self._kind.value} that ends {page.remaining} items early")
            if not token:
                break
        self._expired_pages = 0
        return items, version, server

    def _believe(self, items: Sequence[Decoded], server: str) -> None:
        """Raise Distrusted unless the server knows this cluster."""
        nothing_new = not items and self._empty and self._status.listed
        if nothing_new or (not self._own_node and self._kind is not Kind.NODE):
            return
        if self._kind is Kind.NODE:
            if not items or (self._own_node and all(item.ref.name.name != self._own_node for item in items)):
                raise Distrusted(f"a list of {len(items)} Nodes without this one ({self._own_node})")
            return
        try:
            self._client.get(f"{NODES_PATH}/{self._own_node}", read_timeout=self._timing.list_timeout, server=server).read()
        except ApiError as error:
            if error.status != 404:
                raise
            raise Distrusted(
                f"a list of {len(items)} {self._kind.value} from a server that does not know this node ({self._own_node})"
            ) from error

    def _look_for_a_lost_store(self) -> None:
        page = decode_page(self._kind, self._get(Source(self._kind, self.source.path).query(limit="1")).read())
        if page.version.isdecimal() and self._version.isdecimal() and int(page.version) < int(self._version):
            self._lost = True
            raise Expired(f"the server is at version {page.version}, and we have seen {self._version}")
        self._doubt = False

    def _get(self, query: dict[str, str], *, server: str = "") -> Reply:
        try:
            reply = self._client.get(self.source.path, query, read_timeout=self._timing.list_timeout, server=server, compressed=True)
        except ApiError as error:
            if error.status == GONE:
                raise Expired(error.message) from error
            raise
        self._answered()
        return reply

    def _watch(self) -> None:
        shortest, longest = self._timing.watch
        seconds = shortest + (longest - shortest) * self._random()
        query = self.source.query(
            watch="1", allowWatchBookmarks="true", resourceVersion=self._version, timeoutSeconds=str(max(1, round(seconds)))
        )
        try:
            reply = self._client.get(self.source.path, query, read_timeout=self._timing.silence)
        except ApiError as error:
            if 400 <= error.status < 500 and error.status not in _NOT_THE_VERSION:
                raise Expired(error.message) from error
            raise
        self._reply = reply
        opened = self._clock()
        try:
            self._answered()
            self._well()
            heard = self._follow(reply)
        finally:
            self._reply = None
            reply.close()
        if heard or self._clock() - opened >= 1.0:
            self._failures = 0
        else:
            self._pause(None)  # a server that ends watches at once must not be asked in a circle

    def _follow(self, reply: Reply) -> bool:
        """Deliver what the watch carries until it ends; whether it carried anything."""
        rest, heard = b"", False
        while not self._stopped.is_set():
            try:
                piece = reply.piece()
            except ApiError as error:
                log.debug("watch was cut", kind=self._kind.value, reason=error.message)
                self._doubt = True
                return heard
            if not piece:
                return heard
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LONGEST_LINE:
                raise Expired(f"a watch of {self._kind.value} with a line that does not end")
            try:
                signals = [decode_signal(self._kind, line) for line in lines if line.strip()]
            except Malformed as error:
                # Watching on would bring the same line again, for ever.
                raise Expired(str(error)) from error
            heard = self._hear(signals) or heard
        return heard

    def _hear(self, signals: list[Signal]) -> bool:
        error = next((signal for signal in signals if signal.type == "ERROR"), None)
        told = signals if error is None else signals[: signals.index(error)]
        changes = [signal for signal in told if signal.decoded is not None]
        if changes:
            self._empty = False
            if not self._audience.changed(self.number, changes):
                return False
        self._version = next((signal.version for signal in reversed(told) if signal.version), self._version)
        if error is not None:
            raise self._ended(error.refusal or decode_refusal(b"", code=500))
        return bool(told)

    def _ended(self, refusal: Refusal) -> Exception:
        """What an error in a watch comes to. Mostly the trouble would come again at the same version, so that is left behind."""
        if refusal.code in _NOT_THE_VERSION:
            return ApiError(refusal.code, refusal.message, retry_after=refusal.retry_after)
        return Expired(f"{refusal.code} {refusal.message}")

    # -- trouble and its end ------------------------------------------------------------------------------------------------

    def _answered(self) -> None:
        if self._gate.answered():
            log.info("the API server answers again")

    def _failed(self, error: ApiError) -> None:
        if error.status:
            self._answered()
            self._trouble(str(error))
            self._pause(error.retry_after)
            return
        self._doubt = True
        if self._gate.silent():
            log.warning("the API server does not answer; everything stays as it is", error=error.message)
        self._trouble(error.message)

    def _pause(self, retry_after: float | None) -> None:
        self._answered()
        self._failures += 1
        wait = self._timing.backoff.delay(self._failures, self._random())
        if retry_after is not None:
            wait = max(wait, min(retry_after, LONGEST_RETRY_AFTER))
        self._stopped.wait(wait)

    def _trouble(self, error: str) -> None:
        if error != self._status.error and self._gate.is_open:
            log.warning(f"cannot list or watch {self._kind.value}", error=error)
        if error != self._status.error:
            self._status = msgspec.structs.replace(self._status, error=error, since=self._clock())

    def _well(self, *, listed: bool = False) -> None:
        before = self._status
        if before.error and self._gate.is_open:
            log.info(f"listing and watching {self._kind.value} again")
        if before.error or listed > before.listed:
            self._status = Status(listed=before.listed or listed, since=self._clock())
