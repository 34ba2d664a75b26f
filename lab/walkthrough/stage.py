"""Where a step is played: it does, shows and holds; a teller writes down or prints what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from lab.cluster import Cluster
from lab.kubectl import table
from lab.node import Node
from lab.space import CommandFailed
from lab.waiting import NotYet, wait_for


class Teller(Protocol):
    """Hears what happens."""

    def did(self, text: str) -> None: ...
    def showed(self, where: str, command: str, output: str) -> None: ...
    def held(self, promise: str, *, seconds: float) -> None: ...
    def broke(self, promise: str, why: str) -> None: ...


class Broken(AssertionError):
    """What must be seen was not seen."""


class Stage:
    """A cluster, a teller, and what one step leaves for another (``memory``)."""

    def __init__(self, cluster: Cluster, teller: Teller) -> None:
        self.cluster = cluster
        self.memory: dict[str, Any] = {}
        self._teller = teller

    def node(self, name: str) -> Node:
        return self.cluster.node(name)

    def do(self, text: str) -> None:
        """Say what is being done."""
        self._teller.did(text)

    def show(self, where: str, command: str) -> str:
        """Run what a person would type, on a node; its output is shown and handed back. Broken when it fails."""
        try:
            output = self.node(where).run(["sh", "-c", command]).rstrip()
        except CommandFailed as failure:
            self._teller.broke(f"{where}# {command}", str(failure))
            raise Broken(str(failure)) from None
        self._teller.showed(where, command, output)
        return output

    def kubectl(self, word: str, *, namespace: str = "") -> str:
        """List objects as kubectl does."""
        kind = self.cluster.objects.kind(word)
        output = table(kind, self.cluster.objects.list(word, namespace), now=time.time())
        self._teller.showed("", f"kubectl get {word} -A", output)
        return output

    def hold(
        self,
        promise: str,
        condition: Callable[[], object],
        *,
        seconds: float = 0.0,
        seen: Callable[[], object] | None = None,
    ) -> None:
        """Hold what is promised against what is: true at once or within ``seconds``; Broken when it is not.

        ``seen`` says, for that case, what is there instead.
        """
        start = time.monotonic()
        try:
            wait_for(promise, condition, seconds=seconds, so_far=seen)
        except NotYet as missing:
            self._teller.broke(promise, str(missing))
            raise Broken(str(missing)) from None
        self._teller.held(promise, seconds=time.monotonic() - start)
