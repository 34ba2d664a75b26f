"""From a request to what it asks for, and to the answer. No sockets, no waiting: a watch is answered with its request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from lab.api.history import Entry
from lab.api.kinds import BY_PATH, Json, Kind
from lab.api.pages import Page
from lab.api.problem import Problem
from lab.api.selectors import Selector, field_selector, label_selector
from lab.api.store import Store, Wish
from lab.api.watch import WatchRequest
from lab.api.wire import Answer, Request, json_answer

VERSION = {
    "major": "1",
    "minor": "34",
    "gitVersion": "v1.34.0+lab",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",  # the field is required, and this server is not written in Go
    "compiler": "none",
    "platform": "linux/amd64",
}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names. ``part`` is the sub-resource."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    part: str = ""


def parse_path(path: str) -> Target | None:
    """The resource that a path names; None for a path that is none of the API's."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        _, namespace, *rest = rest
    if not 1 <= len(rest) <= 3:
        return None
    plural, name, part = (*rest, "", "")[:3]
    kind = BY_PATH.get((group, version, plural))
    if kind is None or (namespace and not kind.namespaced):
        return None
    return Target(kind, namespace, name, part)


def is_true(text: str) -> bool:
    return text.lower() in ("1", "t", "true")


def verb_of(request: Request, target: Target | None) -> str:
    """The API's verb: list, watch, get, create, update, patch, delete, deletecollection; of other paths the method."""
    if target is None:
        return request.method.lower()
    if request.method == "GET":
        if target.name:
            return "get"
        return "watch" if is_true(request.query.get("watch", "")) else "list"
    if request.method == "DELETE":
        return "delete" if target.name else "deletecollection"
    return _VERBS.get(request.method, request.method.lower())


def _number(request: Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise Problem(400, f"invalid {name}: {text!r}")
    return int(text)


def _selectors(request: Request, kind: Kind) -> tuple[Selector, Selector]:
    known = frozenset({"metadata.name", "metadata.namespace", *kind.fields({})})
    return (
        label_selector(request.query.get("labelSelector", "")),
        field_selector(request.query.get("fieldSelector", ""), known=known),
    )


def list_answer(kind: Kind, page: Page) -> Answer:
    """A list as the server writes it: items without ``kind`` and ``apiVersion``, their bytes as they were stored."""
    metadata: Json = {"resourceVersion": str(page.version)}
    if page.token:
        metadata["continue"] = page.token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
    head = b'{"kind":"%sList","apiVersion":"%s","metadata":%s,"items":[' % (
        kind.name.encode(),
        kind.api_version.encode(),
        msgspec.json.encode(metadata),
    )
    return Answer(200, [head, b",".join([entry.body for entry in page.entries]), b"]}\n"])


def entry_answer(status: int, kind: Kind, entry: Entry) -> Answer:
    return Answer(status, [kind.type_meta, entry.body[1:], b"\n"])


def problem_answer(problem: Problem, *, retry_after: float = 0) -> Answer:
    headers = {"Retry-After": str(max(1, round(retry_after)))} if retry_after else {}
    return json_answer(problem.code, problem.status(), **headers)


class Routes:
    """Answers requests from a store. A watch comes back as a ``WatchRequest``, for the server to open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._verbs: dict[str, Callable[[Request, Target], Answer | WatchRequest]] = {
            "list": self._list,
            "watch": self._watch,
            "get": self._get,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    def answer(self, request: Request, target: Target | None) -> Answer | WatchRequest:
        """The answer to a request; a refusal is an answer too."""
        try:
            if target is None:
                return plain_answer(request)
            if request.query.get("dryRun"):
                raise Problem(400, "dry runs are not served here")
            if target.part not in ("", "status") or (target.part == "status" and not target.kind.status):
                raise Problem(404, "the server could not find the requested resource")
            verb = self._verbs.get(verb_of(request, target))
            if verb is None:
                raise Problem(405, f"the method {request.method} is not allowed on this resource")
            return verb(request, target)
        except Problem as problem:
            return problem_answer(problem)

    def page(self, request: Request, target: Target) -> Page:
        """The page of a list that a request asks for."""
        labels, fields = _selectors(request, target.kind)
        version = _number(request, "resourceVersion")
        token = request.query.get("continue", "")
        match = request.query.get("resourceVersionMatch", "")
        if token and version:
            raise Problem(400, "resourceVersion and continue exclude each other")
        exact = version if version and match == "Exact" else None
        if version and version > self._store.version:
            exact = version  # not older than a version that is yet to come: refused as too large
        return self._store.page(
            target.kind,
            target.namespace,
            labels=labels,
            fields=fields,
            limit=_number(request, "limit") or 0,
            token=token,
            version=exact,
        )

    def _list(self, request: Request, target: Target) -> Answer:
        return list_answer(target.kind, self.page(request, target))

    def _watch(self, request: Request, target: Target) -> WatchRequest:
        if is_true(request.query.get("sendInitialEvents", "")):
            raise Problem(422, "sendInitialEvents is forbidden for watch: the feature WatchList is off")
        labels, fields = _selectors(request, target.kind)
        timeout = _number(request, "timeoutSeconds")
        return WatchRequest(
            kind=target.kind,
            namespace=target.namespace,
            labels=labels,
            fields=fields,
            version=_number(request, "resourceVersion") or None,
            bookmarks=is_true(request.query.get("allowWatchBookmarks", "")),
            timeout=float(timeout) if timeout else None,
        )

    def _get(self, _: Request, target: Target) -> Answer:
        return entry_answer(200, target.kind, self._store.get(target.kind, target.namespace, target.name))

    def _body(self, request: Request, target: Target, *, name: str) -> Json:
        """The object in the body, checked against the path and completed from it."""
        thing = _json_body(request)
        if not isinstance(thing, dict) or not isinstance(thing.setdefault("metadata", {}), dict):
            raise Problem(400, "the body of the request is not an object of the API")
        wanted = {"kind": target.kind.name, "apiVersion": target.kind.api_version}
        if any(thing.get(field, value) != value for field, value in wanted.items()):
            raise Problem(400, f"the object's kind does not fit the path, which is of {target.kind.plural}")
        metadata = thing["metadata"]
        if target.namespace and metadata.setdefault("namespace", target.namespace) != target.namespace:
            raise Problem(400, "the namespace of the object does not match the namespace on the URL")
        if name and metadata.setdefault("name", name) != name:
            raise Problem(400, "the name of the object does not match the name on the URL")
        return thing

    def _create(self, request: Request, target: Target) -> Answer:
        if target.name or (target.kind.namespaced and not target.namespace):
            raise Problem(405, "objects are created in their collection")
        thing = self._body(request, target, name="")
        return entry_answer(201, target.kind, self._store.create(target.kind, thing))

    def _update(self, request: Request, target: Target) -> Answer:
        if not target.name:
            raise Problem(405, "a collection cannot be replaced")
        thing = self._body(request, target, name=target.name)
        return entry_answer(200, target.kind, self._store.update(target.kind, thing, part=target.part))

    def _patch(self, request: Request, target: Target) -> Answer:
        media_type = request.headers.get("content-type", "").split(";")[0].strip()
        entry = self._store.patch(target.kind, target.namespace, target.name, _json_body(request), media_type=media_type, part=target.part)
        return entry_answer(200, target.kind, entry)

    def _wish(self, request: Request) -> Wish:
        options = _json_body(request) if request.body else {}
        if not isinstance(options, dict):
            raise Problem(400, "the options of a delete are an object")
        grace = _number(request, "gracePeriodSeconds")
        preconditions = options.get("preconditions") or {}
        return Wish(
            options.get("gracePeriodSeconds") if grace is None else grace,
            preconditions.get("uid"),
            preconditions.get("resourceVersion"),
        )

    def _delete(self, request: Request, target: Target) -> Answer:
        wish = self._wish(request)
        entry = self._store.delete(target.kind, target.namespace, target.name, wish)
        if target.kind.name == "Pod":  # the one kind whose delete is answered with the object
            return entry_answer(200, target.kind, entry)
        details = {"name": entry.name, "kind": target.kind.plural}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return json_answer(200, status)

    def _delete_collection(self, request: Request, target: Target) -> Answer:
        labels, fields = _selectors(request, target.kind)
        wish = self._wish(request)
        with self._store.lock:
            page = self._store.page(target.kind, target.namespace, labels=labels, fields=fields)
            for entry in page.entries:
                self._store.delete(target.kind, entry.namespace, entry.name, Wish(grace=wish.grace))
        return list_answer(target.kind, page)


def _json_body(request: Request) -> Any:
    try:
        return msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body of the request is not JSON: {error}") from error


def plain_answer(request: Request) -> Answer:
    """Health, version and discovery."""
    path = "/" + request.path.strip("/")
    if path in ("/healthz", "/livez", "/readyz"):
        return Answer(200, [b"ok"], "text/plain; charset=utf-8")
    if path == "/version":
        return json_answer(200, VERSION)
    groups = sorted({(kind.group, kind.version) for kind in BY_PATH.values()})
    if path == "/api":
        return json_answer(200, {"kind": "APIVersions", "versions": ["v1"]})
    if path == "/apis":
        listed = [_group(group, version) for group, version in groups if group]
        return json_answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
    for group, version in groups:
        prefix = f"/apis/{group}" if group else "/api"
        if path == prefix:
            return json_answer(200, {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)})
        if path == f"{prefix}/{version}":
            return json_answer(200, _resources(group, version))
    return problem_answer(Problem(404, "the server could not find the requested resource"))


def _group(group: str, version: str) -> Json:
    named = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


def _resources(group: str, version: str) -> Json:
    verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    resources = []
    for kind in (kind for kind in BY_PATH.values() if (kind.group, kind.version) == (group, version)):
        common = {"singularName": kind.name.lower(), "namespaced": kind.namespaced, "kind": kind.name}
        resources.append({"name": kind.plural, "verbs": verbs, "shortNames": list(kind.short), **common})
        if kind.status:
            resources.append({"name": f"{kind.plural}/status", "verbs": ["get", "patch", "update"], **common})
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
