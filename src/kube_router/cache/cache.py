"""All stores, and who has yet to see which change.

The cache is filled by one thread of control (the event loop) and read by controllers on the same one; a controller
computes from the view without giving way, which is what freezes the view for a pass.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Final

from kube_router.cache.store import Store
from kube_router.kit.net import family_of
from kube_router.model.objects import (
    BestPath,
    CniFile,
    EndpointSlice,
    Interface,
    Kind,
    Name,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Ref,
    Service,
)

KIND_OF: Final[dict[type, Kind]] = {
    Node: Kind.NODE,
    Pod: Kind.POD,
    Service: Kind.SERVICE,
    EndpointSlice: Kind.ENDPOINT_SLICE,
    NetworkPolicy: Kind.NETWORK_POLICY,
    Namespace: Kind.NAMESPACE,
    Interface: Kind.INTERFACE,
    BestPath: Kind.BEST_PATH,
    CniFile: Kind.CNI_FILE,
}

_DIRECT: Final = "kube-router.io/service.dsr"  # codec/annotations.py, which lets but one text pass

# Changed objects: for each, what it was when the controller last looked (None: it was not there).
Changes = Mapping[Ref, Object | None]


class View:
    """What controllers read. Stores by kind; indexes: pods by "ip", "node" and "namespace", slices by "service",
    policies by "namespace", nodes by "address" (published ones, too), "range" (pod CIDRs) and "length" (their families and lengths),
    Services by "claim" (model.objects.Claim), "address" and "outside" (True: external or load-balancer IPs), and those to be answered
    directly by "direct" (True, and these IPs), links by "address" (without length) and "gateway", paths by "hop"."""

    def __init__(self) -> None:
        self.nodes: Store[Node] = Store(
            address=lambda node: (*node.addresses, *node.datapath), range=lambda node: node.pod_cidrs, length=_lengths
        )
        self.pods: Store[Pod] = Store(
            ip=lambda pod: pod.ips, node=lambda pod: (pod.node_name,), namespace=lambda pod: (pod.name.namespace,)
        )
        self.services: Store[Service] = Store(
            claim=lambda service: service.claims(),
            address=lambda service: service.addresses(),
            outside=lambda service: (True,) if service.external_ips or service.ingress else (),
            direct=_direct,
        )
        self.slices: Store[EndpointSlice] = Store(service=lambda piece: (piece.service,))
        self.policies: Store[NetworkPolicy] = Store(namespace=lambda policy: (policy.name.namespace,))
        self.namespaces: Store[Namespace] = Store()
        self.interfaces: Store[Interface] = Store(
            address=lambda link: (prefix.partition("/")[0] for prefix in link.addresses), gateway=lambda link: link.gateways
        )
        self.paths: Store[BestPath] = Store(hop=lambda path: path.next_hops)
        self.cni_files: Store[CniFile] = Store()
        self._stores: dict[Kind, Store[Any]] = {
            Kind.NODE: self.nodes,
            Kind.POD: self.pods,
            Kind.SERVICE: self.services,
            Kind.ENDPOINT_SLICE: self.slices,
            Kind.NETWORK_POLICY: self.policies,
            Kind.NAMESPACE: self.namespaces,
            Kind.INTERFACE: self.interfaces,
            Kind.BEST_PATH: self.paths,
            Kind.CNI_FILE: self.cni_files,
        }

    def store(self, kind: Kind) -> Store[Any]:
        """The store of a kind."""
        return self._stores[kind]


def _direct(service: Service) -> Iterable[Hashable]:
    if _DIRECT not in service.annotations:
        return ()
    return (True, *(claim.address for claim in service.claims_outside()))


def _lengths(node: Node) -> Iterator[Hashable]:
    for cidr in node.pod_cidrs:
        yield family_of(cidr), int(cidr.rpartition("/")[2])


class Feed:
    """One controller's unseen changes of the kinds that it reads."""

    def __init__(self, kinds: frozenset[Kind]) -> None:
        self.kinds = kinds
        self._unseen: dict[Ref, Object | None] = {}

    def note(self, ref: Ref, before: Object | None) -> None:
        """Remember that the object changed; the first `before` since the last look is the one that counts."""
        self._unseen.setdefault(ref, before)

    def take(self) -> Changes:
        """All unseen changes; they count as seen."""
        unseen, self._unseen = self._unseen, {}
        return unseen

    def __bool__(self) -> bool:
        return bool(self._unseen)


class Cache:
    """Stores, feeds, and which kinds have been listed in full at least once."""

    def __init__(self) -> None:
        self.view = View()
        self._feeds: list[Feed] = []
        self._listed: set[Kind] = set()

    def feed(self, kinds: Iterable[Kind]) -> Feed:
        """A new feed; objects that are already here count as changes that it has not seen."""
        feed = Feed(frozenset(kinds))
        self._feeds.append(feed)
        for kind in feed.kinds:
            for name in self.view.store(kind):
                feed.note(Ref(kind, name), None)
        return feed

    def put(self, value: Object) -> list[Feed]:
        """Store an object; returns the feeds that have something new (none when it is equal to what was here)."""
        kind = KIND_OF[type(value)]
        store = self.view.store(kind)
        before = store.get(value.name)
        if before == value:
            return []
        store.put(value.name, value)
        return self._tell(Ref(kind, value.name), before)

    def remove(self, kind: Kind, name: Name) -> list[Feed]:
        """Forget an object; forgetting the unknown changes nothing."""
        before = self.view.store(kind).remove(name)
        return [] if before is None else self._tell(Ref(kind, name), before)

    def replace(self, kind: Kind, objects: Iterable[Object], *, keep: Iterable[Name] = ()) -> list[Feed]:
        """A complete list of a kind: objects not in it are gone, and the kind counts as listed.

        `keep` names objects that are in the list but could not be read: they stay as they are here, or absent.
        """
        told: dict[int, Feed] = {}
        seen: set[Name] = set(keep)
        for value in objects:
            seen.add(value.name)
            told.update((id(feed), feed) for feed in self.put(value))
        for name in [name for name in self.view.store(kind) if name not in seen]:
            told.update((id(feed), feed) for feed in self.remove(kind, name))
        if kind not in self._listed:
            self._listed.add(kind)
            told.update((id(feed), feed) for feed in self._feeds if kind in feed.kinds)
        return list(told.values())

    def listed(self, kinds: Iterable[Kind]) -> bool:
        """Whether all these kinds have been listed."""
        return self._listed.issuperset(kinds)

    def unlisted(self, kinds: Iterable[Kind]) -> list[Kind]:
        """Those that have not, for people."""
        return [kind for kind in kinds if kind not in self._listed]

    def _tell(self, ref: Ref, before: Object | None) -> list[Feed]:
        feeds = [feed for feed in self._feeds if ref.kind in feed.kinds]
        for feed in feeds:
            feed.note(ref, before)
        return feeds
