"""Packet and byte counters of the rules of our chains, for metrics. Reads only.

On the legacy backend python-iptables reads them in this process, through libiptc: no fork, no text. It walks the entries by its
low-level calls, since its rule objects cost thirty times more than parsing `iptables-save` (docs/adr/0003). It speaks to
legacy tables only, so on nft, and where its libraries are not installed, `iptables-save -c` is asked. Whoever asks knows
what rules a chain holds: counters come in the order of the rules.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Final, Literal

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.iptables_tools import Tools
from kube_router.codec import tables
from kube_router.kit.errors import Rejected, Stale
from kube_router.kit.net import Family

Counts = tuple[int, int]  # packets, bytes

# Tables that this network namespace has by now; asking libiptc for another one would make the kernel load it.
_LOADED: Final[dict[Family, Path]] = {
    4: Path("/proc/thread-self/net/ip_tables_names"),
    6: Path("/proc/thread-self/net/ip6_tables_names"),
}
_TABLE_CLASS: Final[dict[Family, str]] = {4: "Table", 6: "Table6"}


class RuleCounters:
    """Counters of one backend. `source` says how they are read: "libiptc" or "iptables-save"."""

    def __init__(self, tools: Tools, commands: Commands | None = None) -> None:
        self._tools = tools
        self._commands = commands or Commands()
        self._lock = Lock()  # libiptc has state of its own, shared by all threads
        self._iptc = _python_iptables() if tools.backend == "legacy" else None

    @property
    def source(self) -> Literal["libiptc", "iptables-save"]:
        """How counters are read here."""
        return "libiptc" if self._iptc is not None else "iptables-save"

    def read(self, family: Family, table: str, chains: Iterable[str]) -> dict[str, list[Counts]]:
        """Counters of these chains, rule by rule; chains that do not exist are absent. Raises Stale or Rejected."""
        if self._iptc is None:
            return self._ask(family, table, frozenset(chains))
        with self._lock:
            return _walk(self._iptc, family, table, chains)

    def _ask(self, family: Family, table: str, chains: frozenset[str]) -> dict[str, list[Counts]]:
        ran = self._commands.run([self._tools.save[family], "-c", "-t", table])
        if not ran.well:
            raise Rejected(f"counters of the IPv{family} {table} table cannot be read: {ran.errors.strip()}")
        return {
            chain: [(rule.packets, rule.bytes) for rule in rules]
            for chain, rules in tables.parse_counters(ran.output, chains.__contains__).get(table, {}).items()
        }


def _python_iptables() -> ModuleType | None:
    """The package, imported on first use: that costs 17 MB and runs ldconfig a few times in search of its libraries."""
    try:
        return importlib.import_module("iptc")
    except Exception:  # noqa: BLE001  without its libraries it stumbles over whatever comes first, None included
        return None


def _walk(iptc: ModuleType, family: Family, table: str, chains: Iterable[str]) -> dict[str, list[Counts]]:
    if table not in _loaded(family):
        return {}
    counts: dict[str, list[Counts]] = {}
    try:
        handle: Any = getattr(iptc, _TABLE_CLASS[family])(table, autocommit=False)
        handle.refresh()
        try:
            for chain in chains:
                if handle.is_chain(chain):
                    counts[chain] = []
                    entry = handle.first_rule(chain)
                    while entry:
                        counts[chain].append((entry.counters.pcnt, entry.counters.bcnt))
                        entry = handle.next_rule(entry)
        finally:
            handle.close()
    except iptc.IPTCError as fault:
        raise Stale(f"counters of the IPv{family} {table} table cannot be read: {fault}") from fault
    return counts


def _loaded(family: Family) -> list[str]:
    try:
        return _LOADED[family].read_text().split()
    except FileNotFoundError:
        return []
