"""The CNI configuration file: our part kept as wanted, the rest left to its owners, written in one step.

Runtimes watch the folder and start pods as soon as a file appears, so a new text is written beside it, synced and renamed
into place: nobody ever reads half of it. The file keeps its permissions, and a symbolic link keeps pointing at it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from kube_router.codec import cni
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.links import CniConfig, FileKey


class CniFileTarget:
    """Files by path. Deleting is not asked of it: a node whose runtime finds no configuration loses its running pods' upkeep."""

    kinds: tuple[type[Key], ...] = (FileKey,)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Only files that are wanted are looked at; one that cannot be read as a configuration counts as not there."""
        held: dict[Key, Value] = {}
        for key, wish in wanted.items():
            if not isinstance(key, FileKey) or not isinstance(wish, CniConfig):
                continue
            try:
                text = _read(Path(key.path))
                held[key] = wish if cni.meets(text, wish) else cni.read(text)
            except (OSError, cni.BadConfigError):
                continue
        return held

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """Write files; a text that we cannot edit is refused, and stays."""
        refused: dict[Key, str] = {}
        with self._lock:
            for change in changes:
                assert isinstance(change.key, FileKey)
                if change.after is None:
                    continue
                try:
                    _put(Path(change.key.path), change.after)
                except (OSError, cni.BadConfigError) as fault:
                    refused[change.key] = f"{change.key.path}: {fault}"
        return refused


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise cni.BadConfigError(f"not UTF-8 text: {fault}") from fault


def _put(named: Path, wish: CniConfig) -> None:
    path = Path(os.path.realpath(named))
    before = _read(path) if path.exists() else ""
    if before.strip():
        text = cni.edited(before, wish)
        if cni.meets(before, wish):
            return
    else:
        text = cni.fresh(wish, as_list=named.suffix.lower() == ".conflist")
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot in front and no .conf at the end: runtimes read every *.conf* of the folder.
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(mode)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
