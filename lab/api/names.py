"""Names of objects: what is a name, and names that the server makes up."""

from __future__ import annotations

import random
import re

from lab.api.kinds import Json, Kind
from lab.api.problem import Problem

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # without vowels, as the API does, so that no words come out
_SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")


def generate_name(metadata: Json) -> None:
    """Complete ``generateName`` to a name when none is given."""
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = metadata["generateName"] + "".join(random.choices(_ALPHABET, k=5))


def check_names(kind: Kind, metadata: Json) -> None:
    """Problem 422 unless name and namespace are what the kind needs; a namespace is dropped where none belongs."""
    name = metadata.get("name") or ""
    if len(name) > 253 or not _SUBDOMAIN.match(name):
        raise Problem(422, f"{kind.name} {name!r} is invalid: metadata.name must be a lowercase RFC 1123 subdomain")
    if kind.namespaced and not metadata.get("namespace"):
        raise Problem(422, f'{kind.name} "{name}" is invalid: metadata.namespace is required')
    if not kind.namespaced:
        metadata.pop("namespace", None)
