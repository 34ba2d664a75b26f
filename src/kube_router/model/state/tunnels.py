"""Tunnels of the overlay, and what they need beside them: listeners, forwarding and neighbour entries."""

from __future__ import annotations

from kube_router.model.family import Family
from kube_router.model.state import Key, Value


class TunnelKey(Key, frozen=True):
    """A tunnel of ours by its link's name."""

    name: str


class Tunnel(Value, frozen=True):
    """A tunnel.

    `kind`: rtnetlink's "ipip", "ip6tnl" or "vxlan". `remote` "" for vxlan, whose other ends are in its forwarding table. `port`: for
    vxlan its UDP port; for the others the port that generic UDP encapsulation goes to, 0 for none. `mtu` 0 leaves it to the kernel.
    `mac`: vxlan only. `up` and `odd` are observed only: a tunnel of ours is up, and `odd` names each further attribute that is not as
    we make it, with its value.
    """

    kind: str
    local: str
    remote: str = ""
    port: int = 0
    mtu: int = 0
    mac: str = ""
    up: bool = True
    odd: tuple[str, ...] = ()


class FouKey(Key, frozen=True):
    """A UDP port on which the kernel takes in generic UDP encapsulation (GUE)."""

    family: Family
    port: int


class Fou(Value, frozen=True):
    """`make` false: kept where it is, not made where it is not (other nodes may still send to it while encapsulations change)."""

    make: bool = True


class FdbKey(Key, frozen=True):
    """An entry of a VXLAN link's forwarding table."""

    link: str
    mac: str


class Fdb(Value, frozen=True):
    """`remote`: address of the other end. Permanent: learned entries are nobody's."""

    remote: str


class NeighbourKey(Key, frozen=True):
    """A neighbour on a VXLAN link, by its IP address."""

    link: str
    address: str


class Neighbour(Value, frozen=True):
    """Its link-layer address, permanent."""

    mac: str
