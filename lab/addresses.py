"""Where everything stands: the walkthrough's cluster, and more nodes by the same rule. Pure.

    192.168.50.0/24  fd00:50::/64     segment a: nodes, the API server (.10), an external BGP router (.2), the router (.1)
                                      and, where a cluster asks for them, FRR (.3) and BIRD (.4) here or elsewhere
    192.168.60.0/24  fd00:60::/64     segment b, behind the router: nodes of another subnet
    192.0.2.0/24     2001:db8:2::/64  outside: an off-cluster client (.10) and the world (.80)

Node N (from 1) has the host number 49 + N; pods 10.233.64.0/18 in a /24 a node, Services 10.233.0.0/18.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """One Ethernet. The prefixes are what stands before the host number."""

    name: str
    prefix4: str
    prefix6: str

    def address(self, number: int, family: int) -> str:
        return f"{self.prefix4}{number}" if family == 4 else f"{self.prefix6}{number}"


SEGMENTS: Mapping[str, Segment] = {
    segment.name: segment
    for segment in (
        Segment("a", "192.168.50.", "fd00:50::"),
        Segment("b", "192.168.60.", "fd00:60::"),
        Segment("outside", "192.0.2.", "2001:db8:2::"),
    )
}
LENGTH = {4: 24, 6: 64}  # of every segment's prefix
ROUTER = 1
API_PORT = 6443

POD_CLUSTER_CIDRS = ("10.233.64.0/18", "fd00::/48")
SERVICE_CIDRS = ("10.233.0.0/18", "fd00:233::/112")
API_SERVICE, DNS_SERVICE = 1, 3  # host numbers in the Service ranges
NODE_PORTS = range(30000, 32768)

# The walkthrough gives node2 the third and node3 the second /24.
_POD_OCTETS = (64, 66, 65)


@dataclass(frozen=True, slots=True)
class Host:
    """A member of a segment. ``files`` says that it needs a file system of its own."""

    name: str
    segment: Segment
    number: int
    files: bool = False

    def address(self, family: int) -> str:
        return self.segment.address(self.number, family)


def pod_cidrs(number: int) -> tuple[str, str]:
    """The pod ranges of node ``number`` (from 1) in both families: 64, 66, 65, then 67 and on."""
    octet = _POD_OCTETS[number - 1] if number <= len(_POD_OCTETS) else 63 + number
    return f"10.233.{octet}.0/24", f"fd00:{octet}::/64"


def node_hosts(count: int, segments: Mapping[str, str]) -> list[Host]:
    """Nodes node1 and on; ``segments`` names those that stand elsewhere than on segment a."""
    names = [f"node{number}" for number in range(1, count + 1)]
    return [Host(name, SEGMENTS[segments.get(name, "a")], 49 + number, files=True) for number, name in enumerate(names, start=1)]


def router_hosts(segments: Mapping[str, str]) -> list[Host]:
    """External BGP routers by name ("frr", "bird"), each on the segment that is named."""
    return [Host(name, SEGMENTS[segment], ROUTERS[name], files=True) for name, segment in segments.items()]


API = Host("api", SEGMENTS["a"], 10)
PEER = Host("peer", SEGMENTS["a"], 2, files=True)
ROUTERS = {"frr": 3, "bird": 4}  # host numbers of other people's BGP routers, on whichever segment
ROUTER_ASNS = {"frr": 64601, "bird": 64602}
CLIENT = Host("client", SEGMENTS["outside"], 10)
WORLD = Host("world", SEGMENTS["outside"], 80)
