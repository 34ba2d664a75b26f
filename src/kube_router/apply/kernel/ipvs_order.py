"""The order of a service's destinations, which schedulers that hash choose by (sh, dh, mh).

The kernel adds a destination at the head of its list and knows no other place. So the order that all nodes agree on is that of keys
from the tail to the head: whoever adds in order of keys has it. A destination that comes later with a lesser key gets its place by
taking out those that belong before it, and adding them again. Each keeps its connections: the kernel holds a removed destination
for two minutes and gives the same one back, as long as `expire_nodest_conn` does not end its connections meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kube_router.kit.errors import Stale
from kube_router.model.state import Key

EXPIRE: Final = Path("/proc/sys/net/ipv4/vs/expire_nodest_conn")


def is_ordered(head_first: Iterable[Key]) -> bool:
    """Whether a list of destinations, as the kernel shows it, is in order."""
    keys = list(head_first)
    return keys == sorted(keys, reverse=True)


def misplaced(head_first: Iterable[Key]) -> list[Key]:
    """Those to take out and add again, one after the other in this order, so that the list is in order: as few as that allows."""
    place = {key: n for n, key in enumerate(reversed(list(head_first)))}
    wanted = sorted(place)
    last = -1
    for n, key in enumerate(wanted):
        if place[key] < last:
            return wanted[n:]
        last = place[key]
    return []


@contextmanager
def connections_kept(switch: Path = EXPIRE) -> Iterator[None]:
    """Meanwhile connections whose destination is not there wait for it."""
    try:
        before = switch.read_text()
        switch.write_text("0")
    except OSError as fault:
        raise Stale(f"{switch} cannot be written, so destinations stay in another order: {fault}") from fault
    try:
        yield
    finally:
        switch.write_text(before)
