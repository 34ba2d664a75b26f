"""Direct server return: how marked packets are delivered to IPVS, and what pods need to take in what IPVS sends them."""

from __future__ import annotations

from kube_router.model.family import Family
from kube_router.model.state import Key, Value


class DeliveryKey(Key, frozen=True):
    """The one route of a table of ours (78 or 79), which everything takes that looks there, though no link has its address."""

    family: Family
    table: int = 78


class Delivery(Value, frozen=True):
    """A default route over lo. `mtu` 0: local, packets are delivered here. Else they are sent on, and since the route takes none that is
    longer, who sent one hears of that: it is for packets that cannot be delivered, and none leaves by it."""

    mtu: int = 0


class MarkRuleKey(Key, frozen=True):
    """A policy routing rule: packets of this mark look into a table of ours. Mark 0 is only ever observed: the rule by which the
    original has every packet look into its table 79, which is empty."""

    family: Family
    mark: int


class MarkRule(Value, frozen=True):
    """`mask`: the bits of the mark that are compared. Lower priorities are looked at first; table main has 32766."""

    mask: int = 0xFFFFFFFF
    priority: int = 32764
    table: int = 78


class PodTunnelKey(Key, frozen=True):
    """The tunnel link in a pod of this node, by the pod's address."""

    pod: str


class PodTunnel(Value, frozen=True):
    """Takes in packets inside packets to the pod's address, whoever sends them: IP in IP or IPv6 in IPv6, by the address's family."""


class PodVipKey(Key, frozen=True):
    """An address of a Service on a pod's tunnel, so that the pod takes packets to it and answers from it."""

    pod: str
    vip: str


class PodVip(Value, frozen=True):
    """It is there, as a host prefix."""


class PodPortKey(Key, frozen=True):
    """A port of such an address (IP protocol number), which the pod's process listens on under another number."""

    pod: str
    vip: str
    protocol: int
    port: int


class PodPort(Value, frozen=True):
    """`to`: the port that the process listens on."""

    to: int
