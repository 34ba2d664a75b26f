"""Events into the cache, and faults told once."""

from __future__ import annotations

from kube_router.cache.cache import Cache
from kube_router.codec.objects import Decoded
from kube_router.codec.objects_fault import Fault
from kube_router.model.objects import Kind, Name, Namespace, Ref
from kube_router.watch.events import Batch, Put, Removed, Replaced, write
from kube_router.watch.faultbook import FaultBook
from kube_router.watch.sources import sources

X, Y = (Ref(Kind.NAMESPACE, Name("", name)) for name in "xy")


def namespace(ref: Ref, **labels: str) -> Namespace:
    return Namespace(name=ref.name, labels=labels)


def test_events_reach_the_cache_in_order_and_every_feed_is_told_once() -> None:
    cache = Cache()
    feed, other = cache.feed([Kind.NAMESPACE]), cache.feed([Kind.POD])
    events = [Replaced(Kind.NAMESPACE, (namespace(X), namespace(Y))), Put(namespace(X, a="1")), Removed(Y)]
    assert write(events, cache) == [feed]
    assert dict(cache.view.namespaces) == {X.name: namespace(X, a="1")}
    assert not other


def test_an_unreadable_object_of_a_list_stays_in_the_cache() -> None:
    cache = Cache()
    write([Replaced(Kind.NAMESPACE, (namespace(X), namespace(Y)))], cache)
    write([Replaced(Kind.NAMESPACE, (), frozenset({X.name}))], cache)
    assert set(cache.view.namespaces) == {X.name}


def test_a_batch_without_events_and_faults_is_no_news() -> None:
    assert not Batch(())
    assert Batch((Removed(X),))
    assert Batch((), (Fault(X, "f", "v", "m"),))


def faulty(ref: Ref, *fields: str) -> Decoded:
    return Decoded(ref=ref, version="1", object=None, faults=tuple(Fault(ref, field, "v", "m") for field in fields))


def test_a_fault_is_told_once_while_it_stands() -> None:
    book = FaultBook()
    assert [fault.field for fault in book.listed(0, [faulty(X, "a", "b"), faulty(Y)])] == ["a", "b"]
    assert book.listed(0, [faulty(X, "a", "b")]) == []
    assert [fault.field for fault in book.heard(0, faulty(X, "b", "c"))] == ["c"]
    assert [fault.field for fault in book] == ["b", "c"]


def test_a_fault_that_was_mended_is_told_again_when_it_comes_back() -> None:
    book = FaultBook()
    book.heard(0, faulty(X, "a"))
    assert book.heard(0, faulty(X)) == []
    assert list(book) == []
    assert len(book.heard(0, faulty(X, "a"))) == 1
    book.gone(0, X)
    assert len(book.heard(0, faulty(X, "a"))) == 1
    book.listed(0, [])
    assert list(book) == []


def test_faults_of_one_source_do_not_end_with_a_list_of_another() -> None:
    book = FaultBook()
    book.listed(0, [faulty(X, "a")])
    book.listed(1, [])
    assert [fault.ref for fault in book] == [X]


def test_sources_leave_out_headless_services_and_those_of_other_proxies() -> None:
    queries = [source.query(limit="5") for source in sources(Kind.SERVICE)]
    assert queries == [
        {
            "labelSelector": "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless",
            "fieldSelector": "spec.clusterIP!=None",
            "limit": "5",
        },
        {
            "labelSelector": "service.kubernetes.io/service-proxy-name=kube-router,!service.kubernetes.io/headless",
            "fieldSelector": "spec.clusterIP!=None",
            "limit": "5",
        },
    ]
    (slices,) = sources(Kind.ENDPOINT_SLICE)
    assert slices.query() == {"labelSelector": "!service.kubernetes.io/headless"}
