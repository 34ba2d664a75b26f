"""What a node looks like, read with the tools that a person would use and understood as far as the walkthrough needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.api.objects import Objects
from lab.node import Node

PREFIX = {4: "", 6: "inet6:"}
SETS = (
    "kube-router-pod-subnets",
    "kube-router-node-ips",
    "kube-router-local-ips",
    "kube-router-service-ips",
    "kube-router-ipvs-services",
)


@dataclass(frozen=True, slots=True)
class IpSet:
    """A set as ``ipset save`` tells it: kind, options, members without their timeouts, and whether all had one."""

    kind: str
    options: str
    members: frozenset[str]
    timeouts: bool


def routes(node: Node, family: int = 4) -> dict[str, str]:
    """The main table: destination -> the rest of the line."""
    lines = node.run(["ip", f"-{family}", "route"]).splitlines()
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines if line.strip()}


def route_to(node: Node, prefix: str) -> str:
    """The route of exactly this prefix, or "" when there is none."""
    return routes(node, 6 if ":" in prefix else 4).get(prefix, "")


def links(node: Node, *arguments: str) -> list[dict[str, Any]]:
    """Links with their details, as ``ip -j`` gives them."""
    found: list[dict[str, Any]] = json.loads(node.run(["ip", "-j", "-d", "link", "show", *arguments]) or "[]")
    return [link for link in found if link]


def link(node: Node, name: str) -> dict[str, Any]:
    """One link; CommandFailed when there is none of that name."""
    return links(node, "dev", name)[0]


def up_links(node: Node) -> set[str]:
    return {link["ifname"] for link in links(node, "up")}


def addresses(node: Node, link: str) -> set[str]:
    """Addresses with their lengths; empty when there is no such link."""
    text = node.run(["ip", "-j", "address", "show", "dev", link], check=False)
    if not text.startswith("["):
        return set()
    return {f"{entry['local']}/{entry['prefixlen']}" for one in json.loads(text) for entry in one.get("addr_info", ())}


def all_addresses(node: Node) -> set[str]:
    found = json.loads(node.run(["ip", "-j", "address"]))
    return {entry["local"] for link in found for entry in link.get("addr_info", ())}


def ip_sets(node: Node) -> Mapping[str, IpSet]:
    """All sets of the node."""
    made: dict[str, tuple[str, str]] = {}
    members: dict[str, list[str]] = {}
    for line in node.run(["ipset", "save"]).splitlines():
        word, name, rest = line.split(" ", 2)
        if word == "create":
            kind, _, options = rest.partition(" ")
            made[name] = (kind, options)
        else:
            members.setdefault(name, []).append(rest)
    return {
        name: IpSet(
            kind,
            options,
            frozenset(member.split(" ")[0] for member in members.get(name, ())),
            all(member.endswith("timeout 0") for member in members.get(name, ())),
        )
        for name, (kind, options) in made.items()
    }


def iptables(node: Node, family: int = 4) -> str:
    """Every table, without counters, comments and the order of tables."""
    command = "iptables-save" if family == 4 else "ip6tables-save"
    tables: dict[str, list[str]] = {}
    name = ""
    for line in node.run([command]).splitlines():
        if line.startswith("*"):
            name = line
            tables[name] = []
        elif line.startswith(":"):
            tables[name].append(line.partition(" [")[0])
        elif line.startswith("-"):
            tables[name].append(line)
    return "\n".join(line for name in sorted(tables) for line in (name, *tables[name]) if tables[name])


def pod_ranges(objects: Objects, name: str) -> list[str]:
    """The pod ranges of a node, as its Node object has them."""
    return list(objects.get("nodes", name)["spec"].get("podCIDRs") or ())
