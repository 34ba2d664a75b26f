"""Annotations of ours on our own Node, written to the API server. It needs the right to patch nodes, and no other.

What is there is known from the watch: nothing is read here. A merge patch names our annotations alone, so that others who write the
Node at the same time lose nothing (RFC 7396).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from kube_router.kit.apiserver import ApiError
from kube_router.kit.errors import Busy
from kube_router.model.names import DATAPATH_ANNOTATION
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.cluster import Annotation, AnnotationKey

OURS: Final = (DATAPATH_ANNOTATION,)
_TIMEOUT: Final = 10.0
_FORBIDDEN: Final = 403
_TRY_AGAIN: Final = frozenset({0, 408, 409, 429})


class Writer(Protocol):
    """Writes to the API server: see kit/apiserver.py."""

    def write(self, method: str, path: str, body: bytes, *, content_type: str, read_timeout: float) -> bytes:
        """PATCH; raises ApiError."""


class AnnotationTarget:
    """`node`: our Node's name. `seen` gives its annotations as the watch last told them, None while there is no such Node."""

    kinds: tuple[type[Key], ...] = (AnnotationKey,)

    def __init__(self, client: Callable[[], Writer], node: str, *, seen: Callable[[], Mapping[str, str] | None]) -> None:
        self._client = client
        self._node = node
        self._seen = seen
        self._lock = threading.Lock()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Our annotations that the Node bears."""
        del wanted
        annotations = self._seen() or {}
        return {AnnotationKey(self._node, name): Annotation(annotations[name]) for name in OURS if name in annotations}

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """One patch for all. Busy while the API server cannot be reached or is not ready; other refusals are told for each change."""
        texts: dict[str, str | None] = {}
        for change in changes:
            assert isinstance(change.key, AnnotationKey)
            texts[change.key.name] = None if change.after is None else change.after.text
        patch = msgspec.json.encode({"metadata": {"annotations": texts}})
        path = f"/api/v1/nodes/{self._node}"
        try:
            with self._lock:
                self._client().write("PATCH", path, patch, content_type="application/merge-patch+json", read_timeout=_TIMEOUT)
        except ApiError as fault:
            if fault.status in _TRY_AGAIN or fault.status >= 500:
                raise Busy(f"the annotation on node {self._node} is not written yet: {fault}") from fault
            advice = "; give the service account the right to patch nodes" if fault.status == _FORBIDDEN else ""
            return {change.key: f"{fault}{advice}" for change in changes}
        return {}
