"""Passwords of BGP peers as the flags give them: base64, comma separated, an empty item for a peer without one."""

from __future__ import annotations

from collections.abc import Iterable

from kube_router.kit.bgp import decoded_password
from kube_router.model.secret import Secret


def decode_passwords(items: Iterable[str]) -> tuple[Secret, ...]:
    """The passwords in order, an empty Secret for none; ValueError names the item by its number, never by its text."""
    return tuple(_decode(item, number) for number, item in enumerate(items, start=1))


def split_file(text: str) -> list[str]:
    """The items of a passwords file; line breaks do not count, as the original's decoder skips them."""
    flat = text.replace("\r", "").replace("\n", "")
    return flat.split(",") if flat else []


def _decode(item: str, number: int) -> Secret:
    try:
        return Secret(decoded_password(item))
    except ValueError as error:
        raise ValueError(f"item {number} is {error}") from None
