"""Pods for tests: a namespace with a process in it, and a link that joins it to the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lab.kernel_netns import Netns


@contextmanager
def pod(host: Netns, make: Callable[[], Netns], name: str, *addresses: str, to: Sequence[str] = ()) -> Iterator[Netns]:
    """A pod of `host` with these addresses (with lengths) on eth0; `to`: where the other end of its link goes, as `ip link set` has it."""
    inside = make()
    host.run(["ip", "link", "add", f"veth-{name}", "type", "veth", "peer", "name", "eth0", "netns", inside.path])
    host.run(["ip", "link", "set", f"veth-{name}", "up", *to])
    for address in addresses:
        inside.run(["ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else [])])
    inside.run("ip link set eth0 up")
    process = inside.start(["sleep", "600"])
    try:
        yield inside
    finally:
        process.kill()
        process.wait()
        inside.close()
