"""Passwords of BGP peers as the flags give them: base64, comma separated, an empty item for a peer without one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final

from kube_router.model.secret import Secret

LONGEST_KEY: Final = 80  # bytes; TCP_MD5SIG_MAXKEYLEN of linux/tcp.h


def decode_passwords(items: Iterable[str]) -> tuple[Secret, ...]:
    """The passwords in order, an empty Secret for none; ValueError names the item by its number, never by its text."""
    return tuple(_decode(item, number) for number, item in enumerate(items, start=1))


def split_file(text: str) -> list[str]:
    """The items of a passwords file; line breaks do not count, as the original's decoder skips them."""
    flat = text.replace("\r", "").replace("\n", "")
    return flat.split(",") if flat else []


def _decode(item: str, number: int) -> Secret:
    try:
        password = base64.b64decode(item.replace("\r", "").replace("\n", ""), validate=True).decode()
    except (binascii.Error, ValueError):
        # The cause quotes its input: leave it out.
        raise ValueError(f"item {number} is not base64 of a text") from None
    if len(password.encode()) > LONGEST_KEY:
        raise ValueError(f"item {number} is longer than the {LONGEST_KEY} bytes of a TCP MD5 key")
    return Secret(password)
