"""Label and field selectors of the lab's API server."""

from __future__ import annotations

import pytest

from lab.api.problem import Problem
from lab.api.selectors import field_selector, label_selector, simple_selector

WEB = {"app": "web", "tier": "front", "example.com/zone": "a"}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=db", False),
        ("app=", False),
        ("app!=web", False),
        ("app!=db", True),
        ("missing!=x", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! missing", True),
        ("!app", False),
        ("app in (web,db)", True),
        ("app in (db, cache)", False),
        ("app notin (db)", True),
        ("app notin (web)", False),
        ("missing notin (x)", True),
        ("missing in (x)", False),
        ("app in (web,db),tier=front,!missing", True),
        ("app in (web,db),tier!=front", False),
        ("example.com/zone=a", True),
        ("!example.com/other", True),
    ],
)
def test_a_label_selector_means_what_the_api_says(text: str, holds: bool) -> None:
    assert label_selector(text).matches(WEB) is holds


@pytest.mark.parametrize("text", ["app=web=x", "app in web", "(a)", "a b", "=x", "app in (a", "-app"])
def test_a_label_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        label_selector(text)
    assert caught.value.code == 400


KNOWN = frozenset({"metadata.name", "spec.nodeName"})


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("", True),
        ("spec.nodeName=node1", True),
        ("spec.nodeName==node1", True),
        ("spec.nodeName!=node1", False),
        ("spec.nodeName!=", True),
        ("spec.nodeName=", False),
        ("metadata.name=a,spec.nodeName!=node2", True),
    ],
)
def test_a_field_selector_means_what_the_api_says(text: str, holds: bool) -> None:
    fields = {"metadata.name": "a", "spec.nodeName": "node1"}
    assert field_selector(text, known=KNOWN).matches(fields) is holds


@pytest.mark.parametrize("text", ["spec.other=x", "spec.nodeName", "spec.nodeName in (a)"])
def test_a_field_selector_names_known_fields_only(text: str) -> None:
    with pytest.raises(Problem) as caught:
        field_selector(text, known=KNOWN)
    assert caught.value.code == 400


def test_a_service_selects_by_all_of_its_labels() -> None:
    assert simple_selector({"app": "web", "tier": "front"}).matches(WEB)
    assert not simple_selector({"app": "web", "tier": "back"}).matches(WEB)
