"""Marks of Services: their numbers, and the book of who has which."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.app.found_marks import found_marks
from kube_router.control.marks import Holder, MarkBook, NoMark
from kube_router.desired.proxy.marks import CLUSTER, HASH, candidates, may_be
from kube_router.kit.errors import Busy
from kube_router.model.objects import Claim
from kube_router.model.state import Key, Value
from kube_router.model.state.ipvs import VirtualServerKey
from kube_router.model.state.netfilter import Leftover, LeftoverKey, Member, SetMember
from kube_router.plan.ownership import PROXY, adopted_services

# Two claims that hash to one number (the original's own test has them).
FIRST, SECOND = Claim("147.160.180.44", "TCP", 8080), Claim("147.160.180.44", "UDP", 80)


def direct(claim: Claim) -> Holder:
    return Holder(claim, "direct")


@pytest.mark.parametrize(
    ("claim", "mark"),
    [
        (Claim("1.1.1.1", "TCP", 8080), 3298),
        (Claim("10.255.0.1", "TCP", 80), 9054),
        (Claim("2001:db8::1", "TCP", 443), 9129),
        (FIRST, 15688),
        (SECOND, 15688),
    ],
)
def test_marks_are_the_originals(claim: Claim, mark: int) -> None:
    assert next(candidates(claim, "direct")) == mark
    assert next(candidates(claim, "cluster")) == CLUSTER | mark
    assert may_be(mark, claim, "direct")
    assert not may_be(mark + 1, claim, "direct")


def test_b16_no_claim_has_mark_0() -> None:
    # The first claim whose hash is 0.
    claim = next(claim for port in range(1, 65536) if _hash(claim := Claim("203.0.113.7", "TCP", port)) == 0)
    assert next(candidates(claim, "direct")) != 0
    assert set(candidates(claim, "direct")) == set(range(1, HASH + 1)), "every other number, in the end"


def _hash(claim: Claim) -> int:
    """FNV-1a, written down once more in another way."""
    digest = 2166136261
    for letter in f"{claim.address}-{claim.protocol.lower()}-{claim.port}":
        digest ^= ord(letter)
        digest = digest * 16777619 % 2**32
    return digest % 2**14


def test_u016_four_hundred_services_have_four_hundred_marks_and_those_that_go_free_exactly_theirs() -> None:
    claims = [Claim(f"203.0.113.{n % 100}", protocol, 1000 + n // 2) for n in range(200) for protocol in ("TCP", "UDP")]
    book = MarkBook()
    marks: dict[Claim, int] = {}
    for n, claim in enumerate(claims):
        mark_of, asked = book.asking()
        marks[claim] = mark_of(claim, "direct")
        book.use(n, asked)
    assert len(set(marks.values())) == 400
    assert 0 not in marks.values()
    for n in range(0, 400, 2):
        book.use(n, set())
    assert len(book) == 200
    for n, claim in enumerate(claims):
        holder = book.holder(marks[claim])
        assert (holder is None) if n % 2 == 0 else (holder == direct(claim))


def test_a_mark_is_freed_when_nobody_wants_it_and_not_before() -> None:
    book = MarkBook()
    for item in ("a", "b"):
        mark_of, asked = book.asking()
        mark = mark_of(FIRST, "direct")
        book.use(item, asked)
    book.use("a", set())
    assert book.holder(mark) == direct(FIRST)
    assert book.mark(direct(SECOND)) != mark
    book.use("b", set())
    assert book.holder(mark) is None


def test_b17_what_an_earlier_run_gave_stays_whoever_asks_first() -> None:
    second = next(mark for mark in candidates(SECOND, "direct") if mark != 15688)
    swapped = {direct(SECOND): 15688, direct(FIRST): next(m for m in candidates(FIRST, "direct") if m not in (15688, second))}
    for order in ((FIRST, SECOND), (SECOND, FIRST)):
        book = MarkBook(lambda: swapped)
        assert {direct(claim): book.mark(direct(claim)) for claim in order} == swapped


def test_what_is_found_and_never_asked_for_is_free_after_the_first_pass() -> None:
    book = MarkBook(lambda: {direct(SECOND): 15688})
    assert book.mark(direct(FIRST)) != 15688, "it may still be asked for"
    book.settle()
    assert len(book) == 1
    other = MarkBook(lambda: {direct(SECOND): 15688})
    other.use("item", {direct(SECOND)} if other.mark(direct(SECOND)) else set())
    other.settle()
    assert other.holder(15688) == direct(SECOND), "it was asked for"


def test_a_look_that_fails_gives_no_marks_and_is_made_again() -> None:
    answers = iter([Busy("somebody holds the lock"), {direct(SECOND): 15688}])

    def look() -> Mapping[Holder, int]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    book = MarkBook(look)
    with pytest.raises(Busy):
        book.mark(direct(FIRST))
    assert book.mark(direct(FIRST)) != 15688


def test_a_full_book_says_so() -> None:
    found = {Holder(Claim("203.0.113.1", "UDP", mark), "direct"): mark for mark in range(1, HASH + 1)}
    with pytest.raises(NoMark):
        MarkBook(lambda: found).mark(direct(FIRST))


steps = st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from([FIRST, SECOND, Claim("1.1.1.1", "TCP", 8080)]))), max_size=12)


@given(steps, st.booleans())
def test_no_two_have_one_mark_and_none_changes_while_it_is_used(history: list[tuple[str, set[Claim]]], found: bool) -> None:
    book = MarkBook(lambda: {direct(SECOND): 15688} if found else {})
    used: dict[str, dict[Claim, int]] = {}
    for item, claims in history:
        before = {claim: mark for marks in used.values() for claim, mark in marks.items()}
        mark_of, asked = book.asking()
        used[item] = {claim: mark_of(claim, "direct") for claim in sorted(claims)}
        book.use(item, asked)
        book.settle()
        now = {claim: mark for marks in used.values() for claim, mark in marks.items()}
        assert len(set(now.values())) == len(now)
        assert all(before[claim] == mark for claim, mark in now.items() if claim in before)
        assert len(book) == len(now)


RULE = "-d {} -p tcp -m tcp --dport 8080 -j MARK --set-xmark {}/0xffffffff"


def test_marks_are_found_in_our_sets_and_in_the_originals_rules() -> None:
    sets: dict[Key, Value] = {
        SetMember("kube-router-service-marks", "203.0.113.1,tcp:80"): Member(mark=7),
        SetMember("inet6:kube-router-cluster-marks", "2001:db8::1,udp:53"): Member(mark=0x20009),
        SetMember("kube-router-ipvs-services", "203.0.113.1,tcp:80"): Member(),
        SetMember("kube-router-service-marks", "203.0.113.2,tcp:80"): Member(mark=-1),
        SetMember("kube-router-service-marks", "203.0.113.3,tcp:80"): Member(mark=0x10000),  # whose Service has no backend
    }
    rules: dict[Key, Value] = {
        LeftoverKey(4, "mangle", "PREROUTING", RULE.format("1.1.1.1/32", "0xce2"), PROXY): Leftover(),
        LeftoverKey(4, "mangle", "OUTPUT", RULE.format("1.1.1.1/32", "0xce2"), PROXY): Leftover(),
        LeftoverKey(4, "nat", "POSTROUTING", "-j MASQUERADE", PROXY): Leftover(),
    }
    found = found_marks(sets, rules)
    assert found == {
        direct(Claim("203.0.113.1", "TCP", 80)): 7,
        Holder(Claim("2001:db8::1", "UDP", 53), "cluster"): 0x20009,
        direct(Claim("1.1.1.1", "TCP", 8080)): 3298,
    }
    ours = adopted_services((), found.values())
    assert ours(VirtualServerKey("", 0, 0, 3298, 4))
    assert not ours(VirtualServerKey("", 0, 0, 4711, 4)), "b20: a service by another mark is somebody else's"
