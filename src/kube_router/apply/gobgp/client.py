"""gRPC to gobgpd: one connection, either generation of the API, errors in our words.

The generation is asked for on every new connection, since the sidecar's image may be changed under us. A connection that
failed is thrown away and the next call makes a new one: gRPC's own back-off (up to two minutes) would keep us from a speaker
that has long been back. It knows no desired state, and decides nothing.

grpc is imported with the first connection, never with this module: it takes a third of a second that a start need not wait for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kube_router.codec.gobgp import generation as api
from kube_router.codec.gobgp.generation import Generation, Message
from kube_router.kit.errors import Busy, Stale

TIMEOUT: Final = 10.0  # seconds for any call but the watch

# gobgpd's words; the status code is UNKNOWN for all that it refuses.
_NOT_STARTED: Final = "hasn't started"  # BGP was not started, or was stopped (v3)
_STOPPED: Final = "server stopped"  # BGP was stopped and cannot be started again in this process (v4)

_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # the speaker is on this node, whatever the environment says of proxies
    ("grpc.max_receive_message_length", -1),  # the first event holds the whole table
    ("grpc.use_local_subchannel_pool", 1),  # a new connection is a new one, without the old one's back-off
)


class Refused(Exception):
    """gobgpd understood the call and said no; the text is its own."""


class Client:
    """Calls to the gobgpd at `target` ("unix:///path" or "host:port"). Threads may share it.

    Fields of a call are those of its request message in the generation that `generation()` tells. Every call raises Busy
    (no answer), Stale (BGP is not started, or another gobgpd answers) or Refused.
    """

    def __init__(self, target: str, *, timeout: float = TIMEOUT) -> None:
        self.target = target
        self._timeout = timeout
        self._lock = threading.Lock()
        self._channel: Any = None
        self._generation: Generation | None = None
        self._quiet = threading.Lock()
        self._watches: set[Any] = set()

    def generation(self) -> Generation:
        """The generation that gobgpd speaks. Raises Busy when it does not answer, or speaks neither."""
        known = self._generation
        if known is not None:
            return known
        for name in api.SERVICES:
            asked = api.load(name)
            try:
                self._send(asked, "GetBgp", {})
            except _Unknown:
                continue
            self._generation = asked
            return asked
        raise Busy(f"what listens at {self.target} is no gobgpd of version 3 or 4")

    def send(self, method: str, **fields: Any) -> Message:
        """One call, one answer."""
        try:
            return self._send(self.generation(), method, fields)
        except _Unknown:
            raise self._changed() from None

    def pour(self, method: str, messages: Iterable[Mapping[str, Any]]) -> Message:
        """One call with many messages, one answer. What was taken before a refusal stays taken."""
        try:
            return self._send(self.generation(), method, messages)
        except _Unknown:
            raise self._changed() from None

    def list(self, method: str, **fields: Any) -> list[Message]:
        """A call with many answers."""
        return list(self._stream(method, fields, self._timeout))

    def watch(self, method: str, **fields: Any) -> Iterator[Message]:
        """A call whose answers come for ever; blocks in between. Ends quietly by `cancel`."""
        return self._stream(method, fields, None)

    def cancel(self) -> None:
        """Ends all watches, in whatever thread they are."""
        for watch in list(self._watches):
            watch.cancel()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """While it lasts no watch is under way: a speaker that is stopped on purpose withdraws every path on its way out."""
        with self._quiet:
            self.cancel()
            yield

    def close(self) -> None:
        """Ends the connection and every watch on it; a later call opens a new one."""
        self.cancel()
        with self._lock:
            channel, self._channel, self._generation = self._channel, None, None
        if channel is not None:
            channel.close()

    # -- one connection -----------------------------------------------------------------------------------------------

    def _send(self, generation: Generation, method: str, fields: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> Message:
        grpc, channel = self._connection()
        request = getattr(generation.pb, f"{method}Request")
        reply = getattr(generation.pb, api.REPLIES[method])
        one = isinstance(fields, Mapping)
        call = (channel.unary_unary if one else channel.stream_unary)(
            f"/{generation.service}/{method}", request_serializer=_bytes, response_deserializer=reply.FromString
        )
        asked = request(**fields) if isinstance(fields, Mapping) else iter([request(**message) for message in fields])
        try:
            return call(asked, timeout=self._timeout)
        except grpc.RpcError as error:
            fault = self._fault(error, channel)
        except ValueError as error:  # what grpc says of a channel that is closed: another thread had no answer on it
            fault = self._closed(error, channel)
        raise fault

    def _stream(self, method: str, fields: dict[str, Any], timeout: float | None) -> Iterator[Message]:
        generation = self.generation()
        with self._quiet:
            grpc, channel = self._connection()
            request = getattr(generation.pb, f"{method}Request")(**fields)
            reply = getattr(generation.pb, api.STREAMS[method])
            call = channel.unary_stream(
                f"/{generation.service}/{method}", request_serializer=_bytes, response_deserializer=reply.FromString
            )
            try:
                answers = call(request, timeout=timeout)
            except ValueError as error:
                raise self._closed(error, channel) from None
            if timeout is None:
                self._watches.add(answers)
        try:
            yield from answers
        except grpc.RpcError as error:
            if timeout is None and error.code() is grpc.StatusCode.CANCELLED:
                return
            fault = self._fault(error, channel)
            raise self._changed() if isinstance(fault, _Unknown) else fault from None
        finally:
            self._watches.discard(answers)
            answers.cancel()

    def _connection(self) -> tuple[Any, Any]:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core would write to our standard error
        import grpc

        with self._lock:
            if self._channel is None:
                self._channel = grpc.insecure_channel(self.target, options=_OPTIONS)
            return grpc, self._channel

    def _fault(self, error: Any, channel: Any) -> Exception:
        import grpc

        code, text = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return _Unknown(text)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._drop(channel)
            return Busy(f"no gobgpd answers at {self.target}: {text or code.name.lower()}")
        if _STOPPED in text:
            return Busy(f"BGP is stopped for good in the gobgpd at {self.target}: its supervisor must restart the process")
        if _NOT_STARTED in text:
            return Stale("BGP is not started in gobgpd: it has been restarted, or somebody stopped it")
        return Refused(text or code.name)

    def _closed(self, error: ValueError, channel: Any) -> Exception:
        with self._lock:
            return error if self._channel is channel else Busy(f"no gobgpd answers at {self.target}: the connection was given up")

    def _drop(self, channel: Any) -> None:
        with self._lock:
            if self._channel is not channel:
                return
            self._channel = self._generation = None
        channel.close()

    def _changed(self) -> Stale:
        self._generation = None
        return Stale(f"the gobgpd at {self.target} speaks another generation of the API than a moment ago")


class _Unknown(Exception):
    """The service or the call does not exist there."""


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString())
