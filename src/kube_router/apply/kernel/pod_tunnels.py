"""Tunnels in this node's pods, for Services that are answered directly: a link that takes in what IPVS sends, the Services' addresses on
it, and where a pod listens on another port than the Service has, a translation.

    IPVS on any node --> packet in a packet to the pod's address --> eth0 --> kube-tunnel-if: the Service's address is here
        --> (nftables table `kube-router`: port of the Service becomes that of the pod) --> process --> answer over eth0 to the client

Tunnel, addresses and translations are one pod's, and made in one visit. A pod that is gone took them along. What an earlier run or the
original left is looked for in all pods, once, and later at audits, where there is reason to believe that something was ever made; a pod's
own links, addresses and tables are never touched, nor is its eth0 or any sysctl but the reverse path filter of the tunnel itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.namespaces import Gone, Namespaces, Place, Runtime, inside
from kube_router.apply.kernel.pod_ports import PodPorts
from kube_router.apply.kernel.pod_visit import Visit
from kube_router.kit.errors import TargetError
from kube_router.kit.net import family_of
from kube_router.model.state import Change, Key, State, Value
from kube_router.model.state.direct import PodPortKey, PodTunnelKey, PodVipKey

_NOT_FOUND: Final = "no network namespace of this node has the address {pod}: is the pod running, and is hostPID set for this process?"


class PodTunnelTarget:
    """Pods of the network namespace in which it was made. `before` tells whether an earlier run may have left something in pods."""

    kinds: tuple[type[Key], ...] = (PodTunnelKey, PodVipKey, PodPortKey)

    def __init__(self, commands: Commands, *, runtime: Runtime | None = None, before: Callable[[], bool] = lambda: True) -> None:
        self._lock = threading.Lock()
        self._namespaces = Namespaces(runtime=runtime)
        self._ports = PodPorts(commands)
        self._before = before
        self._made = False
        self._looked: set[int] = set()  # namespaces whose translations are known

    def close(self) -> None:
        """Give the socket back."""
        self._namespaces.close()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """What stands in pods where something is wanted, and where anything may have been left."""
        pods = {_pod(key) for key in wanted if isinstance(key, self.kinds)}
        with self._lock:
            if not pods and not self._made and not self._before():
                return {}
            # All of them, so that what nobody wants any more is found as well.
            places = {place.inode: place for place in self._namespaces.all()}
            for pod in pods:
                place = self._namespaces.find(pod)
                if place is not None:
                    places[place.inode] = place
            ports = {_pod(key) for key in wanted if isinstance(key, PodPortKey)}
            held: State = {}
            for place in places.values():
                with suppress(OSError, Gone, TargetError):
                    held |= inside(place, lambda place=place: self._look(place, ports))  # type: ignore[misc]
            self._looked &= places.keys()
            self._made = bool(held)
            return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """One visit to each pod that the changes are about; a refusal of one pod does not stop the others."""
        by_pod: dict[str, list[Change]] = {}
        for change in changes:
            by_pod.setdefault(_pod(change.key), []).append(change)
        refused: dict[Key, str] = {}
        with self._lock:
            for pod, steps in by_pod.items():
                refused |= self._visit(pod, steps)
        return refused

    def _look(self, place: Place, ports: Iterable[str]) -> State:
        visit = Visit()
        try:
            held = visit.held()
        finally:
            visit.close()
        for pod in [key.pod for key in held if isinstance(key, PodTunnelKey)]:
            if pod in ports or place.inode not in self._looked:
                held |= self._ports.held(pod)
        self._looked.add(place.inode)
        return held

    def _visit(self, pod: str, changes: Sequence[Change]) -> dict[Key, str]:
        place = self._namespaces.find(pod)
        if place is None:
            hint = f" (the runtime says: {self._namespaces.trouble})" if self._namespaces.trouble else ""
            reason = _NOT_FOUND.format(pod=pod) + hint
            return {change.key: reason for change in changes if change.after is not None}
        try:
            self._made = True
            return inside(place, lambda: self._do(pod, changes))
        except Gone:
            return {change.key: f"the pod of {pod} went meanwhile" for change in changes if change.after is not None}
        except (OSError, TargetError) as fault:
            return {change.key: f"in the pod of {pod}: {fault}" for change in changes}

    def _do(self, pod: str, changes: Sequence[Change]) -> dict[Key, str]:
        """In the pod: links and addresses by netlink, translations by one run of nft."""
        refused: dict[Key, str] = {}
        visit = Visit()
        try:
            for change in changes:
                if isinstance(change.key, PodTunnelKey | PodVipKey):
                    reason = visit.make(change)
                    if reason:
                        refused[change.key] = reason
        finally:
            visit.close()
        ports = [change for change in changes if isinstance(change.key, PodPortKey)]
        if ports:
            reason = self._ports.apply(family_of(pod), ports)
            refused |= {change.key: reason for change in ports if reason}
        return refused


def _pod(key: Key) -> str:
    assert isinstance(key, PodTunnelKey | PodVipKey | PodPortKey)
    return key.pod
