"""Pod sandboxes as a runtime tells of them: addresses of one, and where its network namespace is.

The namespace is in the verbose part of the answer, which every runtime fills as it likes; what containerd and CRI-O agree on is an entry
"info" that is JSON and holds the number of a process, or the OCI configuration with the namespaces' paths, or both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from kube_router.kit.net import canonical_address

SERVICE: Final = "runtime.v1.RuntimeService"


class _Namespace(msgspec.Struct):
    type: str = ""
    path: str = ""


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] = []


class _Spec(msgspec.Struct):
    linux: _Linux | None = None


class _Details(msgspec.Struct):
    pid: int = 0
    runtime_spec: _Spec | None = msgspec.field(default=None, name="runtimeSpec")


def addresses(status: Any) -> frozenset[str]:
    """Canonical addresses in a PodSandboxStatus; none of a pod in the host's network."""
    network = status.network
    texts = [network.ip, *(entry.ip for entry in network.additional_ips)]
    return frozenset(_canonical(text for text in texts if text))


def namespaces(info: Mapping[str, str]) -> list[str]:
    """Paths that lead to the sandbox's network namespace, the likeliest first; none when the runtime does not say."""
    try:
        details = msgspec.json.decode(info.get("info", ""), type=_Details)
    except msgspec.DecodeError:
        return []
    paths = [f"/proc/{details.pid}/ns/net"] if details.pid > 0 else []
    linux = details.runtime_spec.linux if details.runtime_spec else None
    paths += (entry.path for entry in (linux.namespaces if linux else ()) if entry.type == "network" and entry.path)
    return paths


def _canonical(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            yield canonical_address(text)
        except ValueError:
            continue
