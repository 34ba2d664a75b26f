"""Everything that tells us about the world: the API server, this host's links, the BGP speaker. And Events, which go the other way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from kube_router.app.inbox import Inbox
from kube_router.app.targets import Targets
from kube_router.cache.cache import View
from kube_router.config.faults import Fault, StartRefused
from kube_router.config.options import Options
from kube_router.control.fib import FibController
from kube_router.control.runner import Runner
from kube_router.control.speaker import peers_of
from kube_router.desired import Note
from kube_router.kit.net import Family, contains, family_of
from kube_router.model.names import BRIDGE, OVERLAY_TABLE
from kube_router.model.objects import BestPath, Kind, Name, Ref
from kube_router.model.state import Key, Value
from kube_router.model.state.links import Route, RouteKey
from kube_router.model.state.tunnels import Tunnel, TunnelKey
from kube_router.plan import ownership
from kube_router.telemetry.metrics import METRICS, Sample
from kube_router.watch.api import ApiWatch
from kube_router.watch.cni import CniWatch
from kube_router.watch.interfaces import Dumper, InterfaceWatch
from kube_router.watch.reach import ReachWatch
from kube_router.watch.speaker import SpeakerWatch

_ALL_PODS: Final = frozenset({Kind.POD, Kind.NETWORK_POLICY})  # who judges traffic between pods knows those of other nodes
_HOST_KINDS: Final = frozenset({Kind.INTERFACE, Kind.BEST_PATH, Kind.CNI_FILE})


class Watchers:
    """Started once the controllers are there; tasks end by cancellation, threads by `stop`."""

    def __init__(self, options: Options, targets: Targets, view: View) -> None:
        from kube_router.apply.apiserver.events import EventSender
        from kube_router.kit.apiserver import ConfigurationError

        self._options = options
        self._targets = targets
        self._view = view
        try:
            self._client = targets.api
        except ConfigurationError as error:
            raise StartRefused((Fault("--kubeconfig", options.kubeconfig or None, str(error)),)) from error
        self._events = EventSender(self._client, host=options.node_name, uid_of=lambda ref: _uid(view, ref))
        self._api: ApiWatch | None = None
        self._links: InterfaceWatch | None = None
        self._speaker: SpeakerWatch | None = None

    def post(self, note: Note) -> None:
        """Put an Event on the note's object; returns at once."""
        self._events.post(note)

    def start(self, inbox: Inbox, runners: Iterable[Runner], failed: Callable[[Exception], None]) -> set[asyncio.Task[None]]:
        """Watch what these runners read. `failed` is told of a thread that broke."""
        of = {runner.name: runner for runner in runners}
        kinds = frozenset(kind for runner in of.values() for kind in runner.cycle.controller.reads)
        tasks: set[asyncio.Task[None]] = set()
        own_pods_only = not any(runner.cycle.controller.reads >= _ALL_PODS for runner in of.values())
        self._api = ApiWatch(self._client, kinds - _HOST_KINDS, own_node=self._options.node_name, own_pods_only=own_pods_only)
        self._api.start(asyncio.get_running_loop(), inbox, failed)
        if Kind.INTERFACE in kinds:
            self._links = InterfaceWatch(inbox, inbox.disturbed, dumper=_rtnetlink, own=self._targets.routes.port)
            tasks.add(asyncio.create_task(self._links.run(), name="links"))
        if Kind.CNI_FILE in kinds:
            cni = CniWatch(inbox, inbox.disturbed, self._options.cni_conf_file, folders=self._options.cni_folders)
            tasks.add(asyncio.create_task(cni.run(), name="CNI files"))
        if ownership.FIB in of and self._options.enable_overlay:
            tasks.add(asyncio.create_task(self._reach_watch(of[ownership.FIB], self._view).run(), name="reach"))
        if Kind.BEST_PATH in kinds:
            self._speaker = self._speaker_watch(inbox, of[ownership.SPEAKER])
            tasks.add(asyncio.create_task(self._speaker.run(), name="speaker watch"))
            METRICS.at_scrape("bgp", self._bgp_samples)
        return tasks

    def stop(self) -> None:
        """End the threads; returns within a second or two."""
        if self._api is not None:
            self._api.stop()
        self._events.stop()

    def api_trouble(self) -> str:
        """What keeps us from hearing of objects now; empty when every watch does well."""
        status = self._api.status() if self._api is not None else {}
        unlisted = [kind.value for kind, one in status.items() if not one.listed and not one.error]
        errors = dict.fromkeys(one.error for one in status.values() if one.error)
        return "; ".join([*errors, *([f"not listed yet: {', '.join(unlisted)}"] if unlisted else [])])

    def trouble(self, kinds: Iterable[Kind]) -> str:
        """Why these kinds have not been listed, as far as is known."""
        reasons: list[str] = []
        status = self._api.status() if self._api is not None else {}
        for kind in kinds:
            if kind in status:
                reasons.append(status[kind].error)
            elif kind is Kind.INTERFACE and self._links is not None:
                reasons.append(self._links.status.error)
            elif kind is Kind.BEST_PATH and self._speaker is not None:
                reasons.append(self._speaker.problem)
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason))

    def _speaker_watch(self, inbox: Inbox, runner: Runner) -> SpeakerWatch:
        from kube_router.apply.gobgp.feed import Feed

        return SpeakerWatch(
            Feed(self._targets.gobgp),
            inbox,
            wanted=lambda: peers_of(runner.cycle.ledger),
            held=self._routed,
            returned=runner.distrust,
            lost=runner.distrust,
        )

    def _routed(self) -> list[BestPath]:
        """What the kernel routes for us, as the paths that it came from."""
        tunnels = self._targets.tunnels.observe({}).items()
        ends = {key.name: tunnel.remote for key, tunnel in tunnels if isinstance(key, TunnelKey) and isinstance(tunnel, Tunnel)}
        return adopted(self._targets.routes.observe({}), ends)

    def _reach_watch(self, runner: Runner, view: View) -> ReachWatch:
        controller = runner.cycle.controller
        assert isinstance(controller, FibController)
        port = {"fou": self._options.overlay_encap_port, "vxlan": self._options.overlay_vxlan_port}.get(self._options.overlay_encap)
        what = f"UDP port {port}" if port else "IP protocols 4 and 41"
        watch = ReachWatch(
            controller.behind_tunnels,
            lambda family: _pod_side(view, self._options.node_name, family),
            advice=f"see whether the network between lets {what} pass, and whether that node runs with the same --overlay-encap",
        )
        METRICS.at_scrape(
            "reach", lambda: [Sample("overlay_peer_unreachable", (end,), float(gone)) for end, gone in watch.unreachable.items()]
        )
        return watch

    def _bgp_samples(self) -> list[Sample]:
        speaker = self._speaker
        if speaker is None:
            return []
        peers = [
            Sample("bgp_peer_info", (peer.address, "internal" if peer.internal else "external", str(peer.asn), peer.state), 1)
            for peer in speaker.peers
        ]
        return [*peers, Sample("controller_bgp_advertisements_received", (), speaker.received)]


def _pod_side(view: View, node: str, family: Family) -> str:
    """An address of the bridge in this node's pod range: what it sends from there goes the way of pods. "" while there is none."""
    own, bridge = view.nodes.get(Name("", node)), view.interfaces.get(Name("", BRIDGE))
    addresses = [prefix.partition("/")[0] for prefix in bridge.addresses] if bridge else []
    ranges = own.pod_cidrs if own else ()
    return next((one for one in addresses if family_of(one) == family and any(contains(cidr, one) for cidr in ranges)), "")


def adopted(routes: Mapping[Key, Value], ends: Mapping[str, str]) -> list[BestPath]:
    """Routes of an earlier run as the paths that they came from; `ends`: the other end of each tunnel, "" for one that has many.

    A link-local gateway stands for a node; the overlay's table tells one of its addresses, and any one leads the same way.
    """
    found = [(key, value) for key, value in routes.items() if isinstance(key, RouteKey) and isinstance(value, Route)]
    nodes = {hop.gateway: key.prefix.partition("/")[0] for key, value in found if key.table == OVERLAY_TABLE for hop in value.hops}
    paths = []
    for key, value in found:
        hops = {
            ends.get(hop.link) or (nodes.get(hop.gateway, "") if hop.gateway.startswith("fe80:") else hop.gateway) for hop in value.hops
        }
        if key.table != OVERLAY_TABLE and hops - {""}:
            paths.append(BestPath(Name("", key.prefix), tuple(sorted(hops - {""}))))
    return paths


def _uid(view: View, ref: Ref) -> str:
    found = view.store(ref.kind).get(ref.name)
    return getattr(found, "uid", "")


def _rtnetlink() -> Dumper:
    from kube_router.apply.kernel.netlink_socket import ROUTE, NetlinkSocket

    return NetlinkSocket(ROUTE)
