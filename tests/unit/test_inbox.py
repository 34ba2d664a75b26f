"""What watchers see passes the gate of annotations on its way into the cache."""

from __future__ import annotations

import pytest

from kube_router.app.inbox import Inbox
from kube_router.cache.cache import Cache
from kube_router.codec.accepted import Gate
from kube_router.model.objects import Kind, Name, Node, Ref
from kube_router.watch.events import Batch, Event, Put, Removed, Replaced

OWN = Name("", "node1")
ASN = "kube-router.io/node.asn"


def node(asn: str) -> Node:
    return Node(OWN, annotations={ASN: asn})


@pytest.mark.parametrize(
    ("events", "asn"),
    [
        ([Put(node("65001"))], "65001"),
        ([Put(node("65001")), Put(node("many"))], "65001"),
        ([Replaced(Kind.NODE, (node("65001"),)), Replaced(Kind.NODE, (node("many"),))], "65001"),
        ([Put(node("65001")), Removed(Ref(Kind.NODE, OWN)), Put(node("many"))], None),
        ([Put(node("65001")), Replaced(Kind.NODE, ()), Put(node("many"))], None),
        ([Put(node("65001")), Replaced(Kind.NODE, (), frozenset({OWN})), Put(node("many"))], "65001"),
        ([Put(node("65001")), Replaced(Kind.SERVICE, ()), Put(node("many"))], "65001"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_wrong_text_never_reaches_the_cache(events: list[Event], asn: str | None, together: bool) -> None:
    cache = Cache()
    inbox = Inbox(cache, gate=Gate(OWN), fault=lambda fault: None, seen=lambda kind, number: None)
    for batch in [tuple(events)] if together else [(event,) for event in events]:
        inbox(Batch(batch))
    assert cache.view.nodes[OWN].annotations.get(ASN) == asn
