"""Runs a packet through rendered rules and sets, as the kernel would.

It knows the matches and targets that our rules use, and fails on any other word: a rule that it does not understand must not
pass for one that does not match.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from kube_router.kit.net import Family
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec

TERMINAL: Final = ("ACCEPT", "DROP", "REJECT")
FELL_THROUGH: Final = "FELL_THROUGH"  # back in the built-in chain, whose other rules and policy decide
ICMP: Final = ("icmp", "ipv6-icmp")


class UnknownRule(AssertionError):
    """The walker cannot tell what a rule means."""


class Packet(NamedTuple):
    """What rules look at. `protocol` in lower case; `icmp_type` for ICMP only."""

    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 80
    state: str = "NEW"
    icmp_type: int = -1
    in_link: str = ""
    out_link: str = ""
    vip: str = ""  # of an IPVS connection: what its client asked for
    vport: int = 0
    method: str = "MASQ"


Match = Callable[[Packet], bool]
Mark = Callable[[Packet], int]


class Rule(NamedTuple):
    """A compiled rule. `verb`: "jump", "goto" or a verdict; "" for a target that goes on. `mark`: what it writes into the packet's mark,
    0 for nothing."""

    matches: tuple[Match, ...]
    verb: str
    chain: str
    mark: Mark = lambda packet: 0


class Walker:
    """A table of one family on a node with these addresses."""

    def __init__(self, state: Mapping[Key, Value], family: Family, local: frozenset[str] = frozenset(), *, table: str = "filter") -> None:
        self._local = local
        self._family = family
        self._written = 0
        self._state = state
        self._sets: dict[str, Holds] = {
            key.name: _compile_set(key.name, value, state)
            for key, value in state.items()
            if isinstance(key, SetKey) and isinstance(value, SetSpec) and value.family == family
        }
        self._chains: dict[str, tuple[Rule, ...]] = {
            key.name: tuple(self._compile(text) for text in value.rules)
            for key, value in state.items()
            if isinstance(key, ChainKey) and isinstance(value, Chain) and key.family == family and key.table == table
        }
        jumps = [
            (not value.first, value.rank, key.builtin, key.chain, self._compile(f"{value.match} -j {key.chain}".strip()))
            for key, value in state.items()
            if isinstance(key, JumpKey) and isinstance(value, Jump) and key.family == family and key.table == table
        ]
        for *_, builtin, _, rule in sorted(jumps, key=lambda jump: jump[:4]):
            self._chains[builtin] = (*self._chains.get(builtin, ()), rule)

    def run(self, hook: str, packet: Packet) -> str:
        """Verdict of a built-in chain: one of TERMINAL, "SNAT" with an address, or FELL_THROUGH."""
        return self._walk(hook, packet, 0) or FELL_THROUGH

    def mark(self, hook: str, packet: Packet) -> int:
        """The mark that a packet without one leaves a built-in chain with."""
        self._written = 0
        self._walk(hook, packet, 0)
        return self._written

    def _walk(self, chain: str, packet: Packet, depth: int) -> str:
        """ "" when the chain comes back to its caller."""
        if depth > 16:
            raise UnknownRule("rules loop")
        for rule in self._chains.get(chain, ()) if depth == 0 else self._chains[chain]:
            if not all(match(packet) for match in rule.matches):
                continue
            self._written = rule.mark(packet) or self._written
            if rule.verb == "RETURN":
                return ""
            if rule.verb in TERMINAL or rule.verb.startswith("SNAT "):
                return rule.verb
            if rule.verb:
                verdict = self._walk(rule.chain, packet, depth + 1)
                if verdict or rule.verb == "goto":
                    return verdict
        return ""

    # -- compiling ----------------------------------------------------------------------------------------------------

    def _compile(self, text: str) -> Rule:
        words = list(_words(text))
        matches: list[Match] = []
        while words:
            negate = words[0] == "!"
            option = words.pop(1 if negate else 0)
            if negate:
                words.pop(0)
            if option in ("-j", "-g"):
                return Rule(tuple(matches), *self._target(option, words, text))
            match = self._match(option, words, text)
            if match is not None:
                matches.append(_negated(match) if negate else match)
        raise UnknownRule(f"no target: {text}")

    def _target(self, option: str, words: list[str], text: str) -> tuple[str, str] | tuple[str, str, Mark]:
        target, rest = words[0], words[1:]
        if target == "SNAT" and rest[0] == "--to-source" and rest[2:] in ([], ["--random-fully"]):
            return f"SNAT {rest[1]}", ""
        if target == "SET" and rest[0] == "--map-set" and rest[2:] == ["dst,dst", "--map-mark"]:
            return "", "", self._marks(rest[1])
        if option == "-g":
            return "goto", target
        if target == "NFLOG" and rest[0] == "--nflog-group" and len(rest) == 2:
            return "", ""
        if target == "REJECT" and rest[0] == "--reject-with" and len(rest) == 2:
            return "REJECT", ""
        if rest:
            raise UnknownRule(f"{rest}: {text}")
        return (target, "") if target in (*TERMINAL, "RETURN") else ("jump", target)

    def _match(self, option: str, words: list[str], text: str) -> Match | None:
        if option in ("-s", "-d"):
            network = ipaddress.ip_network(words.pop(0))
            return lambda p: ipaddress.ip_address(p.source if option == "-s" else p.destination) in network
        if option == "-p":
            protocol = words.pop(0)
            return lambda p: p.protocol == protocol
        if option in ("-i", "-o"):
            link = words.pop(0)
            return lambda p: (p.in_link if option == "-i" else p.out_link) == link
        if option == "-m":
            return self._module(words, text)
        raise UnknownRule(f"{option}: {text}")

    def _module(self, words: list[str], text: str) -> Match | None:
        module = words.pop(0)
        negate = bool(words) and words[0] == "!"
        if negate:
            words.pop(0)
        if module in ("tcp", "udp", "sctp", "multiport"):
            if module != "multiport" and words[0] != "--dport":
                return None  # the bare protocol module
            return _maybe_negated(_ports(_value(words, "--dports" if module == "multiport" else "--dport", text)), negate)
        known: dict[str, Callable[[], Match | None]] = {
            "set": lambda: self._set_match(_value(words, "--match-set", text), words.pop(0)),
            "comment": lambda: _nothing(_value(words, "--comment", text)),
            "conntrack": lambda: _in_states(_value(words, "--ctstate", text).split(",")),
            "ipvs": lambda: _of_ipvs(words, text),
            "bpf": lambda: _program(_value(words, "--bytecode", text)),
            "icmp": lambda: _icmp(int(_value(words, "--icmp-type", text))),
            "icmp6": lambda: _icmp(int(_value(words, "--icmpv6-type", text))),
            "limit": lambda: _nothing(_value(words, "--limit", text), _value(words, "--limit-burst", text)),
            "addrtype": lambda: self._local_match(words, text),
        }
        if module not in known:
            raise UnknownRule(f"-m {module}: {text}")
        match = known[module]()
        return _negated(match) if match is not None and negate else match

    def _local_match(self, words: list[str], text: str) -> Match:
        option = words.pop(0)
        if option not in ("--src-type", "--dst-type") or words.pop(0) != "LOCAL":
            raise UnknownRule(f"addrtype: {text}")
        return lambda p: (p.source if option == "--src-type" else p.destination) in self._local

    def _marks(self, name: str) -> Mark:
        spec = self._state.get(SetKey(name))
        if not isinstance(spec, SetSpec) or not spec.skbinfo or spec.type != "hash:ip,port":
            raise UnknownRule(f"{name} holds no marks")
        marks = {
            key.entry: getattr(value, "mark", 0) for key, value in self._state.items() if isinstance(key, SetMember) and key.set == name
        }
        return lambda p: marks.get(f"{p.destination},{p.protocol}:{p.port}", 0)

    def _set_match(self, name: str, directions: str) -> Match:
        if name not in self._sets:
            raise UnknownRule(f"set {name} does not exist")
        holds = self._sets[name]
        sides = directions.split(",")
        return lambda p: holds(tuple(p.source if side == "src" else p.destination for side in sides), p)


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


Holds = Callable[[Sequence[str], Packet], bool]


def _compile_set(name: str, spec: SetSpec, state: Mapping[Key, Value]) -> Holds:
    entries = {key.entry: value for key, value in state.items() if isinstance(key, SetMember) and key.set == name}
    if spec.type == "hash:ip":
        return lambda fields, p: fields[0] in entries
    if spec.type == "hash:ip,port":
        return lambda fields, p: f"{fields[0]},{p.protocol}:{p.port}" in entries
    if spec.type == "hash:ip,port,net":
        return lambda fields, p: any(
            entry.startswith(f"{fields[0]},{p.protocol}:{p.port},")
            and ipaddress.ip_address(fields[2]) in ipaddress.ip_network(entry.rpartition(",")[2])
            for entry in entries
        )
    if spec.type == "hash:net,net":
        return lambda fields, p: ",".join(fields) in entries
    if spec.type == "hash:net":
        if any(entry.endswith("/0") for entry in entries):
            raise UnknownRule(f"{name}: hash:net has no prefix length 0")
        longest_first = sorted(((ipaddress.ip_network(entry), value) for entry, value in entries.items()), key=_length, reverse=True)

        def holds(fields: Sequence[str], p: Packet) -> bool:
            address = ipaddress.ip_address(fields[0])
            for network, value in longest_first:
                if address in network:
                    return not (isinstance(value, Member) and value.nomatch)
            return False

        return holds
    raise UnknownRule(f"set type {spec.type}")


def _length(entry: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, Value]) -> int:
    return entry[0].prefixlen


def _value(words: list[str], option: str, text: str) -> str:
    if words.pop(0) != option:
        raise UnknownRule(f"expected {option}: {text}")
    return words.pop(0)


def _ports(text: str) -> Match:
    ranges = []
    for piece in text.split(","):
        first, _, last = piece.partition(":")
        ranges.append((int(first), int(last or first)))
    return lambda p: p.protocol not in ICMP and any(first <= p.port <= last for first, last in ranges)


def _of_ipvs(words: list[str], text: str) -> Match:
    """Only packets of IPVS connections from client to backend are walked."""
    wanted: dict[str, str] = {}
    while words and words[0].startswith("--v"):
        option = words.pop(0)
        wanted[option] = words.pop(0)
    if not wanted or not wanted.keys() <= {"--vaddr", "--vport", "--vdir", "--vmethod"} or wanted.get("--vdir", "ORIGINAL") != "ORIGINAL":
        raise UnknownRule(f"ipvs: {text}")

    def holds(p: Packet) -> bool:
        found = {"--vaddr": p.vip, "--vport": str(p.vport), "--vdir": "ORIGINAL", "--vmethod": p.method}
        return bool(p.vip) and all(found[option] == value for option, value in wanted.items())

    return holds


def _program(text: str) -> Match:
    """A program of the packet filter's machine: load a word of the header, copy it aside, compare, answer."""
    count, *lines = text.split(",")
    program = [tuple(map(int, line.split())) for line in lines]
    if len(program) != int(count):
        raise UnknownRule(f"bpf: {text}")

    def holds(p: Packet) -> bool:
        ends = [ipaddress.ip_address(p.source).packed, ipaddress.ip_address(p.destination).packed]
        header = bytes(12 if len(ends[0]) == 4 else 8) + b"".join(ends)
        accumulator = index = at = 0
        while True:
            code, if_true, if_false, k = program[at]
            at += 1
            if code == 0x20:
                accumulator = int.from_bytes(header[k : k + 4], "big")
            elif code == 0x07:
                index = accumulator
            elif code == 0x1D:
                at += if_true if accumulator == index else if_false
            elif code == 0x06:
                return k != 0
            else:
                raise UnknownRule(f"bpf instruction {code:#x}")

    return holds


def _icmp(number: int) -> Match:
    return lambda p: p.protocol in ICMP and p.icmp_type == number


def _in_states(states: list[str]) -> Match:
    return lambda p: p.state in states


def _nothing(*words: str) -> None:
    """A comment or a rate that the target alone depends on."""
    return


def _maybe_negated(match: Match, negate: bool) -> Match:
    return _negated(match) if negate else match


def _negated(match: Match) -> Match:
    return lambda p: not match(p)
