"""A router that is not gobgpd, outside of the cluster: BIRD in a network namespace on the segment of a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from lab.addresses import Host
from lab.kernel_netns import Netns
from lab.routers.bird import BIRD, BIRDC, configuration, name_of, routes, sessions
from lab.routers.model import Announcement, Peering, Route, Wanted
from lab.waiting import wait_for

ASN = 65001


class _Here:
    """What a configuration asks of a host of the lab."""

    def __init__(self, number: int) -> None:
        self.name, self._number = f"router{number}", number

    def address(self, family: int) -> str:
        return f"192.168.50.{self._number}" if family == 4 else f"fd00:50::{self._number}"


class Outside:
    """BIRD at 192.168.50.n and fd00:50::n. It announces prefixes, each to all its peers, and tells what it got from whom."""

    def __init__(self, number: int, folder: Path, netns: Netns, segment: Netns) -> None:
        self.here = _Here(number)
        self._netns, self._folder, self._wanted = netns, folder, Wanted()
        folder.mkdir()
        port = f"r{number}"
        segment.run(f"ip link add {port} type veth peer name up0 netns {netns.path}")
        segment.run(f"ip link set {port} master br0 up")
        netns.run(f"ip addr add {self.here.address(4)}/24 dev up0")
        netns.run(f"ip addr add {self.here.address(6)}/64 dev up0 nodad")
        netns.run("ip link set up0 up")

    def start(self, *peers: tuple[str, int], announces: tuple[str, ...] = ()) -> None:
        """Peer with these (address, AS number) and announce these prefixes."""
        self._wanted = Wanted(
            {address: Peering(address, asn) for address, asn in peers}, {prefix: Announcement(prefix) for prefix in announces}
        )
        (self._folder / "bird.conf").write_text(configuration(ASN, cast(Host, self.here), self._wanted))
        log = (self._folder / "bird.log").open("ab")
        arguments = [BIRD, "-f", "-c", self._path("conf"), "-s", self._path("ctl"), "-P", self._path("pid")]
        self._process = self._netns.start(arguments, output=log.fileno())
        wait_for("BIRD answers", lambda: "is up" in self._ask("show status"), seconds=20)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(30)

    def received(self, peer: str) -> dict[str, Route]:
        """Routes from a peer by prefix."""
        return dict(routes(self._ask(f"show route all protocol {name_of(peer)}")))

    def times_up(self, peer: str) -> int:
        """How often the session with a peer was established."""
        found: Mapping[str, object] = dict(
            sessions(self._ask("show protocols all"), log=(self._folder / "bird.log").read_text(errors="replace"))
        )
        return int(getattr(found.get(peer), "count", 0))

    def _ask(self, command: str) -> str:
        return self._netns.run([BIRDC, "-s", self._path("ctl"), command], check=False)

    def _path(self, ending: str) -> str:
        return str(self._folder / f"bird.{ending}")
