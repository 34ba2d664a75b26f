"""What the container runtime says about pods, and the client that asks it, against a server of the same interface."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from kube_router.apply.runtime.sandboxes import Sandboxes
from kube_router.codec.cri import sandboxes as codec
from kube_router.codec.cri.generated import cri_v1_pb2 as pb
from kube_router.kit.errors import Busy

PROTO = Path(codec.__file__).parent / "proto"
SPEC = {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/var/run/netns/cni-1"}]}}


def test_the_committed_module_describes_the_same_messages_as_the_source(tmp_path: Path) -> None:
    out = tmp_path / "set.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--descriptor_set_out={out}", "cri_v1.proto"]
    subprocess.run(command, check=True)
    described = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    committed = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    for file in (described, committed):
        for message in file.message_type:
            for inner in (message, *message.nested_type):
                for field in inner.field:
                    field.ClearField("json_name")  # follows from the name
    assert described == committed, "run `make proto` and commit what it writes"


@pytest.mark.parametrize(
    ("info", "paths"),
    [
        ({"info": json.dumps({"pid": 4711, "runtimeSpec": SPEC, "config": {}})}, ["/proc/4711/ns/net", "/var/run/netns/cni-1"]),
        ({"info": json.dumps({"pid": 0, "runtimeSpec": SPEC})}, ["/var/run/netns/cni-1"]),
        ({"info": json.dumps({"pid": 4711})}, ["/proc/4711/ns/net"]),
        ({"info": json.dumps({"runtimeSpec": {"linux": None}})}, []),
        ({"info": "not json"}, []),
        ({"info": json.dumps({"pid": "4711"})}, []),
        ({}, []),
    ],
)
def test_namespaces_are_found_in_what_runtimes_say_of_a_sandbox(info: dict[str, str], paths: list[str]) -> None:
    assert codec.namespaces(info) == paths


def test_addresses_are_canonical_and_nonsense_is_none() -> None:
    network = pb.PodSandboxNetworkStatus(ip="10.242.0.5", additional_ips=[pb.PodIP(ip="FD00:242:0::5"), pb.PodIP(ip="x"), pb.PodIP(ip="")])
    assert codec.addresses(pb.PodSandboxStatus(network=network)) == {"10.242.0.5", "fd00:242::5"}
    assert codec.addresses(pb.PodSandboxStatus()) == frozenset()


class Runtime:
    """A container runtime with these pods: sandbox, then addresses and process."""

    def __init__(self, path: Path, pods: dict[str, tuple[list[str], int]]) -> None:
        self.pods = pods
        self.asked: list[str] = []
        self.endpoint = f"unix://{path}"
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handlers = {
            "ListPodSandbox": grpc.unary_unary_rpc_method_handler(
                self._list, pb.ListPodSandboxRequest.FromString, pb.ListPodSandboxResponse.SerializeToString
            ),
            "PodSandboxStatus": grpc.unary_unary_rpc_method_handler(
                self._status, pb.PodSandboxStatusRequest.FromString, pb.PodSandboxStatusResponse.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(codec.SERVICE, handlers),))
        self._server.add_insecure_port(self.endpoint)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def _list(self, request: Any, _context: Any) -> Any:
        assert request.filter.HasField("state"), "only those that run"
        self.asked.append("list")
        return pb.ListPodSandboxResponse(items=[pb.PodSandbox(id=name) for name in [*self.pods, "going"]])

    def _status(self, request: Any, context: Any) -> Any:
        self.asked.append(request.pod_sandbox_id)
        assert request.verbose
        if request.pod_sandbox_id not in self.pods:
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        ips, pid = self.pods[request.pod_sandbox_id]
        network = pb.PodSandboxNetworkStatus(ip=ips[0], additional_ips=[pb.PodIP(ip=ip) for ip in ips[1:]])
        return pb.PodSandboxStatusResponse(status=pb.PodSandboxStatus(network=network), info={"info": json.dumps({"pid": pid})})


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    serving = Runtime(tmp_path / "cri.sock", {"one": (["10.242.0.5", "fd00:242::5"], 11), "two": (["10.242.0.6"], 12)})
    yield serving
    serving.stop()


def test_d10_each_sandbox_is_asked_once_however_often_its_pod_is_wanted(runtime: Runtime) -> None:
    sandboxes = Sandboxes(runtime.endpoint)
    try:
        assert sandboxes("10.242.0.6") == ["/proc/12/ns/net"]
        for _ in range(5):
            assert sandboxes("10.242.0.5") == sandboxes("fd00:242::5") == ["/proc/11/ns/net"]
        assert runtime.asked == ["list", "one", "two"]
        assert sandboxes("10.242.0.7") == []
        assert runtime.asked[3:] == ["list", "going"], "only one that said nothing is asked again"
        runtime.pods = {"three": (["10.242.0.7"], 13)}
        assert sandboxes("10.242.0.7") == ["/proc/13/ns/net"]
        assert sandboxes("10.242.0.6") == [], "it is not in the list any more"
    finally:
        sandboxes.close()


def test_a10_a_runtime_that_does_not_answer_is_waited_for_once_and_asked_again_later(tmp_path: Path) -> None:
    now = 100.0
    sandboxes = Sandboxes(f"unix://{tmp_path}/none.sock", timeout=0.5, clock=lambda: now)
    for _ in range(3):
        with pytest.raises(Busy, match="no container runtime answers at unix:"):
            sandboxes("10.242.0.5")
    assert sandboxes.calls == 1
    now += 31
    serving = Runtime(tmp_path / "none.sock", {"one": (["10.242.0.5"], 11)})
    try:
        assert sandboxes("10.242.0.5") == ["/proc/11/ns/net"]
    finally:
        sandboxes.close()
        serving.stop()
