"""A target that holds a mapping, and fails on request: the kernel of the laws and scenarios.

It refuses what the real ones refuse: unknown sets, destroying sets in use, a destination without its service, a route over a
tunnel that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kube_router.kit.errors import Busy
from kube_router.model.names import is_tunnel
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import FileKey, RouteKey, SysctlKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, SetKey, SetMember
from kube_router.model.state.tunnels import FdbKey, NeighbourKey, TunnelKey


class World:
    """All state that fake targets share, foreign state included.

    `fail_at`: numbers of target calls (from 0, observe and apply of all targets counted alike) that fail; an apply that
    fails does so half way through its changes. `refuses(change)` gives a reason to refuse one change.
    """

    def __init__(self, foreign: Mapping[Key, Value] | None = None) -> None:
        self.state: dict[Key, Value] = dict(foreign or {})
        self.writes: list[Change] = []
        self.calls = 0
        self.fail_at: frozenset[int] = frozenset()
        self.refuses: Callable[[Change], str | None] = lambda change: None


class FakeTarget:
    """Holds the given kinds in a `World`; `ours` tells which keys it may see."""

    def __init__(
        self,
        world: World,
        kinds: Sequence[type[Key]],
        ours: Callable[[Key], bool] = lambda key: True,
    ) -> None:
        self.world = world
        self._kinds = tuple(kinds)
        self._ours = ours

    @property
    def kinds(self) -> tuple[type[Key], ...]:
        return self._kinds

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        if self._fails():
            raise Busy("told to fail")
        return {k: v for k, v in self.world.state.items() if type(k) in self._kinds and self._ours(k)}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        fails = self._fails()
        rejected: dict[Key, str] = {}
        for change in changes[: len(changes) // 2] if fails else changes:
            reason = self.world.refuses(change) or self._impossible(change)
            if reason:
                rejected[change.key] = reason
            else:
                self._do(change)
        if fails:
            raise Busy("told to fail half way")
        return rejected

    def _fails(self) -> bool:
        self.world.calls += 1
        return self.world.calls - 1 in self.world.fail_at

    def _impossible(self, change: Change) -> str | None:
        state = self.world.state
        match change.key:
            case DestinationKey(server=server) if change.after is not None and server not in state:
                return "no such service"
            case SetMember(set=name) if change.after is not None and SetKey(name) not in state:
                return "no such set"
            case SetKey(name=name) if change.after is None and self._set_in_use(name):
                return "set in use"
            case FdbKey(link=name) | NeighbourKey(link=name) if change.after is not None and TunnelKey(name) not in state:
                return "its link is not there"
            case RouteKey() if any(is_tunnel(hop.link) and TunnelKey(hop.link) not in state for hop in getattr(change.after, "hops", ())):
                return "its link is not there"
            case JumpKey(family=family, table=table, chain=chain) if change.after is not None:
                return None if ChainKey(family, table, chain) in state else "no such chain"
        return None

    def _set_in_use(self, name: str) -> bool:
        words = f"--match-set {name} ", f"--map-set {name} "
        return any(word in rule for word in words for v in self.world.state.values() for rule in getattr(v, "rules", ()))

    def _do(self, change: Change) -> None:
        state = self.world.state
        self.world.writes.append(change)
        if change.after is not None:
            state[change.key] = change.after
            return
        if isinstance(change.key, SysctlKey | FileKey | IpvsTimeoutsKey):
            return  # shared with the admin and with other tools: never taken back
        state.pop(change.key, None)
        match change.key:
            case VirtualServerKey():
                for key in [k for k in state if isinstance(k, DestinationKey) and k.server == change.key]:
                    del state[key]
            case SetKey(name=name):
                for key in [k for k in state if isinstance(k, SetMember) and k.set == name]:
                    del state[key]
            case TunnelKey(name=name):
                for key in [
                    k for k, v in state.items() if getattr(k, "link", "") == name or any(h.link == name for h in getattr(v, "hops", ()))
                ]:
                    del state[key]
