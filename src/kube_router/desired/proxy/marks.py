"""Firewall marks of Services: which number a packet to an address and port bears, so that IPVS knows it by that.

Two spaces that never meet. Direct server return keeps the original's numbers, for people and running connections know them: FNV-1a of
"address-protocol-port" in 14 bits, and where another has that number, of the text with "-1", "-2", ... behind it. Packets of this
cluster's own pods and nodes, where the traffic policy is Local, have the same number with a bit of its own set.

Which numbers are taken is not known here: see control/marks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from kube_router.model.objects import Claim

MarkKind = Literal["direct", "cluster"]
# The mark that packets to a claim bear; the same for the same claim and kind as long as anybody wants it.
MarkOf = Callable[[Claim, MarkKind], int]

HASH: Final = 0x3FFF  # the original's 14 bits
CLUSTER: Final = 0x20000  # set in marks of in-cluster packets
UNDELIVERABLE: Final = 0x10000  # the mark of packets that are too long for what they ask for, or for which there is nobody
MASK: Final = CLUSTER | UNDELIVERABLE | HASH  # of all that we put into a mark

_OFFSET: Final = 0x811C9DC5  # FNV-1a, 32 bits
_PRIME: Final = 0x01000193
_EXTRA: Final[dict[MarkKind, int]] = {"direct": 0, "cluster": CLUSTER}


def candidates(claim: Claim, kind: MarkKind) -> Iterator[int]:
    """Marks that a claim may have, the first free one being its own; never 0, which says "no mark". All of them, in the end."""
    text = f"{claim.address}-{claim.protocol.lower()}-{claim.port}"
    extra = _EXTRA[kind]
    first = _fnv(text) & HASH
    if first:
        yield first | extra
    # Hashes of such texts fall on most numbers within some thousand tries, and on the rest when these are simply counted up.
    for n in range(1, HASH + 1):
        mark = _fnv(f"{text}-{n}") & HASH
        if mark:
            yield mark | extra
    yield from (mark | extra for mark in range(1, HASH + 1))


def may_be(mark: int, claim: Claim, kind: MarkKind, *, tries: int = 64) -> bool:
    """Whether somebody who chooses as we do may have given this mark to the claim: what sets its rules apart from other people's."""
    return any(mark == candidate for _, candidate in zip(range(tries), candidates(claim, kind), strict=False))


def _fnv(text: str) -> int:
    digest = _OFFSET
    for octet in text.encode():
        digest = (digest ^ octet) * _PRIME & 0xFFFFFFFF
    return digest
