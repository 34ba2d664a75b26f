"""One source against a scripted API server: what is asked, what is believed, what is delivered."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from kube_router.codec.objects import Decoded, Signal
from kube_router.kit.apiserver import ApiError
from kube_router.model.objects import Kind
from kube_router.watch.gate import Backoff, Gate
from kube_router.watch.sources import Source, sources
from kube_router.watch.stream import Stream, Timing

Query = Mapping[str, str]
Step = Callable[[], "FakeReply"]
NOW = Timing(page=2, backoff=Backoff(first=0.0, most=0.0))
OWN = "node-1"


class FakeReply:
    """A body in pieces; one that is an exception is raised when its turn comes."""

    def __init__(self, pieces: Iterable[bytes | ApiError], *, server: str = "http://one") -> None:
        self.server = server
        self._pieces = list(pieces)

    def piece(self) -> bytes:
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, ApiError):
            raise piece
        return piece

    def read(self) -> bytes:
        whole = b""
        while piece := self.piece():
            whole += piece
        return whole

    def interrupt(self) -> None:
        self._pieces = []

    def close(self) -> None:
        self._pieces = []


class Script:
    """A client that answers by a script, notes what it was asked, and ends the stream with the last answer."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = list(steps)
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.end: Callable[[], None] = lambda: None

    def get(self, path: str, query: Query | None = None, *, read_timeout: float, server: str = "", compressed: bool = False) -> FakeReply:
        if len(self.steps) == 1:
            self.end()
        self.asked.append((path.rpartition("/")[2], dict(query or {}), server))
        return self.steps.pop(0)()

    @property
    def verbs(self) -> list[str]:
        """What was asked, in short: the list's continue token, or the version that a watch began from."""
        return [
            f"watch {query['resourceVersion']}" if "watch" in query else f"{path} {query.get('continue', '')}".strip()
            for path, query, _ in self.asked
        ]


class Ears:
    """Notes what was delivered."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def listed(self, source: int, items: Sequence[Decoded]) -> bool:
        self.heard.append([item.ref.name.name for item in items])
        return True

    def changed(self, source: int, signals: Sequence[Signal]) -> bool:
        self.heard += [f"{signal.type} {signal.decoded.ref.name.name}" for signal in signals if signal.decoded]
        return True


def page(*names: str, version: int = 10, token: str = "", **metadata: Any) -> Step:
    body = {
        "metadata": {"resourceVersion": str(version), "continue": token, **metadata},
        "items": [{"metadata": {"name": name, "resourceVersion": str(version)}} for name in names],
    }
    return lambda: FakeReply([json.dumps(body).encode()])


def line(kind: str, name: str, version: int) -> bytes:
    return json.dumps({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d"}}}\n' % version


def error(code: int) -> bytes:
    return b'{"type":"ERROR","object":{"kind":"Status","code":%d,"message":"told to"}}\n' % code


def watch(*pieces: bytes | ApiError) -> Step:
    return lambda: FakeReply(pieces)


def fails(status: int, *, retry_after: float | None = None) -> Step:
    def step() -> FakeReply:
        raise ApiError(status, "told to", retry_after=retry_after)

    return step


CUT = ApiError(0, "connection reset")


def play(*steps: Step, kind: Kind = Kind.NAMESPACE, source: Source | None = None, own: str = OWN) -> tuple[Script, Ears, Stream]:
    """Run a stream through a script, to its end."""
    script, ears = Script(steps), Ears()
    stream = Stream(
        source or sources(kind)[0],
        0,
        client=script,
        gate=Gate(NOW.backoff, clock=time.monotonic, random=lambda: 0.0),
        audience=ears,
        own_node=own,
        timing=NOW,
        clock=time.monotonic,
        random=lambda: 0.5,
    )
    script.end = stream.stop
    stream.run()
    assert not script.steps
    return script, ears, stream


# -- listing --------------------------------------------------------------------------------------------------------------


def test_a_list_comes_in_pages_and_is_delivered_as_a_whole() -> None:
    script, ears, stream = play(page("a", "b", token="t1"), page("c", "d", token="t2"), page("e"), watch())
    assert script.verbs == ["namespaces", "namespaces t1", "namespaces t2", "watch 10"]
    assert ears.heard == [["a", "b", "c", "d", "e"]]
    assert stream.status.listed


def test_requests_carry_selectors_limits_and_bookmarks() -> None:
    source = Source(Kind.SERVICE, "/api/v1/services", labels="!x", fields="spec.clusterIP!=None")
    script, _, _ = play(page("a"), watch(), source=source)
    (_, listing, _), (_, watching, _) = script.asked
    assert listing == {"labelSelector": "!x", "fieldSelector": "spec.clusterIP!=None", "limit": "2"}
    assert watching == {
        "labelSelector": "!x",
        "fieldSelector": "spec.clusterIP!=None",
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": "10",
        "timeoutSeconds": "450",
    }


def test_pages_of_one_list_come_from_one_server() -> None:
    script, _, _ = play(page("a", token="t1"), page("b"), watch())
    assert [server for _, _, server in script.asked] == ["", "http://one", ""]


def test_a_watch_begins_where_the_first_page_was() -> None:
    script, _, _ = play(page("a", version=10, token="t1"), page("b", version=12), watch())
    assert script.verbs[-1] == "watch 10"


@pytest.mark.parametrize(
    "trouble", [fails(500), fails(0), fails(410), watch(b'{"metadata": {"resourceVersion": "1"}, "items": [{'), watch(CUT)]
)
def test_a_list_that_breaks_off_is_begun_again_and_nothing_of_it_is_delivered(trouble: Step) -> None:
    script, ears, stream = play(page("a", token="t1"), trouble, page("a", token="t9"), page("b"), watch())
    assert script.verbs == ["namespaces", "namespaces t1", "namespaces", "namespaces t9", "watch 10"]
    assert ears.heard == [["a", "b"]]
    assert stream.status.error == ""


def test_a_list_that_ends_before_what_the_server_says_is_left_is_not_believed() -> None:
    _, ears, _ = play(page("a", remainingItemCount=5), page("a", "b"), watch())
    assert ears.heard == [["a", "b"]]


def test_where_pages_keep_expiring_the_list_is_asked_for_in_one_piece() -> None:
    script, ears, _ = play(page("a", token="t1"), fails(410), page("a", token="t2"), fails(410), page("a", "b", "c"), watch())
    assert [query.get("limit") for _, query, _ in script.asked] == ["2", "2", "2", "2", None, None]
    assert ears.heard == [["a", "b", "c"]]


def test_a_bad_item_is_delivered_as_such_with_its_neighbours() -> None:
    body = b'{"metadata": {"resourceVersion": "10"}, "items": [{"metadata": {"name": "a", "labels": 5}}, {"metadata": {"name": "b"}}]}'
    _, ears, _ = play(watch(body), watch())
    assert ears.heard == [["a", "b"]]


# -- empty lists ------------------------------------------------------------------------------------------------------------


def test_an_empty_list_counts_when_the_same_server_knows_this_node() -> None:
    script, ears, stream = play(page(), watch(b"{}"), watch())
    assert script.verbs == ["namespaces", OWN, "watch 10"]
    assert script.asked[1][2] == "http://one"
    assert ears.heard == [[]]
    assert stream.status.listed


def test_an_empty_list_from_a_server_that_does_not_know_this_node_is_not_believed() -> None:
    script, ears, stream = play(page("a"), watch(error(410)), page(), fails(404), page(), fails(404))
    assert script.verbs == ["namespaces", "watch 10", "namespaces", OWN, "namespaces", OWN]
    assert ears.heard == [["a"]]
    assert stream.status.error == "a list of 0 Namespace from a server that does not know this node (node-1)"


def test_an_empty_list_of_nodes_is_never_believed() -> None:
    script, ears, stream = play(page(), page("other"), watch(), kind=Kind.NODE)
    assert script.verbs == ["nodes", "nodes", "watch 10"]
    assert ears.heard == [["other"]]
    assert stream.status.error == ""


def test_what_was_empty_before_may_be_empty_again_without_a_question() -> None:
    script, ears, _ = play(page(), watch(b"{}"), watch(error(410)), page(version=20), watch())
    assert script.verbs == ["namespaces", OWN, "watch 10", "namespaces", "watch 20"]
    assert ears.heard == [[], []]


def test_after_an_object_was_there_an_empty_list_is_questioned_again() -> None:
    script, ears, _ = play(page(), watch(b"{}"), watch(line("ADDED", "a", 11), error(410)), page(version=20), watch(b"{}"), watch())
    assert script.verbs == ["namespaces", OWN, "watch 10", "namespaces", OWN, "watch 20"]
    assert ears.heard == [[], "ADDED a", []]


def test_a_server_that_fails_when_asked_for_this_node_is_asked_again() -> None:
    _, ears, stream = play(page(), fails(500), page(), watch(b"{}"), watch())
    assert ears.heard == [[]]
    assert stream.status.error == ""


# -- watching -------------------------------------------------------------------------------------------------------------


def test_changes_are_delivered_and_the_next_watch_goes_on_after_them() -> None:
    script, ears, _ = play(
        page("a"),
        watch(line("ADDED", "b", 11) + line("MODIFIED", "a", 12), line("DELETED", "b", 13)),
        watch(bookmark(40)),
        watch(),
    )
    assert ears.heard == [["a"], "ADDED b", "MODIFIED a", "DELETED b"]
    assert script.verbs == ["namespaces", "watch 10", "watch 13", "watch 40"]


def test_a_line_may_arrive_in_any_pieces() -> None:
    whole = line("ADDED", "b", 11) + line("ADDED", "c", 12)
    _, ears, _ = play(page("a"), watch(*(whole[n : n + 7] for n in range(0, len(whole), 7))), watch())
    assert ears.heard == [["a"], "ADDED b", "ADDED c"]


@pytest.mark.parametrize("how", [watch(line("ADDED", "b", 11), error(410)), watch(line("ADDED", "b", 11) + error(410))])
def test_410_in_a_watch_lists_anew_after_what_was_heard_before_it(how: Step) -> None:
    script, ears, _ = play(page("a"), how, page("z", version=50), watch())
    assert ears.heard == [["a"], "ADDED b", ["z"]]
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 50"]


@pytest.mark.parametrize("status", [410, 400, 422])
def test_a_watch_refused_for_its_version_lists_anew(status: int) -> None:
    script, ears, _ = play(page("a"), fails(status), page("b", version=20), watch())
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 20"]
    assert ears.heard == [["a"], ["b"]]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 503])
def test_a_watch_refused_for_another_reason_goes_on_from_where_it_was(status: int) -> None:
    script, ears, stream = play(page("a"), fails(status), watch(line("ADDED", "b", 11)), watch())
    assert script.verbs == ["namespaces", "watch 10", "watch 10", "watch 11"]
    assert ears.heard == [["a"], "ADDED b"]
    assert stream.status.error == ""


def test_an_error_in_a_watch_that_may_come_again_at_its_version_lists_anew() -> None:
    script, ears, _ = play(page("a"), watch(line("ADDED", "b", 11), error(500)), page("c", version=12), watch())
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 12"]
    assert ears.heard == [["a"], "ADDED b", ["c"]]


def test_an_error_in_a_watch_that_asks_for_patience_goes_on_from_where_it_was() -> None:
    script, ears, _ = play(page("a"), watch(line("ADDED", "b", 11), error(429)), watch(line("ADDED", "c", 12)), watch())
    assert script.verbs == ["namespaces", "watch 10", "watch 11", "watch 12"]
    assert ears.heard == [["a"], "ADDED b", "ADDED c"]


def test_a_line_that_is_garbage_is_not_met_again() -> None:
    script, ears, stream = play(page("a"), watch(line("ADDED", "b", 11), b"garbage\n"), page("a", "b", version=12), watch())
    assert ears.heard == [["a"], "ADDED b", ["a", "b"]]
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 12"]
    assert stream.status.error == ""


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    script, ears, _ = play(page("a"), watch(*[b"x" * (16 << 20)] * 6), page("b", version=12), watch())
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 12"]
    assert ears.heard == [["a"], ["b"]]


def test_a_cut_stream_goes_on_from_the_last_version_once_the_server_shows_that_it_is_no_older() -> None:
    script, ears, _ = play(page("a"), watch(line("ADDED", "b", 11), CUT), page("a", version=30), watch(line("ADDED", "c", 31)), watch())
    assert script.verbs == ["namespaces", "watch 10", "namespaces", "watch 11", "watch 31"]
    assert script.asked[2][1] == {"limit": "1"}
    assert ears.heard == [["a"], "ADDED b", "ADDED c"]


def test_a_server_whose_store_is_older_than_what_we_saw_is_listed_from_the_start() -> None:
    script, ears, _ = play(page("a", version=500), watch(CUT), page("x", version=7), page("x", "y", version=8), watch(b"{}"), watch())
    assert script.verbs == ["namespaces", "watch 500", "namespaces", "namespaces", OWN, "watch 8"]
    assert ears.heard == [["a"], ["x", "y"]]


def test_a_store_begun_anew_is_not_believed_before_it_knows_this_node() -> None:
    script, ears, _ = play(
        page("a", version=500),
        watch(CUT),
        page(version=7),
        page("x", version=7),
        fails(404),
        page("x", "y", version=9),
        watch(b"{}"),
        watch(),
    )
    assert ears.heard == [["a"], ["x", "y"]]
    assert script.verbs[-1] == "watch 9"


def test_a_list_of_nodes_from_a_store_begun_anew_must_hold_this_one() -> None:
    _, ears, _ = play(
        page(OWN, "n2", version=500), watch(CUT), page(version=7), page("n2", version=7), page(OWN, version=8), watch(), kind=Kind.NODE
    )
    assert ears.heard == [[OWN, "n2"], [OWN]]


# -- trouble ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (fails(403), "403 told to"),
        (fails(500), "500 told to"),
        (fails(0), "told to"),
        (watch(b"<html>"), "not a list of Namespace: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_trouble_is_told_and_nothing_is_delivered(step: Step, error: str) -> None:
    _, ears, stream = play(step)
    assert ears.heard == []
    assert (stream.status.listed, stream.status.error) == (False, error)


def test_trouble_after_a_list_leaves_it_listed() -> None:
    _, ears, stream = play(page("a"), fails(503))
    assert ears.heard == [["a"]]
    assert (stream.status.listed, stream.status.error) == (True, "503 told to")


def test_the_time_that_the_server_asks_for_is_kept() -> None:
    began = time.monotonic()
    _, ears, _ = play(fails(429, retry_after=0.3), page("a"), watch())
    assert time.monotonic() - began >= 0.3
    assert ears.heard == [["a"]]


def test_the_status_says_since_when() -> None:
    _, _, stream = play(page("a"), fails(503))
    assert 0 <= time.monotonic() - stream.status.since < 5
