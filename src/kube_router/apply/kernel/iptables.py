"""Chains of ours and the jumps to them, both families, all tables: ChainKey and JumpKey; and rules that the original left: LeftoverKey.

A run of changes is one `iptables-restore --noflush` per family. It names chains of ours, our own jumps in the built-in chains, and
single rules that the original left there (plan/leftovers.py), nothing else: foreign rules, their order and their counters stay as they
are, whatever version of the tools wrote them. Each table takes effect as a whole or not at all, so a packet never meets half a change.

Reading is one `iptables-save` per family, of all tables that exist. The families do not depend on each other: when one
cannot be written, the other goes on, and the keys of the first are refused. What a refused rule costs its neighbours is
iptables_isolation.py; where jumps stand is iptables_jumps.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Final

from kube_router.apply.kernel import iptables_jumps, iptables_section
from kube_router.apply.kernel.commands import Commands, Ran
from kube_router.apply.kernel.iptables_isolation import Access, isolate
from kube_router.apply.kernel.iptables_section import Section
from kube_router.apply.kernel.iptables_tools import Tools
from kube_router.codec import tables
from kube_router.codec.tables import Line, Table
from kube_router.desired.proxy.marks import may_be
from kube_router.kit.errors import Busy, Rejected
from kube_router.kit.net import Family
from kube_router.model.objects import Claim
from kube_router.model.state import Change, Key, State, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Leftover, LeftoverKey
from kube_router.plan import leftovers
from kube_router.plan.ownership import chain_owner

LOCK_WAIT: Final = 5  # seconds that legacy tools wait for the lock that all of them share


def is_ours(chain: str) -> bool:
    """Whether a chain is ours, whoever of us it belongs to."""
    return chain_owner(chain) is not None


def _is_originals_mark(mark: int, claim: Claim) -> bool:
    return may_be(mark, claim, "direct")


class IptablesTarget:
    """Writer of one backend's tables. `reads` and `restores` count processes, `lines` what the latter were fed."""

    kinds: tuple[type[Key], ...] = (ChainKey, JumpKey, LeftoverKey)

    def __init__(self, tools: Tools, commands: Commands | None = None, *, wait: int = LOCK_WAIT) -> None:
        self.tools = tools
        self._commands = commands or Commands()
        self._wait = wait
        self._lock = Lock()
        # Jumps that controllers are known to want: the order among ours concerns all of them, and each asks for its own only.
        self._known: dict[JumpKey, Jump] = {}
        self.reads = 0
        self.restores = 0
        self.lines = 0

    @property
    def forks(self) -> int:
        """Processes started so far, for reading and for writing."""
        return self._commands.forks

    # -- observing ----------------------------------------------------------------------------------------------------

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Chains of ours and jumps to them. A jump that stands where it is wanted is returned as wanted.

        A family that cannot be read counts as empty, so that the other is served and what is wanted of this one is refused by
        name; Rejected when no family can be read, Busy when the tables are in use.
        """
        with self._lock:
            self._learn(wanted.items())
            state: State = {}
            unreadable: list[str] = []
            for family in self.tools.save:
                try:
                    read = self._read(family)
                except Rejected as fault:
                    unreadable.append(str(fault))
                    continue
                self._state_of(family, read, state)
        if len(unreadable) == len(self.tools.save):
            raise Rejected("; ".join(unreadable) or f"no iptables tools for the {self.tools.backend} backend")
        return state

    def _state_of(self, family: Family, read: Mapping[str, Table], state: State) -> None:
        for name, table in read.items():
            for chain, rules in table.chains.items():
                state[ChainKey(family, name, chain)] = Chain(tuple(rules))
            for builtin, rules in table.builtin.items():
                for chain in {tables.rule_target(rule) for rule in rules}:
                    if not is_ours(chain):
                        continue
                    key = JumpKey(family, name, builtin, chain)
                    jump = iptables_jumps.observed(key, rules, self._known, is_ours)
                    if jump is not None:
                        state[key] = jump
                for rule in rules:
                    if who := leftovers.owner(name, builtin, rule, _is_originals_mark):
                        found = LeftoverKey(family, name, builtin, rule, who)
                        state[found] = Leftover(rules.count(rule))

    def _read(self, family: Family, table: str = "") -> dict[str, Table]:
        self.reads += 1
        ran = self._commands.run([self.tools.save[family], *(["-t", table] if table else [])])
        if not ran.well:
            raise self._whole_failure(family, ran)
        return tables.parse_save(ran.output, is_ours)

    # -- applying -----------------------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """All changes, one process per family as long as nothing is refused; returns refusals by key.

        Raises Busy when another program held the tables for longer than we wait; the other family's changes are made then.
        """
        refused: dict[Key, str] = {}
        busy: Busy | None = None
        with self._lock:
            self._learn((change.key, change.after) for change in changes)
            for family, by_table in iptables_section.sections(changes).items():
                try:
                    self._write(family, list(by_table.values()))
                except Busy as fault:
                    busy = fault
                except Rejected as fault:
                    refused.update((key, str(fault)) for part in by_table.values() for key in part.left())
                for part in by_table.values():
                    refused.update(part.refused)
        if busy is not None:
            raise busy
        return refused

    def _write(self, family: Family, parts: Sequence[Section]) -> None:
        if family not in self.tools.restore:
            if any(part.puts or any(part.jumps.values()) for part in parts):
                raise Rejected(f"no IPv{family} tools for the {self.tools.backend} backend of iptables")
            return  # nothing can be there that is to go
        lines = [line for part in parts for line in self._lines(part)]
        if not lines:
            return
        ran = self._feed(family, lines)
        if ran.well:
            return
        access = Access(self._lines, lambda lines: self._feed(family, lines), self._present)
        for part in parts:
            isolate(part, access, ran if len(parts) == 1 else None)

    def _lines(self, part: Section) -> list[Line]:
        """The section as it must be written now: the places of jumps are read for it."""
        in_builtin: list[Line] = []
        if part.jumps or part.leftovers:
            read = self._read(part.family, part.table).get(part.table, Table({}, {}))
            for builtin, jumps in iptables_section.jump_changes(part.jumps).items():
                in_builtin += iptables_jumps.settle(jumps, read.builtin.get(builtin, []), self._known, is_ours)
            in_builtin += iptables_section.leftover_lines(part.leftovers, read.builtin)
        return part.lines(in_builtin)

    def _present(self, part: Section) -> frozenset[str]:
        table = self._read(part.family, part.table).get(part.table)
        return frozenset(table.chains) if table else frozenset()

    def _feed(self, family: Family, lines: Sequence[Line]) -> Ran:
        self.restores += 1
        self.lines += len(lines)
        ran = self._commands.run([self.tools.restore[family], "--noflush", f"--wait={self._wait}"], tables.text(lines))
        if not ran.well and iptables_section.is_locked(ran.errors):
            raise Busy(f"IPv{family} tables are in use by another program: {iptables_section.reason_in(ran.errors)}")
        return ran

    def _learn(self, pairs: Iterable[tuple[Key, Value | None]]) -> None:
        for key, value in pairs:
            if isinstance(key, JumpKey):
                if isinstance(value, Jump):
                    self._known[key] = value
                else:
                    self._known.pop(key, None)

    def _whole_failure(self, family: Family, ran: Ran) -> Busy | Rejected:
        reason = iptables_section.reason_in(ran.errors)
        if iptables_section.is_locked(ran.errors):
            return Busy(f"IPv{family} tables are in use by another program: {reason}")
        return Rejected(f"IPv{family} tables cannot be read ({self.tools.backend} backend): {reason}")
