"""What the kernel says about its own changes: links, addresses, routes and rules by netlink, nftables by its transactions.

IPVS, ipset and legacy iptables tell nobody: for those see `tests/lab/trace.py`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.node import Node
from lab.waiting import wait_for

_COMMANDS = (["ip", "-o", "monitor", "link", "address", "route", "rule"], ["nft", "monitor"])
_LINK = re.compile(r"^\d+: (?P<name>[^:@]+)(@[^:]*)?: (?P<flags><\S*>) mtu (?P<mtu>\d+).* state (?P<state>\S+).*(?P<kind>link/\S+ \S+)")
_MASTER = re.compile(r" master (\S+)")


class Notices:
    """Listens on nodes while this context lasts; from its beginning to its end nothing is missed. `lines` is read afterwards.

    A notice of a link that says what `ip link` said at the beginning is left out: the kernel itself tells the state of a
    carrier again, a second or more after the change (net/core/link_watch.c).
    """

    def __init__(self, *nodes: Node) -> None:
        self.lines: list[str] = []
        self._before = {node.name: {_link(line) for line in node.space.run(["ip", "-o", "link"]).splitlines()} for node in nodes}
        self._watching = [(node, _listen(node, command)) for node in nodes for command in _COMMANDS]
        for node, process in self._watching:
            wait_for(f"{node.name}: {process.args!r} listens", lambda node=node, pid=process.pid: _listens(node, pid), seconds=10)

    def __enter__(self) -> Notices:
        return self

    def __exit__(self, *_: object) -> None:
        for node, process in self._watching:
            process.terminate()
            lines = [line for line in process.communicate()[0].splitlines() if line.strip()]
            before = self._before[node.name]
            self.lines += [f"{node.name}: {line}" for line in lines if (_link(line) or line) not in before]

    def about(self, *words: str) -> list[str]:
        """Notices that hold one of the words."""
        return [line for line in self.lines if any(word in line for word in words)]


def _link(line: str) -> tuple[str, ...] | None:
    """What a line says of a link: name, flags, MTU, state, kind with hardware address, master; None for any other line."""
    found = _LINK.match(line)
    if found is None:
        return None
    return (*found.group("name", "flags", "mtu", "state", "kind"), *_MASTER.findall(line))


def _listen(node: Node, command: Sequence[str]) -> subprocess.Popen[str]:
    # through a line buffer, for what a terminated tool has not written is lost
    return node.space.popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _listens(node: Node, pid: int) -> bool:
    """Whether a netlink socket of the process is in a multicast group (the port of a process' first socket is its id)."""
    table = node.space.call(Path("/proc/thread-self/net/netlink").read_text)
    return any(line.split()[2] == str(pid) and int(line.split()[3], 16) for line in table.splitlines()[1:])
