"""All targets of this process, one of each: whoever writes a kind of state writes it through the same one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from kube_router.app.found_marks import found_marks
from kube_router.app.later import Later
from kube_router.app.metering import tool_ran
from kube_router.apply.apiserver.annotations import AnnotationTarget
from kube_router.apply.files.cni import CniFileTarget
from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.delivery import DeliveryTarget
from kube_router.apply.kernel.fou import FouTarget
from kube_router.apply.kernel.ipset import SetTarget
from kube_router.apply.kernel.links import LinkTarget
from kube_router.apply.kernel.neighbours import NeighbourTarget
from kube_router.apply.kernel.policy_rules import RuleTarget
from kube_router.apply.kernel.routes import RouteTarget
from kube_router.apply.kernel.sysctls import SysctlTarget
from kube_router.apply.kernel.tunnels import TunnelTarget
from kube_router.apply.listeners.health_ports import HealthPortTarget
from kube_router.cache.cache import View
from kube_router.config.options import Options
from kube_router.control.controller import Target
from kube_router.control.marks import Holder
from kube_router.model.objects import Name
from kube_router.model.state import Key
from kube_router.model.state.direct import MarkRuleKey, PodPortKey, PodTunnelKey, PodVipKey
from kube_router.model.state.ipvs import DestinationKey, IpvsTimeoutsKey, VirtualServerKey
from kube_router.model.state.links import AddressKey
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey, SetMember
from kube_router.model.state.tunnels import Tunnel
from kube_router.plan.ownership import adopted_services, outside
from kube_router.telemetry.logging import get_logger

if TYPE_CHECKING:
    from kube_router.apply.kernel.flows import Flows
    from kube_router.apply.kernel.iptables_backend import Choice
    from kube_router.kit.apiserver import ApiClient


class Targets:
    """Targets by kind of key. Those that need a module or a tool are opened when they are first used."""

    def __init__(self, options: Options, view: View) -> None:
        self._options = options
        self._view = view
        self.commands = Commands(ran=tool_ran)
        self._choice: Choice | None = None
        self.sets = SetTarget(self.commands)
        self.rules = Later((ChainKey, JumpKey, LeftoverKey), lambda: self._rules(options.iptables_backend))
        self.ipvs = Later((VirtualServerKey, DestinationKey, IpvsTimeoutsKey), self._ipvs)
        self.addresses = Later((AddressKey,), self._addresses)
        self.delivery = DeliveryTarget()
        self.pods = Later((PodTunnelKey, PodVipKey, PodPortKey), self._pods)
        self.routes = RouteTarget()
        self.tunnels = TunnelTarget()
        self.gobgp = Client(options.gobgp_target)
        # Told of what is about to happen to sessions: reason and message. In worker threads.
        self.tell: Callable[[str, str], None] = lambda _reason, message: get_logger("speaker").warning(message)
        # Whether the service proxy is at work, as load balancers are told.
        self.is_proxy_alive: Callable[[], bool] = lambda: True
        self.health_ports = HealthPortTarget(lambda: self.is_proxy_alive())
        self.speaker = GobgpTarget(self.gobgp, preserved=self._routes_stand, tell=lambda reason, message: self.tell(reason, message))
        self._all: tuple[Target, ...] = (
            LinkTarget(),
            SysctlTarget(),
            CniFileTarget(),
            self.sets,
            self.rules,
            self.ipvs,
            self.addresses,
            self.delivery,
            self.pods,
            self.health_ports,
            FouTarget(self.commands, lambda: self._gue_ports(options)),
            self.tunnels,
            NeighbourTarget(),
            self.routes,
            RuleTarget(),
            self.speaker,
            AnnotationTarget(lambda: self.api, options.node_name, seen=self._own_annotations),
        )

    @cached_property
    def flows(self) -> Flows:
        """Who ends UDP flows, of services and of addresses alike."""
        from kube_router.apply.kernel.flows import Flows

        return Flows()

    @cached_property
    def api(self) -> ApiClient:
        """The way to the API server; raises ConfigurationError. To be asked for first by whoever can end the start."""
        from kube_router.kit.apiserver import ApiClient

        return ApiClient.load(kubeconfig=self._options.kubeconfig, servers=self._options.api_servers)

    def of(self, kinds: tuple[type[Key], ...]) -> list[Target]:
        """Those that hold any of these kinds."""
        return [target for target in self._all if set(kinds) & set(target.kinds)]

    def connections(self, servers: Collection[VirtualServerKey]) -> Mapping[DestinationKey, int]:
        """Connections of the destinations of these services, as far as IPVS tells. Raises as a target does."""
        from kube_router.apply.kernel.ipvs import IpvsTarget

        ipvs = self.ipvs.opened
        return ipvs.connections(servers) if isinstance(ipvs, IpvsTarget) else {}

    def _marks(self) -> set[int]:
        """Marks that stand in sets and rules of any kind."""
        return {*self.found_marks().values(), *(key.mark for key in self.delivery.observe({}) if isinstance(key, MarkRuleKey))}

    def found_marks(self) -> Mapping[Holder, int]:
        """Marks that an earlier run of ours, or the original, left in sets and rules. Raises as a target does."""
        return found_marks(self.sets.observe({}), self.rules.observe({}))

    def leave_other_backend(self) -> None:
        """Remove what is ours from the backend of iptables that was not chosen: what an earlier run left, of us or of the original.

        To be called once everything stands in the chosen one: until then the old rules are all that judges packets. Raises as a
        target does.
        """
        from kube_router.apply.kernel.iptables_backend import clean_other

        if self._choice is not None:
            gone = clean_other(self.commands, self._choice)
            if gone:
                get_logger("iptables").info("rules moved to the other backend", backend=self._choice.backend, removed_from_the_other=gone)

    def _own_annotations(self) -> Mapping[str, str] | None:
        own = self._view.nodes.get(Name("", self._options.node_name))
        return None if own is None else own.annotations

    def _gue_ports(self, options: Options) -> set[int]:
        """Ports on which a listener is ours: the configured one, and those that tunnels of an earlier run send to."""
        tunnels = (value for value in self.tunnels.observe({}).values() if isinstance(value, Tunnel) and value.kind != "vxlan")
        return {options.overlay_encap_port, *(tunnel.port for tunnel in tunnels if tunnel.port)}

    def _routes_stand(self) -> bool:
        """Whether the kernel still forwards by what was learned before."""
        return bool(self.routes.observe({}))

    def _rules(self, preference: str) -> Target:
        from kube_router.apply.kernel.iptables import IptablesTarget
        from kube_router.apply.kernel.iptables_backend import choose

        self._choice = choice = choose(self.commands, preference)
        get_logger("iptables").info("backend chosen", backend=choice.backend, reason=choice.reason)
        return IptablesTarget(choice.tools, self.commands)

    def _ipvs(self) -> Target:
        from kube_router.apply.kernel.ipvs import IpvsTarget

        return IpvsTarget(adopted=self._adopted, flows=self.flows)

    def _adopted(self) -> Callable[[VirtualServerKey], bool]:
        left = adopted_services((key for key in self.sets.observe({}) if isinstance(key, SetMember)), self._marks())
        return outside(self._options.excluded_cidrs, left)

    def _pods(self) -> Target:
        from kube_router.apply.kernel.pod_tunnels import PodTunnelTarget
        from kube_router.apply.runtime.sandboxes import Sandboxes

        runtime = Sandboxes(self._options.runtime_endpoint) if self._options.runtime_endpoint else None
        # Whoever sends packets to pods' tunnels has packets delivered by mark.
        return PodTunnelTarget(self.commands, runtime=runtime, before=lambda: bool(self.delivery.observe({})))

    def _addresses(self) -> Target:
        from kube_router.apply.kernel.addresses import AddressTarget

        return AddressTarget(flows=self.flows)
