"""The CNI configuration file and the plugins of this host, as an object of the cache: what others put there is an input of ours.

They are looked at again and again, which costs a few system calls: files and folders are mounted, replaced and symlinked, and a
watch of the kernel on one of them would miss what matters as often as not. Nothing is written here and no plugin is run.

A file whose text changed is a disturbance, too: whoever wrote it may have changed our part. Our own writes are told like all
others, and looked at once more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from kube_router.codec import cni
from kube_router.model.objects import CniFile, Kind, Name
from kube_router.model.state.links import CniConfig, FileKey
from kube_router.watch.events import Batch, Put, Replaced, Sink
from kube_router.watch.linktable import Disturbance

PERIOD: Final = 3.0  # seconds between looks


class CniWatch:
    """`folders` are those of the plugins, in the order in which a runtime looks. `run` is a task for the whole life; cancel it to stop."""

    def __init__(
        self,
        sink: Sink,
        notice: Callable[[Disturbance], None],
        path: str,
        *,
        folders: tuple[str, ...],
        period: float = PERIOD,
    ) -> None:
        self._sink = sink
        self._notice = notice
        self._path = path
        self._folders = folders
        self._period = period

    async def run(self) -> None:
        """Tell what is there, then every change of it, for ever."""
        told: CniFile | None = None
        before = b""
        while True:
            found, text = await asyncio.to_thread(self._look)
            if told is None:
                self._sink(Batch((Replaced(Kind.CNI_FILE, (found,)),)))
            elif found != told:
                self._sink(Batch((Put(found),)))
            if told is not None and text != before:
                self._notice(Disturbance(keys=frozenset({FileKey(self._path)})))
            told, before = found, text
            await asyncio.sleep(self._period)

    def _look(self) -> tuple[CniFile, bytes]:
        text = read(self._path)
        return describe(self._path, text, folders=self._folders), text


def read(path: str) -> bytes:
    """The file; empty when there is none, or it cannot be read: whoever is to write it names what is wrong."""
    with suppress(OSError):
        return Path(path).read_bytes()
    return b""


def describe(path: str, text: bytes, *, folders: tuple[str, ...]) -> CniFile:
    """What the file and the folders say. A text that says nothing counts as none."""
    mtu, ours = 0, False
    needed = cni.plugin_types(cni.fresh(CniConfig(()), as_list=path.lower().endswith(".conflist")))
    with suppress(ValueError):  # BadConfigError and UnicodeDecodeError are
        conf = text.decode()
        needed = cni.plugin_types(conf)
        mtu, ours = cni.mtu_of(conf)
    missing = sorted(name for name in {*needed, *cni.ALWAYS_NEEDED} if not any(_runs(folder, name) for folder in folders))
    return CniFile(Name("", path), mtu, ours, tuple(missing))


def _runs(folder: str, name: str) -> bool:
    plugin = os.path.join(folder, name)
    return os.path.isfile(plugin) and os.access(plugin, os.X_OK)
