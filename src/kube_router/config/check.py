"""Rules for single values, used by the rows of `flag_table.py`. Rules that weigh flags against each other: `rules.py`."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from kube_router.config.flags import Check
from kube_router.kit.bgp import is_peer_asn

_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_NODE_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")
_DIGITS: Final = re.compile(r"[0-9]{1,5}\Z")
_API_SERVER: Final = re.compile(r"(https?://)?(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+)(:[0-9]{1,5})?(/\S*)?\Z")
_HTTP_PATH: Final = re.compile(r"/[^\s?#]*\Z")


def between(low: int, high: int) -> Check:
    """Whole numbers from low to high, both included."""
    return Check(f"{low}..{high}", lambda value: low <= value <= high)


def one_of(*words: str) -> Check:
    """Exactly one of the words."""
    return Check(" or ".join(words), lambda value: value in words)


def is_address(text: str) -> bool:
    """Whether the text is an IP address, an IPv6 zone allowed."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def split_host_port(text: str) -> tuple[str, int] | None:
    """ "host:port" or "[IPv6]:port" in parts, the brackets taken off; None when it is not of that shape."""
    host, colon, port = text.rpartition(":")
    if not colon or not _DIGITS.match(port) or not 1 <= int(port) <= 65535:
        return None
    if host.startswith("[") and host.endswith("]"):
        return (host[1:-1], int(port)) if ":" in host and is_address(host[1:-1]) else None
    return (host, int(port)) if is_host(host) else None


def is_host(text: str) -> bool:
    """Whether the text is an IPv4 address or a host name; a name that looks like an address but is none is refused."""
    if text.replace(".", "").isdigit():
        return is_address(text)
    return bool(_HOST_NAME.match(text))


def _is_bind_address(text: str) -> bool:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return not text or is_address(bare) or is_host(text)


def _is_speaker(text: str) -> bool:
    if text.startswith("unix:"):
        return text.startswith("unix:///") and len(text) > len("unix:///")
    return not text or split_host_port(text) is not None


def _is_router_id(text: str) -> bool:
    if text in ("", "generate"):
        return True
    return ":" not in text and is_address(text) and text != "0.0.0.0"


def is_cluster_asn(asn: int) -> bool:
    """Whether the number is a private-use AS number (RFC 6996), or 65535, which the original lets through as well."""
    return 64512 <= asn <= 65535 or 4200000000 <= asn <= 4294967294


POSITIVE: Final = Check("a duration above 0, such as 5m0s", lambda seconds: seconds > 0)
NOT_NEGATIVE: Final = Check("a duration of 0s or more, such as 30s", lambda seconds: seconds >= 0)
HOLD_TIME: Final = Check("3s..65535s (it travels as 16 bits of seconds; RFC 4271 refuses 1 and 2)", lambda seconds: 3 <= seconds < 65536)
# The kernel takes whole seconds and at most INT_MAX / HZ of them (ip_vs_set_timeout); HZ is 1000 at most.
IPVS_TIMEOUT: Final = Check("0s (keep the kernel's value) or 1s..2147483s", lambda seconds: seconds == 0 or 1 <= seconds <= 2147483)
CLUSTER_ASN: Final = Check(
    "a private AS number, 64512..65535 or 4200000000..4294967294, or 0 for 64512",
    lambda asn: asn == 0 or is_cluster_asn(asn),
)
PEER_ASNS: Final = Check(
    "AS numbers from 1..23455, 23457..63999, 64512..65534 or 131072..4294967294",
    lambda asns: all(is_peer_asn(asn) for asn in asns),
)
PORTS: Final = Check("ports, each 1..65535", lambda ports: all(1 <= port <= 65535 for port in ports))
BIND_ADDRESS: Final = Check("an IP address or host name to listen on, or nothing for all addresses", _is_bind_address)
IP_ADDRESS: Final = Check("an IP address, or nothing for 127.0.0.1", lambda text: not text or ("%" not in text and is_address(text)))
HTTP_PATH: Final = Check("a path that begins with /, such as /metrics", lambda text: bool(_HTTP_PATH.match(text)))
NODE_NAME: Final = Check(
    "the name of a Node object: lower-case letters, digits, '-' and '.'",
    lambda text: not text or bool(_NODE_NAME.match(text)),
)
API_SERVERS: Final = Check(
    "a URL such as https://10.0.0.1:6443, several separated by commas",
    lambda text: not text or all(_API_SERVER.match(part) for part in text.split(",")),
)
FOLDERS: Final = Check(
    "absolute paths of folders, separated by colons, such as /opt/cni/bin",
    lambda text: all(part.startswith("/") for part in text.split(":")),
)
FOLDER: Final = Check("the absolute path of a folder, such as /var/lib/kube-router", lambda text: text.startswith("/"))
ROUTER_ID: Final = Check("an IPv4 address, 'generate', or nothing for the node's IPv4 address", _is_router_id)
CRI_SOCKET: Final = Check(
    "a socket such as unix:///run/containerd/containerd.sock",
    lambda text: not text or (text.startswith("unix:///") and len(text) > len("unix:///")),
)
SPEAKER: Final = Check("unix:///path/to/socket or host:port", _is_speaker)
VERBOSITY: Final = Check("a whole number, 0 (quiet) to 4", lambda text: bool(re.match(r"\+?[0-9]{1,9}\Z", text)))
