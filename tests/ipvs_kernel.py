"""IPVS as netlink shows it, for tests that need no kernel: it takes the real messages, keeps lists as the kernel does, and counts.

What the kernel does and this does too: a destination is added at the head of its service's list; one without its service is refused
(ESRCH), an existing one too (EEXIST), and so is a change of an absent one (ENOENT); a service takes its destinations along; all
connections of a destination that is not there end, unless the switch says that they wait.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kube_router.apply.kernel.netlink_socket import Fault, NetlinkSocket
from kube_router.codec import ipvs, ipvs_config
from kube_router.codec.netlink import NESTED, Message, Reply, attribute, attributes
from kube_router.model.names import PROTOCOLS
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeouts, VirtualServerKey

FAMILY: Final = 0x1D
NAMES: Final = {
    ipvs.NEW_SERVICE: "new service",
    ipvs.SET_SERVICE: "set service",
    ipvs.DEL_SERVICE: "delete service",
    ipvs.GET_SERVICE: "dump services",
    ipvs.NEW_DEST: "new destination",
    ipvs.SET_DEST: "set destination",
    ipvs.DEL_DEST: "delete destination",
    ipvs.GET_DEST: "dump destinations",
    ipvs_config.SET_CONFIG: "set timeouts",
    ipvs_config.GET_CONFIG: "get timeouts",
}

Backend = tuple[str, int]


class Balanced:
    """A service: raw attributes of its settings, and destinations, head of the list first, as (weight, forwarding method)."""

    def __init__(self) -> None:
        self.settings: dict[int, bytes] = {}
        self.destinations: dict[Backend, tuple[int, int]] = {}


class FakeIpvs(NetlinkSocket):
    """A netlink socket to an IPVS of its own. `said`: the commands that it was sent; `open`: connections of backends, as long as they
    last; `switch` is a file like the kernel's expire_nodest_conn; `text` prints what the kernel's text of all services would."""

    def __init__(self, switch: Path) -> None:
        self.sent = 0
        self.dumps = 0
        self.said: Counter[str] = Counter()
        self.services: dict[VirtualServerKey, Balanced] = {}
        self.timeouts = IpvsTimeouts(900, 120, 300)
        self.open: dict[DestinationKey, int] = {}
        self.broken = False  # it refuses to show anything
        self.switch = switch
        switch.write_text("1")

    def close(self) -> None:
        return

    def generic_family(self, name: str) -> int:
        return FAMILY if name == ipvs.GENL_NAME else 0

    def send(self, messages: Sequence[Message]) -> dict[int, Fault]:
        return {n: Fault(number) for n, message in enumerate(messages) if (number := self._take(message))}

    def dump(self, message: Message) -> list[Reply]:
        self.dumps += 1
        command, body = self._open(message)
        if self.broken:
            raise OSError(errno.ENOMEM, "told to fail")
        if command == ipvs.GET_SERVICE:
            return [_reply(message, attribute(1 | NESTED, _service(key, one))) for key, one in self.services.items()]
        key = ipvs.service_key(attributes(body[1]))
        if key not in self.services:
            raise OSError(errno.ESRCH, "no such service")
        return [_reply(message, attribute(2 | NESTED, _destination(at, value))) for at, value in self.services[key].destinations.items()]

    def ask(self, message: Message) -> Reply:
        self._open(message)
        seconds = (self.timeouts.tcp, self.timeouts.tcp_fin, self.timeouts.udp)
        return _reply(message, b"".join(attribute(4 + n, struct.pack("=I", value)) for n, value in enumerate(seconds)))

    def text(self) -> str:
        """As /proc/net/ip_vs."""
        lines = ["IP Virtual Server version 1.2.1 (size=4096)", "Prot LocalAddress:Port Scheduler Flags"]
        for key, one in self.services.items():
            if key.mark:
                lines.append(f"FWM  {key.mark:08X} rr")
            else:
                lines.append(f"{PROTOCOLS[key.protocol].upper()}  {_place(key.address, key.port)} rr")
            for (address, port), (weight, forward) in one.destinations.items():
                count = self.open.get(DestinationKey(key, address, port), 0)
                name = {0: "Masq", 2: "Tunnel"}[forward]
                lines.append(f"  -> {_place(address, port)}      {name}    {weight}      {count}          0")
        return "\n".join(lines) + "\n"

    def order(self, key: VirtualServerKey) -> list[str]:
        """Addresses of the destinations, head of the list first."""
        return [address for address, _ in self.services[key].destinations]

    def _open(self, message: Message) -> tuple[int, dict[int, memoryview]]:
        assert message.type == FAMILY
        command = message.payload[0]
        self.sent += 1
        self.said[NAMES[command]] += 1
        return command, attributes(memoryview(message.payload)[4:])

    def _take(self, message: Message) -> int:
        command, body = self._open(message)
        if command in (ipvs_config.SET_CONFIG, ipvs_config.GET_CONFIG):
            return self._configure(body)
        found = attributes(body[1])
        key = ipvs.service_key(found)
        if command in (ipvs.NEW_SERVICE, ipvs.SET_SERVICE, ipvs.DEL_SERVICE):
            return self._change_service(command, key, {kind: bytes(found[kind]) for kind in (6, 7, 8, 9) if kind in found})
        if key not in self.services:
            return errno.ESRCH
        real = attributes(body[2])
        weight, forward = (int.from_bytes(real[kind], "little") if kind in real else 0 for kind in (4, 3))
        return self._change_destination(command, key, _backend(real), (weight, forward))

    def _configure(self, body: dict[int, memoryview]) -> int:
        values = [int.from_bytes(body[kind], "little") if kind in body else 0 for kind in (4, 5, 6)]
        held = self.timeouts
        self.timeouts = IpvsTimeouts(values[0] or held.tcp, values[1] or held.tcp_fin, values[2] or held.udp)
        return 0

    def _change_service(self, command: int, key: VirtualServerKey, settings: dict[int, bytes]) -> int:
        if command == ipvs.NEW_SERVICE:
            if key in self.services:
                return errno.EEXIST
            self.services[key] = Balanced()
        elif key not in self.services:
            return errno.ESRCH
        if command == ipvs.DEL_SERVICE:
            for address, port in self.services.pop(key).destinations:
                self._expire(DestinationKey(key, address, port))
        else:
            self.services[key].settings = settings
        return 0

    def _change_destination(self, command: int, key: VirtualServerKey, backend: Backend, value: tuple[int, int]) -> int:
        held = self.services[key].destinations
        if command == ipvs.NEW_DEST:
            if backend in held:
                return errno.EEXIST
            self.services[key].destinations = {backend: value} | held
        elif backend not in held:
            return errno.ENOENT
        elif command == ipvs.DEL_DEST:
            del held[backend]
            self._expire(DestinationKey(key, *backend))
        else:
            held[backend] = value
        return 0

    def _expire(self, key: DestinationKey) -> None:
        if self.switch.read_text().strip() == "1":
            self.open.pop(key, None)


def _reply(request: Message, payload: bytes) -> Reply:
    return Reply(request.type, 0, 0, memoryview(bytes(4) + payload))


def _service(key: VirtualServerKey, one: Balanced) -> bytes:
    number = socket.AF_INET6 if key.family == 6 else socket.AF_INET
    body = attribute(1, struct.pack("=H", number))
    if key.mark:
        body += attribute(5, struct.pack("=I", key.mark))
    else:
        body += (
            attribute(2, struct.pack("=H", key.protocol)) + attribute(3, _packed(key.address)) + attribute(4, struct.pack("!H", key.port))
        )
    return body + b"".join(attribute(kind, value) for kind, value in one.settings.items())


def _destination(backend: Backend, value: tuple[int, int]) -> bytes:
    address, port = backend
    weight, forward = value
    return (
        attribute(1, _packed(address))
        + attribute(2, struct.pack("!H", port))
        + attribute(3, struct.pack("=I", forward))
        + attribute(4, struct.pack("=I", weight))
        + attribute(11, struct.pack("=H", socket.AF_INET6 if ":" in address else socket.AF_INET))
    )


def _backend(real: dict[int, memoryview]) -> Backend:
    six = int.from_bytes(real[11], "little") == socket.AF_INET6
    text = socket.inet_ntop(socket.AF_INET6, real[1]) if six else socket.inet_ntop(socket.AF_INET, real[1][:4])
    return text, int.from_bytes(real[2], "big")


def _packed(address: str) -> bytes:
    raw = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    return raw.ljust(16, b"\0")


def _place(address: str, port: int) -> str:
    if ":" in address:
        return f"[{socket.inet_pton(socket.AF_INET6, address).hex(':', 2)}]:{port:04X}"
    return f"{socket.inet_aton(address).hex().upper()}:{port:04X}"
