"""Failures of `ipset` that are not about one line: what the caller should do about each."""

from __future__ import annotations

import pytest

from kube_router.apply.kernel.ipset_run import suffices, whole_failure
from kube_router.kit.errors import Busy, Rejected
from kube_router.model.state.netfilter import SetSpec


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        # Linux 6.1 without the module ip_set
        ("ipset v7.17: Kernel error received: Invalid argument", Rejected, "the kernel has no ipset"),
        ("ipset v7.17: Kernel error received: Operation not permitted", Rejected, "Operation not permitted"),
        ("ipset v7.17: Kernel error received: Cannot allocate memory", Busy, "Cannot allocate memory"),
        ("ipset v7.17: Kernel error received: Resource temporarily unavailable", Busy, "temporarily"),
    ],
)
def test_a_failure_as_a_whole_says_what_to_do(message: str, kind: type[Exception], said: str) -> None:
    failure = whole_failure(message)
    assert type(failure) is kind
    assert said in str(failure)


@pytest.mark.parametrize(
    ("held", "wanted", "enough"),
    [
        (SetSpec("hash:ip", 4), SetSpec("hash:ip", 4), True),
        (SetSpec("hash:ip", 4, maxelem=131072), SetSpec("hash:ip", 4), True),
        (SetSpec("hash:ip", 4), SetSpec("hash:ip", 4, maxelem=131072), False),
        (SetSpec("hash:ip", 6), SetSpec("hash:ip", 4), False),
        (SetSpec("hash:net", 4), SetSpec("hash:ip", 4), False),
        (SetSpec("hash:ip timeout none", 4), SetSpec("hash:ip", 4), False),
        (SetSpec("hash:ip", 4), SetSpec("hash:ip", 4, skbinfo=True), False),
        (SetSpec("hash:ip", 4, skbinfo=True), SetSpec("hash:ip", 4), False),
    ],
)
def test_a_set_serves_when_it_is_of_the_kind_wanted_and_large_enough(held: SetSpec, wanted: SetSpec, enough: bool) -> None:
    assert suffices(held, wanted) is enough
