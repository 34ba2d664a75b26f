"""UDP ports on which the kernel takes in generic UDP encapsulation.

It loads the kernel's modules when a listener is to be made, and never to look: what is not loaded holds nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.netlink_socket import GENERIC, NetlinkTarget
from kube_router.codec import fou as codec
from kube_router.codec.netlink import Reply
from kube_router.kit.errors import Busy, TargetError
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.tunnels import Fou, FouKey

# fou6 adds the encapsulation to IPv6 tunnels; nothing in the kernel asks for it by itself.
_MODULES: Final = ("fou", "fou6")
_STANDS: Final = frozenset({errno.EALREADY, errno.EEXIST})
_ABSENT: Final = frozenset({errno.EINVAL, errno.ENOENT})


class FouTarget(NetlinkTarget):
    """Listeners in the network namespace in which it was made. `ports` are those on which a listener is ours."""

    kinds: tuple[type[Key], ...] = (FouKey,)

    def __init__(self, commands: Commands, ports: Callable[[], Collection[int]]) -> None:
        super().__init__(GENERIC)
        self._commands = commands
        self._ports = ports

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our listeners; one that need not be made counts as there."""
        held: dict[Key, Value] = {key: wish for key, wish in wanted.items() if isinstance(wish, Fou) and not wish.make}
        with self._lock:
            number = self._number()
            for reply in self._dump(number) if number else ():
                found = codec.parse(reply)
                key = FouKey(found.family, found.port)
                if found.gue and (key in wanted or found.port in self._ports()):
                    held[key] = wanted.get(key, Fou())
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Open and close; a refusal names the port's other user where there is one."""
        refused: dict[Key, str] = {}
        with self._lock:
            for change in changes:
                assert isinstance(change.key, FouKey)
                wish = change.after
                reason = ""
                if wish is None:
                    reason = self._close(change.key)
                elif isinstance(wish, Fou) and wish.make:
                    reason = self._open(change.key)
                if reason:
                    refused[change.key] = reason
        return refused

    def _open(self, key: FouKey) -> str:
        trouble = self._load()
        number = self._number()
        if not number:
            return f"this kernel has no module fou, which --overlay-encap=fou needs{trouble}"
        faults = self._socket.send([codec.add(number, key.family, key.port)])
        fault = faults.get(0)
        if fault is None or fault.number in _STANDS:
            return ""
        if fault.number == errno.EADDRINUSE:
            listeners = (codec.parse(reply) for reply in self._dump(number))
            if any((one.family, one.port, one.gue) == (key.family, key.port, True) for one in listeners):
                return ""
            return f"UDP port {key.port} of --overlay-encap-port is another's ({fault})"
        return str(fault)

    def _close(self, key: FouKey) -> str:
        number = self._number()
        faults = self._socket.send([codec.delete(number, key.family, key.port)]) if number else {}
        fault = faults.get(0)
        return "" if fault is None or fault.number in _ABSENT else str(fault)

    def _load(self) -> str:
        """Ask for the modules; what came of it, for people."""
        troubles = []
        for module in _MODULES:
            try:
                done = self._commands.run(["modprobe", module])
            except TargetError as failure:
                troubles.append(str(failure))
            else:
                troubles += [] if done.well else [done.errors.strip()]
        return f" (modprobe: {'; '.join(troubles)})" if troubles else ""

    def _number(self) -> int:
        try:
            return self._socket.loaded_family(codec.NAME)
        except OSError as fault:
            raise Busy(f"cannot list netlink families: {fault}") from fault

    def _dump(self, number: int) -> list[Reply]:
        try:
            return self._socket.dump(codec.dump(number))
        except OSError as fault:
            raise Busy(f"cannot list listeners: {fault}") from fault
