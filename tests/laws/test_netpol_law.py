"""The law for network policy: whatever happened in between, the node holds what a fresh start over the same objects makes of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.cache.policies import PolicyIndex
from kube_router.control.netpol import NetpolController
from kube_router.model.objects import Kind, Name
from kube_router.model.state import Key, Value
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.engine import Event, assert_law, objects_of
from tests.walk.clusters import CROWDED, namespaces, pods, policies
from tests.walk.paths import node_options

FOREIGN: dict[Key, Value] = {
    SetKey("theirs"): SetSpec("hash:ip", 4),
    SetMember("theirs", "10.0.1.1"): Member(),
    ChainKey(4, "filter", "DOCKER-USER"): Chain(("-j RETURN",)),
    JumpKey(4, "filter", "FORWARD", "DOCKER-USER"): Jump(),
}

some_pods = st.integers(1, 4).flatmap(lambda number: pods(number, shared=True))
departures = st.one_of(
    st.tuples(st.just(Kind.POD), st.builds(Name, st.sampled_from(CROWDED), st.sampled_from(["pod1", "pod2", "pod3"]))),
    st.tuples(st.just(Kind.NETWORK_POLICY), st.builds(Name, st.sampled_from(CROWDED), st.sampled_from(["p", "q", "yp"]))),
    st.tuples(st.just(Kind.NAMESPACE), st.sampled_from(CROWDED).map(lambda name: Name("", name))),
)
events = st.one_of(some_pods, some_pods, policies, policies, namespaces, departures)
histories = st.lists(events, min_size=4, max_size=24)
numbers = st.frozensets(st.integers(0, 60), max_size=8)


def controller() -> NetpolController:
    return NetpolController(node_options("n1", run_router=False))


@given(histories, numbers, numbers, st.none() | numbers)
@settings(max_examples=60, deadline=None)
def test_incremental_equals_from_nothing_after_any_events_failures_and_restarts(history, fail_at, restart_at, sync_at):
    assert_law(controller, history, fail_at=fail_at, restart_at=restart_at, sync_at=sync_at, foreign=FOREIGN)


def told(cache: Cache, event: Event) -> None:
    if isinstance(event, tuple) and not hasattr(event, "__struct_fields__"):
        cache.remove(*event)
    else:
        cache.put(event)  # type: ignore[arg-type]


@given(histories, st.none() | numbers)
@settings(max_examples=120, deadline=None)
def test_the_index_after_any_history_is_the_index_of_the_objects_that_are_left(history, look_at):
    cache = Cache()
    feed = cache.feed(NetpolController.reads)
    index = PolicyIndex("n1")
    for n, event in enumerate(history):
        told(cache, event)
        if look_at is None or n in look_at:
            index.refresh(feed.take(), cache.view)
    changes = feed.take()
    index.refresh(changes, cache.view)
    fresh_cache = Cache()
    fresh_feed = fresh_cache.feed(NetpolController.reads)
    for value in objects_of(cache):
        fresh_cache.put(value)
    fresh = PolicyIndex("n1")
    fresh.refresh(fresh_feed.take(), fresh_cache.view)
    assert index.facts() == fresh.facts()
    assert not index.refresh(changes, cache.view).classes, "taking in the same changes twice changes nothing"
    assert index.facts() == fresh.facts()


@given(histories)
@settings(max_examples=60, deadline=None)
def test_whose_answer_changes_is_always_touched(history):
    """`want` is asked only of what `touched` names: everything else must still say what it said."""
    cache = Cache()
    one = controller()
    feed = cache.feed(one.reads)
    answers: dict = {}
    for event in history:
        told(cache, event)
        for item in one.touched(feed.take(), cache.view):
            answers[item] = one.want(item, cache.view)
        for item, answer in answers.items():
            assert one.want(item, cache.view) == answer, item
