"""The CNI configuration file and the plugins of this host, as an object of the cache: what others put there is an input of ours.

They are looked at again and again, which costs a few system calls: files and folders are mounted, replaced and symlinked, and a
watch of the kernel on one of them would miss what matters as often as not. Nothing is written here and no plugin is run.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from kube_router.codec import cni
from kube_router.model.objects import CniFile, Kind, Name
from kube_router.model.state.links import CniConfig
from kube_router.watch.events import Batch, Put, Replaced, Sink

PERIOD: Final = 3.0  # seconds between looks


class CniWatch:
    """`folders` are those of the plugins, in the order in which a runtime looks. `run` is a task for the whole life; cancel it to stop."""

    def __init__(self, sink: Sink, path: str, *, folders: tuple[str, ...], period: float = PERIOD) -> None:
        self._sink = sink
        self._path = path
        self._folders = folders
        self._period = period

    async def run(self) -> None:
        """Tell what is there, then every change of it, for ever."""
        told: CniFile | None = None
        while True:
            found = await asyncio.to_thread(look, self._path, folders=self._folders)
            if told is None:
                self._sink(Batch((Replaced(Kind.CNI_FILE, (found,)),)))
            elif found != told:
                self._sink(Batch((Put(found),)))
            told = found
            await asyncio.sleep(self._period)


def look(path: str, *, folders: tuple[str, ...]) -> CniFile:
    """What the file and the folders say now. A file that cannot be read counts as absent: whoever is to write it names what is wrong."""
    mtu, ours = 0, False
    needed = cni.plugin_types(cni.fresh(CniConfig(()), as_list=path.lower().endswith(".conflist")))
    with suppress(OSError, ValueError):  # no text and no configuration are ValueErrors, too
        text = Path(path).read_text(encoding="utf-8")
        needed = cni.plugin_types(text)
        mtu, ours = cni.mtu_of(text)
    missing = sorted(name for name in {*needed, *cni.ALWAYS_NEEDED} if not any(_runs(folder, name) for folder in folders))
    return CniFile(Name("", path), mtu, ours, tuple(missing))


def _runs(folder: str, name: str) -> bool:
    plugin = os.path.join(folder, name)
    return os.path.isfile(plugin) and os.access(plugin, os.X_OK)
