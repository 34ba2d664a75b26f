"""Lists in pages: every page of one list shows the state of the same version. Pure, over one kind's history."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from lab.api.history import Entry, History, Key
from lab.api.problem import Problem
from lab.api.selectors import Selector


@dataclass(frozen=True, slots=True)
class Page:
    """Entries of a list at ``version``; ``token`` is empty on the last page, ``remaining`` None when it is not known."""

    version: int
    entries: list[Entry]
    token: str = ""
    remaining: int | None = None


def make_token(version: int, last: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, *last]).encode()).decode().rstrip("=")


def read_token(token: str) -> tuple[int, Key]:
    """The version and the last key handed out; Problem 400 for anything that this server did not make."""
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(version), (str(namespace), str(name))
    except (binascii.Error, ValueError, TypeError) as error:
        raise Problem(400, "continue key is not valid") from error


def paged(
    history: History,
    namespace: str,
    *,
    now: int,
    labels: Selector,
    fields: Selector,
    limit: int,
    token: str,
    version: int | None,
) -> Page:
    """One page; Problem 410 when the page's version has left the history, 504 when it lies in the future."""
    after: Key | None = None
    if token:
        version, after = read_token(token)
    if version is not None and version > now:
        details = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}
        raise Problem(504, f"Too large resource version: {version}, current: {now}", details=details)
    if version is None:
        version, entries = now, history.now(namespace)
    else:
        entries = history.at(version, namespace, after=after)
    if labels:
        entries = [entry for entry in entries if labels.matches(entry.labels)]
    if fields:
        entries = [entry for entry in entries if fields.matches(entry.fields)]
    if not limit or len(entries) <= limit:
        return Page(version, entries)
    remaining = None if labels or fields else len(entries) - limit
    return Page(version, entries[:limit], make_token(version, entries[limit - 1].key), remaining)
