"""Where the network namespace of a pod is, as the container runtime says it over its CRI socket (`--runtime-endpoint`).

A runtime does not look pods up by address, so sandboxes are listed and asked one by one; what a sandbox answers never changes, and each
is asked once. A runtime that does not answer is left alone for a while: who asks waits for it once, not for every pod.

grpc is imported with the first question: most nodes never ask one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from kube_router.codec.cri import sandboxes as codec
from kube_router.kit.errors import Busy

_TIMEOUT: Final = 2.0  # seconds for a call: the proxy waits for it
_PAUSE: Final = 30.0  # seconds without a question after one that was not answered
_LARGEST: Final = 16 * 1024 * 1024  # octets of an answer
_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", _LARGEST), ("grpc.use_local_subchannel_pool", 1))


class _Sandbox(NamedTuple):
    addresses: frozenset[str]
    paths: list[str]


class Sandboxes:
    """Asks the runtime at `endpoint` ("unix:///run/containerd/containerd.sock"). Threads may share it."""

    def __init__(self, endpoint: str, *, timeout: float = _TIMEOUT, clock: Callable[[], float] = time.monotonic) -> None:
        self.endpoint = endpoint
        self.calls = 0
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._channel: Any = None
        self._known: dict[str, _Sandbox] = {}
        self._quiet_until = 0.0
        self._why = ""

    def __call__(self, address: str) -> Sequence[str]:
        """Paths that lead to the network namespace of the pod of this address; none when no running pod has it.

        Raises Busy when the runtime does not answer, or not in a way that is understood.
        """
        with self._lock:
            if self._clock() < self._quiet_until:
                raise Busy(self._why)
            for sandbox in self._known.values():
                if address in sandbox.addresses and sandbox.paths:
                    return sandbox.paths
            self._refresh(address)
            return next((sandbox.paths for sandbox in self._known.values() if address in sandbox.addresses), [])

    def close(self) -> None:
        """End the connection; a later question opens a new one."""
        with self._lock:
            self._drop()

    def _refresh(self, address: str) -> None:
        """Ask about sandboxes that are new, until one has the address; forget those that are gone."""
        from kube_router.codec.cri.generated import cri_v1_pb2

        pb: Any = cri_v1_pb2  # a generated module carries no types
        ready = pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY))
        listed = self._call("ListPodSandbox", pb.ListPodSandboxRequest(filter=ready), pb.ListPodSandboxResponse)
        ids = [item.id for item in listed.items]
        self._known = {known: self._known[known] for known in ids if known in self._known and self._known[known].paths}
        for new in [unknown for unknown in ids if unknown not in self._known]:
            asked = pb.PodSandboxStatusRequest(pod_sandbox_id=new, verbose=True)
            answer = self._call("PodSandboxStatus", asked, pb.PodSandboxStatusResponse)
            self._known[new] = _Sandbox(codec.addresses(answer.status), codec.namespaces(answer.info))
            if address in self._known[new].addresses:
                return

    def _call(self, method: str, request: Any, reply: Any) -> Any:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core would write to our standard error
        import grpc

        if self._channel is None:
            self._channel = grpc.insecure_channel(self.endpoint, options=_OPTIONS)
        self.calls += 1
        call = self._channel.unary_unary(
            f"/{codec.SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        try:
            return call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if method == "PodSandboxStatus" and error.code() is grpc.StatusCode.NOT_FOUND:
                return reply()  # it went between the two questions
            self._drop()
            self._quiet_until = self._clock() + _PAUSE
            self._why = f"no container runtime answers at {self.endpoint}: {error.details() or error.code().name.lower()}"
        raise Busy(self._why)

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
