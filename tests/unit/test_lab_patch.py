"""The three kinds of PATCH of the lab's API server."""

from __future__ import annotations

from typing import Any

import pytest

from lab.api.patch import apply_patch
from lab.api.problem import Problem

MERGE, STRATEGIC, JSON = (f"application/{name}+json" for name in ("merge-patch", "strategic-merge-patch", "json-patch"))
NODE: dict[str, Any] = {
    "kind": "Node",
    "metadata": {"name": "node1", "annotations": {"a": "1", "b/c~d": "2"}, "finalizers": ["x"]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Full", "status": "False"}]},
}
SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}], "externalIPs": ["192.0.2.1"]},
}


@pytest.mark.parametrize(
    ("media_type", "target", "patch", "path", "expected"),
    [
        (MERGE, NODE, {"metadata": {"annotations": {"a": None, "n": "3"}}}, "metadata.annotations", {"b/c~d": "2", "n": "3"}),
        (MERGE, NODE, {"status": {"conditions": []}}, "status.conditions", []),
        (MERGE, NODE, {"spec": {"podCIDR": "10.0.0.0/24"}}, "spec", {"podCIDR": "10.0.0.0/24"}),
        (
            STRATEGIC,
            NODE,
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
            "status.conditions",
            [{"type": "Ready", "status": "False"}, {"type": "Full", "status": "False"}],
        ),
        (
            STRATEGIC,
            NODE,
            {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}},
            "status.conditions",
            [{"type": "Full", "status": "False"}],
        ),
        (STRATEGIC, NODE, {"metadata": {"finalizers": ["y", "x"]}}, "metadata.finalizers", ["x", "y"]),
        (STRATEGIC, NODE, {"metadata": {"annotations": {"$patch": "replace", "z": "1"}}}, "metadata.annotations", {"z": "1"}),
        (
            STRATEGIC,
            SERVICE,
            {"spec": {"ports": [{"port": 443, "name": "tls"}], "externalIPs": ["192.0.2.9"]}},
            "spec",
            {"ports": [{"port": 80, "name": "http"}, {"port": 443, "name": "tls"}], "externalIPs": ["192.0.2.9"]},
        ),
        (JSON, NODE, [{"op": "add", "path": "/metadata/annotations/n", "value": "3"}], "metadata.annotations.n", "3"),
        (
            JSON,
            NODE,
            [{"op": "replace", "path": "/metadata/annotations/b~1c~0d", "value": "9"}],
            "metadata.annotations",
            {"a": "1", "b/c~d": "9"},
        ),
        (JSON, NODE, [{"op": "remove", "path": "/status/conditions/0"}], "status.conditions", [{"type": "Full", "status": "False"}]),
        (JSON, NODE, [{"op": "add", "path": "/metadata/finalizers/-", "value": "z"}], "metadata.finalizers", ["x", "z"]),
        (JSON, NODE, [{"op": "add", "path": "/metadata/finalizers/0", "value": "z"}], "metadata.finalizers", ["z", "x"]),
        (JSON, NODE, [{"op": "test", "path": "/kind", "value": "Node"}], "kind", "Node"),
    ],
)
def test_a_patch_changes_what_it_names(media_type: str, target: Any, patch: Any, path: str, expected: Any) -> None:
    before = repr(target)
    result: Any = apply_patch(target, patch, media_type=media_type)
    for part in path.split("."):
        result = result[part]
    assert result == expected
    assert repr(target) == before


@pytest.mark.parametrize(
    ("media_type", "patch", "code"),
    [
        (MERGE, [], 400),
        (JSON, {}, 400),
        (JSON, [{"op": "test", "path": "/kind", "value": "Pod"}], 422),
        (JSON, [{"op": "replace", "path": "/spec/x", "value": 1}], 422),
        (JSON, [{"op": "move", "from": "/a", "path": "/b"}], 400),
        (JSON, [{"op": "add", "path": "kind", "value": "Pod"}], 400),
        (STRATEGIC, {"status": {"conditions": [{"status": "True"}]}}, 400),
        ("application/apply-patch+yaml", {}, 415),
    ],
)
def test_a_patch_that_cannot_be_applied_is_refused(media_type: str, patch: Any, code: int) -> None:
    with pytest.raises(Problem) as caught:
        apply_patch(NODE, patch, media_type=media_type)
    assert caught.value.code == code
