"""Several sources of one kind come to one kind, whatever the order in which they are heard."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.codec.objects import Decoded
from kube_router.model.objects import Kind, Name, Object, Ref, Service
from kube_router.watch.events import Event, Put, Removed, Replaced, write
from kube_router.watch.merge import Merger, Several, Single, merger

A, B = 0, 1


def service(name: str, version: int = 0) -> Service:
    return Service(name=Name("ns", name), uid=str(version))


def item(name: str, version: int = 1, *, readable: bool = True) -> Decoded:
    ref = Ref(Kind.SERVICE, Name("ns", name))
    return Decoded(ref=ref, version=str(version), object=service(name, version) if readable else None)


def ref(name: str) -> Ref:
    return Ref(Kind.SERVICE, Name("ns", name))


def by_name(replaced: Replaced) -> list[Object]:
    return sorted(replaced.objects, key=lambda value: value.name)


def ready(*, a: Iterable[Decoded] = (), b: Iterable[Decoded] = ()) -> Several:
    """Both sources listed."""
    several = Several(Kind.SERVICE, 2)
    assert several.listed(A, list(a)) == []
    several.listed(B, list(b))
    return several


def test_one_source_passes_through() -> None:
    single = merger(Kind.SERVICE, 1)
    assert isinstance(single, Single)
    assert single.listed(0, [item("x"), item("y", readable=False)]) == [
        Replaced(Kind.SERVICE, (service("x", 1),), frozenset({Name("ns", "y")}))
    ]
    assert single.put(0, item("x", 2)) == [Put(service("x", 2))]
    assert single.put(0, item("x", 3, readable=False)) == []
    assert single.removed(0, ref("x")) == [Removed(ref("x"))]


def test_nothing_is_told_before_every_source_has_listed() -> None:
    several = Several(Kind.SERVICE, 2)
    assert several.listed(B, [item("b")]) == []
    assert several.put(B, item("c", 2)) == []
    assert several.removed(B, ref("b")) == []
    several.expire(several.lingering)
    (replaced,) = several.listed(A, [item("a")])
    assert isinstance(replaced, Replaced)
    assert by_name(replaced) == [service("a", 1), service("c", 2)]


def test_a_removal_waits_and_then_counts() -> None:
    several = ready(a=[item("x")])
    assert several.removed(A, ref("x")) == []
    assert several.lingering
    assert several.expire(several.lingering) == [Removed(ref("x"))]
    assert not several.lingering
    assert several.expire(99) == []


@pytest.mark.parametrize("arrival_first", [True, False])
def test_an_object_that_moves_between_sources_is_never_gone(arrival_first: bool) -> None:
    several = ready(a=[item("x", 1)])
    events: list[Event] = []
    for arrives in (arrival_first, not arrival_first):
        events += several.put(B, item("x", 2)) if arrives else several.removed(A, ref("x"))
    events += several.expire(several.lingering)
    assert not any(isinstance(event, Removed) for event in events)
    assert events[-1] == Put(service("x", 2))


def test_a_source_that_lags_behind_does_not_bring_back_an_old_version() -> None:
    several = ready(a=[item("x", 1)])
    several.put(B, item("x", 3))
    assert several.put(A, item("x", 2)) == [Put(service("x", 3))]
    assert several.removed(A, ref("x")) == [Put(service("x", 3))]


def test_a_list_of_one_source_keeps_what_the_other_holds() -> None:
    several = ready(a=[item("a"), item("moves")], b=[item("b")])
    (replaced,) = several.listed(A, [item("a", 5)])
    assert isinstance(replaced, Replaced)
    assert by_name(replaced) == [service("a", 5), service("b", 1), service("moves", 1)]
    assert several.put(B, item("moves", 6)) == [Put(service("moves", 6))]
    assert several.expire(99) == []


def test_what_a_list_no_longer_holds_goes_after_its_time() -> None:
    several = ready(a=[item("a"), item("x")])
    several.listed(A, [item("a")])
    assert several.expire(several.lingering) == [Removed(ref("x"))]


def test_an_unreadable_object_stays_as_it_was_in_whatever_source_it_is() -> None:
    several = ready(a=[item("x", 1)])
    assert several.put(B, item("x", 2, readable=False)) == [Put(service("x", 1))]
    assert several.removed(A, ref("x")) == [Put(service("x", 1))]
    (replaced,) = several.listed(B, [item("x", 3, readable=False)])
    assert isinstance(replaced, Replaced)
    assert replaced.objects == (service("x", 1),)
    assert several.expire(99) == []


def test_an_unreadable_object_that_never_was_readable_is_named_for_whoever_remembers_it() -> None:
    several = Several(Kind.SERVICE, 2)
    several.listed(A, [item("x", readable=False), item("y", readable=False)])
    several.put(A, item("y", 2))
    several.put(A, item("z", 3, readable=False))
    (replaced,) = several.listed(B, [])
    assert replaced == Replaced(Kind.SERVICE, (service("y", 2),), frozenset({Name("ns", "x"), Name("ns", "z")}))
    several.removed(A, ref("x"))
    (replaced,) = several.listed(B, [])
    assert replaced == Replaced(Kind.SERVICE, (service("y", 2),), frozenset({Name("ns", "z")}))


# -- the law ------------------------------------------------------------------------------------------------------------

NAMES = ["x", "y"]
PLACES = [A, B, None]  # which source's selector the object matches; None: neither, or deleted
changes = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(PLACES)), max_size=12)


def told_to(source: int, history: list[tuple[str, int | None]]) -> list[tuple[str, str, int]]:
    """What the API server tells a watch of one source about a history of (name, place)."""
    place: dict[str, int | None] = dict.fromkeys(NAMES)
    told = []
    for version, (name, where) in enumerate(history, start=1):
        if where == source:
            told.append(("PUT", name, version))
        elif place[name] == source:
            told.append(("DELETED", name, version))
        place[name] = where
    return told


def hear(several: Merger, source: int, told: tuple[str, str, int]) -> list[Event]:
    what, name, version = told
    return several.put(source, item(name, version)) if what == "PUT" else several.removed(source, ref(name))


@settings(deadline=None)  # machines that run tests are busy
@given(changes, st.data())
def test_any_interleaving_ends_in_the_truth_and_no_move_looks_like_a_removal(
    history: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    impatient = data.draw(st.booleans())
    cache = Cache()
    several = Several(Kind.SERVICE, 2)
    several.listed(A, [])
    write(several.listed(B, []), cache)
    queues = {source: told_to(source, history) for source in (A, B)}
    removed: set[Name] = set()
    while any(queues.values()):
        source = data.draw(st.sampled_from([source for source, queue in queues.items() if queue]))
        events = hear(several, source, queues[source].pop(0))
        if impatient:
            events += several.expire(several.lingering)
        removed |= {event.ref.name for event in events if isinstance(event, Removed)}
        write(events, cache)
    write(several.expire(several.lingering), cache)

    last = {name: (version, place) for version, (name, place) in enumerate(history, start=1)}
    assert {(name.name, value.uid) for name, value in cache.view.services.items()} == {
        (name, str(version)) for name, (version, place) in last.items() if place is not None
    }
    if not impatient:
        stayed = {name for name in NAMES if all(place is not None for other, place in history if other == name)}
        assert not removed & {Name("ns", name) for name in stayed}
