"""The lab's API server with the official Python client: what the daemon's own way of talking depends on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch

from lab.api.objects import Objects
from lab.api.server import ApiServer, listening_socket
from lab.api.store import Store


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    server = ApiServer(Store(), bookmark_every=0.5).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def api(server: ApiServer) -> Any:
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.listen(listening_socket)}")
    return client.ApiClient(configuration)


def test_objects_make_the_round_trip(api: Any) -> None:
    core = client.CoreV1Api(api)
    node = client.V1Node(
        metadata=client.V1ObjectMeta(name="node1"),
        spec=client.V1NodeSpec(unschedulable=True),
        status=client.V1NodeStatus(addresses=[client.V1NodeAddress(address="192.0.2.1", type="InternalIP")]),
    )
    core.create_node(node)
    core.patch_node("node1", {"metadata": {"annotations": {"a": "1"}}})
    ready = {"type": "Ready", "status": "True", "reason": "Up", "message": "up"}
    core.patch_node_status("node1", {"status": {"conditions": [ready]}})
    found = core.read_node("node1")
    assert found.spec.unschedulable
    assert found.metadata.annotations == {"a": "1"}
    assert [condition.type for condition in found.status.conditions] == ["Ready"]
    assert found.status.addresses[0].address == "192.0.2.1"
    with pytest.raises(client.ApiException) as caught:
        core.create_node(client.V1Node(metadata=client.V1ObjectMeta(name="node1")))
    assert caught.value.status == 409
    core.delete_node("node1")
    with pytest.raises(client.ApiException) as caught:
        core.read_node("node1")
    assert caught.value.status == 404


def test_pages_and_raw_bytes_come_through_the_client(api: Any, server: ApiServer) -> None:
    for number in range(7):
        Objects(server.store).create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"c{number}", "namespace": "default"}})
    core = client.CoreV1Api(api)
    names, token = [], None
    while True:
        page = core.list_config_map_for_all_namespaces(limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"c{number}" for number in range(7)]
    raw = core.list_config_map_for_all_namespaces(_preload_content=False)
    assert raw.data.startswith(b'{"kind":"ConfigMapList"')


def test_the_clients_watch_sees_changes_and_survives_gone(api: Any, server: ApiServer) -> None:
    core, objects = client.CoreV1Api(api), Objects(server.store)
    version = core.list_namespaced_service("default").metadata.resource_version

    def write() -> None:
        for name in ("a", "b"):
            time.sleep(0.05)
            thing = {"metadata": {"name": name, "namespace": "default"}, "spec": {"clusterIP": "None"}}
            objects.create({"apiVersion": "v1", "kind": "Service", **thing})
        objects.delete("svc", "a", "default")

    writer = threading.Thread(target=write)
    writer.start()
    watcher, seen = watch.Watch(), []
    for event in watcher.stream(core.list_namespaced_service, "default", resource_version=version, timeout_seconds=20):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 3:
            watcher.stop()
    writer.join()
    assert seen == [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a")]

    server.store.expire()
    with pytest.raises(client.ApiException) as caught:
        for _ in watch.Watch().stream(core.list_namespaced_service, "default", resource_version=version, timeout_seconds=5):
            pass
    assert caught.value.status == 410


def test_events_leases_and_policies_are_served(api: Any) -> None:
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15))
    coordination = client.CoordinationV1Api(api)
    made = coordination.create_namespaced_lease("kube-system", lease)
    made.spec.holder_identity = "b"
    coordination.replace_namespaced_lease("l", "kube-system", made)
    with pytest.raises(client.ApiException) as caught:
        coordination.replace_namespaced_lease("l", "kube-system", made)
    assert caught.value.status == 409

    networking = client.NetworkingV1Api(api)
    policy = client.V1NetworkPolicy(
        metadata=client.V1ObjectMeta(name="p"),
        spec=client.V1NetworkPolicySpec(pod_selector=client.V1LabelSelector(match_labels={"a": "b"})),
    )
    assert networking.create_namespaced_network_policy("default", policy).spec.policy_types == ["Ingress"]
    assert [item.metadata.name for item in networking.list_network_policy_for_all_namespaces().items] == ["p"]
    assert client.VersionApi(api).get_code().git_version.startswith("v1.")
