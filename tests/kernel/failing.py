"""Calls to the kernel that fail once, wherever one wants: of messages, of tools, of whole targets.

A call fails in one of three ways:

refused  it is answered with an error, and nothing was done; of a batch of messages it is the one, the others are worked off
early    it never gets there
late     it is done, but nobody hears of it
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kube_router.apply.kernel.commands import Commands, Ran
from kube_router.apply.kernel.netlink_socket import Fault, NetlinkSocket, NetlinkTarget
from kube_router.codec.netlink import Message, Reply
from kube_router.control.controller import Target
from kube_router.kit.errors import Busy, Stale
from kube_router.model.state import Change, Key, Value

WAYS: Final = ("refused", "early", "late")


class Failure:
    """Counts calls, and says which one fails. `what` tells of the one that did."""

    def __init__(self) -> None:
        self.calls = 0
        self._at = 0
        self.way = ""
        self.what = ""

    def plan(self, at: int, way: str) -> None:
        """The call with this number (from 1, counted from now) fails in this way; 0 for none."""
        self.calls, self._at, self.way, self.what = 0, at, way, ""

    def hits(self, what: str) -> bool:
        """Whether the call that is about to be made fails."""
        self.calls += 1
        if self.calls != self._at:
            return False
        self.what = f"{what}, {self.way}"
        return True


class FailingCommands(Commands):
    """Tools, of whose runs one fails."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self._failure = failure

    def run(self, arguments: Sequence[str], feed: str = "") -> Ran:
        if not self._failure.hits(" ".join(arguments[:3])):
            return super().run(arguments, feed)
        if self._failure.way == "refused":
            return Ran(1, "", f"{arguments[0]}: Operation not permitted\n")
        if self._failure.way == "late":
            super().run(arguments, feed)
        raise Busy(f"{arguments[0]} was told to fail")


class FailingSocket:
    """In place of a target's netlink socket: of its messages one fails."""

    def __init__(self, inner: NetlinkSocket, failure: Failure) -> None:
        self._inner = inner
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, messages: Sequence[Message]) -> dict[int, Fault]:
        if not messages:
            return {}
        if self._failure.way != "refused":
            if not self._failure.hits(f"{len(messages)} messages"):
                return self._inner.send(messages)
            if self._failure.way == "early":
                raise Busy("messages were told to fail")
            self._inner.send(messages)
            raise Stale("the report of messages was told to be lost")
        hit = [n for n, message in enumerate(messages) if self._failure.hits(f"message {message.type} {message.payload[:1].hex()}")]
        kept = [n for n in range(len(messages)) if n not in hit]
        faults = self._inner.send([messages[n] for n in kept])
        return {kept[n]: fault for n, fault in faults.items()} | {n: Fault(errno.EPERM, "told to fail") for n in hit}

    def dump(self, message: Message) -> list[Reply]:
        if not self._failure.hits(f"dump {message.type}"):
            return self._inner.dump(message)
        if self._failure.way == "refused":
            raise OSError(errno.ENOMEM, "the dump was told to fail")
        raise Stale("the dump was told to fail")

    def ask(self, message: Message) -> Reply:
        if not self._failure.hits(f"question {message.type}"):
            return self._inner.ask(message)
        raise OSError(errno.ENOMEM, "the question was told to fail")


class Watched:
    """A target of which `removed` is told all that it is to remove. With a failure, whole calls of it fail: for those without a
    seam below."""

    def __init__(self, inner: Target, removed: list[Key], failure: Failure | None = None) -> None:
        self.removed = removed
        self._inner = inner
        self._failure = failure

    @property
    def kinds(self) -> tuple[type[Key], ...]:
        return self._inner.kinds

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        if self._fails("observe"):
            raise Busy("a look was told to fail")
        return self._inner.observe(wanted)

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        self.removed += [change.key for change in changes if change.after is None]
        if not self._fails("apply"):
            return self._inner.apply(changes)
        assert self._failure is not None
        if self._failure.way == "refused":
            return {change.key: "told to fail" for change in changes}
        if self._failure.way == "late":
            self._inner.apply(changes)
        raise Busy("changes were told to fail")

    def _fails(self, what: str) -> bool:
        names = "/".join(kind.__name__ for kind in self.kinds)
        return self._failure is not None and self._failure.hits(f"{what} of {names}")


def over_netlink(target: NetlinkTarget, failure: Failure) -> Any:
    """The target, with a socket of whose messages one fails."""
    target._socket = FailingSocket(target._socket, failure)  # type: ignore[assignment]
    return target
