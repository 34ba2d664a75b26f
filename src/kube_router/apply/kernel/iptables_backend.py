"""Which iptables to write to: legacy or nft, as the rest of the node does.

A node has one of them in use; rules in both see every packet twice and overrule each other. The kubelet leaves a hint: a
chain named `KUBE-IPTABLES-HINT` or `KUBE-KUBELET-CANARY` in the mangle table of the backend that it uses. Without a hint the
backend with more rules wins, and nft when there are none. The answer is a value with its reason, for the log.

Legacy tables are looked at only where they exist already: asking for one by name makes the kernel load it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kube_router.apply.kernel import iptables_tools
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.iptables import IptablesTarget
from kube_router.apply.kernel.iptables_tools import Backend, Tools
from kube_router.codec import tables
from kube_router.kit.errors import Rejected
from kube_router.model.state import Change
from kube_router.model.state.netfilter import ChainKey

AUTO: Final = "auto"
HINTS: Final = frozenset({"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"})  # made by the kubelet, Kubernetes 1.24 and later


class Choice(msgspec.Struct, frozen=True):
    """The backend to write to, why, and the tools of the other one, where installed."""

    tools: Tools
    reason: str
    other: Tools | None

    @property
    def backend(self) -> Backend:
        """The name of the backend."""
        return self.tools.backend


class _Seen(msgspec.Struct, frozen=True):
    """What a backend holds. `fault` is why it cannot be read; empty when it can."""

    hint: str = ""
    rules: int = 0
    fault: str = ""


def choose(commands: Commands, preference: str = AUTO) -> Choice:
    """The backend to use; `preference` "legacy" or "nft" decides for itself.

    Raises Rejected when what is preferred, or any backend at all, is not installed or not supported by the kernel.
    """
    found = iptables_tools.installed(commands)
    if not found:
        raise Rejected("iptables is not installed: neither iptables-save nor iptables-nft-save nor iptables-legacy-save was found")
    if preference != AUTO:
        chosen = next((tools for backend, tools in found.items() if backend == preference), None)
        if chosen is None:
            raise Rejected(f"iptables of the {preference} backend is not installed, but {' and '.join(found)} is")
        return _choice(found, chosen.backend, "it was asked for")
    seen = {backend: _look(commands, tools) for backend, tools in found.items()}
    usable = [backend for backend in iptables_tools.BACKENDS if backend in seen and not seen[backend].fault]
    if not usable:
        raise Rejected("; ".join(f"iptables ({backend}): {what.fault}" for backend, what in seen.items()))
    if len(usable) == 1:
        faults = [f"{backend} cannot be used: {what.fault}" for backend, what in seen.items() if what.fault]
        return _choice(found, usable[0], "; ".join(faults) or "no other is installed")
    for backend in usable:
        if seen[backend].hint:
            return _choice(found, backend, f"the kubelet's chain {seen[backend].hint} is there")
    most = max(usable, key=lambda backend: seen[backend].rules)  # the first of equals, which is nft
    counts = ", ".join(f"{seen[backend].rules} {backend}" for backend in usable)
    return _choice(found, most, f"no hint of the kubelet; rules: {counts}")


def clean_other(commands: Commands, choice: Choice) -> int:
    """Remove what is ours from the backend that was not chosen; returns how many chains and jumps went.

    A backend that the kernel does not support holds nothing.
    """
    if choice.other is None:
        return 0
    target = IptablesTarget(choice.other, commands)
    try:
        ours = target.observe({})
    except Rejected:
        return 0
    removals = sorted((Change(key, value, None) for key, value in ours.items()), key=lambda change: isinstance(change.key, ChainKey))
    return len(removals) - len(target.apply(removals)) if removals else 0


def _choice(found: dict[Backend, Tools], backend: Backend, reason: str) -> Choice:
    other = next((tools for name, tools in found.items() if name != backend), None)
    return Choice(found[backend], reason, other)


def _look(commands: Commands, tools: Tools) -> _Seen:
    """IPv4 first; one family that cannot be read does not matter, a kernel may be without IPv6."""
    hint, rules, faults = "", 0, []
    for save in tools.save.values():
        ran = commands.run([save])
        if not ran.well:
            faults.append(ran.errors.strip() or f"{save} ended with status {ran.code}")
            continue
        rules += sum(1 for line in ran.output.splitlines() if line.startswith("-A "))
        for name, table in tables.parse_save(ran.output, HINTS.__contains__).items():
            if table.chains and (name == "mangle" or tools.backend == "legacy"):
                hint = hint or min(table.chains)
    return _Seen(hint, rules, "; ".join(faults) if len(faults) == len(tools.save) else "")
