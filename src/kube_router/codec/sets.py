"""Sets as text: `ipset restore` scripts out, `ipset save` output in.

Every set of ours is created with `timeout 0` and every entry is added with `timeout 0`, as the original does, so that tools
and people find what they know. IPv6 sets carry "inet6:" before their name and the option `family inet6`. The kernel prints
an entry in one spelling only; the `*_entry` functions give that spelling, so that wanted and observed entries compare as
text. Nothing here knows which sets are ours, or runs a tool.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from kube_router.kit.net import Family
from kube_router.model.state import Change, Key, State
from kube_router.model.state.netfilter import Member, SetKey, SetMember, SetSpec

NAME_BYTES: Final = 31  # IPSET_MAXNAMELEN of linux/netfilter/ipset/ip_set.h, less the closing zero
DEFAULT_MAXELEM: Final = 65536  # IPSET_DEFAULT_MAXELEM, what ipset takes when none is given

_FAMILY_OPTION: Final[dict[Family, str]] = {4: "inet", 6: "inet6"}
_FAMILY_BY_OPTION: Final[dict[str, Family]] = {"inet": 4, "inet6": 6}
_TUNING: Final = frozenset({"hashsize", "bucketsize", "initval"})  # how the kernel lays a hash out, not what it means
_SKBINFO: Final = "skbinfo"  # entries may carry packet data: a mark, and what we do not use (priority, queue)
_FLAGS: Final = frozenset({"counters", "comment", "forceadd"})  # options of `create` without a value
_PLAIN: Final = Member()
_NOMATCH: Final = Member(nomatch=True)
_FOREIGN_MARK: Final = -1
_ERROR_LINE: Final = re.compile(r"Error in line (\d+): (.*)", re.DOTALL)


class Script(NamedTuple):
    """Lines for `ipset restore`, and beside each the key that it is about."""

    lines: list[str]
    keys: list[Key]


class LineError(NamedTuple):
    """`line` counts from 0; None when the tool failed as a whole."""

    line: int | None
    message: str


# -- entries --------------------------------------------------------------------------------------------------------------


def net_entry(cidr: str) -> str:
    """An entry of hash:net for a canonical address or CIDR: host prefixes lose their length."""
    return cidr.removesuffix("/128" if ":" in cidr else "/32")


def port_entry(address: str, protocol: str, port: int) -> str:
    """An entry of hash:ip,port; protocol "TCP", "UDP" or "SCTP" in any case."""
    return f"{address},{protocol.lower()}:{port}"


def source_entry(address: str, protocol: str, port: int, source: str) -> str:
    """An entry of hash:ip,port,net: address and port as in `port_entry`, and a CIDR; the kernel refuses the length 0."""
    return f"{port_entry(address, protocol, port)},{net_entry(source)}"


def pair_entry(first: str, second: str) -> str:
    """An entry of hash:net,net."""
    return f"{net_entry(first)},{net_entry(second)}"


# -- writing --------------------------------------------------------------------------------------------------------------


def create_line(name: str, spec: SetSpec) -> str:
    """Make a set."""
    line = f"create {name} {spec.type} family {_FAMILY_OPTION[spec.family]} maxelem {spec.maxelem} timeout 0"
    return f"{line} {_SKBINFO}" if spec.skbinfo else line


def add_line(name: str, entry: str, member: Member) -> str:
    """Make an entry, or make an existing one equal."""
    line = f"add {name} {entry} timeout 0"
    if member.mark:
        line += f" skbmark {member.mark:#x}"
    return f"{line} nomatch" if member.nomatch else line


def script(changes: Iterable[Change]) -> Script:
    """The changes in their order. Members that leave a set which itself goes are flushed at once, in place of the first."""
    changes = list(changes)
    doomed = {change.key.name for change in changes if change.after is None and isinstance(change.key, SetKey)}
    flushed: set[str] = set()
    lines: list[str] = []
    keys: list[Key] = []
    for change in changes:
        key = change.key
        if isinstance(key, SetMember):
            if change.after is not None:
                lines.append(add_line(key.set, key.entry, change.after))
            elif key.set not in doomed:
                lines.append(f"del {key.set} {key.entry}")
            elif key.set not in flushed:
                flushed.add(key.set)
                lines.append(f"flush {key.set}")
            else:
                continue
        elif isinstance(key, SetKey):
            lines.append(f"destroy {key.name}" if change.after is None else create_line(key.name, change.after))
        else:
            raise TypeError(f"{key} is no set and no member")
        keys.append(key)
    return Script(lines, keys)


def replace_lines(name: str, spec: SetSpec, members: Iterable[tuple[str, Member]], *, scratch: str) -> list[str]:
    """Put another set in a set's place while rules go on naming it: fill a scratch set, swap, drop what was there.

    The kernel swaps sets of one type and family only.
    """
    return [
        f"destroy {scratch}",
        create_line(scratch, spec),
        *(add_line(scratch, entry, member) for entry, member in members),
        f"swap {scratch} {name}",
        f"destroy {scratch}",
    ]


def is_member_line(line: str) -> bool:
    """Whether `ipset restore` gathers a line with its neighbours in one message to the kernel."""
    return line.startswith(("add ", "del "))


# -- reading --------------------------------------------------------------------------------------------------------------


def parse_save(text: str) -> State:
    """`ipset save` output as sets and members.

    A set that was made with other options than ours (no timeout, counters, ...) has them in its `type`, so that it equals no
    set that we want. Entries that will expire are left out: the kernel removes them without our doing, and a wanted one is
    then added without its timeout. Lines of other commands are skipped.
    """
    state: State = {}
    for line in text.split("\n"):
        if line.startswith("add "):
            words = line.split(" ")
            name, entry = words[1], words[2]
            rest = words[3:]
            if rest == ["timeout", "0"] or not rest:
                member = _PLAIN
            elif rest[:2] == ["timeout", "0"] or rest[0] != "timeout":
                member = _member(rest)
            else:
                continue
            if "." in entry and name.startswith("inet6:"):
                entry = _without_dots(entry)
            state[SetMember(name, entry)] = member
        elif line.startswith("create "):
            name, spec = _parse_create(line.split())
            state[SetKey(name)] = spec
    return state


def parse_error(stderr: str) -> LineError:
    """What `ipset restore` complained about."""
    if found := _ERROR_LINE.search(stderr):
        return LineError(int(found[1]) - 1, found[2].strip())
    return LineError(None, stderr.strip())


def type_module(type_name: str) -> str:
    """Kernel module of a set type ("hash:ip,port": ip_set_hash_ipport)."""
    return "ip_set_" + type_name.replace(":", "_").replace(",", "")


def names(text: str) -> Sequence[str]:
    """`ipset list -name` output."""
    return text.split()


def _parse_create(words: list[str]) -> tuple[str, SetSpec]:
    name, kind, options = words[1], words[2], words[3:]
    family: Family = 4
    maxelem = DEFAULT_MAXELEM
    timeout = ""
    skbinfo = False
    deviations: list[str] = []
    position = 0
    while position < len(options):
        option = options[position]
        if option == _SKBINFO:
            skbinfo = True
            position += 1
            continue
        if option in _FLAGS:
            deviations.append(option)
            position += 1
            continue
        value = options[position + 1] if position + 1 < len(options) else ""
        position += 2
        if option == "family":
            family = _FAMILY_BY_OPTION.get(value, 4)
        elif option == "maxelem":
            maxelem = int(value)
        elif option == "timeout":
            timeout = value
        elif option not in _TUNING:
            deviations.append(f"{option} {value}")
    if timeout != "0":
        deviations.append(f"timeout {timeout or 'none'}")
    return name, SetSpec(" ".join([kind, *deviations]), family, maxelem, skbinfo)


def _member(words: list[str]) -> Member:
    """Options of an entry, as `ipset save` prints them."""
    mark = 0
    for option, value in pairwise(words):
        if option == "skbmark":
            number, _, mask = value.partition("/")
            mark = _FOREIGN_MARK if mask else int(number, 16)
        elif option in ("skbprio", "skbqueue"):
            mark = _FOREIGN_MARK
    if mark:
        return Member(nomatch="nomatch" in words, mark=mark)
    return _NOMATCH if "nomatch" in words else _PLAIN


def _without_dots(entry: str) -> str:
    """The C library prints IPv4-mapped addresses with dots, Python's canonical text has none."""
    address, *rest = re.split(r"(?=[/,])", entry, maxsplit=1)
    try:
        return str(ipaddress.IPv6Address(address)) + "".join(rest)
    except ValueError:
        return entry
