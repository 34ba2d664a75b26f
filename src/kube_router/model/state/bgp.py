"""State of the BGP speaker."""

from __future__ import annotations

from kube_router.model.family import Family
from kube_router.model.state import Key, Value


class SpeakerKey(Key, frozen=True):
    """The speaker's global configuration: there is one."""


class Speaker(Value, frozen=True):
    """ASN, BGP identifier (dotted quad), listen port and sorted listen addresses."""

    asn: int
    router_id: str
    port: int
    addresses: tuple[str, ...]


class NeighborKey(Key, frozen=True):
    """A peer by address."""

    address: str


class Neighbor(Value, frozen=True):
    """What we configure of a peer. Times in seconds; `restart_time` 0 means no graceful restart."""

    asn: int
    local_address: str
    port: int = 179
    families: tuple[Family, ...] = (4,)
    hold_time: int = 90
    restart_time: int = 0
    deferral_time: int = 0


class DefinedSetKey(Key, frozen=True):
    """A defined set: `type` is "prefix" or "neighbor"."""

    type: str
    name: str


class DefinedSet(Value, frozen=True):
    """Sorted members: for prefixes "cidr min..max", for neighbours "cidr"."""

    members: tuple[str, ...]


class PolicyKey(Key, frozen=True):
    """A policy by its base name ("kube_router_export"). The speaker has it under a number that rises with each change
    ("kube_router_export1")."""

    name: str


class Statement(Value, frozen=True):
    """Prefix set AND neighbour set (any member) -> accept or reject."""

    name: str
    prefix_set: str
    neighbor_set: str
    accept: bool


class BgpPolicy(Value, frozen=True):
    """Statements in order."""

    statements: tuple[Statement, ...]


class AssignmentKey(Key, frozen=True):
    """The global assignment of a direction, "import" or "export"."""

    direction: str


class Assignment(Value, frozen=True):
    """Base names of policies in order, and the default action."""

    policies: tuple[str, ...]
    default_accept: bool


class PathKey(Key, frozen=True):
    """A path that we originate, by prefix."""

    prefix: str


class Path(Value, frozen=True):
    """Origin IGP and this next hop, which is of the prefix's own family."""

    next_hop: str
