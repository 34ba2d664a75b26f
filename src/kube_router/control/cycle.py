"""One pass of one controller: changed keys -> touched items -> desired -> ledger -> ordered changes -> targets -> commit.

The same for every controller. It decides nothing about networks: what an item comes to is the controller's answer, the
order is plan/order.py's, the writing is the targets'. Its own rules are about failure:

- An item whose desired state cannot be computed keeps its last good one, is reported, and is tried again on the next pass.
- A change that a target refuses stays undone, and so does what the same items want later in the order (an address must not
  draw packets to a service that the kernel refused). Other items go on.
- What nobody wants any more may be kept for a while by a keeper, which is asked after observing and before writing.
- A target that fails as a whole ends the pass. What it holds counts as unknown and is observed before the next write.
- What was acknowledged is committed, never more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeVar

import msgspec

from kube_router.cache.cache import Feed, View
from kube_router.control.controller import Call, Controller, Keeper, Target
from kube_router.control.report import Report
from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.ipvs import IpvsTimeoutsKey
from kube_router.model.state.links import FileKey, SysctlKey
from kube_router.plan import ownership
from kube_router.plan.ledger import Ledger
from kube_router.plan.order import ordered

T = TypeVar("T")

# Refusals of these say something about the host, not about the items that want them: nothing else waits for them.
_ALONE: Final = (SysctlKey, FileKey, IpvsTimeoutsKey)


class Outcome(msgspec.Struct, frozen=True):
    """What a pass came to. `failure` names the target that failed as a whole and why; empty when none did.
    `again`: seconds until a pass is due even if nothing happens; None when there is no such wish."""

    written: int = 0
    refused: int = 0
    faulty: int = 0
    drifted: int = 0
    failure: str = ""
    again: float | None = None

    @property
    def good(self) -> bool:
        """Whether the node now holds all that is wanted."""
        return not (self.failure or self.refused or self.faulty)


class Cycle:
    """A controller with its ledger, its feed of changes and its targets."""

    def __init__(
        self,
        controller: Controller,
        *,
        feed: Feed,
        view: View,
        targets: Sequence[Target],
        report: Report,
        call: Call = asyncio.to_thread,
        keeper: Keeper | None = None,
    ) -> None:
        self.controller = controller
        self.keeper = keeper
        self.ledger = Ledger()
        self.feed = feed
        self._view = view
        self._target_of: dict[type[Key], Target] = {kind: target for target in targets for kind in target.kinds}
        self._report = report
        self._call = call
        self._faulty: set[Hashable] = set()
        self._notes: dict[Hashable, tuple[Note, ...]] = {}
        self.ledger.distrust(controller.writes)

    async def sync(self, audit: Iterable[type[Key]] = ()) -> Outcome:
        """One pass. Kinds in `audit` are observed and compared first; differences from what was held count as drift."""
        self._refresh()
        try:
            drifted = await self._observe(frozenset(audit))
            again = await self._keep()
            written, refused = await self._apply()
        except TargetError as failure:
            self._report.failed(self.controller.name, failure)
            return Outcome(faulty=len(self._faulty), failure=f"{type(failure).__name__}: {failure}")
        return Outcome(written=written, refused=refused, faulty=len(self._faulty), drifted=drifted, again=again)

    def notes(self) -> Iterator[Note]:
        """All that people should know about objects now. From any thread."""
        for notes in list(self._notes.values()):
            yield from notes

    # -- wanting ------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        touched = set(self.controller.touched(self.feed.take(), self._view)) | self._faulty
        self._faulty = set()
        for item in touched:
            try:
                desired = self.controller.want(item, self._view)
            except Exception as fault:  # noqa: BLE001  one item's fault, whatever it is, must not stop its neighbours
                self._faulty.add(item)
                self._report.faulty(self.controller.name, item, fault)
                continue
            self.ledger.want(item, desired.state, desired.priority)
            self._tell(item, desired.notes)

    def _tell(self, item: Hashable, notes: tuple[Note, ...]) -> None:
        before = self._notes.get(item, ())
        if notes:
            self._notes[item] = notes
        else:
            self._notes.pop(item, None)
        for note in notes:
            if note not in before:
                self._report.note(self.controller.name, note)

    # -- holding ------------------------------------------------------------------------------------------------------

    async def _observe(self, audit: frozenset[type[Key]]) -> int:
        kinds = (self.ledger.distrusted | audit) & frozenset(self.controller.writes)
        if not kinds:
            return 0
        targets = {id(target): target for target in (self._target_of[kind] for kind in kinds)}
        of = frozenset(kind for target in targets.values() for kind in target.kinds) & frozenset(self.controller.writes)
        wanted: dict[type[Key], dict[Key, Value]] = {kind: {} for kind in of}
        for key, value in self.ledger.merged.items():
            if type(key) in of:
                wanted[type(key)][key] = value
        ours: dict[Key, Value] = {}
        for target in targets.values():
            asked = {key: value for kind in target.kinds for key, value in wanted.get(kind, {}).items()}
            actual: Mapping[Key, Value] = await self._call(target.observe, asked)
            ours.update((key, value) for key, value in actual.items() if type(key) in of and self._is_mine(key, asked))
        drift = self.ledger.observe(of, ours)
        for key in drift:
            self._report.drift(self.controller.name, key)
        return len(drift)

    def _is_mine(self, key: Key, wanted: Mapping[Key, Value]) -> bool:
        return key in wanted or ownership.owner(key) == self.controller.name

    async def _keep(self) -> float | None:
        if self.keeper is None:
            return None
        await self.keeper.look(self._call)
        self.keeper.keep(self.ledger)
        return self.keeper.again()

    async def _apply(self) -> tuple[int, int]:
        written = refused = 0
        blocked: set[Hashable] = set()
        for target, batch in self._batches(ordered(self.ledger.pending())):
            changes = [change for change in batch if not self._waits(change, blocked)]
            refused += len(batch) - len(changes)
            if not changes:
                continue
            try:
                rejected: Mapping[Key, str] = await self._call(target.apply, changes)
            except BaseException:
                self.ledger.distrust(frozenset(target.kinds) & frozenset(self.controller.writes))
                raise
            done = [change for change in changes if change.key not in rejected] if rejected else changes
            self.ledger.commit(done)
            self._report.wrote(self.controller.name, target, done)
            written += len(done)
            refused += len(rejected)
            for key, reason in rejected.items():
                owners = self.ledger.owners(key)
                self._report.rejected(self.controller.name, key, owners, reason)
                if not isinstance(key, _ALONE):
                    blocked.update(owners)
        return written, refused

    def _batches(self, changes: Sequence[Change]) -> Iterator[tuple[Target, list[Change]]]:
        for target, batch in groupby(changes, key=lambda change: self._target_of[type(change.key)]):
            yield target, list(batch)

    def _waits(self, change: Change, blocked: set[Hashable]) -> bool:
        if not blocked or change.after is None:
            return False
        owners = self.ledger.owners(change.key)
        return bool(owners) and blocked.issuperset(owners)
