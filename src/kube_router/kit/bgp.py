"""Numbers and texts that BGP takes, wherever they are written: flags and annotations are held to the same rules."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import Final

LONGEST_KEY: Final = 80  # bytes; TCP_MD5SIG_MAXKEYLEN of linux/tcp.h
MOST_MILLISECONDS: Final = 4294967  # of a BFD interval: it becomes microseconds in 32 bits


def is_peer_asn(asn: int) -> bool:
    """Whether an external peer may have this AS number: no reserved one (RFC 7607, 5398, 7300), not AS_TRANS."""
    return 1 <= asn <= 23455 or 23457 <= asn <= 63999 or 64512 <= asn <= 65534 or 131072 <= asn <= 4294967294


def decoded_password(text: str) -> str:
    """The password in base64, line breaks ignored as the original's decoder does; ValueError that does not quote its input."""
    try:
        password = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True).decode()
    except (binascii.Error, ValueError):
        raise ValueError("not base64 of a text") from None  # the cause quotes its input
    if len(password.encode()) > LONGEST_KEY:
        raise ValueError(f"longer than the {LONGEST_KEY} bytes of a TCP MD5 key")
    return password


def dotted(number: int) -> str:
    """A 32-bit identifier as BGP tools print it: "0.0.0.42"."""
    return str(ipaddress.IPv4Address(number))
