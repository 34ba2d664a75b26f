"""BIRD 2 as an external router: one process in a space of its own, its configuration written anew at each change."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from lab.addresses import Host
from lab.processes import Process
from lab.routers.model import BGP_PORT, Announcement, Peering, Route, Router, Session, Wanted, canonical_community
from lab.space import Space
from lab.waiting import wait_for

BIRD, BIRDC = "/usr/sbin/bird", "/usr/sbin/birdc"
CONFIGURATION, CONTROL, PID = "/run/bird.conf", "/run/bird.ctl", "/run/bird.pid"


class Bird(Router):
    """See `Router`."""

    def __init__(self, space: Space, host: Host, *, asn: int, work: Path, port: int = BGP_PORT) -> None:
        super().__init__(space, host, asn=asn, work=work, port=port)
        command = [BIRD, "-f", "-c", CONFIGURATION, "-s", CONTROL, "-P", PID]
        self._process = Process("bird", space, command, log=work / f"{host.name}-bird.log")

    # life

    @property
    def alive(self) -> bool:
        return self._process.alive

    def start(self) -> None:
        self._write()
        self._file(CONTROL).unlink(missing_ok=True)
        self._process.start()
        wait_for("BIRD answers", lambda: "is up" in self.ask("show status"), seconds=20, so_far=self.output)

    def kill(self) -> None:
        self._process.kill()

    def output(self) -> str:
        return self._process.output()

    def _file(self, path: str) -> Path:
        return self.space.root / path.lstrip("/")

    def _write(self) -> None:
        text = configuration(self.asn, self.host, self.wanted, port=self.port)
        self._file(CONFIGURATION).write_text(text)

    # to be told

    def _reconfigure(self, _before: Wanted) -> None:
        self._write()  # BIRD itself finds out what changed
        said = self.ask("configure")
        if "Reconfigured" not in said and "Reconfiguration in progress" not in said:
            raise RuntimeError(f"BIRD does not take its configuration: {said}")

    # to be asked

    def ask(self, command: str) -> str:
        """What birdc says to a command."""
        return self.space.run([BIRDC, "-s", CONTROL, command])

    def sessions(self) -> Mapping[str, Session]:
        return dict(sessions(self.ask("show protocols all"), log=self.output()))

    def received(self, peer: str, *, families: Collection[int] = (4, 6)) -> dict[str, Route]:
        found = routes(self.ask(f"show route all protocol {name_of(peer)}"))
        return {prefix: route for prefix, route in found if (6 if ":" in prefix else 4) in families}

    def bfd_up(self, peer: str) -> bool:
        return any(line.split()[:1] == [peer] and " Up " in line for line in self.ask("show bfd sessions").splitlines())


# what it is told


def name_of(peer: str) -> str:
    """The name of a peer's protocol."""
    return "p_" + re.sub(r"[.:]", "_", peer)


def configuration(asn: int, host: Host, wanted: Wanted, *, port: int = BGP_PORT) -> str:
    """The whole configuration file."""
    blocks = [
        "log stderr all;",
        "debug protocols { states };",
        f"router id {host.address(4)};",
        "protocol device { scan time 2; }",
        'protocol bfd { interface "*" { interval 300 ms; multiplier 3; }; multihop { interval 300 ms; multiplier 3; }; }',
    ]
    for family in (4, 6):
        # what it originates is for its peers, not for its own kernel
        kernel = f"ipv{family} {{ export where source = RTS_BGP; import none; }}; merge paths on;"
        blocks.append(f"protocol kernel kernel{family} {{ {kernel} }}")
        ours = [one for one in wanted.announced.values() if one.family == family]
        lines = "".join(f"  {_static(one)}\n" for one in ours)
        blocks.append(f"protocol static ours{family} {{\n  ipv{family};\n{lines}}}")
    blocks += [_protocol(asn, host, peering, port=port) for peering in wanted.peers.values()]
    return "\n".join([*blocks, ""])


def _static(announcement: Announcement) -> str:
    added = "".join(f" bgp_community.add(({one.replace(':', ',')}));" for one in announcement.communities)
    if announcement.next_hop:
        added += f" bgp_next_hop = {announcement.next_hop};"
    return f"route {announcement.prefix} blackhole" + (f" {{{added} }};" if added else ";")


def _protocol(asn: int, host: Host, peering: Peering, *, port: int) -> str:
    local = peering.local_address or host.address(6 if ":" in peering.address else 4)
    lines = [
        f"local {local} port {port} as {asn};",
        f"neighbor {peering.address} port {peering.port} as {peering.asn};",
        f"hold time {peering.hold_time};",
        "connect delay time 1;",
        "connect retry time 1;",
        "error wait time 1, 2;",
        "graceful restart on;",
        f"multihop {peering.ttl};" if peering.ttl else "direct;",
    ]
    if peering.password:
        lines.append(f'password "{peering.password}";')
    if peering.passive:
        lines.append("passive on;")
    if peering.bfd:
        lines.append("bfd on;")
    lines += [f"ipv{family} {{ import all; export where source = RTS_STATIC; }};" for family in peering.families]
    return "\n  ".join([f"protocol bgp {name_of(peering.address)} {{", *lines]) + "\n}"


# what it tells


def sessions(told: str, *, log: str = "") -> Iterator[tuple[str, Session]]:
    """Sessions by address, from `show protocols all`; how often each came up is counted in the log."""
    for block in re.split(r"\n\n+", told):
        match = re.search(r"^ *Neighbor address: (\S+)", block, re.MULTILINE)
        if match is None:
            continue
        address = match[1].partition("%")[0]
        count = len(re.findall(rf"<\w+> {name_of(address)}: State changed to up\b", log))
        problem = re.search(r"Last error: *(.+)", block)
        ended = problem[1].strip() if problem else ""
        if "BGP state:          Established" not in block:
            yield address, Session(False, count, problem=ended)
            continue
        said = block.partition("Neighbor capabilities")[2].partition("Session:")[0]
        restart = said.partition("Graceful restart\n")[2].partition("4-octet")[0] if "Graceful restart\n" in said else None
        time = re.search(r"Restart time: (\d+)", restart or "")
        yield (
            address,
            Session(
                True,
                count,
                hold_time=int(block.partition("Hold timer:")[2].split()[0].partition("/")[2]),
                families=_families(said, "AF announced"),
                restart_time=None if restart is None else int(time[1]) if time else 0,
                restart_families=_families(restart or "", "AF supported"),
                preserved=_families(restart or "", "AF preserved"),
                host_name="".join(re.findall(r"Hostname: (\S+)", said)),
                problem=ended,
            ),
        )


def _families(text: str, label: str) -> frozenset[int]:
    match = re.search(rf"{label}:(.*)", text)
    return frozenset(int(word[3:]) for word in match[1].split() if word in ("ipv4", "ipv6")) if match else frozenset()


def routes(told: str) -> Iterator[tuple[str, Route]]:
    """Paths by prefix, from `show route all protocol NAME`."""
    prefix, head, attributes = "", "", dict[str, str]()
    for line in [*told.splitlines(), "end"]:
        match = re.match(r"(\S+/\d+)\s+(.*)", line) if not line.startswith((" ", "\t")) else None
        if match or line == "end":
            if prefix:
                yield prefix, _route(head, attributes)
            prefix, head, attributes = (match[1], match[2], {}) if match else ("", "", {})
        elif "BGP." in line:
            name, _, value = line.strip().removeprefix("BGP.").partition(":")
            attributes[name] = value.strip()


def _route(head: str, attributes: Mapping[str, str]) -> Route:
    return Route(
        next_hop=attributes["next_hop"].split()[0],
        as_path=tuple(int(word) for word in attributes.get("as_path", "").split()),
        communities=frozenset(_communities(attributes.get("community", "").split())),
        local_preference=int(attributes["local_pref"]) if "local_pref" in attributes else None,
        stale=re.search(r"\(\d+[^)]*s[^)]*\)", head) is not None,
    )


def _communities(words: Iterable[str]) -> Iterator[str]:
    for word in re.findall(r"\(\d+,\d+\)|[\w-]+", " ".join(words)):
        yield canonical_community(word.strip("()").replace(",", ":"))
