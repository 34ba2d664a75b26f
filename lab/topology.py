"""The wires: spaces for nodes and what stands round them, joined by bridges and one router.

    node1 ─eth0──┐                                                    ┌── client
    node2 ─eth0──┤ bridge of segment a ── router ── bridge "outside" ─┤
    api, peer ───┘                          └── bridge of segment b   └── world

A wire is a veth pair; its end in the segment's space bears the name of the host. Nothing here knows of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from lab.addresses import LENGTH, ROUTER, Host, Segment
from lab.space import Space, together

UPLINK = "eth0"
FORWARDING = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
# Addresses are usable at once: nobody else can have them, and duplicate detection would cost every start two seconds.
QUIET_IPV6 = {"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0, "net.ipv6.conf.default.accept_ra": 0}


def segment_lines(members: Iterable[str], spaces: dict[str, Space]) -> list[str]:
    """The bridge of a segment with a wire to each member; a member's end is named after the segment by its owner."""
    lines = ["link add br0 type bridge forward_delay 0", "link set br0 up"]
    for member in members:
        lines += [
            f"link add {member} type veth peer name {UPLINK} netns {spaces[member].network}",
            f"link set dev {member} master br0 up",
        ]
    return lines


def host_lines(host: Host, families: Sequence[int]) -> list[str]:
    """Addresses of a host and its way out: the router of its segment."""
    lines = [f"link set dev {UPLINK} up"]
    for family in families:
        nodad = " nodad" if family == 6 else ""
        lines += [
            f"address add {host.address(family)}/{LENGTH[family]} dev {UPLINK}{nodad}",
            f"route add default via {host.segment.address(ROUTER, family)}",
        ]
    return lines


class Topology:
    """Spaces by name under ``lab``, wired up. ``families`` are those that get addresses."""

    def __init__(self, lab: Space, hosts: Sequence[Host], *, families: Sequence[int]) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.spaces: dict[str, Space] = {}
        self._families = families
        router = self.spaces["router"] = lab.child("router")
        router.sysctl(QUIET_IPV6 | FORWARDING)
        for host in hosts:
            space = self.spaces[host.name] = lab.child(host.name, files=host.files)
            space.sysctl(QUIET_IPV6)
        segments: dict[str, list[Host]] = {}
        for host in hosts:
            segments.setdefault(host.segment.name, []).append(host)
        together(partial(self._wire, lab, name, members) for name, members in segments.items())
        router_lines = [line for members in segments.values() for line in self._router_lines(members[0].segment)]
        together(
            [
                partial(router.ip, router_lines),
                *(partial(self.spaces[host.name].ip, host_lines(host, families)) for host in hosts),
            ]
        )

    def _wire(self, lab: Space, name: str, members: Sequence[Host]) -> None:
        space = self.spaces[f"segment-{name}"] = lab.child(f"segment-{name}")
        space.sysctl({"net.ipv6.conf.default.disable_ipv6": 1})  # a wire has no address
        space.ip(segment_lines([host.name for host in members], self.spaces) + self._router_wire(name))

    def _router_wire(self, name: str) -> list[str]:
        router = self.spaces["router"].network
        return [f"link add router type veth peer name {name} netns {router}", "link set router master br0 up"]

    def _router_lines(self, segment: Segment) -> list[str]:
        lines = [f"link set dev {segment.name} up"]
        for family in self._families:
            nodad = " nodad" if family == 6 else ""
            lines.append(f"address add {segment.address(ROUTER, family)}/{LENGTH[family]} dev {segment.name}{nodad}")
        return lines

    # switches

    def lead(self, prefix: str, host: str) -> None:
        """Let the router send packets to these addresses to a host, as if that host had announced them; the last word counts."""
        family = 6 if ":" in prefix else 4
        self.spaces["router"].ip([f"route replace {prefix} via {self.hosts[host].address(family)}"])

    def set_wire(self, name: str, *, up: bool) -> None:
        """Pull the plug of a host, or put it back: its own link sees no carrier."""
        segment = self.spaces[f"segment-{self.hosts[name].segment.name}"]
        segment.ip([f"link set dev {name} {'up' if up else 'down'}"])
