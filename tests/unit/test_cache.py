"""Stores, their indexes, and who is told about which change."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache, View
from kube_router.cache.store import Store
from kube_router.model.objects import Kind, Name, Namespace, Node, Pod, Ref


def pod(name: str, *, node: str = "n1", ips: tuple[str, ...] = (), phase: str = "") -> Pod:
    return Pod(name=Name("ns", name), node_name=node, ips=ips, phase=phase)


NAMES = [Name("ns", name) for name in "abc"]
pods = st.builds(
    Pod,
    name=st.sampled_from(NAMES),
    node_name=st.sampled_from(["n1", "n2"]),
    ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), unique=True).map(tuple),
)
steps = st.lists(pods | st.sampled_from(NAMES))


@settings(deadline=None)  # machines that run tests are busy
@given(steps)
def test_an_index_kept_up_with_changes_is_the_index_built_from_nothing(history: list[Pod | Name]) -> None:
    store = Store[Pod](ip=lambda p: p.ips, node=lambda p: (p.node_name,))
    expected: dict[Name, Pod] = {}
    for step in history:
        if isinstance(step, Pod):
            assert store.put(step.name, step) == expected.get(step.name)
            expected[step.name] = step
        else:
            assert store.remove(step) == expected.pop(step, None)
    assert dict(store) == expected
    for ip in ("10.0.0.1", "10.0.0.2"):
        assert store.by("ip", ip) == [expected[name] for name in sorted(expected) if ip in expected[name].ips]
    for node in ("n1", "n2"):
        assert store.by("node", node) == [expected[name] for name in sorted(expected) if expected[name].node_name == node]


def test_a_word_that_nobody_bears_leaves_nothing_behind() -> None:
    store = Store[Pod](ip=lambda p: p.ips)
    for n in range(100):
        store.put(NAMES[0], pod("a", ips=(f"10.0.0.{n}",)))
    store.remove(NAMES[0])
    assert store.by("ip", "10.0.0.99") == []
    assert store._indexes == {"ip": {}}


def test_a_feed_gets_what_the_object_was_when_it_last_looked() -> None:
    cache = Cache()
    feed = cache.feed([Kind.POD])
    first, second, third = (pod("a", phase=phase) for phase in ("1", "2", "3"))
    cache.put(first)
    assert feed.take() == {Ref(Kind.POD, NAMES[0]): None}
    cache.put(second)
    cache.put(third)
    assert feed.take() == {Ref(Kind.POD, NAMES[0]): first}
    cache.remove(Kind.POD, NAMES[0])
    assert feed.take() == {Ref(Kind.POD, NAMES[0]): third}
    assert not feed


def test_an_equal_object_is_no_news() -> None:
    cache = Cache()
    feed = cache.feed([Kind.POD])
    assert cache.put(pod("a")) == [feed]
    assert cache.put(pod("a")) == []


def test_only_feeds_of_the_kind_are_told() -> None:
    cache = Cache()
    pods_feed, nodes_feed, both = cache.feed([Kind.POD]), cache.feed([Kind.NODE]), cache.feed([Kind.POD, Kind.NODE])
    assert cache.put(pod("a")) == [pods_feed, both]
    assert cache.put(Node(name=Name("", "n"))) == [nodes_feed, both]


def test_a_late_feed_has_everything_to_see() -> None:
    cache = Cache()
    cache.put(pod("a"))
    assert dict(cache.feed([Kind.POD]).take()) == {Ref(Kind.POD, NAMES[0]): None}


def test_forgetting_the_unknown_tells_nobody() -> None:
    cache = Cache()
    feed = cache.feed([Kind.POD])
    assert cache.remove(Kind.POD, NAMES[0]) == []
    assert not feed


def test_a_complete_list_removes_what_it_does_not_hold() -> None:
    cache = Cache()
    feed = cache.feed([Kind.POD])
    a, b, c = (pod(name) for name in "abc")
    cache.replace(Kind.POD, [a, b])
    feed.take()
    assert cache.replace(Kind.POD, [b, c]) == [feed]
    assert feed.take() == {Ref(Kind.POD, a.name): a, Ref(Kind.POD, c.name): None}
    assert dict(cache.view.pods) == {b.name: b, c.name: c}


def test_an_object_that_is_listed_but_unreadable_stays_as_it_was() -> None:
    cache = Cache()
    a, b, c = (pod(name) for name in "abc")
    cache.replace(Kind.POD, [a, b])
    cache.replace(Kind.POD, [b], keep=[a.name, c.name])
    assert dict(cache.view.pods) == {a.name: a, b.name: b}


def test_the_first_list_of_a_kind_is_news_even_when_it_is_empty() -> None:
    cache = Cache()
    feed = cache.feed([Kind.POD, Kind.NAMESPACE])
    assert not cache.listed([Kind.POD])
    assert cache.replace(Kind.POD, []) == [feed]
    assert cache.listed([Kind.POD])
    assert cache.unlisted([Kind.POD, Kind.NAMESPACE]) == [Kind.NAMESPACE]
    assert cache.replace(Kind.POD, []) == []


@settings(deadline=None)  # machines that run tests are busy
@given(st.lists(st.lists(pods, max_size=4), max_size=4))
def test_a_list_leaves_the_same_as_its_single_changes(lists: list[list[Pod]]) -> None:
    cache = Cache()
    for objects in lists:
        cache.replace(Kind.POD, objects)
        assert dict(cache.view.pods) == {p.name: p for p in objects}


def test_every_kind_has_a_store() -> None:
    view = View()
    assert len({id(view.store(kind)) for kind in Kind}) == len(Kind)


def test_stores_are_told_apart_by_the_class_of_the_object() -> None:
    cache = Cache()
    cache.put(Namespace(name=Name("", "x")))
    cache.put(Node(name=Name("", "x")))
    assert (len(cache.view.namespaces), len(cache.view.nodes)) == (1, 1)
