"""The store of the lab's API server: versions, conflicts, history, pages, deletion."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.api.kinds import BY_WORD, kind_of
from lab.api.objects import Objects
from lab.api.problem import Problem
from lab.api.store import Store, Wish, decode

POD, NODE, LEASE = BY_WORD["pod"], BY_WORD["node"], BY_WORD["lease"]


def make_pod(name: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": {"app": name[0]}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, **more}


def make_node(name: str = "node1", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, **more}


def refused(call: Any, *arguments: Any, **named: Any) -> int:
    with pytest.raises(Problem) as caught:
        call(*arguments, **named)
    return caught.value.code


def test_versions_grow_over_all_kinds_together() -> None:
    store = Store()
    first = store.create(NODE, make_node())
    second = store.create(POD, make_pod("a"))
    assert second.version == first.version + 1 == store.version


def test_a_new_object_gets_identity_and_defaults() -> None:
    objects = Objects(Store(clock=lambda: 0.0))
    pod = objects.create(make_pod("a"))
    assert pod["metadata"]["creationTimestamp"] == "1970-01-01T00:00:00Z"
    assert pod["metadata"]["uid"]
    assert pod["status"]["phase"] == "Pending"
    service = objects.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 53}]}}
    )  # fmt: skip
    assert service["spec"]["ports"] == [{"port": 53, "protocol": "TCP", "targetPort": 53}]
    made = objects.create({"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "e-", "namespace": "default"}})
    assert made["metadata"]["name"].startswith("e-")
    assert len(made["metadata"]["name"]) == 7


def test_a_write_that_changes_nothing_makes_no_version() -> None:
    store = Store()
    objects = Objects(store)
    pod = objects.create(make_pod("a"))
    before = store.version
    objects.update(pod)
    objects.apply(make_pod("a"))
    objects.patch("pod", "a", {"metadata": {"labels": {"app": "a"}}}, namespace="default")
    assert store.version == before


def test_a_stale_update_is_a_conflict_and_one_without_version_wins() -> None:
    objects = Objects(Store())
    old = objects.create(make_node())
    objects.patch("node", "node1", {"metadata": {"labels": {"a": "1"}}})
    assert refused(objects.update, old) == 409
    del old["metadata"]["resourceVersion"]
    objects.update(old)
    assert "labels" not in objects.get("node", "node1")["metadata"]


@pytest.mark.parametrize(
    ("thing", "code"),
    [
        (make_pod("a"), 409),
        (make_pod("B"), 422),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}, 422),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b", "namespace": "nowhere"}}, 404),
    ],
)
def test_an_object_that_cannot_be_created_is_refused(thing: dict[str, Any], code: int) -> None:
    objects = Objects(Store())
    objects.create(make_pod("a"))
    assert refused(objects.create, thing) == code


def test_spec_and_status_are_written_apart() -> None:
    objects = Objects(Store())
    node = objects.create(make_node(spec={"podCIDR": "10.0.0.0/24"}, status={"phase": "x"}))
    node["spec"]["podCIDR"], node["status"]["phase"] = "10.0.1.0/24", "y"
    main = objects.update(node)
    assert (main["spec"]["podCIDR"], main["status"]["phase"]) == ("10.0.1.0/24", "x")
    main["spec"]["podCIDR"], main["status"]["phase"] = "10.0.2.0/24", "z"
    status = objects.update(main, part="status")
    assert (status["spec"]["podCIDR"], status["status"]["phase"]) == ("10.0.1.0/24", "z")


def test_identity_cannot_be_changed() -> None:
    objects = Objects(Store())
    node = objects.create(make_node())
    node["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z"
    assert objects.update(node)["metadata"]["creationTimestamp"] != "2000-01-01T00:00:00Z"
    node["metadata"]["uid"] = "other"
    assert refused(objects.update, node) == 409


def test_a_pod_on_a_node_waits_for_its_kubelet() -> None:
    objects = Objects(Store(clock=lambda: 100.0))
    objects.create(make_pod("a", spec={"nodeName": "node1"}))
    assert objects.delete("pod", "a", "default")
    metadata = objects.get("pod", "a", "default")["metadata"]
    assert metadata["deletionTimestamp"] == "1970-01-01T00:02:10Z"
    assert metadata["deletionGracePeriodSeconds"] == 30
    assert objects.delete("pod", "a", "default", grace=0)
    assert objects.find("pod", "a", "default") is None
    assert not objects.delete("pod", "a", "default")


@pytest.mark.parametrize("more", [{}, {"spec": {"nodeName": "node1"}, "status": {"phase": "Succeeded"}}], ids=["no node", "ended"])
def test_a_pod_that_no_kubelet_runs_goes_at_once(more: dict[str, Any]) -> None:
    objects = Objects(Store())
    objects.create(make_pod("a", **more))
    objects.delete("pod", "a", "default")
    assert objects.find("pod", "a", "default") is None


def test_an_object_with_a_finalizer_goes_when_the_last_finalizer_does() -> None:
    objects = Objects(Store())
    node = make_node()
    node["metadata"]["finalizers"] = ["x/y"]
    objects.create(node)
    objects.delete("node", "node1")
    assert objects.get("node", "node1")["metadata"]["deletionTimestamp"]
    objects.patch("node", "node1", {"metadata": {"finalizers": None}})
    assert objects.find("node", "node1") is None


def test_a_delete_keeps_to_its_preconditions() -> None:
    store = Store()
    entry = store.create(NODE, make_node())
    assert refused(store.delete, NODE, "", "node1", Wish(uid="other")) == 409
    assert refused(store.delete, NODE, "", "node1", Wish(version="1")) == 409
    store.delete(NODE, "", "node1", Wish(uid=decode(entry.body)["metadata"]["uid"], version=str(entry.version)))
    assert refused(store.get, NODE, "", "node1") == 404


def test_the_final_state_of_an_object_bears_the_version_of_its_end() -> None:
    store = Store()
    store.create(NODE, make_node())
    last = store.delete(NODE, "", "node1")
    assert decode(last.body)["metadata"]["resourceVersion"] == str(store.version)


def test_pages_of_one_list_show_one_version_whatever_is_written_meanwhile() -> None:
    store = Store()
    for name in ("a", "b", "c", "d", "e"):
        store.create(POD, make_pod(name))
    first = store.page(POD, limit=2)
    assert first.remaining == 3
    store.delete(POD, "default", "d")
    store.create(POD, make_pod("bb"))
    store.create(POD, make_pod("f"))
    second = store.page(POD, limit=2, token=first.token)
    third = store.page(POD, limit=2, token=second.token)
    assert [e.name for page in (first, second, third) for e in page.entries] == ["a", "b", "c", "d", "e"]
    assert {first.version, second.version, third.version} == {first.version}
    assert third.token == ""


def test_pages_and_positions_of_a_forgotten_past_are_gone() -> None:
    store = Store()
    for name in ("a", "b", "c"):
        store.create(POD, make_pod(name))
    first = store.page(POD, limit=2)
    store.delete(POD, "default", "c")
    store.expire()
    assert refused(store.page, POD, limit=2, token=first.token) == 410
    assert refused(store.history(POD).position, first.version) == 410
    store.history(POD).position(store.version)


@pytest.mark.parametrize("token", ["x", "bm90IGpzb24", "W10"])
def test_a_token_that_the_server_did_not_make_is_refused(token: str) -> None:
    assert refused(Store().page, POD, token=token) == 400


def test_a_version_in_the_future_is_refused() -> None:
    store = Store()
    assert refused(store.page, POD, version=store.version + 1) == 504


def test_the_history_keeps_to_its_window() -> None:
    store = Store(window=10)
    entry = store.create(NODE, make_node())
    for number in range(30):
        Objects(store).patch("node", "node1", {"metadata": {"labels": {"n": str(number)}}})
    history = store.history(NODE)
    assert refused(history.position, entry.version) == 410
    assert 5 <= len(history.since(history.position(store.version - 5), most=100)) <= 10


def test_a_feed_gives_what_is_there_and_then_every_change() -> None:
    objects = Objects(Store())
    objects.create(make_pod("a"))
    feed = objects.feed("pods", "nodes")
    objects.create(make_node())
    objects.delete("pods", "a", "default")
    objects.create({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "namespace": "default"}})
    seen = [feed.next(timeout=0) for _ in range(4)]
    assert [(c.word, c.last.name) if c else None for c in seen] == [
        ("ADDED", "a"),
        ("ADDED", "node1"),
        ("DELETED", "a"),
        None,
    ]
    feed.close()


def test_loading_makes_the_namespaces_that_it_needs() -> None:
    objects = Objects(Store())
    thing = make_pod("a")
    thing["metadata"]["namespace"] = "shop"
    assert objects.load(iter([thing])) == 1
    assert objects.get("ns", "shop")["metadata"]["labels"] == {"kubernetes.io/metadata.name": "shop"}


writes = st.lists(st.tuples(st.sampled_from(["put", "delete"]), st.sampled_from("abcde"), st.integers(0, 3)), min_size=1, max_size=40)


@given(writes)
@settings(deadline=None, max_examples=100)
def test_every_past_version_can_be_listed_as_it_was(steps: list[tuple[str, str, int]]) -> None:
    store = Store()
    objects = Objects(store)
    as_it_was: dict[int, list[tuple[str, str]]] = {}
    for step, name, number in steps:
        if step == "put":
            objects.apply(make_pod(name) | {"status": {"n": number}})
        else:
            objects.delete("pods", name, "default")
        as_it_was[store.version] = [(e.name, str(e.version)) for e in store.page(POD).entries]
    for version, expected in as_it_was.items():
        assert [(e.name, str(e.version)) for e in store.page(POD, version=version).entries] == expected


def test_kinds_are_found_by_object_word_and_short_name() -> None:
    assert BY_WORD["svc"] is BY_WORD["services"] is BY_WORD["service"]
    assert BY_WORD["event"].group == ""
    assert kind_of({"apiVersion": "events.k8s.io/v1", "kind": "Event"}).group == "events.k8s.io"
    with pytest.raises(KeyError):
        kind_of({"apiVersion": "v1", "kind": "Nothing"})
