"""The ledger's laws: merged state depends on the items alone, and plans lead to it from anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import LinkKey, Route, RouteKey, Sysctl, SysctlKey, through
from kube_router.plan.diff import Delta, changes, diff
from kube_router.plan.ledger import Ledger

KEYS: list[Key] = [LinkKey("a"), RouteKey("10.0.0.0/24"), RouteKey("fd00::/64"), SysctlKey("net/x")]
keys = st.sampled_from(KEYS)
values: st.SearchStrategy[Value] = st.sampled_from([Sysctl("0"), Sysctl("1"), Route(through("10.0.0.1")), Route(through("10.0.0.2"))])
states = st.dictionaries(keys, values)
items = st.sampled_from([("service", "a"), ("service", "b"), ("node", "n")])
priorities = st.sampled_from([(), (0,), (1,)])
wishes = st.lists(st.tuples(items, states, priorities), max_size=12)


def applied(actual: dict[Key, Value], steps: list[Change]) -> dict[Key, Value]:
    after = dict(actual)
    for change in steps:
        assert after.get(change.key) == change.before
        if change.after is None:
            after.pop(change.key, None)
        else:
            after[change.key] = change.after
    return after


def merged_from_nothing(wanted: dict[tuple[str, str], tuple[dict[Key, Value], tuple[int, ...]]]) -> dict[Key, Value]:
    out: dict[Key, Value] = {}
    for item, (state, _) in sorted(wanted.items(), key=lambda pair: (pair[1][1], repr(pair[0])), reverse=True):
        del item
        out.update(state)
    return out


@given(wishes)
def test_merged_state_depends_on_the_last_wish_of_each_item_alone(history):
    ledger = Ledger()
    last = {}
    for item, state, priority in history:
        ledger.want(item, state, priority)
        last[item] = (state, priority if state else ())
    assert ledger.merged == merged_from_nothing(last)
    assert {item for item, (state, _) in last.items() if state} == set(ledger.items())


@given(wishes, states)
def test_committing_what_is_pending_settles_the_ledger(history, found):
    ledger = Ledger()
    ledger.observe({LinkKey, RouteKey, SysctlKey}, found)
    for item, state, priority in history:
        ledger.want(item, state, priority)
    pending = ledger.pending()
    assert applied(found, pending) == ledger.merged
    ledger.commit(pending)
    assert ledger.pending() == []
    assert ledger.held == ledger.merged


@given(wishes, wishes, states)
def test_an_observation_replaces_what_was_believed(first, second, found):
    ledger = Ledger()
    for item, state, priority in first:
        ledger.want(item, state, priority)
    ledger.commit(ledger.pending())
    believed = dict(ledger.held)
    drifted = ledger.observe({LinkKey, RouteKey, SysctlKey}, found)
    assert set(drifted) == {k for k in believed.keys() | found.keys() if believed.get(k) != found.get(k)}
    for item, state, priority in second:
        ledger.want(item, state, priority)
    assert applied(found, ledger.pending()) == ledger.merged


@given(wishes, states)
def test_nothing_is_planned_for_kinds_that_are_not_trusted(history, found):
    ledger = Ledger()
    ledger.distrust({RouteKey})
    for item, state, priority in history:
        ledger.want(item, state, priority)
    assert not [change for change in ledger.pending() if isinstance(change.key, RouteKey)]
    routes = {k: v for k, v in found.items() if isinstance(k, RouteKey)}
    assert ledger.observe({RouteKey}, routes) == []  # nobody knew, so nothing drifted
    assert applied(routes, ledger.pending()) == ledger.merged


@given(states, states)
def test_applying_the_plan_reaches_the_desired_state(desired, actual):
    assert applied(actual, changes(diff(desired, actual), actual)) == desired


@given(states)
def test_a_settled_node_gets_an_empty_plan(state):
    assert diff(state, state) == Delta(create={}, update={}, delete=frozenset())
