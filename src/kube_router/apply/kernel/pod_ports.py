"""Port translation in one pod by nft, run inside its network namespace (the calling thread's)."""

from __future__ import annotations

from collections.abc import Sequence

from kube_router.apply.kernel.commands import Commands
from kube_router.codec import pod_ports as codec
from kube_router.kit.errors import Busy, TargetError
from kube_router.kit.net import Family
from kube_router.model.state import Change, State
from kube_router.model.state.direct import PodPort, PodPortKey


class PodPorts:
    """Our nftables table of the namespace that the calling thread is in. One run of nft reads it, one writes it."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def held(self, pod: str) -> State:
        """What is translated for a pod's address. Raises Busy when the answer cannot be read, Rejected without nft."""
        family: Family = 6 if ":" in pod else 4
        ran = self._commands.run(codec.question(family))
        if not ran.well:
            return {}  # no such table, or no nftables in this kernel: in neither case is anything translated
        try:
            return codec.parse(pod, ran.output)
        except ValueError as fault:
            raise Busy(str(fault)) from fault

    def apply(self, family: Family, changes: Sequence[Change]) -> str:
        """Make all changes, which are of one pod and family; the reason where they cannot be made."""
        pod = changes[0].key.pod  # type: ignore[attr-defined]
        try:
            ports = self.held(pod)
            for change in changes:
                ports.pop(change.key, None)
                if change.after is not None:
                    ports[change.key] = change.after
            entries = [(key, value) for key, value in ports.items() if isinstance(key, PodPortKey) and isinstance(value, PodPort)]
            ran = self._commands.run(["nft", "--file", "-"], codec.ruleset(family, entries))
        except TargetError as fault:
            return f"ports cannot be translated: {fault}"
        if ran.well or not ports:
            return ""  # what is not there cannot be left behind
        return f"ports cannot be translated, nft says: {ran.errors.strip().splitlines()[0] if ran.errors.strip() else ran.code}"
