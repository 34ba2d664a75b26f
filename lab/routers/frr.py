"""FRR as an external router: zebra, bgpd and bfdd in a space of their own, told and asked through vtysh.

zebra is needed though no test asks for it by name: it puts routes into the router's own kernel, and carries what bgpd and bfdd
say to each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.addresses import Host
from lab.processes import Process
from lab.routers.model import BGP_PORT, Announcement, Peering, Route, Router, Session, Wanted, canonical_community
from lab.space import Space
from lab.waiting import wait_for

DAEMONS = ("zebra", "bfdd", "bgpd")  # in the order in which they start
FOLDER = "/run/frr"  # compiled in: sockets of the daemons
PROGRAMS = "/usr/lib/frr"
VTY_GROUP = "frrvty"
FAMILY_NAMES = {4: "ipv4Unicast", 6: "ipv6Unicast"}
BFD_TIMES = "3 300 300"  # multiplier, milliseconds to receive and to send


class Frr(Router):
    """See `Router`."""

    def __init__(self, space: Space, host: Host, *, asn: int, work: Path, port: int = BGP_PORT) -> None:
        super().__init__(space, host, asn=asn, work=work, port=port)
        own = {"zebra": [], "bfdd": [], "bgpd": ["-p", str(port)]}
        self._processes = {
            name: Process(
                name,
                space,
                # root stays root: the kernel forgets who is to die with whom when a process becomes somebody else
                [f"{PROGRAMS}/{name}", "-u", "root", "-g", "root", "-f", f"{FOLDER}/{name}.conf", "--log", "stdout", "-P", "0", *own[name]],
                log=work / f"{host.name}-{name}.log",
            )
            for name in DAEMONS
        }

    # life

    @property
    def alive(self) -> bool:
        return self._processes["bgpd"].alive

    def start(self) -> None:
        self.space.call(_prepare)
        self._write("zebra", [])
        self._write("bfdd", [])
        self._write("bgpd", bgpd_lines(self.asn, self.host.address(4), self.wanted))
        for name, process in self._processes.items():
            if process.alive:
                continue
            self._file(f"{name}.vty").unlink(missing_ok=True)
            process.start()
            if name == "zebra":
                wait_for("zebra takes clients", self._file("zserv.api").is_socket, seconds=10, so_far=process.said)
        wait_for("FRR answers", self._answers, seconds=20, so_far=self.output)

    def kill(self) -> None:
        """bgpd alone: zebra goes on, as the kernel of a router would, and with it the routes."""
        self._processes["bgpd"].kill()

    def stop_bfd(self) -> None:
        """Let bfdd freeze: the peer hears nothing more, while BGP goes on."""
        self._processes["bfdd"].pause()

    def resume_bfd(self) -> None:
        self._processes["bfdd"].resume()

    def output(self) -> str:
        return "\n".join(process.output() for process in self._processes.values())

    def _answers(self) -> bool:
        return self.alive and self._file("bgpd.vty").is_socket() and "default" in self.ask("show bgp vrfs json")["vrfs"]

    def _write(self, daemon: str, lines: Sequence[str]) -> None:
        self._file(f"{daemon}.conf").write_text("\n".join(["frr defaults traditional", f"hostname {self.host.name}", *lines, ""]))

    def _file(self, name: str) -> Path:
        return self.space.root / FOLDER.lstrip("/") / name

    # to be told

    def tell(self, *lines: str) -> None:
        """Configure it, as after `configure terminal`; CommandFailed when it does not understand."""
        if lines:
            self.space.run(["vtysh", *(word for line in ("configure terminal", *lines) for word in ("-c", line))])

    def _reconfigure(self, before: Wanted) -> None:
        self.tell(*changed_lines(self.asn, before, self.wanted))

    # to be asked

    def ask(self, command: str) -> Any:
        """What a show command answers as JSON."""
        return json.loads(self.space.run(["vtysh", "-c", command]))

    def sessions(self) -> Mapping[str, Session]:
        return {address: session(told) for address, told in self.ask("show bgp neighbors json").items() if isinstance(told, dict)}

    def received(self, peer: str, *, families: Collection[int] = (4, 6)) -> dict[str, Route]:
        found: dict[str, Route] = {}
        for family in families:
            for prefix, told in self.ask(f"show bgp ipv{family} unicast json detail").get("routes", {}).items():
                for path in told:
                    if path.get("peer", {}).get("peerId") == peer:
                        found[prefix] = route(path)
        return found

    def bfd_up(self, peer: str) -> bool:
        return any(told["peer"] == peer and told["status"] == "up" for told in self.ask("show bfd peers json"))


# what it is told


def bgpd_lines(asn: int, identifier: str, wanted: Wanted) -> list[str]:
    """The configuration of bgpd for all that is wanted."""
    lines = [
        # what is learned from one peer is not told to the others; defined before it is used, or it would not work for seconds
        "bgp as-path access-list ours permit ^$",
        "route-map ours permit 10",
        "match as-path ours",
        "exit",
        "bgp route-map delay-timer 0",
        f"router bgp {asn}",
        f"bgp router-id {identifier}",
        "no bgp ebgp-requires-policy",
        "no bgp default ipv4-unicast",
        "no bgp network import-check",
        "bgp bestpath as-path multipath-relax",
        "bgp graceful-restart",
        "bgp graceful-restart preserve-fw-state",
    ]
    for family in (4, 6):
        lines += [f"address-family ipv{family} unicast", "maximum-paths 8", "exit-address-family"]
    lines.append("exit")
    return lines + changed_lines(asn, Wanted(), wanted)


def changed_lines(asn: int, before: Wanted, after: Wanted) -> list[str]:
    """Lines that lead from one state to another; sessions that stay are not touched."""
    lines: list[str] = []
    for prefix in before.announced.keys() - after.announced.keys():
        lines += _withdraw_lines(asn, before.announced[prefix])
    for prefix, announcement in after.announced.items():
        if before.announced.get(prefix) != announcement:
            lines += _announce_lines(asn, announcement)
    for address in before.peers:
        if before.peers[address] != after.peers.get(address):
            lines += [f"router bgp {asn}", f"no neighbor {address}", "exit"]
    for address, peering in after.peers.items():
        if before.peers.get(address) != peering:
            lines += _peer_lines(asn, peering)
    return lines


def _peer_lines(asn: int, peering: Peering) -> list[str]:
    peer = f"neighbor {peering.address}"
    lines = [
        f"router bgp {asn}",
        f"{peer} remote-as {peering.asn}",
        f"{peer} advertisement-interval 0",
        f"{peer} timers {max(1, peering.hold_time // 3)} {peering.hold_time}",
        f"{peer} timers connect 1",
        f"{peer} port {peering.port}",
    ]
    if peering.password:
        lines.append(f"{peer} password {peering.password}")
    if peering.ttl:
        lines.append(f"{peer} ebgp-multihop {peering.ttl}")
    if peering.local_address:
        lines.append(f"{peer} update-source {peering.local_address}")
    if peering.passive:
        lines.append(f"{peer} passive")
    if peering.bfd:
        lines.append(f"{peer} bfd {BFD_TIMES}")
    for family in peering.families:
        lines += [f"address-family ipv{family} unicast", f"{peer} activate", f"{peer} route-map ours out", "exit-address-family"]
    return [*lines, "exit"]


def _map_name(announcement: Announcement) -> str:
    return "to-" + announcement.prefix.replace("/", "-")


def _announce_lines(asn: int, announcement: Announcement) -> list[str]:
    lines = [f"no route-map {_map_name(announcement)}", f"route-map {_map_name(announcement)} permit 10"]
    if announcement.next_hop:
        words = "ip next-hop" if announcement.family == 4 else "ipv6 next-hop global"
        lines.append(f"set {words} {announcement.next_hop}")
    if announcement.communities:
        lines.append(f"set community {' '.join(announcement.communities)}")
    network = f"network {announcement.prefix} route-map {_map_name(announcement)}"
    return [*lines, "exit", f"router bgp {asn}", f"address-family ipv{announcement.family} unicast", network, "exit-address-family", "exit"]


def _withdraw_lines(asn: int, announcement: Announcement) -> list[str]:
    network = f"no network {announcement.prefix}"
    return [f"router bgp {asn}", f"address-family ipv{announcement.family} unicast", network, "exit-address-family", "exit"]


def _prepare() -> None:
    """Make the folders that it wants, and root a member of the group that may use its sockets; in this file system only."""
    folder = Path(FOLDER)
    folder.mkdir(exist_ok=True)
    Path("/etc/frr/vtysh.conf").write_text("no service integrated-vtysh-config\n")
    lines = Path("/etc/group").read_text().splitlines()
    changed = []
    for line in lines:
        name, _, members = line.partition(":")[0], "", line.rpartition(":")[2]
        joins = name == VTY_GROUP and "root" not in members.split(",")
        changed.append(line + ("," if members else "") + "root" if joins else line)
    if changed != lines:
        Path("/etc/group").write_text("\n".join([*changed, ""]))


# what it tells


def session(told: Mapping[str, Any]) -> Session:
    """A session, from `show bgp neighbors json`."""
    established = told["bgpState"] == "Established"
    count, problem = told["connectionsEstablished"], told.get("lastResetDueTo", "")
    if not established:
        return Session(False, count, problem=problem)
    said = told["neighborCapabilities"]
    restarts = said.get("gracefulRestart") in ("received", "advertisedAndReceived")
    kept = told["gracefulRestartInfo"]
    return Session(
        True,
        count,
        hold_time=told["bgpTimerHoldTimeMsecs"] // 1000,
        families=_families(lambda name: "Received" in "".join(said["multiprotocolExtensions"].get(name, ()))),
        restart_time=said["gracefulRestartRemoteTimerMsecs"] // 1000 if restarts else None,
        restart_families=_families(lambda name: name in said.get("addressFamiliesByPeer", ())) if restarts else frozenset(),
        preserved=_families(lambda name: kept.get(name, {}).get("fBit", False)) if restarts else frozenset(),
        host_name=said.get("hostName", {}).get("rcvHostName", ""),
        problem=problem,
    )


def _families(said: Callable[[str], bool]) -> frozenset[int]:
    return frozenset(family for family, name in FAMILY_NAMES.items() if said(name))


def route(path: Mapping[str, Any]) -> Route:
    """A path, from `show bgp ... json detail`."""
    segments = path.get("aspath", {}).get("segments", [])
    hops = [hop["ip"] for hop in path.get("nexthops", ()) if hop.get("scope", "global") == "global"]
    return Route(
        next_hop=hops[0] if hops else "",
        as_path=tuple(number for segment in segments for number in segment["list"]),
        communities=frozenset(canonical_community(text) for text in path.get("community", {}).get("list", ())),
        local_preference=path.get("locPrf"),
        stale=bool(path.get("stale")),
    )
