"""What cycles tell becomes log lines, metrics and Events, each once."""

from __future__ import annotations

import io

import pytest

from kube_router.app.reporting import Reporting, ref_of
from kube_router.cache.policies import Use
from kube_router.control.netpol import PodItem, UseItem
from kube_router.desired import Note
from kube_router.kit.errors import Busy
from kube_router.model.objects import Kind, Name, Ref
from kube_router.model.state import Change
from kube_router.model.state.bgp import Path, PathKey
from kube_router.model.state.links import LinkKey
from kube_router.telemetry import logging
from kube_router.telemetry.metrics import METRICS

WEB = Name("shop", "web")


@pytest.fixture
def log():
    stream = io.StringIO()
    logging.configure(verbosity=0, form="text", stream=stream)
    yield stream
    logging.configure(verbosity=0, form="text")


@pytest.mark.parametrize(
    ("item", "about"),
    [
        (Ref(Kind.SERVICE, WEB), Ref(Kind.SERVICE, WEB)),
        (Ref(Kind.BEST_PATH, Name("", "10.0.0.0/24")), None),
        (PodItem(WEB), Ref(Kind.POD, WEB)),
        (UseItem(Use("ingress", WEB)), Ref(Kind.NETWORK_POLICY, WEB)),
        (("host",), None),
    ],
)
def test_an_item_leads_to_the_object_that_the_api_server_knows(item, about):
    assert ref_of(item) == about


def test_a_quiet_note_goes_to_the_log_alone(log):
    events: list[Note] = []
    Reporting(events.append).note("routing", Note(Ref(Kind.NODE, WEB), "MTU", "1280, named in the file", quiet=True))
    assert events == []
    assert "1280, named in the file" in log.getvalue()


def test_a_fault_that_stays_is_told_once_and_again_after_a_good_pass(log):
    events: list[Note] = []
    reporting = Reporting(events.append)
    service = Ref(Kind.SERVICE, WEB)
    for _ in range(3):
        reporting.rejected("proxy", LinkKey("x"), (service,), "no such scheduler")
    assert [note.about for note in events] == [service]
    assert "no such scheduler" in events[0].message
    assert log.getvalue().count("no such scheduler") == 1
    reporting.good("netpol")
    reporting.rejected("proxy", LinkKey("x"), (service,), "no such scheduler")
    assert len(events) == 1
    reporting.good("proxy")
    reporting.rejected("proxy", LinkKey("x"), (service,), "no such scheduler")
    assert len(events) == 2


def test_a_changed_reason_is_news(log):
    reporting = Reporting(lambda note: None)
    reporting.failed("routing", Busy("the lock is held"))
    reporting.failed("routing", Busy("the lock is held"))
    reporting.failed("routing", Busy("the socket is gone"))
    lines = log.getvalue().splitlines()
    assert [("lock" in line, "socket" in line) for line in lines] == [(True, False), (False, True)]


def test_an_item_that_cannot_be_worked_out_is_named_and_says_what_holds(log):
    events: list[Note] = []
    Reporting(events.append).faulty("proxy", Ref(Kind.SERVICE, WEB), ValueError("odd port"))
    assert "Service shop/web" in log.getvalue()
    assert events[0].reason == "NotApplied"
    assert "last good state" in events[0].message


@pytest.mark.parametrize(
    ("prefix", "before", "after", "kind"),
    [
        ("10.244.0.0/24", None, Path("10.0.0.1"), "pod-route"),
        ("fd00:64::/64", None, Path("fd00::1"), "pod-route"),
        ("10.96.0.1/32", None, Path("10.0.0.1"), "advertise-vip"),
        ("fd00:233::1/128", Path("fd00::1"), Path("fd00::2"), "advertise-vip"),
        ("10.96.0.1/32", Path("10.0.0.1"), None, "withdraw-vip"),
        ("fd00:233::1/128", Path("fd00::1"), None, "withdraw-vip"),
        ("10.244.0.0/24", Path("10.0.0.1"), None, ""),
    ],
)
def test_announcements_are_counted_by_their_type(prefix, before, after, kind):
    def counted() -> dict[str, float]:
        types = ("pod-route", "advertise-vip", "withdraw-vip")
        return {of: METRICS.value("controller_bgp_advertisements_sent", {"type": of}) for of in types}

    before_it = counted()
    Reporting(lambda note: None).wrote("speaker", object(), [Change(PathKey(prefix), before, after)])
    assert {of: now - before_it[of] for of, now in counted().items()} == {of: int(of == kind) for of in before_it}


def test_what_is_about_to_happen_is_an_event_and_no_rejection(log):
    events: list[Note] = []
    Reporting(events.append).foretell(
        "speaker", Note(Ref(Kind.NODE, Name("", "n")), "SessionRestart", "the session with 10.0.0.1 starts anew")
    )
    assert [note.reason for note in events] == ["SessionRestart"]
    assert "the session with 10.0.0.1 starts anew" in log.getvalue()
