"""The two families of iptables tools, legacy and nft, as they are installed here.

Distributions install both under names of their own and a plain name for one of them; small images have the plain names
alone. What a plain name does is said by its version text.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from kube_router.apply.kernel.commands import Commands
from kube_router.kit.net import FAMILIES, Family

Backend = Literal["legacy", "nft"]
BACKENDS: Final[tuple[Backend, ...]] = ("nft", "legacy")

_STEM: Final[dict[Family, str]] = {4: "iptables", 6: "ip6tables"}


class Tools(msgspec.Struct, frozen=True):
    """Names of the commands of one backend, by family; a family without tools is absent."""

    backend: Backend
    save: dict[Family, str]
    restore: dict[Family, str]


def installed(commands: Commands) -> dict[Backend, Tools]:
    """Backends with their tools; empty when there is no iptables at all."""
    save: dict[Backend, dict[Family, str]] = {"nft": {}, "legacy": {}}
    restore: dict[Backend, dict[Family, str]] = {"nft": {}, "legacy": {}}
    for family in FAMILIES:
        for backend in BACKENDS:
            if commands.find(f"{_STEM[family]}-{backend}-restore") and commands.find(f"{_STEM[family]}-{backend}-save"):
                save[backend][family] = f"{_STEM[family]}-{backend}-save"
                restore[backend][family] = f"{_STEM[family]}-{backend}-restore"
        if commands.find(f"{_STEM[family]}-restore") and commands.find(f"{_STEM[family]}-save"):
            plain = _flavour(commands, f"{_STEM[family]}-save")
            save[plain].setdefault(family, f"{_STEM[family]}-save")
            restore[plain].setdefault(family, f"{_STEM[family]}-restore")
    return {backend: Tools(backend, save[backend], restore[backend]) for backend in BACKENDS if save[backend]}


def _flavour(commands: Commands, tool: str) -> Backend:
    """Versions from before the two existed side by side (1.8.0) say nothing, and are legacy."""
    return "nft" if "nf_tables" in commands.run([tool, "--version"]).output else "legacy"
