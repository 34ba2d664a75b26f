"""A file of ours on the node's disk: read whole, written whole, in one step, for root alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_FOR_ROOT: Final = 0o600


def read(path: Path) -> bytes:
    """What is in it; nothing where there is no such file. Raises OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def write(path: Path, data: bytes) -> None:
    """Put data in place of what was there: after a crash it is the old or the new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # one of an earlier run, whoever may read it
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FOR_ROOT), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
