"""Feeding changes to `ipset restore`, and going on when the kernel refuses a line.

`ipset` stops at the first refused line. That line becomes the refusal of its key, and the rest is fed again from there; two
refusals are not final: a set that is full is put behind a larger one, a set that exists with other options behind one with
ours, both by a swap, so that the rules that name it never see it empty. The kernel swaps sets of one type and family only:
a set of another type is made anew, if no rule names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from kube_router.apply.kernel.commands import Commands, Ran
from kube_router.codec import sets
from kube_router.kit.errors import Busy, Rejected, Stale
from kube_router.model.state import Change, Key, State
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec

SCRATCH: Final = "kube-router-scratch"  # the set that a replacement is filled in, before the swap; gone right after

# `ipset` gathers neighbouring `add` and `del` lines of one set in one message of at most 64 KiB, an entry takes 24 bytes or more,
# and what it had gathered is lost when a line is refused: so many lines before the refused one are fed again.
_GATHERED: Final = 65_536 // 24
_LARGEST: Final = 1 << 24  # growing ends here: at some 40 bytes an entry that is most of a gigabyte

_MISSING_SET: Final = "The set with the given name does not exist"
_FULL: Final = "Hash is full"
_EXISTS: Final = "set with the same name already exists"
_NO_TYPE: Final = "set type not supported"
_IN_USE: Final = "in use by a kernel component"
_UNTIMED: Final = "set was created without timeout support"
_NO_IPSET: Final = ("Kernel error received: Invalid argument", "Cannot open session to kernel", "Kernel support protocol")
_PASSING: Final = ("Resource temporarily unavailable", "Device or resource busy", "Cannot allocate memory", "Interrupted system call")


class IpsetTool:
    """The `ipset` command. `restores` counts runs that write, `lines` what they were fed."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        self.restores = 0
        self.lines = 0

    def names(self) -> Sequence[str]:
        """Names of all sets, foreign ones too."""
        return sets.names(self._checked(self.commands.run(["ipset", "list", "-name"])).output)

    def save(self, names: Sequence[str]) -> State:
        """Content of these sets, all in one process; Stale when one went away meanwhile."""
        if not names:
            return {}
        ran = self.commands.run(["ipset", "restore"], "".join(f"save {name}\n" for name in names))
        if not ran.well and _MISSING_SET in ran.errors:
            raise Stale(f"a set went away while it was read: {ran.errors.strip()}")
        return sets.parse_save(self._checked(ran).output)

    def spec(self, name: str) -> SetSpec:
        """How a set was made; Stale when it is gone."""
        ran = self.commands.run(["ipset", "list", "-terse", "-output", "save", name])
        if not ran.well and _MISSING_SET in ran.errors:
            raise Stale(f"set {name} went away")
        return spec_in(sets.parse_save(self._checked(ran).output), name)

    def feed(self, lines: Sequence[str]) -> Ran:
        """One `ipset restore` of these lines."""
        self.restores += 1
        self.lines += len(lines)
        return self.commands.run(["ipset", "restore", "-exist"], "\n".join(lines) + "\n")

    def drop_scratch(self) -> None:
        """Remove what an interrupted replacement left; nothing ever names it."""
        self._checked(self.feed([f"destroy {SCRATCH}"]))

    def replace(self, name: str, *, kind: str, room_for: int = 0, at_least: int = 0, marked: bool | None = None) -> str:
        """Put a set's content behind one of type `kind`, by a swap: at least that large, with room for so many more entries, and with
        marks or without (None: as it is).

        Returns the refusal, or nothing.
        """
        state = self.save([name])
        spec = spec_in(state, name)
        members = [(key.entry, value) for key, value in state.items() if isinstance(key, SetMember) and isinstance(value, Member)]
        maxelem = max(spec.maxelem, at_least, 1)
        while maxelem < len(members) + room_for:
            maxelem *= 2
        if maxelem > _LARGEST:
            return f"holds {len(members)} entries and cannot grow beyond {_LARGEST}"
        skbinfo = spec.skbinfo if marked is None else marked
        replacement = msgspec.structs.replace(spec, type=kind, maxelem=maxelem, skbinfo=skbinfo)
        members = [(entry, member if skbinfo and member.mark > 0 else Member(nomatch=member.nomatch)) for entry, member in members]
        ran = self.feed(sets.replace_lines(name, replacement, members, scratch=SCRATCH))
        if ran.well:
            return ""
        self.drop_scratch()
        return f"cannot be replaced: {sets.parse_error(ran.errors).message}"

    def _checked(self, ran: Ran) -> Ran:
        if not ran.well:
            raise whole_failure(sets.parse_error(ran.errors).message)
        return ran


class Run:
    """One run of changes, from first line to last."""

    def __init__(self, tool: IpsetTool, script: sets.Script, changes: Sequence[Change]) -> None:
        self._tool = tool
        self._lines, self._keys = script
        self._changes = {change.key: change for change in changes}
        self._refused: dict[Key, str] = {}
        self._replaced: set[str] = set()
        self._emptied: list[str] = []

    def finish(self) -> Mapping[Key, str]:
        """Feed everything; returns refusals by key. Raises as SetTarget.apply says."""
        todo = self._remade(list(range(len(self._lines))))
        while todo:
            ran = self._tool.feed([self._lines[index] for index in todo])
            if ran.well:
                break
            error = sets.parse_error(ran.errors)
            if error.line is None or error.line >= len(todo):
                raise whole_failure(error.message)
            todo = self._rest(todo, error.line, error.message)
        if self._emptied:
            raise Stale(f"made anew with another type, and emptied by that: {', '.join(self._emptied)}")
        return self._refused

    def _remade(self, todo: list[int]) -> list[int]:
        """Deal with sets that are known to be other than wanted: `create -exist` does not notice every difference."""
        for change in self._changes.values():
            if isinstance(change.key, SetKey) and change.before is not None and change.after is not None:
                todo = self._fit(todo, change.key)
        return todo

    def _rest(self, todo: list[int], at: int, message: str) -> list[int]:
        """What is still to be fed after the line at position `at` was refused."""
        index = todo[at]
        key, line = self._keys[index], self._lines[index]
        again = todo[_resume(self._lines, todo, at) :]
        rest = [i for i in again if i != index]
        match key:
            case SetKey() if _EXISTS in message:
                return self._fit(again, key)
            case SetKey(name=name):
                self._refused[key] = self._reason(name, message)
                return self._without_adds(rest, name) if line.startswith("create ") else rest
            case SetMember(set=name) if _MISSING_SET in message:
                # Nothing can be put in; and what was to be taken out is out.
                return [i for i in self._without_adds(again, name, "its set does not exist") if not self._concerns(i, name)]
            case SetMember(set=name) if _FULL in message:
                held = self._tool.spec(name)
                refusal = self._tool.replace(name, kind=_kind(held), room_for=self._coming(again, name), at_least=2 * held.maxelem)
                return self._without_adds(again, name, f"its set {refusal}") if refusal else again
            case SetMember(set=name) if _UNTIMED in message and name not in self._replaced:
                self._replaced.add(name)
                refusal = self._tool.replace(name, kind=_kind(self._tool.spec(name)))
                return self._without_adds(again, name, f"its set {refusal}") if refusal else again
            case _:
                self._refused[key] = message
                return rest

    def _fit(self, todo: list[int], key: SetKey) -> list[int]:
        """Make an existing set as wanted."""
        name, wanted = key.name, self._changes[key].after
        todo = [i for i in todo if self._keys[i] != key]
        held = self._tool.spec(name)
        if suffices(held, wanted):
            return todo
        if (_kind(held), held.family) == (wanted.type, wanted.family):
            refusal = self._tool.replace(
                name, kind=wanted.type, room_for=self._coming(todo, name), at_least=wanted.maxelem, marked=wanted.skbinfo
            )
        else:
            refusal = self._anew(name, held)
        if refusal:
            self._refused[key] = refusal
            return self._without_adds(todo, name)
        return todo

    def _anew(self, name: str, held: SetSpec) -> str:
        """The kernel swaps sets of one type and family only, so this one goes first. Returns the refusal, or nothing."""
        change = self._changes[SetKey(name)]
        ran = self._tool.feed([f"destroy {name}", sets.create_line(name, change.after)])
        if not ran.well:
            return f"is of type {held.type}, family {held.family}: {self._reason(name, sets.parse_error(ran.errors).message)}"
        if change.before is not None:
            self._emptied.append(name)
        return ""

    def _without_adds(self, todo: list[int], name: str, reason: str = "its set was refused") -> list[int]:
        """Refuse what was to be put in a set; everything else remains."""
        rest: list[int] = []
        for index in todo:
            if self._concerns(index, name) and self._lines[index].startswith("add "):
                self._refused[self._keys[index]] = reason
            else:
                rest.append(index)
        return rest

    def _concerns(self, index: int, name: str) -> bool:
        key = self._keys[index]
        return isinstance(key, SetMember) and key.set == name

    def _coming(self, todo: list[int], name: str) -> int:
        head = f"add {name} "
        return sum(1 for index in todo if self._lines[index].startswith(head))

    def _reason(self, name: str, message: str) -> str:
        if _NO_TYPE in message:
            spec = self._changes[SetKey(name)].after
            return f"the kernel has no set type {spec.type} (module {sets.type_module(spec.type)})"
        if _IN_USE in message:
            return "still named by a rule"
        return message


def whole_failure(message: str) -> Busy | Rejected:
    """The error for a failure of `ipset` that is not about one line of ours."""
    if any(passing in message for passing in _PASSING):
        return Busy(f"ipset: {message}")
    if any(missing in message for missing in _NO_IPSET):
        return Rejected(f"the kernel has no ipset (module ip_set): {message}")
    return Rejected(f"ipset: {message}")


def suffices(held: SetSpec, wanted: SetSpec) -> bool:
    """Whether a set serves as the one that is wanted."""
    return (held.type, held.family, held.skbinfo) == (wanted.type, wanted.family, wanted.skbinfo) and held.maxelem >= wanted.maxelem


def _kind(spec: SetSpec) -> str:
    """The type without the options by which it deviates from ours: those go with a swap."""
    return spec.type.split(" ")[0]


def _resume(lines: Sequence[str], todo: Sequence[int], at: int) -> int:
    """Position to feed from again: back over the lines that may have been gathered, never past one that was done alone."""
    position = at
    while position > 0 and at - position < _GATHERED and sets.is_member_line(lines[todo[position - 1]]):
        position -= 1
    return position


def spec_in(state: State, name: str) -> SetSpec:
    """The set's spec in what was read; Stale when it is not there."""
    spec = state.get(SetKey(name))
    if not isinstance(spec, SetSpec):
        raise Stale(f"set {name} went away")
    return spec
