"""Our own paths in a gobgpd: read whole, announced and withdrawn.

A few are told one by one, many in one stream: gobgpd then judges them together and packs them into its updates, and ten thousand take
a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, cast

from kube_router.apply.gobgp.client import Client
from kube_router.codec.gobgp import paths as codec
from kube_router.codec.gobgp.generation import Message
from kube_router.codec.gobgp.speaker import family
from kube_router.kit.net import FAMILIES
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.bgp import PathKey

_FEW: Final = 32
_PATHS_A_MESSAGE: Final = 500


class PathBook:
    """Paths of one gobgpd. `call` makes a call that writes, `pour` a stream of messages that do, and both count."""

    def __init__(self, client: Client, call: Callable[..., None], pour: Callable[..., None]) -> None:
        self._client, self._call, self._pour = client, call, pour

    def observe(self) -> dict[Key, Value]:
        """All that were originated here."""
        generation = self._client.generation()
        found: dict[Key, Value] = {}
        for of in FAMILIES:
            for reply in self._client.list("ListPath", table_type=generation.table_global, family=family(generation, of)):
                found.update(codec.own_paths(generation, reply.destination))
        return found

    def announce(self, changes: Sequence[Change]) -> None:
        """Announce these. ValueError for what is no path, before anything of them is told."""
        generation = self._client.generation()
        paths = [codec.path(generation, cast(PathKey, change.key), change.after) for change in changes]
        if len(paths) > _FEW:
            self._pour("AddPathStream", self._messages(paths))
            return
        for path in paths:
            self._call("AddPath", table_type=generation.table_global, path=path)

    def withdraw(self, changes: Sequence[Change]) -> None:
        """Take these back."""
        generation = self._client.generation()
        # Never without a path: gobgpd takes that for all of them. Its attributes are wanted too, though only the prefix counts.
        paths = [codec.path(generation, cast(PathKey, change.key), change.before) for change in changes]
        if len(paths) > _FEW:
            for path in paths:
                path.is_withdraw = True
            self._pour("AddPathStream", self._messages(paths))
            return
        for path in paths:
            self._call("DeletePath", table_type=generation.table_global, family=path.family, path=path)

    def _messages(self, paths: list[Message]) -> Iterator[dict[str, object]]:
        table = self._client.generation().table_global
        for first in range(0, len(paths), _PATHS_A_MESSAGE):
            yield {"table_type": table, "paths": paths[first : first + _PATHS_A_MESSAGE]}
