"""Annotations on our own Node as the API server takes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kube_router.apply.apiserver.annotations import AnnotationTarget
from kube_router.kit.apiserver import ApiClient
from kube_router.kit.errors import Busy
from kube_router.model.names import DATAPATH_ANNOTATION
from kube_router.model.state import Change
from kube_router.model.state.cluster import Annotation, AnnotationKey
from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store

KEY = AnnotationKey("node1", DATAPATH_ANNOTATION)
THEIRS = {"kube-router.io/peers": "[]", "other.io/x": "1"}


@pytest.fixture
def server() -> Iterator[tuple[Objects, str]]:
    store = Store()
    api = ApiServer(store).start()
    port = api.listen(listening_socket)
    objects = Objects(store)
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node1", "annotations": dict(THEIRS)},
        "spec": {"podCIDR": "10.0.0.0/24"},
    }
    objects.load(iter([node]))
    yield objects, f"http://127.0.0.1:{port}"
    api.stop()


def target(url: str) -> AnnotationTarget:
    client = ApiClient.load(servers=[url])
    return AnnotationTarget(lambda: client, "node1", seen=dict)


def test_u104_our_annotation_comes_and_goes_and_everything_else_on_the_node_stays(server: tuple[Objects, str]) -> None:
    objects, url = server
    (before,) = objects.list("nodes")
    ours = target(url)
    for text in ("192.168.50.11", "192.168.50.12,fd00:50::12", None):
        after = None if text is None else Annotation(text)
        assert ours.apply([Change(KEY, None, after)]) == {}
        (node,) = objects.list("nodes")
        assert node["metadata"]["annotations"] == THEIRS | ({} if text is None else {DATAPATH_ANNOTATION: text})
        assert node["spec"] == before["spec"]


def test_a_node_that_is_gone_is_refused_and_a_server_that_is_gone_is_waited_for(server: tuple[Objects, str]) -> None:
    objects, url = server
    objects.delete("nodes", "node1")
    assert "404" in target(url).apply([Change(KEY, None, Annotation("192.168.50.11"))])[KEY]
    with pytest.raises(Busy):
        target("http://127.0.0.1:1").apply([Change(KEY, None, Annotation("192.168.50.11"))])
