"""External peers of a node: the two forms of annotations that name them, one with all of a peer's settings in YAML, one list a setting.

Both hold passwords, so nothing of what a wrong one says is ever shown: faults name entries and settings by number and name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from kube_router.codec.annotations import PREFIX, Annotations, Wrong, items, number, parsed_address
from kube_router.kit.bgp import MOST_MILLISECONDS, decoded_password, is_peer_asn
from kube_router.kit.net import family_of
from kube_router.model.peers import ExternalPeer
from kube_router.model.secret import Secret
from kube_router.model.state.bgp import Bfd

PEERS: Final = PREFIX + "peers"
ADDRESSES: Final = PREFIX + "peer.ips"
ASNS: Final = PREFIX + "peer.asns"
PORTS: Final = PREFIX + "peer.ports"
PASSWORDS: Final = PREFIX + "peer.passwords"
LOCAL_ADDRESSES: Final = PREFIX + "peer.localips"
ALL: Final = (PEERS, ADDRESSES, ASNS, PORTS, PASSWORDS, LOCAL_ADDRESSES)

HIDDEN: Final = "(not shown: it may hold passwords)"
_SCHEMA: Final = "give a YAML list of maps with remoteip and remoteasn, and localip, password (base64), port or bfd where needed"
_ASN_ADVICE: Final = "AS numbers are 1..23455, 23457..63999, 64512..65534 and 131072..4294967294"

T = TypeVar("T")


def peers(annotations: Annotations) -> tuple[ExternalPeer, ...]:
    """External peers of this node, sorted by address; the YAML form counts alone where it is present."""
    found = list(_from_yaml(annotations[PEERS])) if PEERS in annotations else list(_from_lists(annotations))
    where = PEERS if PEERS in annotations else ADDRESSES
    for n, peer in enumerate(found, start=1):
        if peer.address in {other.address for other in found[: n - 1]}:
            raise Wrong(where, HIDDEN, f"peer {n} has the address of another one", "name every peer once")
        if peer.local and family_of(peer.local) != family_of(peer.address):
            raise Wrong(where, HIDDEN, f"local address of peer {n} is of another family than the peer", "give both IPv4 or both IPv6")
    return tuple(sorted(found, key=lambda peer: peer.address))


def hold_password(found: Iterable[ExternalPeer]) -> bool:
    """Whether any of these has one: then their annotations are written nowhere."""
    return any(peer.password for peer in found)


# -- one list a setting -----------------------------------------------------------------------------------------------


def _from_lists(annotations: Annotations) -> Iterator[ExternalPeer]:
    addresses = [_item(ADDRESSES, n, item, _address) for n, item in _numbered(annotations, ADDRESSES)]
    asns = [_item(ASNS, n, item, _asn) for n, item in _numbered(annotations, ASNS)]
    if not addresses or not asns:
        return
    _same_length(annotations, ASNS, len(asns), len(addresses))
    count = len(addresses)
    ports = _optional(annotations, PORTS, count, _port) or [179] * count
    passwords = _optional(annotations, PASSWORDS, count, _password) or [None] * count
    local = _optional(annotations, LOCAL_ADDRESSES, count, _local) or [""] * count
    for address, asn, port, password, own in zip(addresses, asns, ports, passwords, local, strict=True):
        yield ExternalPeer(address, asn, port, own, password)


def _numbered(annotations: Annotations, annotation: str) -> Iterable[tuple[int, str]]:
    return enumerate(items(annotations, annotation), start=1)


def _optional(annotations: Annotations, annotation: str, count: int, read: Callable[[str], T]) -> list[T]:
    texts = items(annotations, annotation)
    if annotation in annotations and not texts and count == 1:
        texts = [""]
    if texts:
        _same_length(annotations, annotation, len(texts), count)
    return [_item(annotation, n, text, read) for n, text in enumerate(texts, start=1)]


def _same_length(annotations: Annotations, annotation: str, found: int, wanted: int) -> None:
    if found != wanted:
        shown = HIDDEN if annotation == PASSWORDS else annotations[annotation]
        raise Wrong(annotation, shown, f"{found} items for the {wanted} of {ADDRESSES}", "give one for every peer")


def _item(annotation: str, n: int, text: str, read: Callable[[str], T]) -> T:
    try:
        return read(text)
    except ValueError as fault:
        shown = HIDDEN if annotation == PASSWORDS else text
        reason, _, advice = str(fault).partition("; ")
        raise Wrong(annotation, shown, f"item {n} is {reason}", advice) from None


def _address(text: str) -> str:
    address = parsed_address(text)
    if address is None:
        raise ValueError("not an IP address; give addresses, comma separated")
    return address


def _local(text: str) -> str:
    return _address(text) if text else ""


def _asn(text: str) -> int:
    asn = number(text)
    if asn is None or not is_peer_asn(asn):
        raise ValueError(f"not the AS number of an external peer; {_ASN_ADVICE}")
    return asn


def _port(text: str) -> int:
    port = number(text)
    if port is None or not 1 <= port <= 65535:
        raise ValueError("not a port; give numbers from 1 to 65535")
    return port


def _password(text: str) -> Secret | None:
    try:
        return Secret(decoded_password(text)) if text else None
    except ValueError as fault:
        raise ValueError(f"{fault}; give passwords in base64, nothing for a peer without one") from None


# -- YAML -------------------------------------------------------------------------------------------------------------


def _from_yaml(text: str) -> Iterator[ExternalPeer]:
    for n, entry in enumerate(_loaded(text), start=1):
        if not isinstance(entry, dict):
            raise Wrong(PEERS, HIDDEN, f"entry {n} is not a map", _SCHEMA)
        yield _peer(n, entry)


def _loaded(text: str) -> list[Any]:
    import yaml  # takes its time, and most nodes have no such annotation

    try:
        found = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Its text quotes the line, which may hold a password.
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise Wrong(PEERS, HIDDEN, f"not YAML{where}", _SCHEMA) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise Wrong(PEERS, HIDDEN, "not YAML", _SCHEMA) from None
    if found is None:
        return []
    if not isinstance(found, list):
        raise Wrong(PEERS, HIDDEN, "not a list", _SCHEMA)
    return found


def _peer(n: int, entry: Mapping[Any, Any]) -> ExternalPeer:
    for name in ("remoteip", "remoteasn"):
        if entry.get(name) is None:
            raise Wrong(PEERS, HIDDEN, f"entry {n} has no {name}", _SCHEMA)
    asn = _whole(n, entry, "remoteasn", default=0, least=1, most=2**32 - 1)
    if not is_peer_asn(asn):
        raise Wrong(PEERS, HIDDEN, f"remoteasn {asn} of entry {n} is not that of an external peer", _ASN_ADVICE)
    return ExternalPeer(
        address=_text(n, entry, "remoteip", _address) or "",
        asn=asn,
        port=_whole(n, entry, "port", default=179, least=1, most=65535),
        local=_text(n, entry, "localip", _local) or "",
        password=_text(n, entry, "password", _password),
        bfd=_bfd(n, entry.get("bfd")),
    )


def _bfd(n: int, settings: object) -> Bfd | None:
    if settings is None:
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("enabled", False), bool):
        advice = "bfd is a map with enabled (true or false), port, detection_multiplier and the two intervals in milliseconds"
        raise Wrong(PEERS, HIDDEN, f"bfd of entry {n} is not such a map", advice)
    found = Bfd(
        port=_whole(n, settings, "port", default=Bfd().port, least=1, most=65535),
        multiplier=_whole(n, settings, "detection_multiplier", default=Bfd().multiplier, least=1, most=255),
        transmit=_whole(n, settings, "desired_min_tx_interval", default=Bfd().transmit, least=1, most=MOST_MILLISECONDS),
        receive=_whole(n, settings, "required_min_rx_interval", default=Bfd().receive, least=1, most=MOST_MILLISECONDS),
    )
    return found if settings.get("enabled", False) else None


def _whole(n: int, of: Mapping[Any, Any], name: str, *, default: int, least: int, most: int) -> int:
    value = of.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Wrong(PEERS, HIDDEN, f"{name} of entry {n} is out of range", f"give a number from {least} to {most}")
    return value


def _text(n: int, of: Mapping[Any, Any], name: str, read: Callable[[str], T]) -> T | None:
    value = of.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Wrong(PEERS, HIDDEN, f"{name} of entry {n} is not a text", "put it in quotes")
    try:
        return read(value)
    except ValueError as fault:
        reason, _, advice = str(fault).partition("; ")
        raise Wrong(PEERS, HIDDEN, f"{name} of entry {n} is {reason}", advice) from None
