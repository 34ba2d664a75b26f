"""IPVS services and destinations (include/uapi/linux/ip_vs.h)."""

from __future__ import annotations

from typing import Final

from kube_router.model.state import Key, Value

# Schedulers that choose by place in the list of destinations: nodes agree on a client's backend only if they agree on the order.
HASHING: Final = frozenset({"sh", "dh", "mh"})
# Of these, those that by a flag (IP_VS_SVC_F_SCHED_SH_FALLBACK, ..._MH_FALLBACK) take another one where the chosen one has weight 0.
FALLING_BACK: Final = frozenset({"sh", "mh"})
FALLBACK: Final = 0x8


class VirtualServerKey(Key, frozen=True):
    """A service by address, or by firewall mark (then address "", protocol 0 and port 0, and `family` tells which).
    `protocol` is the IP protocol number (6, 17, 132)."""

    address: str
    protocol: int
    port: int
    mark: int = 0
    family: int = 4


class VirtualServer(Value, frozen=True):
    """Scheduler name, flag bits (persistent 0x1, hashed is the kernel's own), persistence in seconds and prefix length of its netmask.
    `ordered`: its destinations stand in the order of their keys (schedulers of HASHING alone); False is only ever observed."""

    scheduler: str = "rr"
    flags: int = 0
    timeout: int = 0
    prefix: int = 32
    ordered: bool = True


class DestinationKey(Key, frozen=True):
    """A real server of a service."""

    server: VirtualServerKey
    address: str
    port: int


class Destination(Value, frozen=True):
    """Weight, and forwarding method: 0 masquerade, 2 tunnel (IP_VS_CONN_F_FWD_MASK)."""

    weight: int = 1
    forward: int = 0


class IpvsTimeoutsKey(Key, frozen=True):
    """How long connections may be idle, for all services of this network namespace."""


class IpvsTimeouts(Value, frozen=True):
    """Seconds: of TCP connections, of those after a FIN, of UDP flows. 0 makes no demand."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0
