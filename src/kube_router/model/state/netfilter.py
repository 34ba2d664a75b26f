"""Sets and rules: ipset and iptables state."""

from __future__ import annotations

from kube_router.model.family import Family
from kube_router.model.state import Key, Value


class SetKey(Key, frozen=True):
    """An ipset by its kernel name; IPv6 sets carry the prefix "inet6:" (31 characters at most)."""

    name: str


class SetSpec(Value, frozen=True):
    """Type ("hash:ip", "hash:net", "hash:ip,port"), family and size; every set of ours has default `timeout 0`. `skbinfo`: its entries may
    carry marks."""

    type: str
    family: Family
    maxelem: int = 65536
    skbinfo: bool = False


class SetMember(Key, frozen=True):
    """One entry, spelled as `ipset save` spells it ("10.0.0.1", "10.0.0.0/24", "10.0.0.1,tcp:80")."""

    set: str
    entry: str


class Member(Value, frozen=True):
    """Flags of an entry. `mark`: what `-j SET --map-mark` writes into a packet that matches it, as the whole mark; 0 for none. -1 is only
    ever observed: packet data of another kind, which we never write."""

    nomatch: bool = False
    mark: int = 0


class ChainKey(Key, frozen=True):
    """A chain of ours in one family's table."""

    family: Family
    table: str
    name: str


class Chain(Value, frozen=True):
    """The whole content: rules without their "-A CHAIN " head, spelled as `iptables-save` spells them (codec/rules.py)."""

    rules: tuple[str, ...]


class JumpKey(Key, frozen=True):
    """The one jump from a built-in chain to a chain of ours."""

    family: Family
    table: str
    builtin: str
    chain: str


class Jump(Value, frozen=True):
    """`match`: rule text before "-j CHAIN". `first`: the jump must precede all rules that are not ours, else it is appended.
    `rank` orders our own jumps in one built-in chain."""

    match: str = ""
    first: bool = True
    rank: int = 0


class LeftoverKey(Key, frozen=True):
    """A rule that the original left in a built-in chain, as `iptables-save` prints it; `owner`: the controller whose work it did."""

    family: Family
    table: str
    builtin: str
    rule: str
    owner: str


class Leftover(Value, frozen=True):
    """`count`: how often it stands there. Only ever observed."""

    count: int = 1
