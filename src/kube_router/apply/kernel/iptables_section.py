"""Changes to one table as lines, and what an error text says about them. Pure: text in, text out.

What remains of a chain when some of its rules are refused must never let more through than the whole chain would, as far as
that can be known from the rules themselves: see `remainder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from kube_router.codec import tables
from kube_router.codec.tables import Line
from kube_router.kit.net import Family
from kube_router.model.state import Change, Key
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, LeftoverKey

_LINE_NUMBERS: Final = (
    re.compile(r"^line (\d+): \w+ failed", re.MULTILINE),  # nft: each rule that the kernel refused
    re.compile(r"Error occurred at line: (\d+)"),  # both: what the tool itself could not make sense of
    re.compile(r"line (\d+) failed"),  # legacy: COMMIT, for whatever the kernel refused
)
_CULPRITS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"Set (\S+) doesn't exist"), "--match-set {} |--map-set {} "),
    (re.compile(r"Couldn't load match `([^']+)'"), "-m {} "),
    (re.compile(r"Extension (\S+) revision \d+ not supported"), "-m {} |-j {} "),  # a warning, before the error that follows from it
    (re.compile(r"Kernel module xt_(set) is not loaded in"), "-m {} "),
    (re.compile(r"(?:Couldn't load target `|Chain '|goto ')([^']+)'"), "-j {} |-g {} "),
)
_COMMENT: Final = re.compile(r'-m comment --comment (?:"(?:\\.|[^"\\])*"|\S+) ?')
_NOISE: Final = re.compile(
    r"^(?:ip6?tables\S* v\S+ \(\w+\): *|ip6?tables\S*: line \d+ failed[:.]? *|Try `.*|Error occurred at line: \d+)", re.MULTILINE
)
_LOOP: Final = "Too many links"
_HOPELESS: Final = ("unable to initialize table", "Could not fetch rule set generation id", "you must be root", "table name '")
_LOCKED: Final = ("xtables lock", "Resource temporarily unavailable")


class Section(msgspec.Struct):
    """What is to become of one table: contents of chains, chains that go, jumps (None: goes), leftovers, which go. `refused` collects
    reasons."""

    family: Family
    table: str
    puts: dict[ChainKey, tuple[str, ...]] = msgspec.field(default_factory=dict)
    gone: list[ChainKey] = msgspec.field(default_factory=list)
    jumps: dict[JumpKey, Jump | None] = msgspec.field(default_factory=dict)
    leftovers: list[LeftoverKey] = msgspec.field(default_factory=list)
    refused: dict[Key, str] = msgspec.field(default_factory=dict)

    def lines(self, in_builtin: Iterable[Line]) -> list[Line]:
        """The whole section, with these lines about built-in chains; empty when there is nothing to do."""
        body = [Line(tables.declare(key.name), key) for key in (*self.puts, *self.gone)]
        for key, rules in self.puts.items():
            body += [Line(tables.append(key.name, rule), key, number) for number, rule in enumerate(rules)]
        body += in_builtin
        body += [Line(tables.remove(key.name), key) for key in self.gone]
        return tables.section(self.table, body) if body else []

    def only(self, keys: Sequence[Key]) -> Section:
        """The part that is about these keys; refusals are shared."""
        wanted = frozenset(keys)
        return Section(
            self.family,
            self.table,
            {key: rules for key, rules in self.puts.items() if key in wanted},
            [key for key in self.gone if key in wanted],
            {key: jump for key, jump in self.jumps.items() if key in wanted},
            [key for key in self.leftovers if key in wanted],
            self.refused,
        )

    def left(self) -> list[Key]:
        """All keys that are still to be dealt with."""
        return [*self.puts, *self.gone, *self.jumps, *self.leftovers]

    def refuse_all(self, reason: str) -> None:
        """Give up on all that is left."""
        for key in self.left():
            self.refused.setdefault(key, reason)
        self.puts, self.gone, self.jumps, self.leftovers = {}, [], {}, []

    def refuse(self, faults: Sequence[Line], reason: str) -> None:
        """Leave out what these lines are about, and keep what may be kept."""
        rules: dict[ChainKey, set[int]] = {}
        for line in faults:
            key = line.key
            if key is None:
                continue
            self.refused.setdefault(key, f"{reason}: {line.text}")
            if isinstance(key, JumpKey):
                self.jumps.pop(key, None)
            elif isinstance(key, LeftoverKey):
                self.leftovers = [other for other in self.leftovers if other != key]
            elif isinstance(key, ChainKey) and key in self.gone:
                self.gone.remove(key)  # something leads to it; it is emptied at least
                self.puts[key] = ()
            elif isinstance(key, ChainKey) and line.rule is not None:
                rules.setdefault(key, set()).add(line.rule)
            elif isinstance(key, ChainKey):
                self.puts.pop(key, None)
        for chain, numbers in rules.items():
            if chain in self.puts:
                self.puts[chain] = remainder(self.puts[chain], numbers)


def is_hopeless(errors: str) -> bool:
    """Whether the table as a whole cannot be written, whatever is in it."""
    return any(sign in errors for sign in _HOPELESS)


def sections(changes: Iterable[Change]) -> dict[Family, dict[str, Section]]:
    """Changes by family and table."""
    by_family: dict[Family, dict[str, Section]] = {}
    for change in changes:
        key: Any = change.key
        if not isinstance(key, ChainKey | JumpKey | LeftoverKey):
            raise TypeError(f"{key} is no chain and no jump")
        by_table = by_family.setdefault(key.family, {})
        part = by_table.get(key.table)
        if part is None:
            part = by_table[key.table] = Section(key.family, key.table)
        if isinstance(key, JumpKey):
            part.jumps[key] = change.after
        elif isinstance(key, LeftoverKey):
            part.leftovers.append(key)
        elif isinstance(change.after, Chain):
            part.puts[key] = change.after.rules
        else:
            part.gone.append(key)
    return by_family


def locate(errors: str, lines: Sequence[Line]) -> list[Line]:
    """Lines that an error text blames. All that name the same missing set, chain or extension are blamed at once.

    Empty when it blames none of ours: legacy tools name the COMMIT for whatever the kernel refuses. For a loop of chains the
    nft tools name some rule, not the loop's.
    """
    if _LOOP in errors:
        return []
    found: dict[int, Line] = {}
    for pattern in _LINE_NUMBERS:
        for number in pattern.findall(errors):
            at = int(number) - 1
            if at < len(lines) and lines[at].key is not None:
                found[at] = lines[at]
    for pattern, forms in _CULPRITS:
        for name in pattern.findall(errors):
            needles = [form.format(name) for form in forms.split("|")]
            found |= {at: line for at, line in enumerate(lines) if line.rule is not None and _holds(line.text, needles)}
    return list(found.values())


def remainder(rules: Sequence[str], refused: Iterable[int]) -> tuple[str, ...]:
    """What to keep of a chain when some rules cannot be had.

    A rule that accepts, or leads to another chain, is left out alone: what it would have judged goes the way of all that the
    chain does not know. Without a rule of any other kind (an exception, a refusal) those after it could let through what
    they should not: then nothing is kept, but for a refusal of everything at the end of the chain.
    """
    out = frozenset(refused)
    if all(_admits(rules[number]) for number in out):
        return tuple(rule for number, rule in enumerate(rules) if number not in out)
    last = len(rules) - 1
    if last not in out and _COMMENT.sub("", rules[last]).startswith(("-j REJECT", "-j DROP")):
        return (rules[last],)
    return ()


def reason_in(errors: str) -> str:
    """The telling part of an error text, on one line."""
    text = _NOISE.sub("", errors)
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()) or "the kernel refused it"


def is_locked(errors: str) -> bool:
    """Whether another program held the tables all the time that we waited."""
    return any(sign in errors for sign in _LOCKED)


def jump_changes(jumps: Mapping[JumpKey, Jump | None]) -> dict[str, dict[JumpKey, Jump | None]]:
    """Jumps by built-in chain."""
    by_builtin: dict[str, dict[JumpKey, Jump | None]] = {}
    for key, jump in jumps.items():
        by_builtin.setdefault(key.builtin, {})[key] = jump
    return by_builtin


def leftover_lines(leftovers: Iterable[LeftoverKey], builtin: Mapping[str, Sequence[str]]) -> list[Line]:
    """Lines that remove these rules as often as they stand there; none for those that are gone."""
    return [
        Line(tables.delete(key.builtin, key.rule), key) for key in leftovers for rule in builtin.get(key.builtin, ()) if rule == key.rule
    ]


def _holds(text: str, needles: Sequence[str]) -> bool:
    return any(needle in f"{text} " for needle in needles)


def _admits(rule: str) -> bool:
    return tables.rule_target(rule) not in ("", "DROP", "RETURN", "QUEUE")
