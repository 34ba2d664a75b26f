"""State that we keep in the cluster itself, on objects of the API server."""

from __future__ import annotations

from kube_router.model.state import Key, Value


class AnnotationKey(Key, frozen=True):
    """An annotation on a Node."""

    node: str
    name: str


class Annotation(Value, frozen=True):
    """Its text."""

    text: str
