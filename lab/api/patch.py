"""The three kinds of PATCH: JSON merge patch (RFC 7386), strategic merge patch, JSON patch (RFC 6902). Pure."""

from __future__ import annotations

import copy
from typing import Any

from lab.api.kinds import Json
from lab.api.problem import Problem

# Lists that a strategic merge patch merges by a key instead of replacing (the API's "patchMergeKey" marks), for the kinds
# that the lab serves. A name absent here is an atomic list.
MERGE_KEYS: dict[str, str] = {
    "addresses": "type",
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "volumes": "name",
}
SERVICE_MERGE_KEYS = MERGE_KEYS | {"ports": "port"}
CONTAINER_MERGE_KEYS = MERGE_KEYS | {"ports": "containerPort"}
UNION_LISTS = frozenset({"finalizers"})


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, keys: dict[str, str]) -> Any:
    """Merge patch, except that the lists named in ``keys`` merge element by element."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    patch = dict(patch)
    directive = patch.pop("$patch", None)
    result = dict(target) if isinstance(target, dict) and directive != "replace" else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, list) and key in keys:
            result[key] = _merge_list(result.get(key) or [], value, key=keys[key], keys=_inside(key, keys))
        elif isinstance(value, list) and key in UNION_LISTS:
            result[key] = list(dict.fromkeys([*(result.get(key) or []), *value]))
        else:
            result[key] = strategic(result.get(key), value, keys)
    return result


def _inside(name: str, keys: dict[str, str]) -> dict[str, str]:
    return CONTAINER_MERGE_KEYS if name in ("containers", "initContainers") else keys


def _merge_list(target: list[Any], patch: list[Any], *, key: str, keys: dict[str, str]) -> list[Any]:
    merged = {item.get(key): item for item in target}
    for item in patch:
        if key not in item:
            raise Problem(400, f"map: {item} does not contain declared merge key: {key}")
        if item.get("$patch") == "delete":
            merged.pop(item[key], None)
        else:
            merged[item[key]] = strategic(merged.get(item[key]), item, keys)
    return list(merged.values())


def _parts(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise Problem(400, f"JSON pointer must start with '/': {pointer!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _step(container: Any, part: str) -> Any:
    try:
        return container[int(part)] if isinstance(container, list) else container[part]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Problem(422, f"JSON patch: nothing at {part!r}") from error


def _put(container: Any, part: str, value: Any, *, insert: bool) -> None:
    if not isinstance(container, list):
        container[part] = value
    elif part == "-":
        container.append(value)
    elif insert:
        container.insert(int(part), value)
    else:
        container[int(part)] = value


def operations(target: Json, patch: list[Json]) -> Json:
    """RFC 6902 with add, replace, remove and test."""
    result = copy.deepcopy(target)
    for operation in patch:
        *path, last = _parts(operation.get("path", "")) or [""]
        container: Any = result
        for part in path:
            container = _step(container, part)
        name = operation.get("op")
        if name == "add":
            _put(container, last, copy.deepcopy(operation.get("value")), insert=True)
        elif name == "replace":
            _step(container, last)
            _put(container, last, copy.deepcopy(operation.get("value")), insert=False)
        elif name == "remove":
            _step(container, last)
            del container[int(last) if isinstance(container, list) else last]
        elif name == "test":
            if _step(container, last) != operation.get("value"):
                raise Problem(422, f"JSON patch: test of {operation.get('path')} failed")
        else:
            raise Problem(400, f"JSON patch: operation {name!r} is not supported")
    return result


def apply_patch(target: Json, patch: Any, *, media_type: str) -> Json:
    """``target`` with ``patch`` applied as the media type says; Problem 415 for a media type that is not served."""
    if media_type == "application/json-patch+json":
        if not isinstance(patch, list):
            raise Problem(400, "a JSON patch is a list of operations")
        return operations(target, patch)
    if not isinstance(patch, dict):
        raise Problem(400, "a merge patch is an object")
    if media_type == "application/merge-patch+json":
        result: Json = merge(target, patch)
        return result
    if media_type == "application/strategic-merge-patch+json":
        keys = SERVICE_MERGE_KEYS if target.get("kind") == "Service" else MERGE_KEYS
        merged: Json = strategic(target, patch, keys)
        return merged
    raise Problem(415, f"the media type of the patch is not served: {media_type}")
