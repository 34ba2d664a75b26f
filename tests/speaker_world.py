"""A node's speaker controller over a gobgpd in memory: what laws and tests of the speaker have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import cast

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.generation import EXPORT, IMPORT
from kube_router.codec.gobgp.paths import update_of
from kube_router.config.options import Options
from kube_router.control.cycle import Cycle, Outcome
from kube_router.control.speaker import SpeakerController
from kube_router.kit.net import host_prefix
from kube_router.model.objects import Kind, Name, Object
from kube_router.model.state import Key, Value
from tests.engine import Event, Recorder, inline
from tests.gobgpd import FakeGobgpd


class World:
    """One node's speaker controller over a gobgpd in memory. While it runs, nothing may ever leak or be let in."""

    def __init__(self, generation: str, options: Options, objects: Iterable[Object] = (), *, reachable: bool = False) -> None:
        self._options = options
        self.gobgpd = FakeGobgpd(generation)
        self.gobgpd.reachable = reachable
        self.gobgpd.before_call = lambda method: self._nothing_leaks()
        self.cache = Cache()
        for value in objects:
            self.cache.put(value)
        self.restart()

    def restart(self, options: Options | None = None) -> None:
        """Our process dies and comes back, perhaps with other flags."""
        self._options = options or self._options
        self.report = Recorder()
        controller = SpeakerController(self._options)
        self.target = GobgpTarget(cast(Client, self.gobgpd))
        self.cycle = Cycle(
            controller,
            feed=self.cache.feed(controller.reads),
            view=self.cache.view,
            targets=[self.target],
            report=self.report,
            call=inline,
        )

    def feed(self, event: Event) -> None:
        if hasattr(event, "__struct_fields__"):
            self.cache.put(cast(Object, event))
        else:
            self.cache.remove(*cast(tuple[Kind, Name], event))

    def sync(self, *, audit: bool = False) -> Outcome:
        return asyncio.run(self.cycle.sync(self.cycle.controller.writes if audit else ()))

    def settle(self) -> None:
        """Passes until nothing is left to do. A v4 process that was stopped is restarted by its supervisor."""
        for _ in range(60):
            if self.gobgpd.dead:
                self.gobgpd.restart()
            writes = self.target.writes
            outcome = self.sync(audit=True)
            if outcome.good and writes == self.target.writes:
                for address, sent in self.gobgpd.sent.items():
                    assert sent == self.gobgpd.to_send(address), f"{address} has been sent what rules say now"
                return
        raise AssertionError(f"not settled: {outcome}")

    def holds(self) -> dict[Key, Value]:
        return dict(self.target.observe(self.cycle.ledger.merged))

    def _nothing_leaks(self) -> None:
        gobgpd = self.gobgpd
        some = islice(gobgpd.paths.values(), 8)
        ours = [update.prefix for update in (update_of(gobgpd.api, path) for path in some) if update is not None]
        for address, peer in gobgpd.peers.items():
            for source in ("internal", "external"):
                # To nodes that are no clients a reflector's speaker reflects nothing, whatever its rules say (RFC 4456).
                reflects = any(name.startswith("reflected") for name in gobgpd.statements) and peer.conf.peer_asn == gobgpd.settings.asn
                if source == "external" or not reflects:
                    assert not gobgpd.judges(EXPORT, "198.18.0.0/24", address, source), "a foreign route would be sent to a neighbour"
                for prefix in ("0.0.0.0/0", "::/0"):
                    assert not gobgpd.judges(IMPORT, prefix, address, source), "a default route would be let in"
            if peer.conf.peer_asn == gobgpd.settings.asn:
                for prefix in ours:
                    is_vip = prefix == host_prefix(prefix.partition("/")[0])
                    assert not (is_vip and gobgpd.judges(EXPORT, prefix, address)), "a VIP would be sent to a node"
