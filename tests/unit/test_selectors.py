"""The index of selectors answers as asking every selector would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube_router.cache.selectors import Selection, SelectorIndex, identity, selection_id
from kube_router.model.objects import Requirement, Selector
from tests.walk.clusters import NAMESPACES, labels, selectors

selections = st.builds(Selection, st.sampled_from(NAMESPACES), st.none() | selectors, selectors).map(
    lambda s: s if s.namespaces is None else Selection("", s.namespaces, s.pods)
)
keyed = st.lists(st.tuples(st.integers(0, 5), st.none() | selections), max_size=14)
asked = st.tuples(st.sampled_from(NAMESPACES), st.none() | labels, labels)


@given(keyed, st.lists(asked, min_size=1, max_size=6))
def test_it_finds_what_asking_every_selection_finds_whatever_was_filed_before(history, questions):
    index: SelectorIndex[int] = SelectorIndex()
    left: dict[int, Selection] = {}
    for key, selection in history:
        if selection is None:
            index.remove(key)
            left.pop(key, None)
        else:
            index.put(key, selection)
            left[key] = selection
    assert {key: index[key] for key in index} == left
    assert len(index) == len(left)
    for namespace, namespace_labels, pod_labels in questions:
        found = index.matching(namespace, namespace_labels, pod_labels)
        expected = sorted(key for key, one in left.items() if one.matches(namespace, namespace_labels, pod_labels))
        assert sorted(found) == expected
        reached = {key for key, one in left.items() if one.reaches(namespace, namespace_labels)}
        assert index.reaching(namespace, namespace_labels) == reached


def test_nothing_is_left_of_what_was_removed():
    index: SelectorIndex[str] = SelectorIndex()
    index.put("a", Selection("x", None, Selector((Requirement("app", "In", ("a", "b")),))))
    index.put("a", Selection("", Selector(), Selector((Requirement("app", "Exists"),))))
    index.remove("a")
    index.remove("a")
    assert index.matching("x", {}, {"app": "a"}) == []
    assert "a" not in index
    assert not index._tables


def test_an_expression_without_values_matches_nothing():
    index: SelectorIndex[str] = SelectorIndex()
    index.put("none", Selection("x", None, Selector((Requirement("app", "In", ()),))))
    assert index.matching("x", {}, {"app": ""}) == []


class Asked(dict[str, str]):
    """Labels that count how often a selector asks for one."""

    times = 0

    def get(self, *arguments):
        self.times += 1
        return super().get(*arguments)


def test_a_pod_among_thousands_of_selections_is_held_against_few():
    index: SelectorIndex[int] = SelectorIndex()
    for n in range(2000):
        app = Selector((Requirement("app", "In", (f"app-{n}",)), Requirement("tier", "In", ("web",))))
        index.put(n, Selection("x", None, app))
    asked = Asked(app="app-7", tier="web")
    assert index.matching("x", {}, asked) == [7]
    assert asked.times < 10


def test_a_selection_has_one_identity_whoever_asks_and_differs_from_its_likes():
    app = Selector((Requirement("app", "In", ("a",)),))
    own, elsewhere, everywhere = Selection("x", None, app), Selection("y", None, app), Selection("", Selector(), app)
    identities = {selection_id(one) for one in (own, elsewhere, everywhere, Selection("x", None, Selector()), Selection("", app))}
    assert len(identities) == 5
    assert selection_id(Selection("x", None, app)) == selection_id(own)
    assert all(len(one) == 16 for one in identities)


def test_parts_of_an_identity_do_not_run_together():
    assert identity("a", "bc") != identity("ab", "c")
    assert identity("a", "") != identity("a")
