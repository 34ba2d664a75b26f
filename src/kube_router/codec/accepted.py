"""The gate that annotations pass on their way into the cache: what does not parse gives way to the last good text.

An *item* is what annotations say together (an AS number to prepend, and how often). Past the gate an object carries, of every item, texts
that parse: those that it has, else the last ones that were accepted while it had the item, else none. What was refused is told in its
`rejected`. So whoever decides needs no memory: accepted texts are an input like the objects, and are kept over a restart
(`dump`, `load`), except for items that hold passwords. Annotations that are nobody's item pass as they are.

Of other nodes only the items that concern their peers pass; a wrong one is news to their own daemon alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from kube_router.codec import annotation_peers as peers
from kube_router.codec import annotations as of
from kube_router.codec.annotations import Annotations, Wrong
from kube_router.model.objects import Kind, Name, Node, Object, Ref, Rejected, Service


class Item(NamedTuple):
    """Annotations that only make sense together. `private`: read by the node itself alone; `is_secret` judges what was parsed."""

    name: str
    annotations: tuple[str, ...]
    parse: Callable[[Annotations], Any]
    private: bool = False
    is_secret: Callable[[Any], bool] = lambda _parsed: False


NODE_ITEMS: Final = (
    Item("asn", (of.NODE_ASN,), of.node_asn),
    Item("reflector", (of.REFLECTOR_SERVER, of.REFLECTOR_CLIENT), of.reflector),
    Item("pod CIDRs", (of.POD_CIDRS,), of.pod_cidrs),
    Item("pod CIDR", (of.POD_CIDR,), of.pod_cidr),
    Item("prepend", (of.PREPEND_AS, of.PREPEND_REPEAT), of.prepend, private=True),
    Item("communities", (of.COMMUNITIES,), of.communities, private=True),
    Item("import reject", (of.IMPORT_REJECT,), of.import_reject, private=True),
    Item("local addresses", (of.LOCAL_ADDRESSES,), of.local_addresses, private=True),
    Item("peers", peers.ALL, peers.peers, private=True, is_secret=peers.hold_password),
)
SERVICE_ITEMS: Final = (
    Item("advertise cluster IPs", (of.ADVERTISE + "clusterip",), lambda texts: of.advertises(texts, "clusterip")),
    Item("advertise external IPs", (of.ADVERTISE + "externalip",), lambda texts: of.advertises(texts, "externalip")),
    Item("advertise load-balancer IPs", (of.ADVERTISE + "loadbalancerip",), lambda texts: of.advertises(texts, "loadbalancerip")),
    Item("local", (of.SERVICE_LOCAL,), of.is_local),
    Item("direct server return", (of.DSR,), of.is_direct),
    Item("scheduler", (of.SCHEDULER,), of.scheduler),
    Item("scheduler flags", (of.SCHEDULER_FLAGS,), of.scheduler_flags),
)
_ITEMS: Final[dict[Kind, tuple[Item, ...]]] = {Kind.NODE: NODE_ITEMS, Kind.SERVICE: SERVICE_ITEMS}
_KNOWN: Final = {kind: frozenset(name for item in rows for name in item.annotations) for kind, rows in _ITEMS.items()}


class _Record(msgspec.Struct):
    """Accepted texts of one object, by item; `secret` names items that are kept in memory only."""

    uid: str
    items: dict[str, dict[str, str]] = {}
    secret: set[str] = set()


class _Entry(msgspec.Struct):
    kind: str
    namespace: str
    name: str
    uid: str
    items: dict[str, dict[str, str]]


class _Snapshot(msgspec.Struct):
    version: int
    objects: list[_Entry]


_VERSION: Final = 1


class Gate:
    """Accepted texts of all objects. `own`: our node; `hosts(address)`: whether this host can listen on an address.

    `changed` says that there is something that a `dump` would tell anew; whoever writes it down resets it.
    """

    def __init__(self, own: Name, *, hosts: Callable[[str], bool] = lambda _address: True) -> None:
        self._own = own
        self._hosts = hosts
        self._records: dict[Ref, _Record] = {}
        self.changed = False

    def admit(self, value: Object) -> Object:
        """The object with annotations that parse; the same one when nothing is wrong with it."""
        if isinstance(value, Node):
            return self._admit_node(value)
        if isinstance(value, Service):
            texts, rejected = self._texts(Ref(Kind.SERVICE, value.name), value.uid, value.annotations, SERVICE_ITEMS)
            if texts == value.annotations and not rejected:
                return value
            return msgspec.structs.replace(value, annotations=texts, rejected=rejected)
        return value

    def forget(self, ref: Ref) -> None:
        """The object is gone."""
        if self._records.pop(ref, None) is not None:
            self.changed = True

    def forget_others(self, kind: Kind, names: Iterable[Name]) -> None:
        """Of this kind there are no other objects than these."""
        if kind in _ITEMS:
            there = frozenset(names)
            for ref in [ref for ref in self._records if ref.kind is kind and ref.name not in there]:
                self.forget(ref)

    # -- over a restart -----------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Everything accepted that holds no password, for `load`."""
        entries = [
            _Entry(ref.kind.value, ref.name.namespace, ref.name.name, record.uid, open_items)
            for ref, record in sorted(self._records.items(), key=lambda pair: (pair[0].kind.value, pair[0].name))
            if (open_items := {name: texts for name, texts in record.items.items() if name not in record.secret})
        ]
        return msgspec.json.encode(_Snapshot(_VERSION, entries))

    def load(self, data: bytes) -> None:
        """What an earlier run dumped; what this version does not accept is left out. ValueError when it is no dump."""
        try:
            snapshot = msgspec.json.decode(data, type=_Snapshot)
            if snapshot.version != _VERSION:
                raise ValueError(f"version {snapshot.version} is unknown")
            entries = [(Ref(Kind(entry.kind), Name(entry.namespace, entry.name)), entry) for entry in snapshot.objects]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        for ref, entry in entries:
            rows = {item.name: item for item in _ITEMS.get(ref.kind, ())}
            items = {name: texts for name, texts in entry.items.items() if name in rows and _is_good(rows[name], texts)}
            if items:
                self._records[ref] = _Record(entry.uid, items)

    # -- one object ---------------------------------------------------------------------------------------------------

    def _admit_node(self, node: Node) -> Node:
        is_own = node.name == self._own
        rows = NODE_ITEMS if is_own else tuple(item for item in NODE_ITEMS if not item.private)
        texts, rejected = self._texts(Ref(Kind.NODE, node.name), node.uid, node.annotations, rows)
        cidrs = of.pod_cidrs(texts) or of.pod_cidr(texts) or node.pod_cidrs
        if texts == node.annotations and cidrs == node.pod_cidrs and not rejected:
            return node
        return msgspec.structs.replace(node, annotations=texts, pod_cidrs=cidrs, rejected=rejected if is_own else ())

    def _texts(self, ref: Ref, uid: str, annotations: Annotations, rows: Iterable[Item]) -> tuple[Annotations, tuple[Rejected, ...]]:
        record = self._records.get(ref)
        if record is not None and record.uid != uid:
            self.forget(ref)  # another object of the same name
            record = None
        if not annotations and record is None:
            return annotations, ()
        record = record or _Record(uid)
        known = _KNOWN[ref.kind]
        passed = {name: text for name, text in annotations.items() if name not in known}
        rejected = []
        for item in rows:
            given = {name: annotations[name] for name in item.annotations if name in annotations}
            fault = self._weigh(record, item, given)
            passed |= record.items.get(item.name, {})
            if fault is not None:
                rejected.append(Rejected(fault.annotation, fault.value, fault.reason, fault.advice, item.name in record.items))
        if record.items:
            self._records[ref] = record
        else:
            self._records.pop(ref, None)
        return passed, tuple(rejected)

    def _weigh(self, record: _Record, item: Item, given: dict[str, str]) -> Wrong | None:
        """Accept the texts of an item into the record, or say what is wrong with them."""
        held = record.items.get(item.name)
        if given == (held or {}):
            return None
        if not given:
            self.changed = True
            del record.items[item.name]
            record.secret.discard(item.name)
            return None
        try:
            parsed = item.parse(given)
            if item.parse is of.local_addresses:
                self._check_hosted(parsed)
        except Wrong as fault:
            return fault
        self.changed = True
        record.items[item.name] = given
        record.secret.discard(item.name)
        if item.is_secret(parsed):
            record.secret.add(item.name)
        return None

    def _check_hosted(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            if not self._hosts(address):
                raise Wrong(of.LOCAL_ADDRESSES, address, "this node has no such address", "give addresses of this node, comma separated")


def _is_good(item: Item, texts: Annotations) -> bool:
    try:
        return texts.keys() <= set(item.annotations) and not item.is_secret(item.parse(texts))
    except Wrong:
        return False
