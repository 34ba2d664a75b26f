"""API JSON bytes to model objects: single objects, pages of a list, and lines of a watch.

A bad object is named and costs nothing else: items of a list and objects of a watch line are decoded one by one, and what
is wrong with them comes back as values. Only a body or line that is not what the API server sends raises, `Malformed`:
nothing in it can be trusted, so nothing of it may be used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from kube_router.codec import objects_cluster, objects_policy, objects_service
from kube_router.codec import objects_wire as wire
from kube_router.codec.objects_fault import Fault, Faults, Malformed
from kube_router.model.objects import Kind, Name, Object, Ref

__all__ = ["Decoded", "Fault", "Malformed", "Page", "Refusal", "Signal", "decode_item", "decode_page", "decode_refusal", "decode_signal"]

# What msgspec raises for bytes that are not JSON, not UTF-8, nested without end, or of other types than promised.
_UNDECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Decoded(msgspec.Struct, frozen=True):
    """One object. `object` None: it exists, but cannot be used, and `faults` say why. `version` "" when unknown."""

    ref: Ref
    version: str
    object: Object | None
    faults: tuple[Fault, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """One page of a list. `next`: the continue token, "" on the last page. `remaining`: items that the server says are left."""

    items: tuple[Decoded, ...]
    version: str
    next: str
    remaining: int


class Refusal(msgspec.Struct, frozen=True):
    """The API server's no. `retry_after` in seconds, None when it named no time."""

    code: int
    message: str
    retry_after: int | None = None


class Signal(msgspec.Struct, frozen=True):
    """One line of a watch. `type`: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR; `decoded` for the first three, `refusal` for the last."""

    type: str
    version: str
    decoded: Decoded | None = None
    refusal: Refusal | None = None


class _Form(NamedTuple):
    """How a kind is decoded: bytes to a wire struct, wire struct to a model object."""

    decoder: msgspec.json.Decoder[Any]
    build: Callable[[Any, Faults], Object | None]


_FORMS: Final[dict[Kind, _Form]] = {
    Kind.NODE: _Form(msgspec.json.Decoder(wire.NodeWire), objects_cluster.node),
    Kind.NAMESPACE: _Form(msgspec.json.Decoder(wire.NamespaceWire), objects_cluster.namespace),
    Kind.POD: _Form(msgspec.json.Decoder(wire.PodWire), objects_cluster.pod),
    Kind.SERVICE: _Form(msgspec.json.Decoder(wire.ServiceWire), objects_service.service),
    Kind.ENDPOINT_SLICE: _Form(msgspec.json.Decoder(wire.SliceWire), objects_service.endpoint_slice),
    Kind.NETWORK_POLICY: _Form(msgspec.json.Decoder(wire.PolicyWire), objects_policy.network_policy),
}
KINDS: Final = frozenset(_FORMS)

_identity: Final = msgspec.json.Decoder(wire.Identity)
_bookmark: Final = msgspec.json.Decoder(wire.Bookmark)
_list: Final = msgspec.json.Decoder(wire.ListWire)
_line: Final = msgspec.json.Decoder(wire.WatchLine)
_status: Final = msgspec.json.Decoder(wire.StatusWire)


def decode_item(kind: Kind, raw: bytes | msgspec.Raw) -> Decoded:
    """One object of a kind in `KINDS`. Never raises: what is wrong with it comes back as faults."""
    form = _FORMS[kind]
    try:
        value = form.decoder.decode(raw)
    except _UNDECODABLE as error:
        return _undecodable(kind, raw, error)
    ref = Ref(kind, objects_cluster.name_of(value.metadata))
    faults = Faults(ref)
    if not ref.name.name:
        faults.add("metadata.name", "", "an object without a name; left out")
        return Decoded(ref=ref, version=value.metadata.resource_version, object=None, faults=faults.found)
    built = form.build(value, faults)
    return Decoded(ref=ref, version=value.metadata.resource_version, object=built, faults=faults.found)


def decode_page(kind: Kind, body: bytes) -> Page:
    """One page of a list of a kind; Malformed when it is no list with a resource version."""
    try:
        page = _list.decode(body)
    except _UNDECODABLE as error:
        raise Malformed(f"not a list of {kind.value}: {_reason(error)}") from error
    if not page.metadata.resource_version:
        raise Malformed(f"a list of {kind.value} without a resource version")
    return Page(
        items=tuple(decode_item(kind, raw) for raw in page.items or ()),
        version=page.metadata.resource_version,
        next=page.metadata.continue_ or "",
        remaining=page.metadata.remaining_item_count or 0,
    )


def decode_signal(kind: Kind, line: bytes) -> Signal:
    """One line of a watch of a kind; Malformed when it is none. Types that we do not know come back without content."""
    try:
        outer = _line.decode(line)
        if outer.type == "BOOKMARK":
            return Signal(type=outer.type, version=_bookmark.decode(outer.object).metadata.resource_version)
    except _UNDECODABLE as error:
        raise Malformed(f"not an event of a watch of {kind.value}: {_reason(error)}") from error
    if outer.type == "ERROR":
        return Signal(type=outer.type, version="", refusal=decode_refusal(bytes(outer.object), code=500))
    if outer.type not in ("ADDED", "MODIFIED", "DELETED"):
        return Signal(type=outer.type, version="")
    decoded = decode_item(kind, outer.object)
    return Signal(type=outer.type, version=decoded.version, decoded=decoded)


def decode_refusal(body: bytes, *, code: int) -> Refusal:
    """A Status body; `code` is taken where the body has none. A body that is no Status (a proxy's page) is quoted."""
    try:
        status = _status.decode(body)
    except _UNDECODABLE:
        return Refusal(code=code, message=" ".join(body[:200].decode(errors="replace").split()))
    return Refusal(
        code=status.code or code,
        message=status.message or status.reason or "",
        retry_after=status.details.retry_after_seconds if status.details is not None else None,
    )


def _undecodable(kind: Kind, raw: bytes | msgspec.Raw, error: Exception) -> Decoded:
    """An object whose JSON is not of the promised types: name it as far as it can be read, and find the offending value."""
    name, version = Name("", ""), ""
    try:
        metadata = _identity.decode(raw).metadata
        name, version = Name(metadata.namespace, metadata.name), metadata.resource_version
    except _UNDECODABLE:
        pass  # then it stays without a name; the fault below says so
    message, _, path = _reason(error).partition(" - at ")
    path = path.strip("`").replace("[...]", "")  # of a mapping, msgspec does not say which key
    faults = Faults(Ref(kind, name))
    faults.add(path.removeprefix("$.") or "$", _value_at(raw, path), f"{message}; the object is left as it was")
    return Decoded(ref=faults.ref, version=version, object=None, faults=faults.found)


def _reason(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _value_at(raw: bytes | msgspec.Raw, path: str) -> object:
    """The value at a path as msgspec spells it ("$.spec.ports[1].port"), or the nearest one above it; None when unreadable."""
    try:
        value: Any = msgspec.json.decode(raw)
    except _UNDECODABLE:
        return None
    for step in path.replace("[", ".[").split(".")[1:]:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.strip("[]").isdigit():
            value = value[int(step.strip("[]"))]
        else:
            break
    return value
