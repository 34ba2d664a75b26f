"""State of the BGP speaker."""

from __future__ import annotations

from kube_router.model.family import Family
from kube_router.model.secret import Secret
from kube_router.model.state import Key, Value


class SpeakerKey(Key, frozen=True):
    """The speaker's global configuration: there is one."""


class Speaker(Value, frozen=True):
    """ASN, BGP identifier (dotted quad), listen port and sorted listen addresses. `multipath`: equal paths are chosen together."""

    asn: int
    router_id: str
    port: int
    addresses: tuple[str, ...]
    multipath: bool = True


class Bfd(Value, frozen=True):
    """How a session is watched (RFC 5880): UDP port, packets missed until it is down, milliseconds between packets sent and wanted."""

    port: int = 3784
    multiplier: int = 3
    transmit: int = 1000
    receive: int = 1000


class NeighborKey(Key, frozen=True):
    """A peer by address."""

    address: str


class Neighbor(Value, frozen=True):
    """What we configure of a peer. Times in seconds; `restart_time` 0 means no graceful restart.

    `multihop_ttl` 0: a neighbour on our link. `cluster_id`: we are a route reflector of that id, and the peer is our client; "" no client.
    """

    asn: int
    local_address: str
    port: int = 179
    families: tuple[Family, ...] = (4,)
    hold_time: int = 90
    restart_time: int = 0
    deferral_time: int = 0
    password: Secret | None = None
    multihop_ttl: int = 0
    cluster_id: str = ""
    bfd: Bfd | None = None


class DefinedSetKey(Key, frozen=True):
    """A defined set: `type` is "prefix" or "neighbor"."""

    type: str
    name: str


class DefinedSet(Value, frozen=True):
    """A set that exists; its members are keys of their own, so that one that comes or goes is one change."""


class DefinedSetMember(Key, frozen=True):
    """A member of a defined set: "cidr min..max" in one of prefixes, "cidr" in one of neighbours."""

    type: str
    name: str
    member: str


class Listed(Value, frozen=True):
    """A member is in its set."""


class PolicyKey(Key, frozen=True):
    """A policy by its base name ("kube_router_export"). The speaker has it under a number that rises with each change
    ("kube_router_export1")."""

    name: str


class Statement(Value, frozen=True):
    """Prefix set AND neighbour set (any member) AND source -> accept or reject, with the route changed on its way out.

    `prefix_set` "" means any prefix. `source` "internal": routes learned from a session within the AS; "" any.
    `prepend`: an AS number and how often it is put before the AS path. `communities`: added, each "65000:1".
    `next_hop`: "self" (the session's local address) or an address; "" leaves the route's own.
    """

    name: str
    prefix_set: str
    neighbor_set: str
    accept: bool
    source: str = ""
    prepend: tuple[int, int] | None = None
    communities: tuple[str, ...] = ()
    next_hop: str = ""


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
