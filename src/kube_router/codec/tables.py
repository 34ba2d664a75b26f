"""Whole tables as text: `iptables-save` output in, `iptables-restore --noflush` sections out.

Reading keeps the built-in chains, foreign rules included, because the place of our jumps among them matters, and of all
other chains those that the caller asks for. Writing names single chains only: with `--noflush` a chain that is declared is
emptied, created if need be, and nothing else of the table is touched. Rule text is codec/rules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from kube_router.model.state import Key


class Table(msgspec.Struct):
    """What was read of one table: rules by chain, in order, without "-A CHAIN "."""

    builtin: dict[str, list[str]]
    chains: dict[str, list[str]]


class Counted(NamedTuple):
    """A rule with the packets and bytes that it met."""

    rule: str
    packets: int
    bytes: int


class Line(NamedTuple):
    """One line of a section and where it comes from: `rule` is the number of a rule in its chain, None for all else."""

    text: str
    key: Key | None = None
    rule: int | None = None


def parse_save(text: str, keep: Callable[[str], bool]) -> dict[str, Table]:
    """Tables by name; of the chains that are not built in, those that `keep` says.

    Lines end in "\\n" alone: a comment of somebody else's may hold what Python, too, takes for the end of a line.
    """
    tables: dict[str, Table] = {}
    rules: dict[str, list[str]] = {}
    table = Table({}, {})
    for line in text.split("\n"):
        if line.startswith("-A "):
            _, chain, *rest = line.split(" ", 2)
            if (into := rules.get(chain)) is not None:
                into.append(rest[0] if rest else "")
        elif line.startswith(":"):
            chain, policy = line[1:].split(" ", 2)[:2]
            if policy != "-":
                rules[chain] = table.builtin[chain] = []
            elif keep(chain):
                rules[chain] = table.chains[chain] = []
        elif line.startswith("*"):
            table = tables[line[1:].strip()] = Table({}, {})
            rules = {}
    return tables


def parse_counters(text: str, keep: Callable[[str], bool]) -> dict[str, dict[str, list[Counted]]]:
    """`iptables-save -c` output: rules of the chains that `keep` says, by table and chain."""
    tables: dict[str, dict[str, list[Counted]]] = {}
    chains: dict[str, list[Counted]] = {}
    for line in text.split("\n"):
        if line.startswith("["):
            counters, _, chain, *rest = line.split(" ", 3)
            if keep(chain):
                packets, _, size = counters.strip("[]").partition(":")
                chains[chain].append(Counted(rest[0] if rest else "", int(packets), int(size)))
        elif line.startswith(":"):
            chain = line[1:].split(" ", 1)[0]
            if keep(chain):
                chains[chain] = []
        elif line.startswith("*"):
            chains = tables[line[1:].strip()] = {}
    return tables


def rule_target(rule: str) -> str:
    """The chain that a rule without target options jumps or goes to; "" for all others.

    What looks like a jump at the end of a comment ends in a quote and so is none.
    """
    words = rule.rsplit(" ", 2)
    return words[-1] if len(words) > 1 and words[-2] in ("-j", "-g") and not rule.endswith('"') else ""


def declare(chain: str) -> str:
    """Make a chain empty, creating it if need be."""
    return f":{chain} - [0:0]"


def append(chain: str, rule: str) -> str:
    """A rule at the end of a chain."""
    return f"-A {chain} {rule}".rstrip()


def insert(chain: str, position: int, rule: str) -> str:
    """A rule at a position, counted from 1."""
    return f"-I {chain} {position} {rule}"


def delete(chain: str, rule: str) -> str:
    """The first rule of this text, wherever it stands: positions may have moved since they were read."""
    return f"-D {chain} {rule}"


def remove(chain: str) -> str:
    """An empty chain that nothing leads to any more."""
    return f"-X {chain}"


def section(table: str, lines: Iterable[Line]) -> list[Line]:
    """Lines for one table; it takes effect as a whole or not at all."""
    return [Line(f"*{table}"), *lines, Line("COMMIT")]


def text(lines: Sequence[Line]) -> str:
    """What `iptables-restore` is fed."""
    return "\n".join([line.text for line in lines]) + "\n"
