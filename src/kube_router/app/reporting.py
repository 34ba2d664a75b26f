"""What cycles tell, made into log lines, metrics and Events.

A fault that stays is told once, not on every retry: it is told again when its text changes or after a good pass in between.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Final

from kube_router.codec.objects_fault import Fault
from kube_router.desired import Note
from kube_router.kit.errors import TargetError
from kube_router.kit.net import host_prefix
from kube_router.model.objects import Kind, Ref
from kube_router.model.state import Change, Key
from kube_router.model.state.bgp import PathKey
from kube_router.model.state.links import RouteKey
from kube_router.telemetry.logging import Logger, get_logger
from kube_router.telemetry.metrics import METRICS

_API_KINDS: Final = frozenset(Kind) - {Kind.INTERFACE, Kind.BEST_PATH, Kind.CNI_FILE}


class Reporting:
    """A `control.report.Report`. `post` sends an Event and returns at once."""

    def __init__(self, post: Callable[[Note], None]) -> None:
        self._post = post
        self._told: dict[tuple[str, Hashable], str] = {}

    def note(self, controller: str, note: Note) -> None:
        """Log it, count it, and put it on the object as an Event; one that is quiet is only logged."""
        if note.quiet:
            _log(controller).info(note.message, reason=note.reason)
            return
        _log(controller).warning(note.message, object=str(note.about), reason=note.reason)
        METRICS.counter("rejected_items_total", {"controller": controller, "kind": note.about.kind.value}).inc()
        self._post(note)

    def foretell(self, controller: str, note: Note) -> None:
        """Something that is about to be done, and is nobody's fault: logged, and put on the object as an Event. From any thread."""
        _log(controller).warning(note.message, object=str(note.about), reason=note.reason)
        self._post(note)

    def faulty(self, controller: str, item: Hashable, fault: Exception) -> None:
        """Log it with its traceback; the item keeps its last good state."""
        if not self._is_news(controller, item, repr(fault)):
            return
        ref = ref_of(item)
        about = str(ref) if ref else str(item)
        _log(controller).exception(f"cannot work out what {about} needs, its last good state stays in force", fault)
        kind = ref.kind.value if ref else "item"
        METRICS.counter("rejected_items_total", {"controller": controller, "kind": kind}).inc()
        if ref:
            self._post(Note(ref, "NotApplied", f"{controller} cannot apply this object, its last good state stays in force: {fault}"))

    def failed(self, controller: str, failure: TargetError) -> None:
        """Log that a pass ended early, and count it by what was wrong: busy, stale or rejected (kit/errors.py)."""
        METRICS.counter("controller_sync_errors_total", {"controller": controller, "kind": type(failure).__name__.lower()}).inc()
        if self._is_news(controller, type(failure).__name__, str(failure)):
            _log(controller).warning(f"pass ended early and is tried again: {failure}", kind=type(failure).__name__)

    def rejected(self, controller: str, key: Key, owners: tuple[Hashable, ...], reason: str) -> None:
        """Log what was refused, for whom and why."""
        if not self._is_news(controller, key, reason):
            return
        for_whom = ", ".join(str(ref_of(owner) or owner) for owner in owners[:3]) or "removal"
        _log(controller).warning(f"refused: {reason}", state=str(key), wanted_by=for_whom)
        METRICS.counter("rejected_items_total", {"controller": controller, "kind": type(key).__name__}).inc()
        ref = ref_of(owners[0]) if owners else None
        if ref:
            self._post(Note(ref, "NotApplied", f"{controller}: {key} was refused: {reason}"))

    def drift(self, controller: str, key: Key) -> None:
        """Log and count what others had changed."""
        _log(controller).info("put right what others changed", state=str(key))
        METRICS.counter("drift_repaired_total", {"kind": type(key).__name__.removesuffix("Key")}).inc()

    def wrote(self, controller: str, target: object, changes: Sequence[Change]) -> None:
        """Count; routes and announcements have counters of their own."""
        del controller
        for change in changes:
            if type(change.key) is RouteKey:
                METRICS.counter("host_routes_removed" if change.after is None else "host_routes_added").inc()
            elif type(change.key) is PathKey:
                sent = _sent(change.key.prefix, withdrawn=change.after is None)
                if sent:
                    METRICS.counter("controller_bgp_advertisements_sent", {"type": sent}).inc()
        real = getattr(target, "opened", None) or target
        METRICS.counter("kernel_writes_total", {"target": type(real).__name__.removesuffix("Target").lower()}).inc(len(changes))

    def bad_object(self, fault: Fault) -> None:
        """A wrong value in an object from the API server; the rest of it, and all others, are served."""
        get_logger("watch").warning(
            f"{fault.message}; the rest of the object is served", object=str(fault.ref), field=fault.field, value=fault.value
        )
        METRICS.counter("bad_objects_total", {"kind": fault.ref.kind.value}).inc()
        self._post(Note(fault.ref, "BadValue", f"{fault.field} = {fault.value}: {fault.message}"))

    def good(self, controller: str) -> None:
        """A pass was good: faults that come again are news."""
        for told in [told for told in self._told if told[0] == controller]:
            del self._told[told]

    def _is_news(self, controller: str, subject: Hashable, text: str) -> bool:
        if self._told.get((controller, subject)) == text:
            return False
        self._told[controller, subject] = text
        return True


def _sent(prefix: str, *, withdrawn: bool) -> str:
    """What the original counts an announcement as; it does not count pod ranges that are taken back."""
    if prefix == host_prefix(prefix.partition("/")[0]):
        return "withdraw-vip" if withdrawn else "advertise-vip"
    return "" if withdrawn else "pod-route"


def ref_of(item: Hashable) -> Ref | None:
    """The object behind an item, where the API server knows one: items are a Ref, or say what they are `about`, or are the node's."""
    about = item if isinstance(item, Ref) else getattr(item, "about", None)
    return about if isinstance(about, Ref) and about.kind in _API_KINDS else None


def _log(controller: str) -> Logger:
    return get_logger(controller)
