"""A secret is hidden by its type."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from kube_router.model.secret import REDACTED, Secret

SECRET = Secret("hunter2")


@pytest.mark.parametrize(
    "show",
    [str, repr, ascii, lambda s: f"{s}", lambda s: f"{s!r:>20}", lambda s: f"{s:>20}", lambda s: "{} {!r}".format(*[s, s]),
     lambda s: str([s]), lambda s: repr({"a": (s,)}), lambda s: str(ValueError(s)), lambda s: str(dir(s))],
)  # fmt: skip
def test_no_way_of_printing_shows_it(show: Callable[[Secret], str]) -> None:
    assert "hunter2" not in show(SECRET)


def test_only_revealing_gives_it() -> None:
    assert SECRET.reveal() == "hunter2"
    assert str(SECRET) == REDACTED


def test_it_is_a_value() -> None:
    assert Secret("hunter2") == SECRET
    assert Secret("other") != SECRET
    assert SECRET != "hunter2"
    assert len({SECRET, Secret("hunter2"), Secret("other")}) == 2
    assert SECRET
    assert not Secret("")


def test_a_copy_is_itself() -> None:
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0] is SECRET


def test_it_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(SECRET)
