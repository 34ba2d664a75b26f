"""Arguments become values, by the syntax of Go's flag library (pflag 1.0.10), but reading on after a fault.

`--name=value` or `--name value`; a bare boolean is true and never takes the next argument; `-v2`, `-v=2`, `-v 2`; `--`
ends the flags; the first use of a list replaces its default and later ones append; of other flags the last use counts.
It refuses to judge values beyond their syntax, and to show the text of secret ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kube_router.config.faults import Fault
from kube_router.config.flag_table import BY_NAME, BY_SHORT
from kube_router.config.flags import Flag
from kube_router.config.values import BadValue, is_boolean, parse_value

GONE: Final[dict[str, str]] = {
    "cluster-cidr": "removed in kube-router v1.1.0; pod CIDRs come from the Node objects",
    "config-sync-period": "removed in kube-router v0.2.0; changes are followed as they happen",
    "nodes-full-mesh-password": "removed in kube-router v1.1.0",
    "peer-asn": "renamed in kube-router v0.0.17 to --peer-router-asns",
    "peer-router": "renamed in kube-router v0.0.17 to --peer-router-ips",
    "run-network-policy-controller": "never was a flag; network policies are --run-firewall",
}


@dataclass(slots=True)
class Reading:
    """What the arguments said: values and texts by flag name (given ones only), faults, and flags of unknown value."""

    values: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)


def read(arguments: Sequence[str]) -> Reading:
    """Read all arguments (without the program's name), whatever is wrong with some of them."""
    reader = _Reader(list(reversed(arguments)))
    while reader.rest:
        reader.take(reader.rest.pop())
    return reader.reading


def nearest(name: str) -> str:
    """The flag that was probably meant, with its dashes; empty when none is near."""
    import difflib  # only a mistyped flag needs it

    wanted = name.lower().replace("_", "-")
    return "".join(f"--{match}" for match in difflib.get_close_matches(wanted, BY_NAME, n=1, cutoff=0.75))


class _Reader:
    """The arguments still to read (last one first), and the flag just before a stray word, which tells what it may be."""

    def __init__(self, rest: list[str]) -> None:
        self.rest = rest
        self.reading = Reading()
        self.before: Flag | None = None
        self.before_unknown = False

    def take(self, argument: str) -> None:
        if len(argument) < 2 or argument[0] != "-":
            self._stray(argument)
            return
        self.before, self.before_unknown = None, False
        if argument == "--":
            while self.rest:
                self._stray(self.rest.pop())
        elif argument.startswith("--"):
            self._long(argument)
        else:
            self._short(argument)

    def _stray(self, argument: str) -> None:
        before, unknown = self.before, self.before_unknown
        self.before_unknown = False
        if unknown:
            return  # most likely the unknown flag's value; it may be a secret, so say nothing of it
        if before and before.secret:
            self._fault(f"an argument after --{before.name}", None, "not a flag", f"give --{before.name}=VALUE")
        elif before and before.kind == "bool" and is_boolean(argument):
            problem = f"an argument of its own, not the value of --{before.name}"
            self._fault(argument, None, problem, f"write --{before.name}={argument}")
        else:
            self._fault(argument or "''", None, "not a flag, and nothing else is expected", "write options as --name=value")

    def _long(self, argument: str) -> None:
        name, equals, value = argument[2:].partition("=")
        if not name or name[0] == "-":
            self._fault(argument, None, "not a flag", "write options as --name=value")
        elif name not in BY_NAME:
            self._unknown(name, value if equals else None)
        elif equals:
            self._set(BY_NAME[name], f"--{name}", value)
        else:
            self._without_equals(BY_NAME[name], f"--{name}")

    def _short(self, argument: str) -> None:
        letters = argument[1:]
        while letters:
            flag = BY_SHORT.get(letters[0])
            written = f"-{letters[0]}"
            if flag is None:
                self._unknown_letter(argument, letters[0])
                return
            if len(letters) > 2 and letters[1] == "=":
                self._set(flag, written, letters[2:])
                return
            if flag.kind == "bool":
                self._without_equals(flag, written)
                letters = letters[1:]
            elif len(letters) > 1:
                self._set(flag, written, letters[1:])
                return
            else:
                self._without_equals(flag, written)
                return

    def _without_equals(self, flag: Flag, written: str) -> None:
        if flag.kind == "bool":
            self.reading.values[flag.name] = True
            self.reading.texts[flag.name] = "true"
            self.before = flag
        elif self.rest:
            self._set(flag, written, self.rest.pop())
        else:
            self._fault(written, None, "needs a value", f"write --{flag.name}=VALUE")
            self.reading.unreadable.add(flag.name)

    def _set(self, flag: Flag, written: str, text: str) -> None:
        self.before = flag if flag.secret else None
        try:
            value = parse_value(flag, text)
        except BadValue as bad:
            self._fault(written, None if flag.secret else text, bad.problem, f"give {bad.wants}")
            self.reading.unreadable.add(flag.name)
            return
        if flag.is_list and flag.name in self.reading.values:
            value = self.reading.values[flag.name] + value
            text = f"{self.reading.texts[flag.name]},{text}"
        self.reading.values[flag.name] = value
        self.reading.texts[flag.name] = text

    def _unknown(self, name: str, value: str | None) -> None:
        self.before_unknown = value is None
        if name in GONE:
            self._fault(f"--{name}", None, GONE[name])
            return
        meant = nearest(name)
        hidden = value is None or (meant and BY_NAME[meant[2:]].secret) or "password" in name
        self._fault(f"--{name}", None if hidden else value, "unknown flag", f"did you mean {meant}?" if meant else "")

    def _unknown_letter(self, argument: str, letter: str) -> None:
        name, equals, _ = argument[1:].partition("=")
        self.before_unknown = not equals
        meant = f"--{name}" if name in BY_NAME else nearest(name) if len(name) > 2 else ""
        if meant:
            self._fault(f"-{name}", None, "long flags take two dashes", f"did you mean {meant}?")
        else:
            self._fault(f"-{name}", None, f"unknown short flag {letter!r}")

    def _fault(self, flag: str, value: str | None, problem: str, wants: str = "") -> None:
        self.reading.faults.append(Fault(flag, value, problem, wants))
