"""The speaker's global configuration and its neighbours.

Everything is checked here, since a 3.10 speaker is not to be trusted with it: an address that is none crashes it, and one
of the wrong family is accepted (seen with 3.10). The checks raise ValueError with words for people.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import msgspec

from kube_router.codec.gobgp.generation import ESTABLISHED, Generation, Message
from kube_router.kit.bgp import MOST_MILLISECONDS
from kube_router.kit.net import Family, canonical_address, family_of
from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd, Neighbor, NeighborKey, Speaker

STATES: Final = ("unknown", "idle", "connect", "active", "opensent", "openconfirm", "established")
_AFI: Final[dict[Family, int]] = {4: 1, 6: 2}
_UNICAST: Final = 1
_MICROSECONDS: Final = 1000  # in a millisecond
_BGP_PORT: Final = 179
# Seconds between attempts to connect, gobgpd's least (3.10); its default of two minutes keeps a peer that comes back waiting.
_CONNECT_RETRY: Final = 5
_MOST_HOLD_TIME: Final = 65535  # seconds; 16 bits of the OPEN (RFC 4271 4.2)
_MOST_RESTART_TIME: Final = 4095  # 12 bits of the capability (RFC 4724 3)


class PeerStatus(msgspec.Struct, frozen=True):
    """How a session stands. `state` as in STATES. `up_once`: it was established at some time in the speaker's life.

    `listening`: the peer speaks graceful restart, and for some family its End-of-RIB has not come.
    """

    address: str
    asn: int = 0
    internal: bool = False
    state: str = "unknown"
    up_once: bool = False
    listening: bool = False

    @property
    def established(self) -> bool:
        """Whether routes can be exchanged."""
        return self.state == STATES[ESTABLISHED]


def start_request(generation: Generation, speaker: Speaker) -> Message:
    """StartBgp for this configuration."""
    _dotted("router id", speaker.router_id)
    _in_range("port", speaker.port, 1, 65535)
    _in_range("AS number", speaker.asn, 1, 2**32 - 1)
    pb = generation.pb
    addresses = [canonical_address(address) for address in speaker.addresses]
    settings = pb.Global(
        asn=speaker.asn,
        router_id=speaker.router_id,
        listen_port=speaker.port,
        listen_addresses=addresses,
        use_multiple_paths=speaker.multipath,
    )
    return pb.StartBgpRequest(**{"global": settings})


def speaker_of(reply: Message) -> Speaker | None:
    """The configuration in a GetBgp reply; None when the speaker has not been started (its AS number then is 0)."""
    settings = getattr(reply, "global")
    if not settings.asn:
        return None
    addresses = tuple(sorted(canonical_address(address) for address in settings.listen_addresses))
    return Speaker(settings.asn, settings.router_id, settings.listen_port, addresses, settings.use_multiple_paths)


def family(generation: Generation, of: Family) -> Message:
    """The Family message of unicast routes."""
    return generation.pb.Family(afi=_AFI[of], safi=_UNICAST)


def peer(generation: Generation, key: NeighborKey, neighbor: Neighbor, *, restarting: bool = False) -> Message:
    """A Peer. `restarting`: tell it that we come back and forwarded all the while (R and F bits, RFC 4724 3).

    BFD is left out where the generation has none: a session without it is better than none.
    """
    _check(key.address, neighbor)
    pb = generation.pb
    graceful = neighbor.restart_time > 0
    message = pb.Peer(
        conf=pb.PeerConf(
            neighbor_address=key.address,
            peer_asn=neighbor.asn,
            auth_password=neighbor.password.reveal() if neighbor.password else "",
        ),
        timers=pb.Timers(config=pb.TimersConfig(hold_time=neighbor.hold_time, connect_retry=_CONNECT_RETRY)),
        transport=pb.Transport(local_address=neighbor.local_address, remote_port=neighbor.port),
        afi_safis=[
            pb.AfiSafi(
                config=pb.AfiSafiConfig(family=family(generation, of), enabled=True),
                mp_graceful_restart=pb.MpGracefulRestart(config=pb.MpGracefulRestartConfig(enabled=True)) if graceful else None,
            )
            for of in neighbor.families
        ],
    )
    if neighbor.multihop_ttl:
        message.ebgp_multihop.enabled = True
        message.ebgp_multihop.multihop_ttl = neighbor.multihop_ttl
    if neighbor.cluster_id:
        message.route_reflector.route_reflector_client = True
        message.route_reflector.route_reflector_cluster_id = neighbor.cluster_id
    if neighbor.bfd is not None and generation.has_bfd:
        message.bfd.CopyFrom(_bfd(generation, neighbor.bfd))
    if graceful:
        message.graceful_restart.enabled = True
        message.graceful_restart.restart_time = neighbor.restart_time
        message.graceful_restart.deferral_time = neighbor.deferral_time
        message.graceful_restart.local_restarting = restarting
    return message


def neighbor_of(message: Message) -> tuple[NeighborKey, Neighbor]:
    """What a listed Peer is configured to."""
    graceful = message.graceful_restart
    of = {1: 4, 2: 6}
    families: tuple[Family, ...] = tuple(
        sorted(of[entry.config.family.afi] for entry in message.afi_safis if entry.config.enabled and _is_unicast(entry.config.family))  # type: ignore[misc]
    )
    neighbor = Neighbor(
        asn=message.conf.peer_asn,
        local_address=message.transport.local_address,
        port=message.transport.remote_port or _BGP_PORT,
        families=families,
        hold_time=message.timers.config.hold_time,
        restart_time=graceful.restart_time if graceful.enabled else 0,
        deferral_time=graceful.deferral_time if graceful.enabled else 0,
        password=Secret(message.conf.auth_password) if message.conf.auth_password else None,
        multihop_ttl=message.ebgp_multihop.multihop_ttl if message.ebgp_multihop.enabled else 0,
        cluster_id=message.route_reflector.route_reflector_cluster_id if message.route_reflector.route_reflector_client else "",
        bfd=_bfd_of(message),
    )
    return NeighborKey(message.conf.neighbor_address), neighbor


def status_of(message: Message) -> PeerStatus:
    """How a listed Peer's session stands, or one in an event (which tells neither End-of-RIB nor former sessions)."""
    state = STATES[message.state.session_state] if message.state.session_state < len(STATES) else STATES[0]
    local = message.conf.local_asn
    remote = message.conf.peer_asn or message.state.peer_asn
    waiting = any(
        entry.mp_graceful_restart.state.received and not entry.mp_graceful_restart.state.end_of_rib_received for entry in message.afi_safis
    )
    return PeerStatus(
        address=message.conf.neighbor_address or message.state.neighbor_address,
        asn=remote,
        internal=bool(local) and local == remote,
        state=state,
        up_once=state == STATES[ESTABLISHED] or message.timers.state.uptime.seconds > 0,
        listening=waiting,
    )


def _bfd(generation: Generation, bfd: Bfd) -> Message:
    return generation.pb.BfdPeerConfig(
        enabled=True,
        port=bfd.port,
        detection_multiplier=bfd.multiplier,
        desired_minimum_tx_interval=bfd.transmit * _MICROSECONDS,
        required_minimum_receive=bfd.receive * _MICROSECONDS,
    )


def _bfd_of(message: Message) -> Bfd | None:
    settings = getattr(message, "bfd", None)
    if settings is None or not settings.enabled:
        return None
    transmit, receive = settings.desired_minimum_tx_interval, settings.required_minimum_receive
    return Bfd(settings.port, settings.detection_multiplier, transmit // _MICROSECONDS, receive // _MICROSECONDS)


def _is_unicast(of: Message) -> bool:
    return of.safi == _UNICAST and of.afi in _AFI.values()


def _check(address: str, neighbor: Neighbor) -> None:
    for what, text in (("neighbour address", address), ("local address", neighbor.local_address)):
        if canonical_address(text) != text:
            raise ValueError(f"{what} {text!r} is not in canonical form")
    if family_of(address) != family_of(neighbor.local_address):
        raise ValueError(f"local address {neighbor.local_address} is of another family than neighbour {address}")
    _in_range("AS number", neighbor.asn, 1, 2**32 - 1)
    _in_range("port", neighbor.port, 1, 65535)
    _in_range("hold time", neighbor.hold_time, 3, _MOST_HOLD_TIME)
    _in_range("restart time", neighbor.restart_time, 0, _MOST_RESTART_TIME)
    _in_range("multihop TTL", neighbor.multihop_ttl, 0, 255)
    if neighbor.cluster_id:
        _dotted("cluster id", neighbor.cluster_id)
    if neighbor.bfd is not None:
        _in_range("BFD port", neighbor.bfd.port, 1, 65535)
        _in_range("BFD detection multiplier", neighbor.bfd.multiplier, 1, 255)
        for interval in (neighbor.bfd.transmit, neighbor.bfd.receive):
            _in_range("BFD interval", interval, 1, MOST_MILLISECONDS)
    if not neighbor.families:
        raise ValueError("no address family")


def _dotted(what: str, text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError(f"{what} {text!r} is no IPv4 address") from None


def _in_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{what} {value} is not in {least}..{most}")
