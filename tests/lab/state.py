"""What a node holds, as text to be compared byte for byte; counters, timers and times of day are left out, nothing else is.

Rules of nftables are told with their handles: one that was taken away and put back alike has another handle, so equal texts say
that nobody touched it. `without_handles` is for comparisons across a repair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lab.node import Node
from lab.processes import CNI_FILE
from lab.waiting import wait_for

State = Mapping[str, str]

COMMANDS = (
    "ip -d -o link",
    "ip -o addr",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule",
    "ip -6 rule",
    "ipset save",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "nft -a list ruleset",
    "sysctl -a --pattern ^net\\.(bridge|ipv4\\.(conf|ip_forward|vs)|ipv6\\.conf)",
    "cat /etc/iproute2/rt_tables",
)
_NOISE = (
    (re.compile(r"^#.*\n", re.MULTILINE), ""),  # the tools' comments: times of day, warnings
    (re.compile(r"\[\d+:\d+\]"), "[]"),
    (re.compile(r"packets \d+ bytes \d+"), ""),
    (re.compile(r"\w+_timer +\S+ "), ""),
)


def state(node: Node, commands: Iterable[str] = COMMANDS) -> State:
    """The node's state now, by the command that shows it."""
    found = {command: _plain(node.run(command, check=False)) for command in commands}
    config = node.file(CNI_FILE)
    if config.exists():
        facts = config.stat()
        found[CNI_FILE] = f"{config.read_text()}\ninode {facts.st_ino}, written at {facts.st_mtime_ns}\n"
    return found


def settled(node: Node) -> State:
    """The state once two looks in a row show the same."""
    looks: list[State] = [state(node)]

    def still() -> bool:
        looks.append(state(node))
        return looks[-1] == looks[-2]

    wait_for(f"{node.name} settles", still, seconds=20, every=0.3, so_far=lambda: changes(*looks[-2:]))
    return looks[-1]


def without_handles(found: State) -> State:
    """The state with the text of rules and not their identity, and with sets and CNI configuration by content."""
    kept = {command: text for command, text in found.items() if not command.startswith("nft")}
    kept["ipset save"] = "\n".join(sorted(kept["ipset save"].splitlines()))
    return kept


def changes(before: State, after: State, *, but: Iterable[str] = ()) -> list[str]:
    """Lines that differ, each with the command that shows it and a sign; those that hold a word of `but` do not count."""
    found = []
    for command in {**before, **after}:
        old, new = before.get(command, "").splitlines(), after.get(command, "").splitlines()
        if old == new:
            continue
        lines = [f"- {line}" for line in old if line not in new] + [f"+ {line}" for line in new if line not in old]
        lines = lines or ["the same lines in another order"]
        found += [f"{command}: {line}" for line in lines]
    return [line for line in found if not any(word in line for word in but)]


def _plain(text: str) -> str:
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text
