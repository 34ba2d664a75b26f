"""The generated protobuf modules are what their sources say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

PROTO = Path(__file__).parents[2] / "src" / "kube_router" / "codec" / "gobgp" / "proto"


@pytest.mark.parametrize("name", ["gobgp_v3", "gobgp_v4"])
def test_the_committed_module_describes_the_same_messages_as_the_source(name: str, tmp_path: Path) -> None:
    out = tmp_path / "set.pb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--descriptor_set_out={out}", f"{name}.proto"]
    subprocess.run(command, check=True)
    described = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    _without_json_names(described.message_type)
    committed = import_module(f"kube_router.codec.gobgp.generated.{name}_pb2").DESCRIPTOR
    assert described == FileDescriptorProto.FromString(committed.serialized_pb), "run `make proto` and commit what it writes"


def test_every_source_has_a_module_and_every_module_a_source() -> None:
    generated = PROTO.parent / "generated"
    assert {file.stem for file in PROTO.glob("*.proto")} == {file.stem.removesuffix("_pb2") for file in generated.glob("*_pb2.py")}


def _without_json_names(messages: Iterable[DescriptorProto]) -> None:
    """Generated Python leaves them out, since they follow from the names."""
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _without_json_names(message.nested_type)
